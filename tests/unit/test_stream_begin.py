"""What a stream puts on record before it is sent: of the source as the device will see it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

from endpoints.sync.stream import Waits, begin
from ledger.commands import Command, Origin
from ledger.events import StreamOffered
from ledger.positions import Position
from ledger.state import State
from projections.entities.registry import row
from tests.support.ledger.given import NOW, given, then, when


class Behind:
    """A source whose horizon is behind a write when it is asked first, and above it the next time."""

    steady = False
    resends = ()

    def __init__(self) -> None:
        self.horizons = [NOW + 1, NOW + 2]

    async def horizon(self, library: str) -> int:
        return self.horizons.pop(0)

    async def tombstone_floor(self, library: str) -> int:
        return 0

    async def provision(self, library: str, horizon_us: int) -> int:
        return horizon_us

    async def origin(self, library: str, horizon_us: int) -> Origin:
        return Origin(1, written=horizon_us, first=True)

    async def changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        return frozenset(after) if before > NOW + 1 else frozenset()

    async def catches_up_in(self, library: str, types: Collection[str], before: int, asked_s: float) -> float:
        return 0.001


async def test_a_stream_that_waited_tells_how_far_its_source_was_written_then() -> None:
    """Else a promoted database could lack what the device was sent, and nobody would know."""
    state = given()
    offered: list[StreamOffered] = []

    async def act(command: Command) -> State:
        nonlocal state
        events = when(state, command)
        offered.extend(event for event in events if isinstance(event, StreamOffered))
        state = then(state, *events)
        return state

    begun = await begin(act, cast(Any, Behind()), state, [row("AssetV2")], Waits(), 0.0)
    assert begun is not None
    assert begun.snapshot_us == NOW + 2
    assert [(event.snapshot_us, event.written) for event in offered] == [(NOW + 2, NOW + 2)]
