"""`syncledger backup`, `restore` and `migrate` as they are typed: what they say, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import keys
from ledger.store.interface import Store, open_store
from ops.opening.ledger import CREDENTIAL_KEY_FILE, TOKEN_KEY_FILE, now_us
from ops.settings.places import place_from
from projections.accounts.credentials import Cipher
from projections.backup.format import FOLDER, MANIFEST
from tests.support.ledger.backups import PARTITIONS, assert_restored, everything, files_of, full
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]
Settings = dict[str, str]


@pytest.fixture
def here(commands: Commands, tmp_path: Path, valkey_url: str) -> Commands:
    """Commands on a server with a ledger that is archived in part."""
    commands.environ |= {"LEDGER_PARTITIONS": str(PARTITIONS), "LEDGER_ARCHIVE": f"file://{tmp_path / 'archive'}"}
    place = place_from(commands.environ)
    assert place is not None
    within(valkey_url, lambda store: full(store, place.open()))
    return commands


@pytest.fixture
def there(redis7_url: str, tmp_path: Path) -> Settings:
    """Settings of another server, and of another data folder."""
    return {"redis": redis7_url, "data_dir": str(tmp_path / "other")}


def within(url: str, work: Callable[[Store], Awaitable[Any]]) -> Any:
    """Do something with a store."""

    async def run() -> Any:
        store = await open_store(url)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def kids(text: str) -> list[str]:
    return [key["kid"] for key in json.loads(text)["keys"]]


def test_a_ledger_is_backed_up_and_restored(
    here: Commands, there: Settings, tmp_path: Path, valkey_url: str, redis7_url: str
) -> None:
    before = within(valkey_url, everything)
    assert here.json("signing-key", "list") == [], "none is made by looking"
    here("signing-key", "rotate", "--keep", "0")
    signs = [key["kid"] for key in here.json("signing-key", "list")]
    secret = {"credential_key": Cipher.make_key()}
    told = here("backup", "--with-catalog", **secret)
    assert "signing keys are in it, encrypted: keep a copy of the key of LEDGER_CREDENTIAL_KEY" in told
    assert f"in file://{tmp_path / 'archive'}" in told
    (listed,) = here.json("backup", "--list")
    assert (listed["complete"], told.startswith(f"{listed['name']}: ")) == (True, True)
    assert here("backup", "--list").startswith(f"{listed['name']}  ")

    refused = here.run("restore", "latest", **there, **secret)
    assert (refused.code, "--yes" in refused.err) == (2, True)
    restored = here("restore", "latest", "--yes", **there, **secret)
    assert "verified: all agree" in restored
    assert "signing keys: restored to" in restored
    key = tmp_path / "other" / TOKEN_KEY_FILE
    assert kids(key.read_text()) == signs
    assert key.stat().st_mode & 0o777 == 0o600
    assert_restored(before, within(redis7_url, everything), now_us())
    assert here("history", "--user", "user-1", **there)

    again = here.run("restore", "latest", "--yes", **there, **secret)
    assert (again.code, "not empty" in again.err) == (1, True)
    assert key.read_text() == (tmp_path / "other" / TOKEN_KEY_FILE).read_text()


def test_signing_keys_are_never_replaced_and_what_was_done_is_said(
    here: Commands, there: Settings, tmp_path: Path, redis7_url: str
) -> None:
    here("signing-key", "rotate")
    assert "no LEDGER_CREDENTIAL_KEY to encrypt them with" in here("backup")
    assert not (here.data_dir / CREDENTIAL_KEY_FILE).exists(), "none is made for it"
    (here.data_dir / CREDENTIAL_KEY_FILE).write_text(Cipher.make_key())
    url = f"file://{tmp_path / 'elsewhere'}"
    told = here("backup", "--to", url)
    assert f"the key of {here.data_dir / CREDENTIAL_KEY_FILE}" in told
    (made,) = [file.parent for file in files_of(tmp_path / "elsewhere") if file.name == MANIFEST]
    source = f"file://{made}"

    other = tmp_path / "other"
    done = here.run("restore", source, "--yes", **there)
    assert (done.code, "there is no LEDGER_CREDENTIAL_KEY that they were" in done.out) == (1, True)
    within(redis7_url, lambda store: store.each_primary("FLUSHALL"))
    done = here.run("restore", source, "--yes", **there, credential_key=Cipher.make_key())
    assert (done.code, "LEDGER_CREDENTIAL_KEY is not the one that they were" in done.out) == (1, True)
    assert not (other / TOKEN_KEY_FILE).exists()
    within(redis7_url, lambda store: store.each_primary("FLUSHALL"))
    other.mkdir(exist_ok=True)
    (other / TOKEN_KEY_FILE).write_text("mine")
    assert "stays as it is" in here("restore", source, "--yes", **there)
    assert (other / TOKEN_KEY_FILE).read_text() == "mine"


def test_a_ledger_comes_back_from_segments_alone(here: Commands, there: Settings) -> None:
    told = here("restore", "--from-segments", "--yes", **there)
    assert "API keys, identities, credentials and catalogs" in told
    assert "verified: all agree" in told
    assert here("history", "--user", "user-1", **there)


def test_a_backup_into_the_embedded_server(here: Commands, tmp_path: Path, valkey_url: str) -> None:
    before = within(valkey_url, everything)
    here("backup", "--with-catalog")
    here("restore", "latest", "--yes", redis="", data_dir=str(tmp_path / "embedded"))
    report = here.json("verify", redis="", data_dir=str(tmp_path / "embedded"))
    assert (report["different"], report["sessions"]) == (0, sum(b":session:" in name for name in before))


def test_what_cannot_be_restored_is_told(here: Commands, there: Settings, tmp_path: Path, redis7_url: str) -> None:
    for args, code, what in (
        (("restore", "--yes"), 2, "--from-segments"),
        (("restore", "x", "--from-segments", "--yes"), 2, "--from-segments"),
        (("restore", "latest", "--yes"), 1, "no backup"),
        (("restore", f"file://{tmp_path / 'archive'}", "--yes"), 1, "no backup"),
        (("backup", "--to", "/plain/path"), 2, "--to: must begin with file://"),
        (("backup", "--list", "--to", f"file://{tmp_path}/typo"), 2, f"--to: there is no folder {tmp_path}/typo"),
        (("restore", f"file://{tmp_path}/typo", "--yes"), 2, f"FROM: there is no folder {tmp_path}/typo"),
        (("migrate", "--from", f"file://{tmp_path}/typo", "--to", f"file://{tmp_path}/new"), 2, "--from: there is no"),
        (("migrate", "--from", f"file://{tmp_path}/archive", "--to", "new"), 2, "--to: must begin with file://"),
        (("migrate", "--from", "file:///x", "--to", "file:///x/"), 2, "in each other"),
        (("migrate", "--from", "file:///x", "--to", "file:///x/y"), 2, "in each other"),
    ):
        done = here.run(*args, **there)
        assert (done.code, what in done.err) == (code, True), (args, done)
    assert not (tmp_path / "typo").exists()
    for asks in ((), ("--yes",)):  # nobody is asked about what cannot be done
        done = here.run("restore", "latest", *asks, **there, archive="")
        assert (done.code, "give the backup as a URL" in done.err) == (2, True)
        done = here.run("restore", "--from-segments", *asks, **there, archive="")
        assert (done.code, "set LEDGER_ARCHIVE" in done.err) == (2, True)
    done = here.run("restore", "--from-segments", "--yes", **there, partitions="7")
    assert (done.code, "LEDGER_PARTITIONS" in done.err) == (1, True)
    here("backup")
    part = next(file for file in files_of(tmp_path / "archive" / FOLDER) if file.name.startswith("p00"))
    part.write_bytes(part.read_bytes()[:-1])
    done = here.run("restore", "latest", "--yes", **there)
    assert (done.code, part.name in done.err) == (1, True)
    assert within(redis7_url, lambda store: store.each_primary("DBSIZE")) == [0]


def test_that_there_is_nothing_is_said(here: Commands, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = here.run("backup", "--list", "--to", f"file://{tmp_path}/empty")
    assert (done.code, done.out, done.err) == (0, "", "there are no backups\n")
    done = here.run("migrate", "--from", f"file://{tmp_path}/empty", "--to", f"file://{tmp_path}/new")
    assert (done.code, done.err) == (0, f"there is nothing in file://{tmp_path}/empty\n")


def test_an_archive_is_migrated(here: Commands, tmp_path: Path) -> None:
    here("backup")
    source, target = f"file://{tmp_path / 'archive'}", f"file://{tmp_path / 'new'}"
    count = len(files_of(tmp_path / "archive"))
    assert f"{count:,} objects" in here("migrate", "--from", source, "--to", target, "--dry-run")
    assert files_of(tmp_path / "new") == []
    report = here.json("migrate", "--from", source, "--to", target, "--concurrency", "2")
    assert (report["copied"], report["same"]) == (count, 0)
    told = here("migrate", "--from", source, "--to", target)
    assert f"0 objects of 0 bytes copied, {count} there already" in told
    one = files_of(tmp_path / "new")[0]
    one.write_bytes(b"other")
    done = here.run("migrate", "--from", source, "--to", target)
    assert (done.code, one.name in done.out, "1 differ" in done.out) == (1, True, True)
    assert one.read_bytes() == b"other"


def test_a_backup_of_a_damaged_ledger_ends_with_1_and_names_what_is_not_in_it(
    here: Commands, there: Settings, valkey_url: str
) -> None:
    within(valkey_url, lambda store: store.command("DEL", keys.whole(1), key=keys.whole(1)))
    done = here.run("backup", "--keep", "1")
    assert done.code == 1
    assert "not in it: partition 1" in done.err
    told = here("restore", "latest", "--yes", **there)
    assert "made of a damaged ledger: partition 1" in told
