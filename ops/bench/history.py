"""`history`: what a page of a session's events takes in the server, beside 100 bare reads of it in one script."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import median
from typing import Final, Self

import msgspec
from redis import Redis

from ledger import keys
from ledger.log.reader import ANY_SEQ, walk
from ops.bench import rebuild
from ops.bench.rig import filling
from ops.bench.rig.processes import BenchFailed
from ops.bench.rig.results import Bound, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.opening.ledger import Opened

PAGE: Final = 100
AT_MOST_US: Final = 1000
_SEED: Final = 5
_BARE: Final = "for i = 1, #ARGV do redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) end"


class Wanted(msgspec.Struct, frozen=True):
    """A page of the session of device `number`: from `top_seq` backwards."""

    number: int
    top_seq: int


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Fill one partition, then read pages at the newest end, at the oldest and between."""
    with scene(partitions=1) as found:
        progress(f"writing {scale.history_events:,} events of {scale.history_devices:,} devices")
        rebuild.fill(found, scale.history_devices, scale.history_events)
        rebuild.rebuild(found, scale.history_events, scale.history_devices)
        found.settle()
        last = scale.history_events // scale.history_devices
        random = Random(_SEED)  # noqa: S311
        tops: dict[str, Callable[[], int]] = {
            "newest": lambda: last,
            "between": lambda: random.randint(PAGE, last),
            "oldest": lambda: PAGE,
        }
        return [_measure(found, name, _pages(top, scale), last, rounds, progress) for name, top in tops.items()]


def _pages(top: Callable[[], int], scale: Scale) -> list[Wanted]:
    return [Wanted(number % scale.history_devices, top()) for number in range(scale.history_pages)]


def _measure(found: Scene, name: str, pages: list[Wanted], last: int, rounds: int, progress: Progress) -> Bound:
    all_reads: list[float] = []

    async def walked_us(opened: Opened) -> float:
        await _walk(opened, pages[0], last)  # so that the server has the script
        with Redis.from_url(found.url) as redis:
            before = Spent.read(redis)
            for page in pages:
                await _walk(opened, page, last)
            us, reads = Spent.read(redis).over(before, len(pages))
        all_reads.append(reads)
        return us

    floors, own = alternate(
        rounds,
        lambda: _bare_us(found, pages),
        lambda: found.with_ledger(walked_us),
        lambda text: progress(f"{name}: {text}"),
    )
    means = ", ".join(f"{us:.0f}" for us in own)
    return Bound(
        name=f"page of {PAGE} events of {last:,}, {name}",
        unit="µs",
        value=median(own),
        at_most=AT_MOST_US,
        base=median(floors),
        notes=(f"{all_reads[0]:.1f} reads a page; rounds took {means} µs a page",),
        rounds=own,
    )


def _bare_us(found: Scene, pages: list[Wanted]) -> float:
    with Redis.from_url(found.url) as redis:
        name = redis.script_load(_BARE)
        before = Spent.read(redis)
        for page in pages:
            ids = [filling.stream_id(page.number, seq) for seq in range(page.top_seq, page.top_seq - PAGE, -1)]
            redis.evalsha(name, 1, keys.stream(0), *ids)
        us, reads = Spent.read(redis).over(before, len(pages))
    if reads != PAGE:
        raise BenchFailed(f"the floor read {reads:.1f} events a page")
    return us


async def _walk(opened: Opened, page: Wanted, last: int) -> None:
    top_seq = ANY_SEQ if page.top_seq == last else page.top_seq
    walked = await walk(opened.store, 0, filling.sid(page.number), top_seq=top_seq, count=PAGE)
    found = [entry.recorded.seq for entry in walked.entries] if walked else []
    if found != list(range(page.top_seq, page.top_seq - PAGE, -1)):
        raise BenchFailed(f"the page from seq {page.top_seq} holds {found[:3]} …")


class Spent(msgspec.Struct, frozen=True):
    """How many scripts and reads a server has run, and how long it was at the scripts in all."""

    scripts: int
    script_us: int
    reads: int

    @classmethod
    def read(cls, redis: Redis) -> Self:
        """Ask the server."""
        stats = redis.info("commandstats")
        scripts, reads = (stats.get(f"cmdstat_{name}", {"calls": 0, "usec": 0}) for name in ("evalsha", "xrange"))
        return cls(int(scripts["calls"]), int(scripts["usec"]), int(reads["calls"]))

    def over(self, before: Self, pages: int) -> tuple[float, float]:
        """Tell µs and reads a page since `before`; raises BenchFailed if there was not one script for each."""
        if self.scripts - before.scripts != pages:
            raise BenchFailed("something else runs scripts on the benchmark's server")
        return (self.script_us - before.script_us) / pages, (self.reads - before.reads) / pages
