"""`syncledger verify` where the ledger has a transparency log: what it says of it, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger import keys
from ops.opening.ledger import Opened
from ops.opening.proof import KEY_FILE
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]


@pytest.fixture
def proof(commands: Commands, tmp_path: Path) -> str:
    """Where the log is, of a ledger with two sessions."""
    place = f"file://{tmp_path / 'proof'}"
    for user in ("ann", "ben"):
        commands("session", "create", "--user", user, "--library", "lib")
    commands("notarize", proof=place)
    return place


def removed(commands: Commands, user: str) -> str:
    """Remove a user's session whole, as who holds the store can; tells which."""

    async def remove(found: Opened) -> str:
        (state,) = await found.ledger.devices(user)
        partition = found.ledger.partition_of(user)
        for name in (keys.stream(partition), keys.session(partition, state.sid), keys.devices(partition, user)):
            await found.store.command("DEL", name, key=name)
        for name in (keys.activity(partition), keys.due(partition), keys.order(partition), keys.sids(partition)):
            await found.store.command("ZREM", name, state.sid, key=name)
        return state.sid

    return commands.inside(remove)


def test_a_removed_session_is_named(commands: Commands, proof: str) -> None:
    done = commands.run("verify", proof=proof)
    assert (done.code, "3 entries: 2 sessions compared: all agree" in done.out) == (0, True), done
    sid = removed(commands, "ann")
    done = commands.run("verify", proof=proof)
    assert (done.code, f"session {sid}, entry" in done.out, "removed whole" in done.out) == (1, True, True), done
    found = commands.run("verify", "--json", proof=proof)
    assert (found.code, sid in found.out) == (1, True)
    done = commands.run("verify", "--repair", proof=proof)
    assert (done.code, "no repair touches" in done.err) == (1, True)
    done = commands.run("verify")
    assert (done.code, "not checked against log" in done.err, "set LEDGER_PROOF" in done.err) == (0, True, True), done


def test_a_checkpoint_kept_elsewhere_is_compared(commands: Commands, proof: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes((tmp_path / "proof" / "checkpoint").read_bytes())
    commands("session", "create", "--user", "carl", "--library", "lib")
    commands("notarize", proof=proof)
    (key,) = commands.json("proof", "keys")
    commands("verify", "--since", str(kept), "--key", key, proof=proof)
    kept.write_text(kept.read_text().replace("\n3\n", "\n4\n"))
    done = commands.run("verify", "--since", str(kept), proof=proof)
    assert (done.code, "checkpoint that was given" in done.out) == (1, True)
    done = commands.run("verify", "--since", str(kept))
    assert (done.code, "set LEDGER_PROOF" in done.err) == (2, True)
    assert commands.run("verify", "--key", "x", proof=proof).code == 2
    (commands.data_dir / KEY_FILE).unlink()
    assert commands.run("verify", proof=proof).code == 2
    commands("verify", "--key", key, proof=proof)


def test_nothing_is_repaired_where_the_log_cannot_tell(commands: Commands, proof: str, tmp_path: Path) -> None:
    async def differ(found: Opened) -> None:
        (state,) = await found.ledger.devices("ben")
        name = keys.activity(found.ledger.partition_of("ben"))
        await found.store.command("ZREM", name, state.sid, key=name)

    commands.inside(differ)
    file = next((tmp_path / "proof" / "state").iterdir())
    file.write_bytes(b"nothing")
    done = commands.run("verify", "--repair", proof=proof)
    assert (done.code, "nothing is repaired" in done.err) == (1, True), done
    assert commands.run("verify", "--repair", proof="off").code == 0
