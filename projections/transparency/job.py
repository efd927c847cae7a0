"""Bringing the log up to the store: which log it is, whose turn it is, and run after run until nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

from ledger.log.service import Ledger
from ledger.store.interface import Store
from ledger.transparency.notes import SignerKey
from projections.archive.catalog import Archive
from projections.archive.errors import ArchiveUnavailable
from projections.transparency.errors import CLOSE, LogContradicts, LogRefused, Overtaken
from projections.transparency.going_on import GoneOn, go_on_with, make_good
from projections.transparency.going_on import told as what_was_made_good
from projections.transparency.notary import Notary, NotaryReport, Progress
from projections.transparency.noted import LogLease, note, read_noted
from projections.transparency.place import NEWEST, Identity, LogPlace
from projections.transparency.reading import Behind
from projections.transparency.states import KeptStates
from projections.transparency.witnesses import Witnesses

JOB: Final = "proof_claimed_at_ms"
_TRIES: Final = 8
"""How often in a row another job may be first."""


class LogOf(NamedTuple):
    """A ledger's log: where it is, whose, the origin it is to have ('' for any), and how its keys are found.

    `keys` gives those that sign in the name of an origin, newest first, and makes one only where nothing is signed yet,
    as its second argument tells. `witnesses` sign each checkpoint, too. `kept`: what stays in memory of the state tree
    from run to run.
    """

    store: Store
    place: LogPlace
    ledger_id: str
    wanted: str
    keys: Callable[[str, bool], Sequence[SignerKey]]
    archive: Archive | None = None
    witnesses: Witnesses | None = None
    kept: KeptStates | None = None


async def origin_of(log_of: LogOf, new_origin: str) -> str:
    """Tell the log's origin; a log that begins gets `new_origin`, if none is wanted. Raises LogRefused."""
    return (await identity_of(log_of, new_origin)).origin


async def identity_of(log_of: LogOf, new_origin: str) -> Identity:
    """Tell which log it is, as `origin_of` does, and which one it follows."""
    noted, place = await read_noted(log_of.store), log_of.place
    identity = await place.identity()
    if identity is None:
        if noted.origin:
            raise LogRefused(
                f"there is no log in {place.shown}, but this ledger's, {noted.origin}, had {noted.size:,} entries in "
                f"{noted.place}: set LEDGER_PROOF to where it is, or bring it back. If it is lost, {CLOSE}"
            )
        identity = await place.begin(Identity(origin=log_of.wanted or new_origin, ledger=log_of.ledger_id))
    if identity.ledger != log_of.ledger_id:
        raise LogRefused(
            f"{place.shown} holds the log of ledger {identity.ledger}, this is {log_of.ledger_id}: set LEDGER_PROOF to "
            "where its own log is, or to an empty place"
        )
    if noted.origin not in ("", identity.origin):
        if identity.follows is not None and identity.follows.origin == noted.origin:
            raise LogRefused(
                f"closing log {noted.origin} was interrupted before {identity.origin} took its place: run syncledger "
                "proof close again"
            )
        raise LogRefused(
            f"{place.shown} holds log {identity.origin}, this ledger's is {noted.origin}, in {noted.place}: set "
            "LEDGER_PROOF to where that is"
        )
    if log_of.wanted not in ("", identity.origin):
        raise LogRefused(
            f"LEDGER_PROOF_ORIGIN is {log_of.wanted}, the log in {place.shown} is {identity.origin}, and a log keeps "
            "its origin: leave it out, or set it to that"
        )
    return identity


async def notarize(
    log_of: LogOf,
    partitions: int,
    new_origin: str,
    now_ms: Callable[[], int],
    *,
    ledger: Ledger | None = None,
    on_progress: Progress = lambda _: None,
) -> NotaryReport | None:
    """Bring the log up to what the store holds now; None if another job is at it.

    With `ledger` what the store has lost of what is logged is made good first, so that what comes is no contradiction.
    Raises LogRefused, LogContradicts, InvalidInput for keys, ArchiveUnavailable, StoreUnavailable.
    """
    async with LogLease(log_of.store) as lease:
        if not lease.held:
            return None
        try:
            return await _all_runs(log_of, partitions, new_origin, now_ms, ledger, lease, on_progress)
        except (LogRefused, LogContradicts, ArchiveUnavailable) as error:
            noted = await read_noted(log_of.store)
            if noted.origin:
                await note(log_of.store, noted.origin, noted.place, 0, wrong=f"nothing is logged: {error}")
            raise


