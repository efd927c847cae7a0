"""Counting a whole ledger: what an index tells of every partition, and partition after partition how far devices are.

A run looks at about DEVICES_A_RUN devices, each partition's once before any is looked at again, so what a minute costs
does not grow with the ledger; what was found of a partition is kept until it is its turn again. In one that has more
than DEVICES_A_PARTITION that many stand for all. What cannot be read of one partition is counted as unread and named.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from ledger import keys
from ledger.entity_types import COMPLETE
from ledger.errors import LedgerError
from ledger.log.whole import WHOLE
from ledger.store.interface import Script, Store, scan
from projections.bounded_tasks import each
from projections.census import record
from projections.census.record import BEHIND_S, LONGER, NEVER, SPANS_S
from projections.transparency.telling import LogFigures

log = logging.getLogger(__name__)

DEVICES_A_RUN: Final = 5000
DEVICES_A_PARTITION: Final = 20_000
DEVICES_A_SCRIPT: Final = 100
"""Of 500 it takes the store two milliseconds, for which all else waits."""
LIBRARIES: Final = 1000
"""Of how many libraries a run asks for the horizon."""
AT_ONCE: Final = 16
JOB: Final = "census_claimed_at_ms"
SECOND_US: Final = 1_000_000
_DEVICES: Final = Script.load("projections.census", "devices.lua")

Horizon = Callable[[str], Awaitable[int]]
OfLog = Callable[[int], Awaitable[LogFigures]]
"""Tells how the log is, as of a time in µs."""
HeldBack = Callable[[], Awaitable[Mapping[str, int]]]


class Devices(msgspec.Struct):
    """What was found of one partition's devices, by class."""

    behind: dict[str, float] = {}
    completed: dict[str, float] = {}


class Indexes(msgspec.Struct):
    """What the indexes of all partitions tell."""

    found: Counter[tuple[str, tuple[str, ...]]] = msgspec.field(default_factory=Counter)
    oldest_ms: int | None = None
    living: dict[int, int] = {}


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Devices).decode


