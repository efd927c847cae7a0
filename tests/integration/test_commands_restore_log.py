"""Yesterday's backup, and a log that knows today: who is restored goes on behind what is logged."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ledger.commands import OfferStream
from ledger.store.interface import open_store
from ops.opening.ledger import Opened
from ops.opening.proof import KEY_FILE, proof_readiness
from ops.settings.settings import read_settings
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]


def emptied(url: str) -> None:
    """Lose the store."""

    async def flush() -> None:
        store = await open_store(url)
        await store.each_primary("FLUSHALL")
        await store.close()

    asyncio.run(flush())


@pytest.fixture
def sids(commands: Commands, tmp_path: Path) -> dict[str, str]:
    """Sessions of yesterday, of which today one ended and one went on, all of which is logged; then the store is lost.

    The backup is of yesterday.
    """
    commands.environ |= {"LEDGER_ARCHIVE": f"file://{tmp_path / 'archive'}"}
    for user in ("ann", "bob", "carl"):
        commands("session", "create", "--user", user, "--library", "lib")

    async def look(found: Opened) -> dict[str, str]:
        return {user: (await found.ledger.devices(user))[0].sid for user in ("ann", "bob", "carl")}

    sids = commands.inside(look)
    commands("notarize")
    commands("backup")

    async def today(found: Opened) -> None:
        for n in range(5):
            await found.ledger.execute("ann", sids["ann"], OfferStream(n + 1, 1))

    commands.inside(today)
    commands("session", "end", sids["bob"])
    commands("session", "create", "--user", "dan", "--library", "lib")
    commands("notarize")
    emptied(commands.environ["LEDGER_REDIS"])
    return sids


def test_what_is_restored_goes_on_behind_the_log(commands: Commands, sids: dict[str, str]) -> None:
    told = commands("restore", "latest", "--yes")
    assert "lost what is logged of 2 sessions of 3: 1 go on behind that, 1 had ended and are ended again" in told
    assert "2 living sessions, 1 of them asked" in told, "who goes on behind a hole starts over by that"
    assert not commands.json("session", "list", "--user", "bob"), "a lost logout is out again"
    report = commands.json("notarize")
    assert (report["refused"], report["made_good"]) == (0, None)
    lines = commands("history", sids["ann"], "--json", "--forward").splitlines()
    assert [json.loads(line)["event"] for line in lines].count("history_lost") == 1
    done = commands.run("verify")
    assert done.out.count("the log, session") == 1, "whom nobody has any more is named"
    assert "it was removed whole" in done.out

    async def ready(found: Opened) -> bool:
        return (await proof_readiness(found, read_settings(commands.environ))).ok

    assert commands.inside(ready)
    assert "2 sessions compared with the log: of 0 the store had lost what is logged" in commands("fence", "--all")


def test_a_log_whose_key_is_elsewhere_is_believed(commands: Commands, sids: dict[str, str]) -> None:
    (commands.data_dir / KEY_FILE).rename(commands.data_dir / "elsewhere")
    done = commands.run("restore", "latest", "--yes")
    assert (done.code, "its key is not at hand" in done.err) == (0, True)
    assert "1 go on behind that" in done.out


def test_a_log_that_is_not_at_hand_is_told(commands: Commands, sids: dict[str, str]) -> None:
    done = commands.run("restore", "latest", "--yes", proof="off")
    assert done.code == 0
    assert "not compared with log" in done.err
    assert "3 living sessions, 3 of them asked" in done.out
    # With the log again all are made good, also who did something else meanwhile than what is logged.
    report = commands.json("notarize")
    assert (report["made_good"]["lost"], report["made_good"]["ended"], report["refusals"]) == (2, 1, [])
    assert not commands.json("session", "list", "--user", "bob"), "a lost logout is out again"
    assert commands.json("session", "list", "--user", "ann")


def test_who_was_erased_stays_so_and_what_was_proved_stays_proved(commands: Commands, tmp_path: Path) -> None:
    commands.environ |= {"LEDGER_ARCHIVE": f"file://{tmp_path / 'archive'}"}
    commands("session", "create", "--user", "ann", "--library", "lib", "--user-agent", "Immich_Android_2.1.0")

    async def look(found: Opened) -> str:
        return (await found.ledger.devices("ann"))[0].sid

    sid, file, later = commands.inside(look), tmp_path / "before.json", tmp_path / "later.json"
    commands("notarize")
    commands("history", sid, "--proof", str(file))
    commands("backup")
    commands("user", "erase", "ann", "--yes")
    commands("notarize")
    emptied(commands.environ["LEDGER_REDIS"])
    told = commands("restore", "latest", "--yes")
    assert "1 had ended and are ended again" in told, "the log knows that before the list of the erased is read"
    assert not commands.json("session", "list", "--user", "ann")
    commands("notarize")
    commands("verify")
    (key,) = commands.json("proof", "keys")
    commands("history", sid, "--proof", str(later))
    for proof in (file, later):
        assert f"events of session {sid}, in this order, were logged" in commands(
            "proof", "verify", str(proof), "--key", key
        )
    before, after = (json.loads(each.read_text())["events"] for each in (file, later))
    assert after[0] == before[0], "the same bytes, which nobody can read any more"
    assert "Android" not in commands("history", sid, "--json")
