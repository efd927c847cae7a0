"""`syncledger notarize` and `syncledger proof`: what they say, what they do, and how they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from endpoints.readiness import ProofReadiness
from ledger import keys
from ledger.transparency.notes import ED25519, SignerKey, parse_note, parse_verifier, verified
from ops.opening.ledger import Opened
from ops.opening.proof import KEY_FILE, proof_readiness
from ops.settings.settings import read_settings
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]


@pytest.fixture
def proof(commands: Commands, tmp_path: Path) -> str:
    """Where the log is, of a ledger with a session."""
    commands("session", "create", "--user", "ann", "--library", "lib")
    return f"file://{tmp_path / 'proof'}"


def readiness(commands: Commands, **settings: str) -> ProofReadiness:
    """Ask what `/readyz` says of the log."""
    read = read_settings(commands.environ | {f"LEDGER_{name.upper()}": value for name, value in settings.items()})

    async def ask(found: Opened) -> ProofReadiness:
        return await proof_readiness(found, read)

    return commands.inside(ask)


def test_without_a_place_it_says_what_to_set(commands: Commands, proof: str) -> None:
    for settings in ({}, {"proof": "off"}):
        done = commands.run("notarize", **settings)
        assert (done.code, "set LEDGER_PROOF" in done.err) == (2, True)
    assert "set LEDGER_PROOF" in readiness(commands).text
    done = commands.run("notarize", proof="ftp://x")
    assert (done.code, "LEDGER_PROOF" in done.err, "LEDGER_ARCHIVE" in done.err) == (2, True, False)
    done = commands.run("notarize", proof=proof, proof_origin="a b")
    assert (done.code, "LEDGER_PROOF_ORIGIN" in done.err) == (2, True)


def test_a_log_begins_and_goes_on(commands: Commands, proof: str, tmp_path: Path) -> None:
    assert readiness(commands, proof=proof).text == "nothing is logged yet"
    assert commands("notarize", proof=proof, proof_origin="x.example/log") == (
        "1 events logged; the log has 2 entries\n"
    )
    commands("session", "create", "--user", "ben", "--library", "lib")
    report = commands.json("notarize", proof=proof)
    assert (report["events"], report["size"], report["refused"], report["stopped"]) == (1, 4, 0, {})
    (key,) = commands.json("proof", "keys")
    note = parse_note((tmp_path / "proof" / "checkpoint").read_text())
    assert verified(note, [parse_verifier(key)])
    assert note.text.startswith("x.example/log\n4\n")
    secret = (commands.data_dir / KEY_FILE).read_text().strip()
    assert (commands.data_dir / KEY_FILE).stat().st_mode & 0o077 == 0
    assert "x.example/log" in secret
    ready = readiness(commands, proof=proof)
    assert (ready.ok, ready.text, ready.origin, ready.entries) == (True, "up to date", "x.example/log", 4)
    done = commands.run("notarize", proof=proof, proof_origin="y.example/log")
    assert (done.code, "keeps" in done.err) == (2, True)


def test_keys_are_rotated(commands: Commands, proof: str, tmp_path: Path) -> None:
    done = commands.run("proof", "rotate")
    assert (done.code, "no key" in done.err) == (1, True)
    commands("notarize", proof=proof)
    (old,) = commands.json("proof", "keys")
    new = commands("proof", "rotate").strip()
    assert commands.json("proof", "keys") == [new, old]
    commands("session", "create", "--user", "ben", "--library", "lib")
    commands("notarize", proof=proof)
    note = parse_note((tmp_path / "proof" / "checkpoint").read_text())
    assert len(verified(note, map(parse_verifier, (old, new)))) == 2
    elsewhere = tmp_path / "key"
    elsewhere.write_text((commands.data_dir / KEY_FILE).read_text())
    (commands.data_dir / KEY_FILE).unlink()
    done = commands.run("notarize", proof=proof)
    assert (done.code, "copy that file" in done.err) == (2, True), "no other key is made for a log that was signed"
    assert not (commands.data_dir / KEY_FILE).exists()
    commands("notarize", proof=proof, proof_key_file=str(elsewhere))
    done = commands.run("proof", "rotate", proof_key_file=str(elsewhere))
    assert (done.code, "LEDGER_PROOF_KEY" in done.err) == (1, True)
    done = commands.run("notarize", proof=proof, proof_key=elsewhere.read_text().strip()[:-4])
    assert (done.code, "LEDGER_PROOF_KEY" in done.err, "PRIVATE" in done.err) == (2, True, False)


def test_what_is_refused_is_told(commands: Commands, proof: str) -> None:
    commands("notarize", proof=proof)

    async def cut(found: Opened) -> str:
        (state,) = await found.ledger.devices("ann")
        name = keys.stream(found.ledger.partition_of("ann"))
        (row,) = await found.store.command("XRANGE", name, "-", "+", key=name)
        await found.store.command("XADD", name, "*", *row[1], key=name)
        return state.sid

    sid = commands.inside(cut)
    done = commands.run("notarize", proof=proof)
    assert (done.code, sid in done.err, "seq 1 does not follow seq 1" in done.err) == (1, True, True)
    ready = readiness(commands, proof=proof)
    assert (ready.ok, sid in ready.text) == (False, True)


def test_an_archive_waits_for_the_log(commands: Commands, proof: str, tmp_path: Path) -> None:
    archive = f"file://{tmp_path / 'archive'}"
    commands("notarize", proof=proof)
    commands("session", "create", "--user", "ann", "--library", "lib")
    done = commands.run("archive", "--max-events", "0", archive=archive, proof="off")
    assert (done.code, "set LEDGER_PROOF" in done.err) == (2, True)
    report = commands.json("archive", "--max-events", "0", archive=archive, proof=proof)
    assert (report["events"], report["held_up"]) == (1, 1)
    commands("notarize", archive=archive, proof=proof)
    assert commands.json("archive", "--max-events", "0", archive=archive, proof=proof)["events"] == 1


def test_a_proof_is_written_and_checked(commands: Commands, proof: str, tmp_path: Path) -> None:
    async def look(found: Opened) -> str:
        (state,) = await found.ledger.devices("ann")
        return state.sid

    sid, file = commands.inside(look), tmp_path / "proof.json"
    done = commands.run("history", sid, "--proof", str(file))
    assert (done.code, "set LEDGER_PROOF" in done.err) == (2, True)
    done = commands.run("history", sid, "--proof", str(file), proof=proof)
    assert (done.code, "nothing is logged yet" in done.err) == (1, True)
    done = commands.run("history", "--user", "ann", "--proof", str(file), proof=proof)
    assert (done.code, "of a SESSION" in done.err) == (2, True)
    commands("notarize", proof=proof, proof_origin="x.example/log")
    assert "1 events of 1 that are logged" in commands("history", sid, "--proof", str(file), proof=proof)
    (key,) = commands.json("proof", "keys")
    assert "these 1 events of session" in commands("proof", "verify", str(file), "--key", key)
    found = commands.json("proof", "verify", str(file), "--key", key)
    assert (found["session"], found["seq"], found["events"], found["size"]) == (sid, 1, 1, 2)
    other = SignerKey("x.example/log", ED25519, bytes(32)).public
    done = commands.run("proof", "verify", str(file), "--key", str(other))
    assert (done.code, "NOT PROVED" in done.err) == (1, True)
    done = commands.run("proof", "verify", str(file), "--key", "x")
    assert (done.code, "'--key': 'x'" in done.err) == (2, True)
    several = f"{other}\n{key}\n"  # what `proof keys` prints after a rotation
    assert "these 1 events of session" in commands("proof", "verify", str(file), "--key", several)
    text = file.read_text()
    file.write_text(text.replace('"seq": 1', '"seq": 2', 1))
    done = commands.run("proof", "verify", str(file), "--key", key)
    assert (done.code, "NOT PROVED" in done.err) == (1, True)
    file.write_text("nothing")
    done = commands.run("proof", "verify", str(file), "--key", key)
    assert (done.code, "NOT PROVED" in done.err) == (1, True)
    commands("history", "0" * 64, "--proof", str(file), proof=proof)
    assert f"nothing was logged for session {'0' * 64}" in commands("proof", "verify", str(file), "--key", key)


def test_a_log_that_is_lost_is_closed_by_who_confirms_it(commands: Commands, proof: str, tmp_path: Path) -> None:
    commands("notarize", proof=proof, proof_origin="x.example/log")
    (old,) = commands.json("proof", "keys")
    newest = tmp_path / "kept.txt"
    newest.write_text((tmp_path / "proof" / "checkpoint").read_text())
    behind = f"file://{tmp_path / 'behind'}"
    done = commands.run("notarize", proof=behind)
    assert (done.code, "syncledger proof close" in done.err) == (2, True)
    close = ("proof", "close", "--why", "its disk was lost")
    for options, settings, said in (
        (("--yes",), {"proof": behind}, "--no-checkpoint"),
        (("--checkpoint", str(newest)), {"proof": behind}, "add --yes"),
        (("--checkpoint", str(newest), "--yes"), {}, "set LEDGER_PROOF to an empty place"),
        (("--checkpoint", str(newest), "--yes"), {"proof": proof}, "stays as it is"),
        (("--checkpoint", str(newest), "--yes", "--key", "x"), {"proof": behind}, "--key"),
    ):
        done = commands.run(*close, *options, **settings)
        assert (done.code, said in done.err) == (2, True), done.err
    assert commands.json("proof", "keys") == [old], "nothing was done"
    for given in (("--checkpoint", str(newest)), ("--no-checkpoint",)):
        done = commands.run(*close, *given, "--yes", proof=behind)
        assert (done.code, f"is not lost: it lies in {proof}" in done.err) == (2, True), done.err
    assert not (tmp_path / "behind" / "log.json").exists()
    (tmp_path / "proof").rename(tmp_path / "lost")
    done = commands.run(*close, "--checkpoint", str(newest), "--yes", proof=behind, proof_origin="x.example/log")
    assert (done.code, "of its own" in done.err) == (2, True), done.err
    named = {"proof": behind, "proof_origin": "y.example/log"}
    told = commands(*close, "--checkpoint", str(newest), "--yes", **named)
    assert told == "log x.example/log is closed at 2 entries; log y.example/log follows it, of 3 entries by now\n"
    (key,) = commands.json("proof", "keys")
    assert key.startswith("y.example/log+")
    assert len(list(commands.data_dir.glob(f"{KEY_FILE}.closed-*"))) == 1, "who signed the closed one stays known"
    assert commands("notarize", proof=behind).startswith("0 events logged")
    told = commands("verify", proof=behind)
    assert "log y.example/log follows x.example/log, of 2 entries, closed: its disk was lost" in told
    assert commands.run("notarize", proof=proof).code == 2, "nobody goes on with the closed one"
    commands(*close, "--checkpoint", str(newest), "--yes", **named)  # done again it is as it was
    file = str(tmp_path / "proof.json")
    commands("history", "0" * 64, "--proof", file, proof=behind)
    assert "which was closed: its disk was lost" in commands("proof", "verify", file, "--key", key)
