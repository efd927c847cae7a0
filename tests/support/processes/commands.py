"""The `syncledger` command in this process, for tests that run it often: starting it takes a second."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from ops.cli import main
from ops.opening.ledger import Opened, opened
from ops.settings.settings import Settings, read_settings

T = TypeVar("T")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Commands:
    """Commands on one store and data folder; `LEDGER_*` settings are given in lower case without the prefix."""

    def __init__(
        self, redis_url: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.data_dir = data_dir
        self.environ = {
            "LEDGER_REDIS": redis_url,
            "LEDGER_DATA_DIR": str(data_dir),
            "LEDGER_PARTITIONS": "8",  # `verify` and finding a session ask each one
        }
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    @property
    def settings(self) -> Settings:
        """What the commands read."""
        return read_settings(self.environ)

    def run(self, *args: str, input: str = "", **settings: str) -> Done:  # noqa: A002
        """Run a command as the shell does, whatever becomes of it."""
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["syncledger", *args])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode())))
            for name, value in (
                self.environ | {f"LEDGER_{name.upper()}": text for name, text in settings.items()}
            ).items():
                patch.setenv(name, value)
            self._capsys.readouterr()
            with pytest.raises(SystemExit) as exit_:
                main()
        code = exit_.value.code
        return Done(code if isinstance(code, int) else 0, *self._capsys.readouterr())

    def __call__(self, *args: str, input: str = "", **settings: str) -> str:  # noqa: A002
        """Run a command that must succeed and return what it prints."""
        done = self.run(*args, input=input, **settings)
        assert done.code == 0, f"syncledger {' '.join(args)}: {done.code}\n{done.err}"
        return done.out

    def json(self, *args: str, **settings: str) -> Any:
        """Run a reading command that must succeed and return what it prints with `--json`."""
        return json.loads(self(*args, "--json", **settings))

    def inside(self, work: Callable[[Opened], Awaitable[T]]) -> T:
        """Do something with the ledger that the commands use."""

        async def opening() -> T:
            async with opened(self.settings, begin=True) as found:
                return await work(found)

        return asyncio.run(opening())


@pytest.fixture
def commands(
    valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """Commands on an empty store and a data folder that does not exist yet."""
    return Commands(valkey_url, tmp_path / "data", monkeypatch, capsys)
