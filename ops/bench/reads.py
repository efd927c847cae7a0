"""`reads`: what an app asks beside its polls whenever it is opened, beside an endpoint that only answers a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ops.bench.children.phones import Phone, Phones
from ops.bench.poll import ask, sent, up_to_date
from ops.bench.rig import servers, wire
from ops.bench.rig.processes import BenchFailed, Server
from ops.bench.rig.results import Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import ACK_PATH, Device, scene

LIBRARY: Final = "read"
_ASSETS: Final = 100
ME: Final = ("GET", "/api/users/me")
READS: Final = (
    ("GET", ACK_PATH, 0.33),
    (*ME, 0.22),
    ("POST", "/api/auth/validateToken", 0.4),
    ("GET", "/api/server/features", 0.7),
)
"""What is asked, and how much of the floor's rate is wanted of it: the last one asks the store nothing."""


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure each at one worker, by the CPU time of both: what else the machine does must not tell."""
    with (
        scene() as found,
        servers.service(found, workers=1) as service,
        servers.floor("reads", found.folder, workers=1) as floor,
    ):
        found.load_assets(LIBRARY, _ASSETS)
        devices = found.sign_in(scale.devices, LIBRARY)
        for device in devices:
            up_to_date(service, device)
            ask(service, device, *ME)  # what the app says of itself is noted with the first one
        before = found.event_count()
        results: list[Result] = [
            _beside_floor(*read, service, floor, devices, rounds, scale, progress) for read in READS
        ]
        if appended := found.event_count() - before:
            raise BenchFailed(f"requests that only read appended {appended:,} events")
    return results


def _beside_floor(
    method: str,
    path: str,
    at_least: float,
    service: Server,
    floor: Server,
    devices: Sequence[Device],
    rounds: int,
    scale: Scale,
    progress: Progress,
) -> Comparison:
    """Send one request of all devices to service and floor in turn."""
    phones = tuple(Phone(poll=wire.request(method, path, token=device.token)) for device in devices)

    def per_cpu_s(server: Server) -> float:
        before_s = server.cpu_s()
        answered = sent(Phones(port=server.port, phones=phones, seconds=scale.ack_s)).count
        return answered / (server.cpu_s() - before_s)

    floors, own = alternate(rounds, lambda: per_cpu_s(floor), lambda: per_cpu_s(service), progress)
    note = f"CPU of the worker: {1e6 / max(own):.0f} µs an answer, {1e6 / max(floors):.0f} µs in the floor"
    return Comparison(
        name=f"{method} {path}, {len(devices)} devices, 1 worker", unit="/s of CPU", floor=floors, ours=own,
        at_least=at_least, notes=(note,),
    )  # fmt: skip
