"""Asking many sessions to start over, a bounded number at a time; one that fails keeps no other from being asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import msgspec

from ledger import keys
from ledger.commands import RequestReset
from ledger.errors import LedgerError, SessionEnded, StoreReplyError, StoreUnavailable
from ledger.events import Personal
from ledger.log.append import SEEN_FOR_US
from ledger.log.service import Ledger
from ledger.log.stored_sessions import mistyped, text_of
from ledger.log.whole import is_whole
from ledger.store.interface import scan

REPORTED: Final = 1000
"""How many failures a report names; all are counted."""
NOTED_WITHIN_US: Final = 2 * SEEN_FOR_US
"""How long ago the last note of a session that speaks now may be: each process of a service relies on one for an hour,
and may itself have found one that was an hour old."""
_AT_ONCE: Final = 32
_NOT_WHOLE: Final = "is not whole: run syncledger rebuild, and this again"
_NO_SESSION: Final = "is in an index only: run syncledger verify --repair"
_UNREADABLE: Final = "is of another type, or nobody's: syncledger verify names what to mend"


class NotAsked(msgspec.Struct, frozen=True):
    """What could not be asked, and why: a session, or where that is '' a whole partition."""

    partition: int
    session: str
    what: str


class Failures(msgspec.Struct):
    """How many sessions of a walk over many failed, and which, as far as there is room to name them."""

    failed: int = 0
    not_asked: list[NotAsked] = []

    def fail(self, partition: int, session: str, what: str) -> None:
        """Count what could not be asked, and name it if there is room."""
        self.failed += 1
        if len(self.not_asked) < REPORTED:
            self.not_asked.append(NotAsked(partition, session, what))


class MassReset(Failures):
    """How many sessions were looked at, and what became of them.

    `asked` now, or with a dry run would be; `before`: were asked before, and have not answered; `ended` meanwhile.
    """

    sessions: int = 0
    asked: int = 0
    before: int = 0
    ended: int = 0


async def ask_to_reset(
    ledger: Ledger,
    sessions: AsyncIterator[tuple[str, str]],
    *,
    cause: str,
    by: Personal = b"",
    dry_run: bool = False,
    report: MassReset | None = None,
    on_progress: Callable[[MassReset], None] = lambda _: None,
) -> MassReset:
    """Ask `sessions`, each by its user and id, to start over, and put on record why and by whom.

    With `dry_run` nothing is written. Adds to `report` where one is given. Raises StoreUnavailable; who was asked until
    then stays so, and the same call again asks the others.
    """
    report = report or MassReset()
    turn: list[tuple[str, str]] = []

    async def ask() -> None:
        await asyncio.gather(*(_ask(ledger, *each, cause, by, dry_run, report) for each in turn))
        turn.clear()
        on_progress(report)

    async for each in sessions:
        turn.append(each)
        if len(turn) >= _AT_ONCE:
            await ask()
    await ask()
    return report


async def _ask(ledger: Ledger, user: str, sid: str, cause: str, by: Personal, dry_run: bool, report: MassReset) -> None:
    report.sessions += 1
    partition = ledger.partition_of(user)
    try:
        state = await ledger.look(partition, sid)
        if state is None or state.user != user:
            raise SessionEnded
        if state.pending_reset:
            report.before += 1
            return
        if not dry_run:
            await ledger.execute(user, sid, RequestReset(True, by, cause))
        report.asked += 1
    except SessionEnded:
        report.ended += 1
    except StoreUnavailable:
        raise
    except LedgerError as error:
        report.fail(partition, sid, str(error))


async def spoken_since(ledger: Ledger, since_us: int, report: MassReset) -> AsyncIterator[tuple[str, str]]:
    """Yield the living sessions that may have spoken since an instant; partitions and sessions that fail are reported.

    When a session was heard of is noted at most hourly, so some are among them that did not speak.
    """
    for partition in range(ledger.partitions):
        try:
            if not await is_whole(ledger.store, partition):
                report.fail(partition, "", _NOT_WHOLE)
                continue
            async for rows in scan(ledger.store, "ZSCAN", keys.activity(partition)):
                heard = [text_of(sid) for sid, ms in rows if int(float(ms)) * 1000 >= since_us - NOTED_WITHIN_US]
                users = await asyncio.gather(*map(partial(_user_of, ledger, partition), heard))
                for sid, user in zip(heard, users, strict=True):
                    if user:
                        yield user, sid
                    elif user is None and await _is_listed(ledger, partition, sid):  # else it ended meanwhile
                        report.fail(partition, sid, _NO_SESSION)
                    elif user == "":
                        report.fail(partition, sid, _UNREADABLE)
        except StoreReplyError as error:
            for what in await mistyped(ledger.store, partition) or [str(error)]:
                report.fail(partition, "", what)


async def _user_of(ledger: Ledger, partition: int, sid: str) -> str | None:
    """Tell whose a session is; None if it does not live, '' if that cannot be read."""
    name = keys.session(partition, sid)
    try:
        user = await ledger.store.command("HGET", name, "user", key=name)
        if user is None:
            return "" if await ledger.store.command("EXISTS", name, key=name) else None
        return str(user.decode())
    except (StoreReplyError, UnicodeDecodeError):
        return ""


async def _is_listed(ledger: Ledger, partition: int, sid: str) -> bool:
    name = keys.activity(partition)
    return await ledger.store.command("ZSCORE", name, sid, key=name) is not None
