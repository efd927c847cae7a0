"""`syncledger archive`: what it says, what it does, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger import keys
from ledger.commands import RequestReset
from ledger.personal import plain
from ops.opening.ledger import Opened
from projections.census.record import FAILURE, SUCCESS, Kept
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]

NOTHING = {
    "partitions": 8, "read": 0, "segments": 0, "events": 0, "bytes": 0, "adopted": 0, "trimmed": 0, "removed": 0,
    "swept": 0, "busy": 0, "broken": 0, "named": [], "aside": 0, "held_up": 0, "failures": [],
}  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """Where the archive is."""
    return f"file://{tmp_path / 'archive'}"


@pytest.fixture
def partition(commands: Commands) -> int:
    """The partition of a device with twelve events."""
    commands("session", "create", "--user", "ann", "--library", "lib")

    async def act(found: Opened) -> int:
        (state,) = await found.ledger.devices("ann")
        for number in range(11):
            await found.ledger.execute("ann", state.sid, RequestReset(on=number % 2 == 0, by=plain("ann")))
        return found.ledger.partition_of("ann")

    return commands.inside(act)


def test_without_a_place_it_says_what_to_set(commands: Commands) -> None:
    done = commands.run("archive")
    assert (done.code, "LEDGER_ARCHIVE" in done.err) == (2, True)
    commands("store", "begin")
    for place in ("/srv/x", "s3://key:secret@bucket"):
        done = commands.run("archive", archive=place)
        assert (done.code, "LEDGER_ARCHIVE" in done.err, "secret" in done.err) == (2, True, False)
    done = commands.run("archive", "--hot", "soon", archive="file:///x")
    assert (done.code, "not a duration" in done.err) == (2, True)


@pytest.mark.parametrize("command", ["archive", "backup"])
def test_a_run_whose_place_cannot_be_opened_is_noted_as_failed(
    commands: Commands, tmp_path: Path, command: str
) -> None:
    commands("store", "begin")
    archive = f"file://{tmp_path / 'archive'}"

    async def noted(found: Opened) -> tuple[float, float]:
        kept = await Kept(found.store).read()
        read = {family.name: dict(zip(family.values, numbers, strict=True)) for family, numbers in kept}
        return read[SUCCESS.name][command,], read[FAILURE.name][command,]

    assert commands.inside(noted) == (0, 0)
    commands(command, archive=archive)
    succeeded, failed = commands.inside(noted)
    assert succeeded > failed == 0
    (tmp_path / "archive").rename(tmp_path / "away")
    (tmp_path / "archive").write_text("a file in the way")
    done = commands.run(command, archive=archive)
    assert (done.code, "LEDGER_ARCHIVE" in done.err) == (2, True)
    told, failed = commands.inside(noted)
    assert told == succeeded < failed
    assert commands.run("archive", "--dry-run", archive=archive).code == 2
    assert commands.inside(noted) == (told, failed), "a look is no run"


def test_a_dry_run_tells_what_a_run_then_does(commands: Commands, archive: str, partition: int, tmp_path: Path) -> None:
    wanted = ("--max-events", "2", "--segment-events", "4")
    assert commands.json("archive", archive=archive) == NOTHING, "all of it is young"
    planned = commands.json("archive", "--dry-run", *wanted, archive=archive)
    assert (planned["events"], planned["segments"]) == (10, 3)
    assert not list(tmp_path.glob("archive/*/*"))
    said = commands("archive", "--dry-run", *wanted, archive=archive)
    assert said == "10 events of 8 partitions would go to 3 segments\n"
    done = commands.json("archive", *wanted, archive=archive)
    size = sum(file.stat().st_size for file in tmp_path.glob("archive/*/*"))
    assert done == NOTHING | {"read": done["read"], "segments": 3, "events": 10, "trimmed": 10, "bytes": size}
    assert len(list(tmp_path.glob("archive/*/*"))) == 3
    said = commands("archive", *wanted, archive=archive)
    assert said == "0 events sealed in 0 segments of 0 bytes, 0 events trimmed\n"
    verified = commands.json("verify", archive=archive)
    assert [verified[name] for name in ("partitions", "events", "archived", "segments", "different")] == [
        8,
        2,
        10,
        3,
        0,
    ]
    assert ", 10 archived events in 3 segments: all agree" in commands("verify", archive=archive)
    done = commands.json("archive", "--max-events", "0", "--partition", str(partition), archive=archive)
    assert (done["partitions"], done["events"]) == (1, 2)
    assert commands.run("archive", "--partition", "8", archive=archive).code == 2


def test_a_session_that_contradicts_itself_is_named_and_sealed_as_it_is(
    commands: Commands, archive: str, partition: int
) -> None:
    commands("session", "create", "--user", "bob", "--library", "lib")

    async def lose_one(found: Opened) -> None:
        name = keys.stream(partition)
        (_, second, *_) = await found.store.command("XRANGE", name, "-", "+", key=name)
        await found.store.command("XDEL", name, second[0], key=name)
        assert found.ledger.partition_of("bob") != partition

    commands.inside(lose_one)
    done = commands.run("archive", "--max-events", "0", archive=archive)
    assert done.code == 1
    assert done.err.startswith(f"partition {partition} session ")
    assert "seq 3 follows seq 1" in done.err
    assert done.out.startswith("12 events sealed in 2 segments of ")
    assert done.out.endswith(", 1 session with contradicting events sealed\n")
    again = commands.run("archive", "--max-events", "0", archive=archive)
    assert (again.code, again.err) == (0, ""), "it is told once, and by each verify"
    verified = commands.run("verify", archive=archive)
    assert (verified.code, "seq 3 follows seq 1" in verified.out) == (1, True)


def test_a_foreign_entry_is_set_aside_by_a_command(commands: Commands, archive: str, partition: int) -> None:
    async def add(found: Opened) -> str:
        name = keys.stream(partition)
        row = ("sid", b"x", "seq", "1", "event", b"?")
        return str((await found.store.command("XADD", name, "*", *row, key=name)).decode())

    entry = commands.inside(add)
    found = commands.run("verify")
    advice = f"syncledger set-aside {partition} {entry} --why"
    assert (found.code, advice in found.out) == (1, True)
    failed = commands.run("archive", "--max-events", "0", archive=archive)
    assert (failed.code, advice in failed.err) == (1, True)
    assert failed.out.startswith("12 events sealed")
    for wrong in (
        ("set-aside", str(partition), entry),
        ("set-aside", str(partition), "1-1", "--why", "x"),
        ("set-aside", str(partition), "x", "--why", "x"),
        ("set-aside", "8", entry, "--why", "x"),
        ("set-aside", str(partition), entry, "--why", " "),
        ("set-aside", str(partition), entry, "--why", "x" * 501),
    ):
        assert commands.run(*wrong, archive=archive).code == 2, wrong
    said = commands("set-aside", str(partition), entry, "--why", "a test of another service", "--by", "olga")
    assert "rebuild --partition" in said
    told = commands.run("verify", "--json", archive=archive)
    report = json.loads(told.out)
    assert (told.code, report["different"], report["aside"]) == (1, 1, 1)
    assert "set aside by olga" in report["differences"][0]["what"]
    assert commands.run("archive", "--max-events", "0", archive=archive).code == 0
    commands("rebuild", "--all", archive=archive)


def test_a_head_is_given_up_by_name_only(commands: Commands, partition: int) -> None:
    async def cut(found: Opened) -> str:
        name = keys.stream(partition)
        (last,) = await found.store.command("XREVRANGE", name, "+", "-", "COUNT", 1, key=name)
        await found.store.command("XDEL", name, last[0], key=name)
        return str(dict(zip(last[1][::2], last[1][1::2], strict=True))[b"sid"].hex())

    sid = commands.inside(cut)
    for args in (("verify", "--repair"), ("rebuild", "--all"), ("rebuild", "--session", sid)):
        done = commands.run(*args)
        assert done.code == 1, args
    assert "stored at seq 12, but its events end at seq 11" in done.out
    for wrong in (("--all", "--accept-history", "x"), ("--session", sid, "--accept-history", " ")):
        assert commands.run("rebuild", *wrong).code == 2
    commands("rebuild", "--session", sid, "--accept-history", "the disk of May 3rd", "--by", "olga")
    told = commands.run("verify")
    assert (told.code, "by olga" in told.out, "the disk of May 3rd" in told.out) == (1, True, True)
    assert ": 1 differ" in told.out