async def _all_runs(
    log_of: LogOf,
    partitions: int,
    new_origin: str,
    now_ms: Callable[[], int],
    ledger: Ledger | None,
    lease: LogLease,
    on_progress: Progress,
) -> NotaryReport:
    """Run until nothing is left, also behind other jobs that were first."""
    identity = await identity_of(log_of, new_origin)
    origin = identity.origin
    keys = log_of.keys(origin, await log_of.place.find(NEWEST) is None)
    await note(log_of.store, origin, log_of.place.shown, 0)
    verifiers = [key.public for key in keys]
    made_good = None if ledger is None else await make_good(ledger, log_of.place, origin, verifiers)
    total, lost, mended = NotaryReport(), 0, False
    while True:
        try:
            report = await _run(log_of, identity, keys, range(partitions), on_progress)
        except Overtaken:
            lost += 1
            if lost == _TRIES:
                raise
            continue
        lost = 0
        report.events += total.events
        report.batches += total.batches
        report.foreign += total.foreign
        total = report
        await lease.renew()
        if report.more:
            continue
        if ledger is None or mended or not report.refusals:
            break
        # Who begins anew what the store lost whole, or was first to speak behind a loss, goes on behind it, too.
        refused = [(each.partition, each.sid.hex()) for each in report.refusals]
        again, mended = await go_on_with(ledger, log_of.place, origin, verifiers, refused), True
        if not again.lost:
            break
        made_good = _both(made_good, again)
    total.made_good = made_good
    await note(log_of.store, origin, log_of.place.shown, total.size, now_ms(), told(total), len(total.refusals))
    return total


async def logged_by(store: Store, log_of: LogOf | None) -> dict[int, str] | None:
    """Tell up to which stream id each partition is logged; None where this ledger has no log.

    Raises LogRefused where it has one that is not at hand.
    """
    noted = await read_noted(store)
    if not noted.origin:
        return None
    if log_of is None:
        raise LogRefused(
            f"this ledger has a transparency log, {noted.origin}, in {noted.place}, without which nothing may leave "
            "the store: set LEDGER_PROOF as it is set where the service runs"
        )
    origin = await origin_of(log_of, noted.origin)
    notary = Notary(log_of.place, origin, log_of.keys(origin, False), Behind(log_of.store, log_of.archive))
    await notary.open()
    _check_size(log_of, notary.size, noted.size)
    return notary.cursors


def told(report: NotaryReport) -> str:
    """Say what is wrong in a line; '' for nothing."""
    parts = [f"partition {number} is held up: {why}" for number, why in sorted(report.stopped.items())[:3]]
    if (made_good := report.made_good) is not None and made_good.failed:
        parts.append(what_was_made_good(made_good))
    if report.foreign:
        parts.append(f"{report.foreign:,} stream entries are no events, which syncledger verify names")
    if report.refusals:
        named = ", ".join(refusal.sid.hex() for refusal in report.refusals[:3])
        parts.append(
            f"{report.refused:,} events are not logged, for they do not follow what is, of sessions {named or '-'}"
        )
    parts += [f"witness {name} did not sign: {why}" for name, why in sorted(report.unwitnessed.items())]
    return "; ".join(parts)


def _both(one: GoneOn | None, other: GoneOn) -> GoneOn:
    if one is None:
        return other
    return GoneOn(
        failed=one.failed + other.failed,
        not_asked=[*one.not_asked, *other.not_asked],
        sessions=one.sessions + other.sessions,
        lost=one.lost + other.lost,
        ended=one.ended + other.ended,
        size=other.size,
    )


async def _run(
    log_of: LogOf, identity: Identity, keys: Sequence[SignerKey], partitions: Iterable[int], on_progress: Progress
) -> NotaryReport:
    origin, follows = identity.origin, None if identity.follows is None else identity.follows.leaf
    behind = Behind(log_of.store, log_of.archive)
    notary = Notary(log_of.place, origin, keys, behind, log_of.witnesses, follows, log_of.kept)
    await notary.open()
    _check_size(log_of, notary.size, (await read_noted(log_of.store)).size)
    await notary.take(partitions, on_progress)
    await notary.finish(partial(note, log_of.store, origin, log_of.place.shown))
    return notary.report


def _check_size(log_of: LogOf, size: int, noted: int) -> None:
    if size < noted:
        raise LogRefused(
            f"the log in {log_of.place.shown} has {size:,} entries, {noted:,} were written: it is an older copy. Bring "
            "back the newest one; a log never goes back, or who holds a checkpoint of it could not believe it again. "
            f"If that is lost, {CLOSE}"
        )
