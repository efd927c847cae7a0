"""Making good what a store lost of what is logged: sessions go on behind it, and those that had ended end again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from ledger import keys
from ledger.errors import CorruptLedger, LedgerError, StoreReplyError, StoreUnavailable
from ledger.log.reader import last_id
from ledger.log.service import Ledger
from ledger.log.stored_sessions import text_of
from ledger.store.interface import Store, scan
from ledger.transparency.entries import KINDS, EventLeaf, parse_leaf
from ledger.transparency.notes import VerifierKey
from ledger.transparency.state_tree import Record
from projections.archive.format import place as place_of
from projections.archive.record import read_record
from projections.checking.partition_fold import is_sid, pages_of
from projections.mass_reset import Failures
from projections.transparency import batches
from projections.transparency.monitor.log_check import Published, open_published, read_checkpoint
from projections.transparency.noted import note, read_noted
from projections.transparency.place import CHECKPOINT, LogPlace

_TOGETHER: Final = 200


class GoneOn(Failures):
    """How many living sessions were compared with the log, and of how many the store had lost what is logged.

    `ended` of these had ended, and are ended again; the others go on behind what was lost and start over. With a dry
    run they would be.
    """

    sessions: int = 0
    lost: int = 0
    ended: int = 0
    size: int = 0
    """Of the log that they were compared with."""


async def go_on(
    ledger: Ledger,
    place: LogPlace,
    origin: str,
    verifiers: Sequence[VerifierKey],
    *,
    only: Iterable[int] | None = None,
    must_sign: bool = True,
    dry_run: bool = False,
    on_progress: Callable[[GoneOn], None] = lambda _: None,
) -> GoneOn:
    """Have all living sessions, or those of `only` some partitions, that the log knows further go on behind that.

    What fails is named, and the others go on. Without `must_sign` a log is believed that nobody's key is known of.
    Raises LogContradicts, ArchiveUnavailable, StoreUnavailable.
    """
    report = GoneOn()
    log = await _open(place, origin, verifiers, must_sign=must_sign)
    report.size = 0 if log is None else log.checkpoint.size
    for partition in range(ledger.partitions) if only is None else only:
        try:
            async for sids in _living(ledger.store, partition):
                if log is not None:
                    await _compare(ledger, log, partition, sids, report, dry_run=dry_run)
                on_progress(report)
        except StoreReplyError as error:
            report.fail(partition, "", str(error))
    return report


async def go_on_with(
    ledger: Ledger,
    place: LogPlace,
    origin: str,
    verifiers: Sequence[VerifierKey],
    sessions: Iterable[tuple[int, str]],
) -> GoneOn:
    """Do as `go_on` does with these sessions, each of its partition, that the log refused an event of."""
    report = GoneOn()
    log = await _open(place, origin, verifiers)
    for partition, sid in sessions:
        if log is not None:
            await _compare(ledger, log, partition, [sid], report, refused=True)
    return report


async def lost_partitions(
    store: Store, place: LogPlace, origin: str, verifiers: Sequence[VerifierKey], partitions: int, noted: int
) -> list[int]:
    """List the partitions of which the store has lost what is logged, as far as is seen without reading sessions.

    The store notes a log's size before that is signed, as the last thing that it is told. So where it knows of less
    than is published (`noted`), it may have lost something of all; else of a partition whose stream ends before what is
    logged of it. Raises LogContradicts, ArchiveUnavailable, StoreUnavailable.
    """
    content = await place.find(CHECKPOINT)
    if content is None:
        return []
    if read_checkpoint(CHECKPOINT, content, origin, verifiers).size > noted:
        return list(range(partitions))
    newest = await batches.newest(place)
    cursors = {} if newest is None else newest.cursors

    async def ends_before(partition: int, cursor: str) -> bool:
        last, record = await last_id(store, partition), await read_record(store, partition)
        known = max(place_of(each) for each in (last or "0-0", record.floor or "0-0"))
        return known < place_of(cursor)

    numbers = sorted(number for number, cursor in cursors.items() if cursor and number < partitions)
    found = await asyncio.gather(*(ends_before(number, cursors[number]) for number in numbers))
    return [number for number, is_lost in zip(numbers, found, strict=True) if is_lost]


async def make_good(
    ledger: Ledger, place: LogPlace, origin: str, verifiers: Sequence[VerifierKey], *, within_s: float | None = None
) -> GoneOn | None:
    """Look whether the store lost what is logged, and make that good; None where nothing is lost.

    `within_s`: how long looking may take. Raises what `go_on` does, and TimeoutError.
    """
    store = ledger.store
    async with asyncio.timeout(within_s):
        noted = await read_noted(store)
        lost = await lost_partitions(store, place, origin, verifiers, ledger.partitions, noted.size)
    if not lost:
        return None
    report = await go_on(ledger, place, origin, verifiers, only=lost)
    await note(store, origin, place.shown, report.size)
    return report if report.lost or report.failed else None


def told(report: GoneOn) -> str:
    """Say in a line what was made good, and what could not be."""
    failed = ", ".join(f"{each.session or 'all'} of partition {each.partition}" for each in report.not_asked[:3])
    return (
        f"the store has lost what is logged of {report.lost:,} sessions of {report.sessions:,}: "
        f"{report.lost - report.ended:,} go on behind that, {report.ended:,} had ended and are ended again"
        + (f"; {report.failed:,} could not be made good, like {failed}" if report.failed else "")
    )


async def _open(
    place: LogPlace, origin: str, verifiers: Sequence[VerifierKey], *, must_sign: bool = True
) -> Published | None:
    log = await open_published(place, origin, verifiers, must_sign=must_sign)
    if log is not None and log.wrong is not None:
        raise log.wrong
    return log


async def _living(store: Store, partition: int) -> AsyncIterator[list[str]]:
    """List a partition's living sessions, some at a time."""
    async for rows in scan(store, "ZSCAN", keys.activity(partition)):
        for some in pages_of([text_of(sid) for sid, _ in rows], _TOGETHER):
            yield list(some)


