"""An ack that only moves a checkpoint has a quick way: it does and sends what the plain way says is to be done."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger import keys
from ledger.acks import Ack
from ledger.commands import RecordAcks
from ledger.log.append import MARK_EVERY, place
from ledger.log.quick_acks import APPEND_ONE, Quick, quick_ack
from ledger.log.service import _judge
from ledger.log.state_fields import changes
from ledger.state import State
from ledger.store.scripts import pack
from tests.support.ledger.given import NOW, SNAPSHOT, ack, few_acks, given, histories, offered, positions

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


@hypothesis.given(histories, few_acks, st.integers(-3, 10**9))
def test_the_quick_way_does_and_sends_what_the_plain_one_does(
    lived: list[tuple[Any, State]], of: Ack, later_us: int
) -> None:
    state = lived[-1][1]
    if (quick := quick_ack(state, of, PARTITIONS, NOW + later_us)) is not None:
        check(quick, state, of, NOW + later_us)


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
