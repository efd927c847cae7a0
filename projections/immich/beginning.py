"""Sessions of Immich's that begin here, or go on that were ended here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from ledger.commands import AdoptCheckpoints, ClearCheckpoints, CreateSession, EndSession, ResumeSession
from ledger.errors import LedgerError, SessionEnded, TooManySessions, Unavailable
from ledger.events import IMMICH
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.session_ids import short_id
from projections.history.event_pages import EventPages
from projections.history.state_at import fold_at
from projections.immich.tables import ImmichSession

log = logging.getLogger(__name__)

PUT_ASIDE: Final = "put_aside"
"""Why a session ended that makes room for another one of its user."""
_EVER_US: Final = 2**53


class Beginning:
    """Begins and resumes the sessions that rows of Immich's tell of."""

    def __init__(
        self,
        ledger: Ledger,
        past: EventPages,
        adopted: Callable[[ImmichSession], Awaitable[AdoptCheckpoints | ClearCheckpoints | None]],
    ) -> None:
        """`adopted` tells what a session that begins only now takes over of a row's checkpoints."""
        self._ledger = ledger
        self._past = past
        self._adopted = adopted

    async def begin(self, row: ImmichSession, sid: str, *, resumes: bool) -> None:
        """Begin or resume a session, for which there is room in the end."""
        while True:
            try:
                if resumes:
                    await self._resume(row, sid)
                else:
                    await self._ledger.execute(row.user, sid, await self._created(row, adopt=True))
            except TooManySessions:
                await self._put_aside(row.user)
            else:
                return

    async def _put_aside(self, user: str) -> None:
        """Make room for a session that Immich admits: end the one not heard of for longest, which its token resumes.

        Raises TooManySessions where none of the user's is Immich's.
        """
        sid = await self._ledger.sessions.longest_unheard(user, IMMICH)
        if sid is None:
            raise TooManySessions(self._ledger.most_sessions)
        log.info("session %s… of Immich's is put aside: its user has as many as may live", short_id(sid))
        with suppress(SessionEnded):  # another worker did
            await self._ledger.execute(user, sid, EndSession(PUT_ASIDE))

    async def _created(self, row: ImmichSession, *, adopt: bool) -> CreateSession:
        adopted = await self._adopted(row) if adopt and not row.pending_reset else None
        device_type, device_os, app_version = map(plain, row.described)
        return CreateSession(
            user=row.user,
            library=row.user,  # as the preset has it
            parent=row.parent,
            device_type=device_type,
            device_os=device_os,
            app_version=app_version,
            authenticated_by=IMMICH,
            adopted=adopted if isinstance(adopted, AdoptCheckpoints) else None,
        )

    async def _resume(self, row: ImmichSession, sid: str) -> None:
        """Let a session go on behind its end; its epochs begin beyond those that its device knows."""
        partition = self._ledger.partition_of(row.user)
        try:
            state = (await fold_at(self._past, partition, sid, _EVER_US)).state
            epoch = state.epoch + max(state.epochs.values(), default=0)
        except Unavailable:
            raise
        except LedgerError as error:  # removed, or damaged: an ack of an epoch beyond makes it start over once more
            log.warning("session %s… goes on without its past: %s", short_id(sid), error)
            epoch = 1
        command = ResumeSession(IMMICH, await self._created(row, adopt=False), epoch)
        await self._ledger.resume(row.user, sid, command)
