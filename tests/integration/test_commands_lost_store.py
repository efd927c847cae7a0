"""Commands, and the start of a service, on a store that has lost its ledger: none begins another one unasked."""

from __future__ import annotations

import json
from pathlib import Path

import redis

from ops.opening.known_ledgers import FILE
from projections.accounts.tokens import make_key
from tests.support.processes.commands import Commands
from tests.support.processes.commands import commands as commands

SIGN_IN = ("session", "create", "--user", "ann", "--library", "lib")
READING = (("verify",), ("expire",), ("rebuild",), ("session", "list", "--user", "ann"), ("key", "list"), ("upgrade",))


def keys_in(commands: Commands) -> list[bytes]:
    with redis.Redis.from_url(commands.environ["LEDGER_REDIS"]) as client:
        found: list[bytes] = client.keys("*")
        return found


def flush(commands: Commands) -> None:
    with redis.Redis.from_url(commands.environ["LEDGER_REDIS"]) as client:
        client.flushall()


def ledger_of(commands: Commands) -> str:
    with redis.Redis.from_url(commands.environ["LEDGER_REDIS"], decode_responses=True) as client:
        return str(client.hget("ledger:meta", "id"))


def test_what_only_looks_begins_nothing(commands: Commands) -> None:
    for command in READING:
        done = commands.run(*command)
        assert (done.code, done.out) == (2, ""), command
        assert "There is no ledger in this store" in done.err
    assert keys_in(commands) == []
    assert not commands.data_dir.exists()


def test_a_folder_that_never_knew_a_ledger_begins_one_and_knows_it(commands: Commands) -> None:
    commands(*SIGN_IN)
    known = json.loads((commands.data_dir / FILE).read_text())
    assert list(known.values()) == [ledger_of(commands)]
    commands(*SIGN_IN)
    assert json.loads((commands.data_dir / FILE).read_text()) == known


def test_a_store_that_was_emptied_is_refused_by_all_until_it_is_said_on_purpose(
    commands: Commands, tmp_path: Path
) -> None:
    commands(*SIGN_IN)
    before = ledger_of(commands)
    flush(commands)
    file = tmp_path / "rows"
    file.write_text("")
    writing = (SIGN_IN, ("key", "create", "--scope", "audit.read"), ("import", "--library", "lib", str(file)))
    for command in writing:
        done = commands.run(*command)
        assert (done.code, done.out) == (2, ""), command
        assert before in done.err
        assert "syncledger restore" in done.err
        assert "syncledger store begin --anew" in done.err
    for looking in READING:
        assert commands.run(*looking).code == 2
    assert keys_in(commands) == []
    refused = commands.run("store", "begin")
    assert (refused.code, "--anew" in refused.err) == (2, True)
    begun = commands("store", "begin", "--anew").strip()
    assert begun == ledger_of(commands) != before
    commands(*SIGN_IN)
    again = commands.run("store", "begin", "--anew")
    assert (again.code, begun in again.err) == (2, True)


def test_another_ledger_behind_the_same_address_is_refused(commands: Commands, tmp_path: Path) -> None:
    commands(*SIGN_IN)
    before = ledger_of(commands)
    flush(commands)
    commands(*SIGN_IN, data_dir=str(tmp_path / "other"))
    there = ledger_of(commands)
    for command in (SIGN_IN, ("verify",)):
        done = commands.run(*command)
        assert done.code == 2
        assert before in done.err
        assert there in done.err
        assert FILE in done.err
    (commands.data_dir / FILE).unlink()
    commands("verify")


def test_a_key_from_elsewhere_may_have_signed_tokens(commands: Commands) -> None:
    key = make_key()
    done = commands.run(*SIGN_IN, token_key=key)
    assert (done.code, done.out) == (2, "")
    assert "LEDGER_TOKEN_KEY" in done.err
    assert "syncledger store begin" in done.err
    assert keys_in(commands) == []
    commands("store", "begin", token_key=key)
    commands(*SIGN_IN, token_key=key)
    assert not commands.data_dir.exists()


def test_a_note_that_is_broken_is_named(commands: Commands) -> None:
    commands(*SIGN_IN)
    (commands.data_dir / FILE).write_text("{")
    done = commands.run("verify")
    assert (done.code, FILE in done.err) == (2, True)


def test_an_embedded_store_that_lost_its_files_is_refused(commands: Commands, tmp_path: Path) -> None:
    del commands.environ["LEDGER_REDIS"]
    commands(*SIGN_IN)
    (commands.data_dir / "valkey" / "appendonlydir").rename(tmp_path / "elsewhere")
    done = commands.run(*SIGN_IN)
    assert (done.code, done.out) == (2, "")
    assert "syncledger restore" in done.err


def test_a_restore_into_an_emptied_store_is_known_as_the_same_ledger(commands: Commands, tmp_path: Path) -> None:
    archive = f"file://{tmp_path}/archive"
    commands(*SIGN_IN)
    before = ledger_of(commands)
    commands("backup", archive=archive)
    flush(commands)
    commands("restore", "latest", "--yes", archive=archive)
    assert ledger_of(commands) == before
    commands("verify")
    assert json.loads(commands("session", "list", "--user", "ann", "--json"))


def test_a_restore_from_segments_keeps_the_id_that_the_folder_knows(commands: Commands, tmp_path: Path) -> None:
    archive = f"file://{tmp_path}/archive"
    commands(*SIGN_IN)
    before = ledger_of(commands)
    commands("archive", "--hot", "0s", archive=archive)
    flush(commands)
    commands("restore", "--from-segments", "--yes", archive=archive)
    assert ledger_of(commands) == before
    commands("verify", archive=archive)
