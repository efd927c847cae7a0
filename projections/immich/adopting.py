"""Where devices that stood at Immich go on: its rows for the rules of `adoption.py`, and what these leave out told."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ledger.commands import AdoptCheckpoints, ClearCheckpoints
from ledger.entity_types import types_in
from ledger.session_ids import short_id
from ledger.state import State
from projections.immich.adoption import CheckpointRow, Look, Shares, adopt, gone, moved_on, named
from projections.immich.tables import Stand

log = logging.getLogger(__name__)


class Adopting:
    """Implements `identity.Adoption`. `revision` tells the newest of the source's resends, 0 without any."""

    def __init__(self, revision: Callable[[], int]) -> None:
        self._revision = revision

    def is_news(self, state: State, synced_us: int, synced_types: int) -> bool:
        """Tell whether a look says otherwise than what was adopted; how many types Immich has tells what it cleared."""
        if state.adopted is None:
            return synced_types > 0
        return synced_us > state.adopted.as_of_us or synced_types != len(types_in(state.adopted.mask))

    def adopt(self, stand: Stand, state: State | None) -> AdoptCheckpoints | ClearCheckpoints | None:
        """Tell what follows for a session's checkpoints here; what begins anew though Immich has it is logged."""
        rows = [CheckpointRow(*each) for each in stand.checkpoints]
        newest_us = max((each.updated_at_us for each in rows), default=0)
        look = Look(newest_us, frozenset(each.type for each in rows))
        if state is not None and not moved_on(state, look):
            return gone(state, look)
        shares = Shares(stand.partners, stand.albums)
        found = adopt(rows, shares, stand.session.created_at_us, stand.horizon_us, self._revision(), state)
        if found is None:
            return None
        if found.anew:
            sid = short_id(stand.session.token.hex())
            log.warning("session %s… begins anew with %s", sid, "; ".join(named(found.anew)))
        return found.command
