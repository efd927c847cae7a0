"""Append-only files that keep the embedded server from starting, and `syncledger store mend`."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.embedded.append_only import FOLDER, MANIFEST, find_damage
from tests.support.processes.commands import Commands
from tests.support.processes.commands import commands as commands

SIGN_IN = ("session", "create", "--user", "ann", "--library", "lib")
EVENT = b"*7\r\n$4\r\nXADD\r\n$11\r\n{p1}:stream\r\n$3\r\n9-0\r\n$3\r\nsid\r\n$32\r\n%b\r\n$3\r\nseq\r\n$1\r\n3\r\n"


@pytest.fixture
def embedded(commands: Commands) -> Commands:
    """A ledger on an embedded server, with one session."""
    del commands.environ["LEDGER_REDIS"]
    commands(*SIGN_IN)
    return commands


def files_of(commands: Commands) -> Path:
    return commands.data_dir / "valkey" / FOLDER


def log_of(commands: Commands) -> Path:
    (log,) = files_of(commands).glob("*.incr.aof")
    return log


def sessions(commands: Commands) -> int:
    return len(commands.json("session", "list", "--user", "ann"))


TAILS = {
    "zeros": b"\0" * 4096,
    "a few zeros": b"\0" * 3,
    "rubbish": b"hello\r\nworld\r\n",
    "zeros, then events": b"\0" * 512 + EVENT % (b"\x0a" * 32) + EVENT % (b"\x0b" * 32),
    "half a transaction, then zeros": b"*1\r\n$5\r\nMULTI\r\n" + EVENT % (b"\x0a" * 32) + b"\0" * 64,
    "a length that is none": b"*2\r\n$3\r\nGET\r\n$x\r\nx\r\n",
    "a torn command, then zeros": b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n" + b"\0" * 64,
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_what_lies_behind_the_last_command_is_cut_and_kept(embedded: Commands, tail: bytes) -> None:
    log = log_of(embedded)
    before = log.read_bytes()
    log.write_bytes(before + tail)
    refused = embedded.run("session", "list", "--user", "ann")
    assert refused.code == 1
    assert "syncledger store mend" in refused.err
    assert "valkey-check-aof" not in refused.err
    assert log.read_bytes() == before + tail, "nothing is mended by itself"

    looked = embedded.run("store", "mend", "--dry-run", "--json")
    assert looked.code == 1
    found = json.loads(looked.out)
    assert found["damage"]["cuts"] == [{"name": log.name, "at": len(before), "bytes": len(tail)}]
    assert found["kept"] == []
    assert embedded.run("store", "mend").code == 2, "nobody is there to be asked"
    assert log.read_bytes() == before + tail

    said = embedded("store", "mend", "--yes")
    assert f"{len(tail):,} bytes are cut" in said
    assert log.read_bytes() == before
    (kept,) = files_of(embedded).glob("*.cut-*")
    assert str(kept) in said
    assert kept.read_bytes() == tail
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert sessions(embedded) == 1
    embedded("verify")
    assert "nothing is damaged" in embedded("store", "mend")


@pytest.mark.parametrize(("tail", "events"), [("zeros, then events", 2), ("half a transaction, then zeros", 1)])
def test_what_is_lost_is_told_as_far_as_it_can_be_read(embedded: Commands, tail: str, events: int) -> None:
    with log_of(embedded).open("ab") as log:
        log.write(TAILS[tail])
    damage = json.loads(embedded.run("store", "mend", "--dry-run", "--json").out)["damage"]
    assert (damage["commands"], damage["events"], damage["sessions"]) == (events, events, events)
    assert damage["named"] == ["0a" * 32, "0b" * 32][:events]
    told = embedded.run("store", "mend", "--dry-run").out
    assert "0a" * 32 in told


def test_what_the_server_takes_by_itself_is_left_to_it(embedded: Commands) -> None:
    with log_of(embedded).open("ab") as log:
        log.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhal")
    assert sessions(embedded) == 1


def lose(manifest: Path) -> None:
    manifest.unlink()


def blank(manifest: Path) -> None:
    manifest.write_bytes(b"\0" * 88)


def empty(manifest: Path) -> None:
    manifest.write_bytes(b"")


@pytest.mark.parametrize("spoil", [lose, blank, empty])
def test_a_lost_list_of_files_is_made_anew_and_no_server_begins_over_them(
    embedded: Commands, spoil: Callable[[Path], None]
) -> None:
    manifest = files_of(embedded) / MANIFEST
    files = {file.name: file.read_bytes() for file in files_of(embedded).iterdir() if file != manifest}
    spoil(manifest)
    for command in (SIGN_IN, ("verify",)):
        refused = embedded.run(*command)
        assert (refused.code, refused.out) == (1, "")
        assert "syncledger store mend" in refused.err
    assert {name: (files_of(embedded) / name).read_bytes() for name in files} == files
    assert "made anew" in embedded("store", "mend", "--yes")
    assert sessions(embedded) == 1
    embedded("verify")


def test_behind_a_file_that_is_cut_the_later_ones_are_put_aside(embedded: Commands) -> None:
    """As a rewrite leaves several: what was appended after a gap would not follow."""
    folder, log = files_of(embedded), log_of(embedded)
    later = folder / "appendonly.aof.2.incr.aof"
    later.write_bytes(EVENT % (b"\x0c" * 32))
    with (folder / MANIFEST).open("a") as manifest:
        manifest.write(f"file {later.name} seq 2 type i\n")
    before = log.read_bytes()
    log.write_bytes(before + b"\0" * 100)
    assert embedded.run("verify").code == 1
    damage = json.loads(embedded("store", "mend", "--yes", "--json"))["damage"]
    assert [(cut["name"], cut["at"]) for cut in damage["cuts"]] == [(log.name, len(before)), (later.name, 0)]
    assert damage["named"] == ["0c" * 32]
    assert not later.exists()
    assert later.name not in (folder / MANIFEST).read_text()
    assert sessions(embedded) == 1
    embedded("verify")


def test_what_cannot_be_mended_says_to_restore(embedded: Commands) -> None:
    folder = files_of(embedded)
    (folder / MANIFEST).unlink()
    (folder / "appendonly.aof.2.base.rdb").write_bytes(b"")
    for command in (("store", "mend", "--yes"), ("store", "mend", "--dry-run")):
        refused = embedded.run(*command)
        assert (refused.code, "syncledger restore" in refused.err) == (1, True)


def test_a_whole_file_is_found_to_be_whole_and_a_missing_folder_is_named(embedded: Commands, tmp_path: Path) -> None:
    assert not find_damage(embedded.data_dir / "valkey")
    assert json.loads(embedded("store", "mend", "--dry-run", "--json"))["damage"]["bytes"] == 0
    refused = embedded.run("store", "mend", data_dir=str(tmp_path / "nowhere"))
    assert (refused.code, "nowhere" in refused.err) == (1, True)
