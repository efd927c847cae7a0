"""An ack that only moves a checkpoint has a quick way: it does and sends, byte for byte, what the plain way does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.acks import Ack
from ledger.commands import RecordAcks
from ledger.keys import partition_of
from ledger.log.append import append, place
from ledger.log.quick_acks import quick_ack
from ledger.log.service import _judge
from ledger.state import State
from ledger.store.scripts import Arg, Script, pack
from tests.support.ledger.given import NOW, SNAPSHOT, ack, few_acks, given, histories, offered, positions

PARTITIONS = 4


class Sent:
    """A store that keeps what it is sent, and says that it was written."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        self.calls.append(pack((b"EVALSHA", script.sha, len(keys), *keys, *args)))
        return [1]


async def plainly(state: State, of: Ack, now_us: int, most: int) -> tuple[State | None, list[bytes]]:
    """Carry an ack out as `execute` does; returns the state after it and what was sent."""
    events, refusal = _judge(state, RecordAcks((of,)), now_us)
    if refusal is not None or not events:
        return None, []
    section, store = place(state, state.sid, events, now_us), Sent()
    assert await append(store, partition_of(state.user, PARTITIONS), [section], now_us, most_sessions=most) is None  # type: ignore[arg-type]
    return section.after, store.calls


@hypothesis.given(histories, few_acks, st.integers(-3, 10**9), st.sampled_from((0, 1000)))
async def test_the_quick_way_does_and_sends_what_the_plain_one_does(
    lived: list[tuple[Any, State]], of: Ack, later_us: int, most: int
) -> None:
    state = lived[-1][1]
    quick = quick_ack(state, of, PARTITIONS, NOW + later_us, most)
    if quick is None:
        return
    after, calls = await plainly(state, of, NOW + later_us, most)
    assert quick.after == after
    assert [quick.call] == calls


@hypothesis.given(positions, positions, st.binary(min_size=32, max_size=32), st.sampled_from(("", "ann%s", "é%%d|")))
async def test_whatever_bytes_there_are(first: Any, second: Any, provider: bytes, user: str) -> None:
    """Ids, users and hashes of any bytes, and times of any length."""
    state = given(offered("AssetV2", snapshot_us=2**53))
    state = replace(state, user=user or state.user, provider_session=provider, at_us=first.at_us)
    for position in (first, second):
        of = Ack("AssetV2", position)
        if (quick := quick_ack(state, of, PARTITIONS, position.at_us, 0)) is not None:
            after, calls = await plainly(state, of, position.at_us, 0)
            assert (quick.after, [quick.call]) == (after, calls)
            state = quick.after


def test_almost_every_ack_takes_the_quick_way() -> None:
    state = given(offered("AssetV2"))
    for number in range(1, 5):
        quick = quick_ack(state, ack("AssetV2", SNAPSHOT - 10 + number, "a"), PARTITIONS, NOW, 1000)
        assert quick is not None
        state = quick.after
