"""Ledgers with something of everything, for tests that carry them elsewhere, and what they hold then."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any, Final

from ledger import keys
from ledger.commands import CreateSession, RequestReset
from ledger.log.append import pairs
from ledger.log.service import Ledger
from ledger.log.store_check import open_layout
from ledger.personal import plain
from ledger.store.interface import Store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.backup.job import BackupOptions, BackupReport, back_up
from ops.backup.listing import find_backup, load_manifest
from ops.backup.restore import BY, RestoreReport, restore
from projections.accounts.api_keys import ApiKeys
from projections.accounts.credentials import Cipher, Credentials
from projections.accounts.identities import Identities
from projections.archive.catalog import Archive
from projections.archive.objects import Objects
from projections.backup.origin import FromBackup
from projections.counters import Counters
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import read_line
from tests.support.ledger.given import NOW
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.ledger.lives import dump, live
from tests.support.sources.samples import SAMPLES

PARTITIONS: Final = 4
ISSUER: Final = "https://id.example.test"
LATER: Final = NOW + 10**12
"""When backups are made: after all that `full` lets happen."""
LONG: Final = sid_of("long")
"""A session whose history has marks."""
CIPHER: Final = Cipher.from_keys(["MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="])
OPTIONS: Final = BackupOptions(version="1.2.3", with_catalog=True)
_OF_RESET: Final = (b"seq", b"at_us", b"hash", b"head", b"pending_reset")
_OF_ARCHIVERS: Final = (b"token", b"leased_until")


async def full(store: Store, objects: Objects | None = None, *, steps: int = 150, seed: int = 1) -> Ledger:
    """Make a ledger with all that can be in one; with `objects` a part of its past is archived."""
    clock = Clock()
    await open_layout(store, PARTITIONS, clock())
    ledger = Ledger(store, PARTITIONS, clock)
    await live(ledger, clock, Random(seed), steps)
    await ledger.execute("user-0", LONG, CreateSession("user-0", "photos"))
    for number in range(140):
        await ledger.execute("user-0", LONG, RequestReset(number % 2 == 0, plain("user-0")))
    for number in range(4):
        user, sid = f"user-{number}", sid_of(f"{seed} signed in {number}")
        await ledger.execute(user, sid, CreateSession(user, "photos", None, plain("Web"), plain(""), plain("")))
        await Credentials(store, PARTITIONS, CIPHER).hold(user, sid, f"secret {number}")
        await Identities(store, PARTITIONS).sign_in(
            ISSUER, f"subject {number}", email=f"{number}@example.test", name=f"N {number}", user=user, now_us=clock()
        )
    if objects is not None:
        options = ArchiveOptions(hot_events=10, segment_events=15)
        assert (await archive(store, objects, range(PARTITIONS), options, clock())).failures == []
        await live(ledger, clock, Random(seed + 1000), 20)
    await ApiKeys(store).create(["audit.read"], name="auditor", now_us=NOW)
    await Counters(store).add("bad_tokens")
    entities = [read_line(json.dumps({"type": kind, "data": data}).encode()) for kind, data in SAMPLES.items()]
    await Catalog(store).put("photos", entities)
    return ledger


async def saved(
    store: Store, objects: Objects, options: BackupOptions = OPTIONS, *, at_us: int = LATER, archived: bool = True
) -> BackupReport:
    """Back a ledger up, beside its archive."""
    return await back_up(store, Archive(store, objects) if archived else None, objects, PARTITIONS, options, at_us)


async def opened_backup(store: Store, objects: Objects, name: str, *, archived: bool = True) -> FromBackup:
    """Open a backup to restore it into a store."""
    folder = await find_backup(objects, name)
    manifest = await load_manifest(objects, folder)
    return FromBackup(objects, folder, manifest, Archive(store, objects) if archived else None)


async def restored(store: Store, objects: Objects, name: str = "latest", *, archived: bool = True) -> RestoreReport:
    """Check a backup and restore it."""
    origin = await opened_backup(store, objects, name, archived=archived)
    async for _ in origin.check():
        pass
    return await restore(store, origin, lambda: LATER + 10**6)


async def everything(store: Store) -> dict[bytes, Any]:
    """Read every key of a store, but what only archivers say to each other."""
    found = await dump(store)
    for name in [name for name in found if name.endswith(b":archive")]:
        found[name] = {field: value for field, value in found[name].items() if field not in _OF_ARCHIVERS}
        if not found[name]:
            del found[name]
    for names in await store.each_primary("KEYS", "*"):
        for name in names:
            if not name.startswith(b"{p") and name != keys.census():
                found[name] = await _read(store, name)
    return found


def assert_restored(before: dict[bytes, Any], after: dict[bytes, Any], at_us: int = LATER) -> None:
    """Everything is as it was, but that every session that lives at an instant was asked to start over, once."""
    assert after.keys() == before.keys()
    asked = 0
    for name, held in before.items():
        if name.endswith(b":stream"):
            assert after[name][: len(held)] == held, "under the same ids"
            more = after[name][len(held) :]
            asked += len(more)
            assert all(b"sync_reset_requested" in pairs(entry[1])[b"event"] for entry in more)
            assert all(BY.encode() in pairs(entry[1])[b"event"] for entry in more)
        elif b":session:" in name:
            is_new = b"pending_reset" not in held and not _is_over(name, before, at_us)
            asked -= is_new
            left = _OF_RESET if is_new else ()
            assert b"pending_reset" in after[name] or held == after[name], "it is over"
            assert {**after[name], **dict.fromkeys(left, b"")} == {**held, **dict.fromkeys(left, b"")}, name
        else:
            assert after[name] == held, name
    assert asked == 0, "one event for each"


def _is_over(name: bytes, before: dict[bytes, Any], at_us: int) -> bool:
    """Tell whether a session, or one that it belongs to, has expired."""
    where, held = name[: name.rindex(b":") + 1], before[name]
    while held is not None:
        if int(held.get(b"token_expires_at_us", at_us + 1)) <= at_us:
            return True
        held = before.get(where + held.get(b"parent", b""))
    return False


async def _read(store: Store, name: bytes) -> Any:
    kind = await store.command("TYPE", name, key=name)
    match kind.decode() if isinstance(kind, bytes) else kind:
        case "hash":
            return pairs(await store.command("HGETALL", name, key=name))
        case "zset":
            return await store.command("ZRANGE", name, 0, -1, "WITHSCORES", key=name)
        case "set":
            return set(await store.command("SMEMBERS", name, key=name))
        case _:
            return await store.command("GET", name, key=name)


def files_of(path: Path) -> list[Path]:
    """List the files below a folder."""
    return sorted(file for file in path.rglob("*") if file.is_file())


async def archive_all(store: Store, objects: Objects) -> None:
    """Archive every event."""
    options = ArchiveOptions(hot_events=0, segment_events=15)
    assert (await archive(store, objects, range(PARTITIONS), options, LATER)).failures == []
