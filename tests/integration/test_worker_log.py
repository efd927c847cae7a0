"""A worker that begins looks first whether its store lost what is logged, and serves all the same where it cannot."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from ledger.commands import RequestReset
from ledger.personal import plain
from ops.app import create_app
from ops.opening.ledger import Opened
from ops.settings.settings import read_settings
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]


def begun(commands: Commands, proof: str) -> None:
    """Have a worker open all that it needs, and end."""
    settings = read_settings(commands.environ | {"LEDGER_PROOF": proof})

    async def opening() -> None:
        async with AsyncExitStack() as closing:
            await create_app(settings)._open(closing)

    asyncio.run(opening())


async def ask_to_reset(found: Opened, sid: str) -> None:
    await found.ledger.execute("ann", sid, RequestReset(on=True, by=plain("ann")))


def test_it_makes_good_what_the_store_lost_before_it_serves(
    commands: Commands, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proof = f"file://{tmp_path / 'proof'}"
    for user in ("ann", "bob"):
        commands("session", "create", "--user", user, "--library", "lib")

    async def look(found: Opened) -> dict[str, str]:
        return {user: (await found.ledger.devices(user))[0].sid for user in ("ann", "bob")}

    sids = commands.inside(look)
    commands("notarize", proof=proof)

    async def copy(found: Opened) -> dict[bytes, bytes]:
        names = [*await found.store.command("KEYS", "{p*", key=b"{p0}"), b"ledger:meta"]
        return {name: await found.store.command("DUMP", name, key=name) for name in names}

    before = commands.inside(copy)
    commands("session", "end", sids["bob"])
    commands.inside(partial(ask_to_reset, sid=sids["ann"]))
    commands("notarize", proof=proof)

    async def put_back(found: Opened) -> None:
        for name in await found.store.command("KEYS", "{p*", key=b"{p0}"):
            await found.store.command("DEL", name, key=name)
        for name, held in before.items():
            await found.store.command("RESTORE", name, 0, held, "REPLACE", key=name)

    commands.inside(put_back)
    log = tmp_path / "proof" / "log.json"
    whole = log.read_bytes()
    log.write_text("nonsense")
    begun(commands, proof)
    assert "not compared with the transparency log: object log.json" in caplog.text, "and it serves all the same"
    assert commands.json("session", "list", "--user", "bob")
    log.write_bytes(whole)
    begun(commands, proof)
    assert "lost what is logged of 2 sessions of 2: 1 go on behind that, 1 had ended and are ended again" in caplog.text
    assert not commands.json("session", "list", "--user", "bob")
    caplog.clear()
    begun(commands, proof)
    assert "lost what is logged" not in caplog.text
    assert commands.json("notarize", proof=proof)["refused"] == 0
    commands("verify", proof=proof)
