"""`acks`: acks of 64 devices for a second of a worker's CPU, beside an endpoint that only decodes them.

Each is an appended, chained event. By CPU time, for what else the machine does must not tell; how many were answered in
a second on the clock is told beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ledger.events import AcksRecorded
from ops.bench.children.loadgen import Load, Loaded
from ops.bench.children.reader import Read
from ops.bench.rig import assets, servers, wire
from ops.bench.rig.processes import BenchFailed, Server, tool
from ops.bench.rig.results import Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import ACK_PATH, Device, Scene, scene

LIBRARY: Final = "acks"
AT_LEAST: Final = 0.48
"""In plain Python, with all figures counted."""
_LIBRARY_ASSETS: Final = 100
_SLACK_S: Final = 60.0


class Pusher:
    """Devices that acknowledge one position after the other, never the same twice over all runs."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = devices
        parts = [
            wire.ack_parts(ACK_PATH, device.token, assets.TYPE, assets.asset(number)["id"])
            for number, device in enumerate(devices)
        ]
        self._heads, self._tails = (tuple(part) for part in zip(*parts, strict=True))
        self.next_us = assets.START_US
        self.answered = 0

    def push(self, server: Server, seconds: float, limit: int, *, floor: bool = False) -> Loaded:
        """Send acks for a time, or until a device has sent `limit`; the floor moves no position."""
        load = Load(
            port=server.port,
            heads=self._heads,
            tails=self._tails,
            first_us=self.next_us,
            limit=limit,
            seconds=seconds,
        )
        done = tool("ops.bench.children.loadgen", msgspec.json.encode(load), timeout_s=seconds + _SLACK_S)
        loaded = msgspec.json.decode(done, type=Loaded)
        if not floor:
            self.next_us += loaded.furthest * wire.STEP_US
            self.answered += loaded.answered
        return loaded


def offered(found: Scene, server: Server, count: int, rows: int = _LIBRARY_ASSETS) -> list[Device]:
    """Sign devices in and read a stream of each, of a library of some assets, so that the service admits their acks."""
    found.load_assets(LIBRARY, rows)
    devices = found.sign_in(count, LIBRARY)
    for device in devices:
        read = Read(port=server.port, request=device.stream_request, at_most_bytes=(1 << 20) + rows * 1024)
        tool("ops.bench.children.reader", msgspec.json.encode(read), timeout_s=30)
    return devices


def check_recorded(found: Scene, answered: int) -> None:
    """Compare the 204s with the events in the streams; raises BenchFailed if they differ."""
    recorded = found.count_events(AcksRecorded)
    if recorded != answered:
        raise BenchFailed(f"{answered:,} acks were answered 204, {recorded:,} are in the streams")


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure with one and with two workers."""
    return [_measure(workers, rounds, scale, progress) for workers in (1, 2)]


def _measure(workers: int, rounds: int, scale: Scale, progress: Progress) -> Result:
    plural = "worker" if workers == 1 else "workers"
    with (
        scene() as found,
        servers.floor("acks", found.folder, workers=workers) as floor,
        servers.service(found, workers=workers) as service,
    ):
        pusher = Pusher(offered(found, service, scale.devices))
        on_clock: dict[bool, list[float]] = {True: [], False: []}

        def per_cpu_s(server: Server, is_floor: bool) -> float:
            before_s = server.cpu_s()
            loaded = pusher.push(server, scale.ack_s, scale.ack_limit, floor=is_floor)
            on_clock[is_floor].append(loaded.rate)
            return loaded.answered / (server.cpu_s() - before_s)

        floors, own = alternate(rounds, lambda: per_cpu_s(floor, True), lambda: per_cpu_s(service, False), progress)
        check_recorded(found, pusher.answered)
    return Comparison(
        name=f"acks, {scale.devices} devices, {workers} {plural}",
        unit="/s of CPU",
        floor=floors,
        ours=own,
        at_least=AT_LEAST if workers == 1 else None,
        notes=(_note(pusher.answered, own, floors), _note_on_clock(on_clock[False], on_clock[True])),
    )


def _note(answered: int, own: Sequence[float], floors: Sequence[float]) -> str:
    cpu = f"CPU of the workers: {1e6 / max(own):.0f} µs an ack, {1e6 / max(floors):.0f} µs in the floor"
    return f"{answered:,} acks answered 204 and as many events in the streams; {cpu}"


def _note_on_clock(own: Sequence[float], floors: Sequence[float]) -> str:
    return f"on the clock {max(own):,.0f} acks a second at best, {max(floors):,.0f} in the floor"
