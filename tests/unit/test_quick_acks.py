"""An ack that only moves a checkpoint has a quick way: it does and sends what the plain way says is to be done."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger import keys
from ledger.acks import Ack
from ledger.commands import ClearCheckpoints, OfferStream, RecordAcks
from ledger.entity_types import COMPLETE, mask_of
from ledger.log.append import MARK_EVERY, place
from ledger.log.quick_acks import APPEND_ONE, Quick, quick_ack
from ledger.log.service import _judge
from ledger.log.state_fields import changes
from ledger.positions import Position
from ledger.state import State
from ledger.store.scripts import pack
from tests.support.ledger.given import (
    NOW,
    SNAPSHOT,
    TYPES,
    ack,
    few_acks,
    given,
    histories,
    history,
    masks,
    moved,
    offered,
    positions,
)

PARTITIONS = 4


def check(quick: Quick, state: State, of: Ack, now_us: int) -> None:
    """Compare with what `execute` would have placed, and with the changes that its append would have made."""
    events, refusal = _judge(state, RecordAcks((of,)), now_us)
    assert refusal is None
    section = place(state, state.sid, events, now_us)
    (recorded,) = section.events
    assert (quick.event, quick.after) == (recorded.event, section.after)
    to_set, remove, set_checkpoints, remove_checkpoints = changes(state, section.after)
    assert (to_set, remove, remove_checkpoints) == ({}, [], [])
    ((field, value),) = set_checkpoints.items()
    partition = keys.partition_of(state.user, PARTITIONS)
    names = [keys.stream(partition), keys.session(partition, state.sid), keys.checkpoints(partition, state.sid)]
    if recorded.seq // MARK_EVERY > state.seq // MARK_EVERY:
        names.append(keys.marks(partition, state.sid))
    version = (recorded.schema, state.seq, state.hash)
    event = (recorded.seq, recorded.at_us, recorded.raw, recorded.hash)
    args = (bytes.fromhex(state.sid), *version, *event, field, value)
    assert quick.call == pack((b"EVALSHA", APPEND_ONE.sha, len(names), *names, *args))
    assert quick.key == names[0]


def acks_near(state: State) -> Iterator[Ack]:
    """Give the acks of all epochs and positions where it is decided what becomes of an ack on this state."""
    for entity_type in TYPES:
        edges = {state.offered_us(entity_type), NOW}
        if (checkpoint := state.checkpoints.get(entity_type)) is not None:
            edges.add(checkpoint.position.at_us)
        times = {at_us for edge in edges for at_us in (edge - 1, edge, edge + 1) if at_us >= 0}
        epochs = {epoch for by in (-1, 0, 1) if (epoch := state.epoch_of(entity_type) + by) > 0}
        for at_us, entity_id, epoch in product(times, ("", "a", "b", "é"), epochs):
            yield Ack(entity_type, Position(at_us, entity_id), epoch)


ack_lives = st.lists(
    st.one_of(
        st.builds(RecordAcks, few_acks.map(lambda of: (of,))),
        st.builds(OfferStream, st.integers(NOW, NOW + 7), masks),
        st.builds(ClearCheckpoints, masks, st.just("deleted")),
    ),
    max_size=6,
)
"""What comes behind an offer of all types: mostly acks."""


@hypothesis.given(
    ack_lives.map(lambda sent: history([OfferStream(NOW + 5, mask_of(TYPES)), *sent])) | histories,
    st.sampled_from((None, None, None, "ab" * 32)),
    st.sampled_from((NOW, NOW + 10**9, NOW - 3, 10**16 - 1, 10**16)),
)
def test_the_quick_way_does_what_the_plain_one_does_and_takes_each_ack_that_moves_one_checkpoint_alone(
    lived: list[tuple[Any, State]], parent: str | None, now_us: int
) -> None:
    state = replace(lived[-1][1], parent=parent)
    for of in acks_near(state):
        if (quick := quick_ack(state, of, PARTITIONS, now_us)) is not None:
            check(quick, state, of, now_us)
        events, refusal = _judge(state, RecordAcks((of,)), now_us)
        moves = refusal is None and events == (moved(of),)
        more = of.type == COMPLETE or parent is not None or state.stale or state.refused or now_us >= 10**16
        assert (quick is not None) == (moves and not more)


@hypothesis.given(positions, positions, st.sampled_from(("", "ann%s", "é%%d|")), st.integers(1, 10**6))
def test_whatever_bytes_there_are(first: Any, second: Any, user: str, seq: int) -> None:
    """Ids, users and hashes of any bytes, times and seqs of any length."""
    state = given(offered("AssetV2", snapshot_us=2**53))
    state = replace(state, user=user or state.user, at_us=first.at_us, seq=seq)
    for position in (first, second):
        of = Ack("AssetV2", position)
        if (quick := quick_ack(state, of, PARTITIONS, position.at_us)) is not None:
            check(quick, state, of, position.at_us)
            state = quick.after


def test_almost_every_ack_takes_the_quick_way() -> None:
    state = given(offered("AssetV2"))
    for number in range(1, 80):
        of = ack("AssetV2", SNAPSHOT - 100 + number // 2, f"a{number:02}")
        quick = quick_ack(state, of, PARTITIONS, NOW)
        assert quick is not None
        check(quick, state, of, NOW)
        state = quick.after
