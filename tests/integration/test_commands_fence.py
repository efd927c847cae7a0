"""`syncledger fence`, as an operator runs it after a power loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger import keys
from ops.opening.ledger import Opened
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]

SINCE = "2026-01-20T10:29:00Z"


def test_devices_start_over_and_their_history_says_by_whom_and_why(commands: Commands) -> None:
    for user in ("ann", "bob"):
        commands("session", "create", "--user", user, "--library", "lib")
    would = commands("fence", "--since", SINCE, "--dry-run")
    assert "2 sessions may have spoken: 2 would be asked to start over" in would
    assert not any(each["isPendingSyncReset"] for each in commands.json("session", "list", "--user", "ann"))
    report = commands.json("fence", "--since", SINCE, "--by", "ops-7")
    assert {name: report[name] for name in ("sessions", "asked", "before", "ended", "failed")} == {
        "sessions": 2, "asked": 2, "before": 0, "ended": 0, "failed": 0,
    }  # fmt: skip
    (listed,) = commands.json("session", "list", "--user", "ann")
    assert listed["isPendingSyncReset"]
    event = json.loads(commands("history", listed["id"], "--json").splitlines()[0])
    assert (event["event"], event["data"]) == ("sync_reset_requested", {"on": True, "by": "ops-7", "cause": "fence"})
    assert "0 are asked to start over with their next sync, 2 were asked before" in commands("fence", "--all")
    commands("verify")


def test_what_cannot_be_asked_is_named_and_the_command_fails(commands: Commands) -> None:
    commands("session", "create", "--user", "ann", "--library", "lib")

    async def lose(found: Opened) -> None:
        name = keys.whole(found.ledger.partition_of("ann"))
        await found.store.command("DEL", name, key=name)

    commands.inside(lose)
    done = commands.run("fence", "--since", SINCE)
    assert done.code == 1
    assert "is not whole: run syncledger rebuild" in done.err
    assert "1 could not be asked" in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give either --since"),
        (("--all", "--since", SINCE), "give either --since"),
        (("--since", "9998-01-01T00:00:00Z"), "lies in the future"),
        (("--since", "yesterday"), "ISO 8601"),
    ],
)
def test_what_is_asked_wrongly_is_told(commands: Commands, options: tuple[str, ...], said: str) -> None:
    commands("session", "create", "--user", "ann", "--library", "lib")
    done = commands.run("fence", *options)
    assert done.code == 2
    assert said in done.err


def test_what_the_log_knows_further_goes_on_behind_it_and_a_lost_logout_is_out_again(
    commands: Commands, tmp_path: Path
) -> None:
    """The store is put back to a copy from before; the log lies elsewhere, and is not."""
    proof = f"file://{tmp_path / 'proof'}"
    for user in ("ann", "bob", "carl"):
        commands("session", "create", "--user", user, "--library", "lib")

    async def sids(found: Opened) -> dict[str, str]:
        return {user: (await found.ledger.devices(user))[0].sid for user in ("ann", "bob", "carl")}

    sid = commands.inside(sids)

    async def copy(found: Opened) -> dict[bytes, bytes]:
        names = [name for page in [await found.store.command("KEYS", "{p*", key=b"{p0}")] for name in page]
        return {name: await found.store.command("DUMP", name, key=name) for name in names}

    before = commands.inside(copy)
    commands("session", "end", sid["bob"])
    commands("fence", "--since", "2026-01-20T10:29:00Z")  # asks ann and carl
    commands("notarize", proof=proof)

    async def put_back(found: Opened) -> None:
        for name in await found.store.command("KEYS", "{p*", key=b"{p0}"):
            await found.store.command("DEL", name, key=name)
        for name, held in before.items():
            await found.store.command("RESTORE", name, 0, held, key=name)

    commands.inside(put_back)
    done = commands.run("verify", proof=proof)
    assert (done.code, [sid[user] in done.out for user in sorted(sid)]) == (1, [True, True, True])
    assert "set LEDGER_PROOF" in commands.run("fence", "--since", "2026-01-20T10:29:00Z", "--dry-run").err
    would = commands.json("fence", "--since", "2026-01-20T10:29:00Z", "--dry-run", proof=proof)["logged"]
    assert (would["sessions"], would["lost"], would["ended"]) == (3, 3, 1)
    told = commands("fence", "--since", "2026-01-20T10:29:00Z", proof=proof)
    assert "of 3 the store had lost what is logged; 2 go on behind that, 1 had ended and are ended again" in told
    event = json.loads(commands("history", sid["ann"], "--json", "--forward").splitlines()[1])
    assert (event["event"], event["data"]["cause"]) == ("history_lost", "logged")
    assert not commands.json("session", "list", "--user", "bob"), "a lost logout is out again"
    (ann,) = commands.json("session", "list", "--user", "ann")
    assert ann["isPendingSyncReset"]
    commands("verify", proof=proof)
    commands("notarize", proof=proof)
    commands("verify", proof=proof)
    assert commands.json("fence", "--since", "2026-01-20T10:29:00Z", proof=proof)["logged"]["lost"] == 0