class Census:
    """Takes the census of a ledger; one for a worker."""

    def __init__(
        self,
        store: Store,
        partitions: int,
        clock: Callable[[], int],
        horizon: Horizon,
        held_back: HeldBack,
        of_log: OfLog | None = None,
    ) -> None:
        """`horizon` tells that of a library, `held_back` the rows held back by reason; they raise Unavailable.

        `of_log` tells how the transparency log is, where there is one.
        """
        self._of_log = of_log
        self._store = store
        self._partitions = partitions
        self._clock = clock
        self._horizon = horizon
        self._held_back = held_back

    async def take(self) -> None:
        """Count, and keep what was found; raises StoreUnavailable where it cannot be kept."""
        now_us = self._clock()
        indexes = Indexes()
        await each(range(self._partitions), lambda number: self._look(number, now_us, indexes), AT_ONCE)
        found: dict[tuple[str, tuple[str, ...]], float] = {
            (family.name, labels): 0.0
            for family in record.COUNTED
            if family not in record.ASKED
            for labels in family.values
        }
        found |= {key: float(number) for key, number in indexes.found.items()}
        found[record.OLDEST.name, ()] = (indexes.oldest_ms or 0) / 1000
        try:
            for reason, rows in (await self._held_back()).items():
                found[record.HELD_BACK.name, (reason,)] = rows
        except LedgerError as error:
            log.warning("how many rows are held back is not known: %s", error)
        found |= await self._log(now_us)
        for devices in (await self._devices(now_us, indexes.living)).values():
            for by, number in devices.behind.items():
                found[record.BEHIND.name, (by,)] += number
            for within, number in devices.completed.items():
                found[record.COMPLETED.name, (within,)] += number
        found[record.TAKEN.name, ()] = now_us / SECOND_US
        await record.Kept(self._store).write(found)

    async def _log(self, now_us: int) -> dict[tuple[str, tuple[str, ...]], float]:
        """Ask how the log is; where it cannot be asked what is known stays, and it is named."""
        if self._of_log is None:
            return {(family.name, ()): 0.0 for family in record.OF_LOG}
        try:
            told = await self._of_log(now_us)
        except LedgerError as error:
            log.warning("how far the transparency log is behind is not known: %s", error)
            return {}
        return {(family.name, ()): float(number) for family, number in zip(record.OF_LOG, told, strict=True)}

    async def _look(self, partition: int, now_us: int, indexes: Indexes) -> None:
        """Ask a partition's indexes; one that cannot be asked is counted and named."""
        state = record.PARTITIONS.name
        activity, stream, broken = keys.activity(partition), keys.stream(partition), keys.broken(partition)
        ask, now_ms = self._store.command, now_us // 1000
        try:
            whole = await ask("GET", keys.whole(partition), key=activity)
            living = int(await ask("ZCARD", activity, key=activity))
            events = int(await ask("XLEN", stream, key=stream))
            first = await ask("XRANGE", stream, "-", "+", "COUNT", 1, key=stream) if events else []
            damaged = int(await ask("HLEN", broken, key=broken))
            seen, newer = Counter[str](), 0
            for within, span_s in SPANS_S.items() if living else ():
                since = int(await ask("ZCOUNT", activity, now_ms - span_s * 1000, "+inf", key=activity))
                seen[within], newer = since - newer, since
        except LedgerError as error:
            log.warning("partition %d is left out of the census: %s", partition, error)
            indexes.found[state, ("unread",)] += 1
            return
        seen[LONGER] = max(living - newer, 0)
        indexes.living[partition] = living
        indexes.found[state, ("whole" if whole == WHOLE else "not_whole",)] += 1
        indexes.found[record.SESSIONS.name, ()] += living
        indexes.found[record.STORED.name, ()] += events
        indexes.found[record.BROKEN.name, ()] += damaged
        for within, number in seen.items():
            indexes.found[record.SEEN.name, (within,)] += number
        if first:
            at_ms = int(first[0][0].partition(b"-")[0])
            indexes.oldest_ms = at_ms if indexes.oldest_ms is None else min(indexes.oldest_ms, at_ms)

    async def _devices(self, now_us: int, living: Mapping[int, int]) -> Mapping[int, Devices]:
        """Look at the devices of the partitions whose turn it is; return what is known of all that could be asked."""
        name = keys.census_devices()
        flat = await self._store.command("HGETALL", name, key=name)
        kept = dict(zip(flat[::2], flat[1::2], strict=True))
        known = {number: devices for number in living if (devices := _read(kept.get(b"%d" % number)))}
        start, looked, horizons = int(kept.get(b"next", 0)), 0, dict[str, int | None]()
        order = sorted(living, key=lambda number: (number < start, number))
        for partition in order:
            if looked >= DEVICES_A_RUN:
                await self._store.command("HSET", name, "next", partition, key=name)
                break
            try:
                count, devices = await self._look_at_devices(partition, now_us, living[partition], horizons)
            except LedgerError as error:
                log.warning("the devices of partition %d are left out of the census: %s", partition, error)
                continue
            looked += count
            if devices != known.get(partition):
                known[partition] = devices
                await self._store.command("HSET", name, partition, _encode(devices), key=name)
        return known

    async def _look_at_devices(
        self, partition: int, now_us: int, living: int, horizons: dict[str, int | None]
    ) -> tuple[int, Devices]:
        behind, completed, looked = Counter[str](), Counter[str](), 0
        if living:
            async for page in scan(self._store, "ZSCAN", keys.activity(partition)):
                for library, checkpoint in await self._read(partition, [sid.decode() for sid, _ in page]):
                    if library is None:
                        continue
                    horizon_us = await self._horizon_of(library.decode(), horizons)
                    by, within = classes(checkpoint, horizon_us, now_us)
                    behind[by] += 1
                    completed[within] += 1
                    looked += 1
                if looked >= DEVICES_A_PARTITION:
                    break
        share = living / looked if looked >= DEVICES_A_PARTITION else 1.0
        scaled = [{name: number * share for name, number in found.items()} for found in (behind, completed)]
        return looked, Devices(*scaled)

    async def _read(self, partition: int, sids: Sequence[str]) -> list[tuple[bytes | None, bytes | None]]:
        """Read the libraries and completions of sessions."""
        found: list[tuple[bytes | None, bytes | None]] = []
        for start in range(0, len(sids), DEVICES_A_SCRIPT):
            some = sids[start : start + DEVICES_A_SCRIPT]
            names = [of(partition, sid) for sid in some for of in (keys.session, keys.checkpoints)]
            flat = await self._store.script(_DEVICES, names, (COMPLETE,))
            found += zip(flat[::2], flat[1::2], strict=True)
        return found

    async def _horizon_of(self, library: str, horizons: dict[str, int | None]) -> int | None:
        """Tell a library's horizon, asked for once a run; None where it is not known."""
        if library not in horizons:
            if len(horizons) >= LIBRARIES:
                return None
            try:
                horizons[library] = await self._horizon(library)
            except LedgerError:
                horizons[library] = None  # what is wrong with the source is told elsewhere
        return horizons[library]


def classes(checkpoint: bytes | None, horizon_us: int | None, now_us: int) -> tuple[str, str]:
    """Tell how far a device's last completion, as the store has it, is behind a horizon, and how long ago it was.

    Behind the clock where no horizon is known.
    """
    try:
        position_us, _, acked_us = (checkpoint or b"").decode().split("|")
        behind_us = (now_us if horizon_us is None else horizon_us) - int(position_us)
        ago_us = now_us - int(acked_us)
    except ValueError:
        return NEVER, NEVER
    return _class(behind_us, BEHIND_S), _class(ago_us, SPANS_S)


def _class(span_us: int, bounds_s: Mapping[str, int]) -> str:
    at = bisect_left([bound * SECOND_US for bound in bounds_s.values()], span_us)
    return [*bounds_s, LONGER][at]


def _read(kept: bytes | None) -> Devices | None:
    try:
        return None if kept is None else _decode(kept)
    except msgspec.MsgspecError:
        return None  # of another version: looked at again
