"""`sockets`: what sockets cost a worker, how soon a write wakes them, and acks beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from ops.bench.acks import Pusher, check_recorded, offered
from ops.bench.children.held_sockets import Held, Woken, quantile
from ops.bench.rig import servers
from ops.bench.rig.processes import BenchFailed, Server, tool
from ops.bench.rig.results import Bound, Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.opening.ledger import Opened

FAMILY: Final = 50
"""Devices that sync one library, so that one write wakes all of them."""
AT_LEAST: Final = 0.9
LONGEST_S: Final = 900.0


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure at one worker; the acks go to it with its sockets and to another one without, on the same store."""
    families = [f"sockets{number}" for number in range(max(scale.sockets // FAMILY, 1))]
    with scene() as found:
        progress(f"signing {len(families) * FAMILY:,} devices in")
        tokens = tuple(tuple(device.token for device in found.sign_in(FAMILY, library)) for library in families)
        room = {"LEDGER_SOCKETS": str(len(families) * FAMILY)}
        with servers.service(found, workers=1, env=room) as service, servers.service(found, workers=1) as without:
            pusher = Pusher(offered(found, without, scale.devices))
            pusher.push(service, scale.ack_s, scale.ack_limit)  # both have done all that is done once
            idle = service.rss_bytes()
            held = Held(
                port=service.port,
                tokens=tokens,
                libraries=tuple(families),
                key=_key(found),
                writes=scale.socket_writes,
                ready=str(found.folder / "ready"),
                release=str(found.folder / "release"),
            )
            with holding(held, progress) as woken:
                grown = service.rss_bytes() - idle
                quiet = _quiet(service, scale.socket_quiet_s)

                def rate(server: Server, apart: float = 0.0) -> float:
                    """By the worker's own time without the share of a core that goes by the clock, not by acks."""
                    before_s, began_s = server.cpu_s(), time.monotonic()
                    answered = pusher.push(server, scale.ack_s, scale.ack_limit).answered
                    took_s = time.monotonic() - began_s
                    return answered / (server.cpu_s() - before_s - apart * took_s)

                floors, own = alternate(rounds, lambda: rate(without), lambda: rate(service, quiet), progress)
            check_recorded(found, pusher.answered)
            done = woken.result()
    return _results(done, len(families) * FAMILY, grown, quiet, (floors, own))


def _results(
    done: Woken, sockets: int, grown: int, quiet: float, acks: tuple[tuple[float, ...], tuple[float, ...]]
) -> list[Result]:
    if done.open != sockets or not done.took_ms:
        raise BenchFailed(
            f"of {sockets:,} sockets {done.open:,} were open to the end, {len(done.took_ms):,} wake-ups came"
        )
    floors, own = acks
    middle, late = quantile(done.took_ms, 0.5), quantile(done.took_ms, 0.99)
    note = f"{len(done.took_ms):,} wake-ups; {FAMILY} devices sync a library; from the sending of the write"
    each = grown / 1024 / sockets
    return [
        Bound(name=f"memory of a socket, {sockets:,} at a worker", unit="KiB", value=each, at_most=64),
        Bound(name="from a write to the wake-up, median", unit="ms", value=middle, at_most=250, notes=(note,)),
        Bound(name="from a write to the wake-up, p99", unit="ms", value=late, at_most=1000),
        Bound(
            name=f"CPU of a worker with {sockets:,} sockets that hear nothing", unit="%", value=quiet * 100, at_most=15,
            notes=("pings, of which each has one in 25 s",),
        ),
        Comparison(
            name=f"acks beside {sockets:,} sockets, and at a worker without", unit="/s of CPU", floor=floors, ours=own,
            at_least=AT_LEAST, notes=("without what pings take, which is above: a busy machine has it weigh more",),
        ),
    ]  # fmt: skip


@contextmanager
def holding(held: Held, progress: Progress) -> Iterator[Future[Woken]]:
    """Hold sockets in a process of their own; the block begins when the writes are over, and releases them."""

    def child() -> Woken:
        done = tool("ops.bench.children.held_sockets", msgspec.json.encode(held), timeout_s=LONGEST_S)
        return msgspec.json.decode(done, type=Woken)

    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(child)
        try:
            opened, ready = Path(f"{held.ready}.open"), Path(held.ready)
            _await(opened, found)
            progress("all sockets are open; writing")
            _await(ready, found)
            yield found
        finally:
            Path(held.release).touch()


def _await(path: Path, child: Future[Woken]) -> None:
    while not path.exists():
        if child.done():
            child.result()
            raise BenchFailed("the sockets were let go too early")
        time.sleep(0.1)


def _quiet(service: Server, seconds: float) -> float:
    """Tell which share of a core the worker takes while nothing happens."""
    before = service.cpu_s()
    time.sleep(seconds)
    return (service.cpu_s() - before) / seconds


def _key(found: Scene) -> str:
    async def work(opened: Opened) -> str:
        return (await opened.api_keys.create(["entities.write"], name="bench", now_us=opened.ledger.clock()))[0]

    return found.with_ledger(work)
