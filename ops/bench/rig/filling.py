"""Streams of events made without a service: a million in seconds, as append.lua would; a rebuild makes all else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from redis import Redis

from ledger import keys
from ledger.chain import GENESIS, record
from ledger.entity_types import CODES, COMPLETE, mask_of
from ledger.events import AcksRecorded, Event, SessionCreated, StoredAck, StreamOffered, mask_bytes
from ledger.personal import plain

TYPE: Final = "AssetV1"
_START_MS: Final = 1_790_000_000_000
_BATCH: Final = 2000


class _Chain(msgspec.Struct):
    """Where a session's chain stands."""

    number: int
    stream: bytes
    events: Iterator[Event]
    seq: int = 0
    hash: bytes = GENESIS
    head: str = ""


def fill(url: str, partitions: int, devices: int, events: int) -> None:
    """Give `devices` of as many users `events` in all."""
    fill_sessions(url, partitions, [events // devices] * devices)


def fill_sessions(url: str, partitions: int, events: Sequence[int]) -> None:
    """Give a device each of as many users so many events, in turns: a sign-in, an offer, then acks. No projections."""
    chains = [_chain(number, partitions, count) for number, count in enumerate(events)]
    made = 0
    with Redis.from_url(url) as redis:
        pipe = redis.pipeline(transaction=False)
        for turn in range(max(events)):
            for chain in chains:
                if turn >= events[chain.number]:
                    continue
                _append(pipe, chain, stream_id(chain.number, turn + 1), at_us(turn + 1))
                made += 1
                if made % _BATCH == 0:
                    pipe.execute()
        pipe.execute()


def user(number: int) -> str:
    """Tell whose a device is."""
    return f"user-{number}"


def sid(number: int) -> str:
    """Tell the session id of a device."""
    return f"{number:064x}"


def stream_id(number: int, seq: int) -> str:
    """Tell where an event of a device lies."""
    return f"{_START_MS + seq - 1}-{number}"


def at_us(seq: int) -> int:
    """Tell when the event of this seq of any device was."""
    return (_START_MS + seq - 1) * 1000


def _chain(number: int, partitions: int, count: int) -> _Chain:
    stream = keys.stream(keys.partition_of(user(number), partitions))
    return _Chain(number, stream, _events(user(number), count))


def _events(whose: str, count: int) -> Iterator[Event]:
    end_us = _START_MS * 1000 + count
    yield SessionCreated(
        whose, "bench", device_type=plain("Pixel"), device_os=plain("Android"), app_version=plain("3.2.0")
    )
    yield StreamOffered(end_us, mask_bytes(mask_of([TYPE, COMPLETE])))
    for number in range(count):
        yield AcksRecorded((StoredAck(CODES[TYPE], _START_MS * 1000 + number, f"{number:032x}", 1),))


def _append(pipe: Redis, chain: _Chain, at: str, at_us: int) -> None:
    (recorded,) = record((next(chain.events),), sid(chain.number), chain.seq, at_us, chain.hash)
    fields: dict[Any, Any] = {
        "sid": bytes.fromhex(sid(chain.number)),
        "seq": recorded.seq,
        "at": recorded.at_us,
        "schema": recorded.schema,
        "event": recorded.raw,
        "hash": recorded.hash,
        "prev": chain.head,
    }
    pipe.xadd(chain.stream, fields, at)
    chain.seq, chain.hash, chain.head = recorded.seq, recorded.hash, at
