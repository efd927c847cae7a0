"""Making good what a store lost of what is logged: sessions go on behind it, and those that had ended end again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ledger import keys
from ledger.errors import CorruptLedger, LedgerError, StoreReplyError, StoreUnavailable
from ledger.log.service import Ledger
from ledger.log.stored_sessions import text_of
from ledger.store.interface import scan
from ledger.transparency.entries import KINDS, EventLeaf, parse_leaf
from ledger.transparency.notes import VerifierKey
from ledger.transparency.state_tree import Record
from projections.checking.partition_fold import is_sid, pages_of
from projections.mass_reset import Failures
from projections.transparency.monitor.log_check import Published, open_published
from projections.transparency.place import LogPlace

_TOGETHER: Final = 200


class GoneOn(Failures):
    """How many living sessions were compared with the log, and of how many the store had lost what is logged.

    `ended` of these had ended, and are ended again; the others go on behind what was lost and start over. With a dry
    run they would be.
    """

    sessions: int = 0
    lost: int = 0
    ended: int = 0


async def go_on(
    ledger: Ledger,
    place: LogPlace,
    origin: str,
    verifiers: Sequence[VerifierKey],
    *,
    dry_run: bool = False,
    on_progress: Callable[[GoneOn], None] = lambda _: None,
) -> GoneOn:
    """Have all living sessions that the log knows further than the store go on behind that.

    What fails is named, and the others go on. Raises LogContradicts, ArchiveUnavailable, StoreUnavailable.
    """
    report = GoneOn()
    log = await open_published(place, origin, verifiers)
    if log is None:
        return report
    if log.wrong is not None:
        raise log.wrong
    for partition in range(ledger.partitions):
        try:
            async for rows in scan(ledger.store, "ZSCAN", keys.activity(partition)):
                for some in pages_of([text_of(sid) for sid, _ in rows], _TOGETHER):
                    await _compare(ledger, log, partition, some, report, dry_run)
                on_progress(report)
        except StoreReplyError as error:
            report.fail(partition, "", str(error))
    return report


async def _compare(
    ledger: Ledger, log: Published, partition: int, sids: Sequence[str], report: GoneOn, dry_run: bool
) -> None:
    by_id = {bytes.fromhex(sid): sid for sid in sids if is_sid(sid)}
    for sid, record in (await log.states.find(by_id)).items():
        report.sessions += 1
        try:
            await _make_good(ledger, log, partition, by_id[sid], record, report, dry_run)
        except StoreUnavailable:
            raise
        except LedgerError as error:
            report.fail(partition, by_id[sid], str(error))


async def _make_good(
    ledger: Ledger, log: Published, partition: int, sid: str, record: Record, report: GoneOn, dry_run: bool
) -> None:
    name = keys.session(partition, sid)
    seq = await ledger.store.command("HGET", name, "seq", key=name)
    if seq is None or not seq.isdigit() or int(seq) >= record.seq:
        return
    leaf = parse_leaf(await log.tree.leaf(record.entry, log.checkpoint.root))
    if not isinstance(leaf, EventLeaf) or (leaf.sid, leaf.seq, leaf.hash) != (record.sid, record.seq, record.hash):
        raise CorruptLedger(f"entry {record.entry} of the log is not the one that its state tree knows")
    ended = leaf.kind == KINDS["session_ended"]
    if dry_run or await ledger.losses.go_on_behind(partition, sid, record.seq, record.hash, ended=ended):
        report.lost += 1
        report.ended += ended
