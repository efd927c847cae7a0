"""`rss`: how much a worker grows while readers take a long stream slowly, one of them and 200."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ops.bench.children.slow_readers import Dripped, Slow
from ops.bench.rig import servers
from ops.bench.rig.peak import Peak
from ops.bench.rig.processes import Server, tool
from ops.bench.rig.results import Bound, Result
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Device, Scene, scene

LIBRARY: Final = "rss"
BYTES_PER_S: Final = 8 * 1024
MIB: Final = 1024 * 1024
_SLACK_S: Final = 60.0


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure once with each number of readers: memory is no rate, and rounds would only repeat it."""
    with scene() as found:
        progress(f"importing {scale.assets:,} assets")
        found.load_assets(LIBRARY, scale.assets)
        devices = found.sign_in(scale.slow_readers, LIBRARY)
        idle, grown, dripped = _growth(found, devices[:1], scale.slow_s)
        progress(f"1 reader: {grown / MIB:.1f} MiB")
        one = Bound(
            name=f"growth of a worker, 1 reader at 8 KB/s over {scale.assets:,} assets",
            unit="MiB",
            value=grown / MIB,
            at_most=16,
            base=idle / MIB,
            notes=(f"base: the idle worker; the reader took {dripped.least_bytes:,} bytes in {scale.slow_s:.0f} s",),
        )
        idle, grown, dripped = _growth(found, devices, scale.slow_s)
        progress(f"{len(devices)} readers: {grown / MIB:.1f} MiB")
        many = Bound(
            name=f"growth of a worker per stream, {len(devices)} readers at 8 KB/s",
            unit="KiB",
            value=grown / 1024 / len(devices),
            at_most=400,
            base=idle / 1024,
            notes=(f"{dripped.open} streams open to the end, each took {dripped.least_bytes:,} bytes or more",),
        )
    return [one, many]


def _growth(found: Scene, devices: Sequence[Device], seconds: float) -> tuple[int, int, Dripped]:
    """Start a worker and let the devices read slowly; see `growth`."""
    with servers.service(found, workers=1) as service:
        return growth(service, Slow(0, tuple(device.stream_request for device in devices), BYTES_PER_S, seconds))


def growth(service: Server, slow: Slow) -> tuple[int, int, Dripped]:
    """Let devices read slowly from a fresh worker; return its idle size, its growth and what they took."""
    slow = msgspec.structs.replace(slow, port=service.port)
    idle = service.rss_bytes()
    with Peak(service.rss_bytes, 0.1) as peak:
        done = tool("ops.bench.children.slow_readers", msgspec.json.encode(slow), timeout_s=slow.seconds + _SLACK_S)
    return idle, peak.most - idle, msgspec.json.decode(done, type=Dripped)