async def _compare(
    ledger: Ledger,
    log: Published,
    partition: int,
    sids: Sequence[str],
    report: GoneOn,
    *,
    dry_run: bool = False,
    refused: bool = False,
) -> None:
    """Compare some sessions of a partition; `refused`: the log contradicts what the store has of them."""
    by_id = {bytes.fromhex(sid): sid for sid in sids if is_sid(sid)}
    known = await log.states.find(by_id)
    report.sessions += len(known)
    names = {sid: keys.session(partition, by_id[sid]) for sid in known}
    stored = await asyncio.gather(
        *(ledger.store.command("HMGET", name, "seq", "hash", key=name) for name in names.values()),
        return_exceptions=True,
    )
    for sid, found in zip(names, stored, strict=True):
        try:
            if isinstance(found, BaseException):
                raise found
            seq, digest = int(found[0]) if (found[0] or b"").isdigit() else -1, found[1]
            record = known[sid]
            is_lost = 0 <= seq < record.seq or (seq == record.seq and digest != record.hash)
            if is_lost or (refused and seq > record.seq):
                await _make_good(ledger, log, partition, by_id[sid], record, seq, report, dry_run)
        except StoreUnavailable:
            raise
        except LedgerError as error:
            report.fail(partition, by_id[sid], str(error))


async def _make_good(
    ledger: Ledger,
    log: Published,
    partition: int,
    sid: str,
    record: Record,
    stored_seq: int,
    report: GoneOn,
    dry_run: bool,
) -> None:
    """Go on behind what is logged of a session, which the store has less of, or something else.

    One that has gone on otherwise for longer than what is logged cannot be joined to that any more: it only ends again.
    """
    leaf = parse_leaf(await log.tree.leaf(record.entry, log.checkpoint.root))
    if not isinstance(leaf, EventLeaf) or (leaf.sid, leaf.seq, leaf.hash) != (record.sid, record.seq, record.hash):
        raise CorruptLedger(f"entry {record.entry} of the log is not the one that its state tree knows")
    ended = leaf.kind == KINDS["session_ended"]
    if stored_seq > record.seq:
        if ended and (dry_run or await ledger.losses.end_again(partition, sid)):
            report.lost += 1
            report.ended += 1
        return
    # What the log refused of the same seq counts as lost, too, so that the hole ends behind both.
    seq = max(record.seq, stored_seq + 1)
    if dry_run or await ledger.losses.go_on_behind(partition, sid, seq, record.hash, ended=ended):
        report.lost += 1
        report.ended += ended
