"""The official SDK in a Node process of its own, as Python objects."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.stores.servers import die_with_parent, killed_at_end

HERE = Path(__file__).parent


class Answer(NamedTuple):
    """What the server answered to one call, as far as the SDK shows it."""

    value: Any
    status: int
    content_type: str


class SdkError(Exception):
    """An error the SDK threw; `name` tells which: HttpError, MalformedResponseError or another."""

    def __init__(self, name: str, message: str, status: int | None, content_type: str | None, data: Any) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.status = status
        self.content_type = content_type or ""
        self.data = data


class Sdk:
    """Functions of `@immich/sdk` by their names: `sdk("getSessions")`, `sdk("lockSession", {"id": …})`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, function: str, *args: Any) -> Any:
        """Call a function and return its value; raises SdkError when it throws."""
        return self.ask(function, *args).value

    def ask(self, function: str, *args: Any) -> Answer:
        """Call a function and return the value with the status and content type that came with it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": function, "args": args}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the SDK's process ended with {self._process.wait(10)}"
        said = json.loads(line)
        if "error" in said:
            error = said["error"]
            raise SdkError(
                error["name"], error["message"], error.get("status"), said.get("contentType"), error.get("data")
            )
        return Answer(said["value"], said.get("status", 0), said.get("contentType") or "")

    def present(self, url: str, **headers: str) -> None:
        """Be a new client of a server that presents itself with these headers (`_` stands for `-`)."""
        self("forget")
        self("init", {"baseUrl": f"{url}/api", "headers": {k.replace("_", "-"): v for k, v in headers.items()}})


@contextmanager
def sdk_process() -> Iterator[Sdk]:
    """Run the SDK; skips the test where Node or the installed package is missing."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (HERE / "node_modules" / "@immich" / "sdk").is_dir():
        pytest.skip("the SDK is not installed: npm is missing, or `make install` was not run")
    process = subprocess.Popen(
        [node, str(HERE / "sdk.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    with killed_at_end(process):
        yield Sdk(process)
