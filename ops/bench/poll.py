"""`poll`: streams that find nothing, which is most of what phones ask, beside an endpoint that only answers a line.

Of the embedded catalog, and of a PostgreSQL database in Immich's schema in which nothing is written meanwhile.
"""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from contextlib import closing
from typing import Final

import msgspec

from ops.bench.children.phones import Answered, Phone, Phones
from ops.bench.postgres import immich_library
from ops.bench.postgres.immich_library import sizes_of
from ops.bench.postgres.server import NoPostgres, PostgresServer, postgres_server
from ops.bench.rig import servers, wire
from ops.bench.rig.processes import BenchFailed, Server, tool
from ops.bench.rig.results import Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import ACK_PATH, STREAM_PATH, Device, Scene, scene
from projections.entities.registry import REQUEST_TYPES

LIBRARY: Final = "polled"
AT_LEAST: Final = 0.25
POSTGRES_AT_LEAST: Final = AT_LEAST
"""Beside the store PostgreSQL is asked, at the same time, once for all polls of a moment."""
_POSTGRES_ROWS: Final = 2_000
_ASSETS: Final = 100
_SLACK_S: Final = 60.0
APP_TYPES: Final = tuple(
    name for name in REQUEST_TYPES if not name.endswith("V1") or name[:-1] + "2" not in REQUEST_TYPES
)
"""What a phone asks for: each type in its newest version."""


def poll_request(device: Device, types: Sequence[str] = APP_TYPES) -> bytes:
    """Write the request of a poll of all that the app asks for."""
    return wire.request("POST", STREAM_PATH, msgspec.json.encode({"types": types}), token=device.token)


def sent(job: Phones) -> Answered:
    """Send a load in a process of its own."""
    done = tool("ops.bench.children.phones", msgspec.json.encode(job), timeout_s=job.seconds + _SLACK_S)
    return msgspec.json.decode(done, type=Answered)


def up_to_date(server: Server, device: Device, types: Sequence[str] = APP_TYPES) -> None:
    """Have a device acknowledge all that a stream gives it, as the app does; raises BenchFailed for a refusal."""
    with closing(_Client(server, device)) as client:
        lines = client.stream(types)
        last = {ack.partition(b"|")[0]: ack for ack in map(wire.ack_of, lines)}
        client.post(ACK_PATH, {"acks": [ack.decode() for ack in last.values()]})
        if len(lines := client.stream(types)) != 1:
            raise BenchFailed(f"a device that is up to date was sent {len(lines)} lines")


def offered_all(server: Server, device: Device, types: Sequence[str] = APP_TYPES) -> None:
    """Have a device get a stream of which it acknowledges nothing, so that it may."""
    with closing(_Client(server, device)) as client:
        client.stream(types)


def ask(server: Server, device: Device, method: str, path: str) -> None:
    """Send one request without a body; raises BenchFailed for a refusal."""
    with closing(_Client(server, device)) as client:
        client.send(method, path)


class _Client:
    """A device's requests one after the other; raises BenchFailed for a refusal."""

    def __init__(self, server: Server, device: Device) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self._headers = {
            "authorization": f"Bearer {device.token}",
            "content-type": "application/json",
            "user-agent": wire.USER_AGENT,
        }
        self.close = self._connection.close

    def stream(self, types: Sequence[str]) -> list[bytes]:
        """Read a stream's lines."""
        return self.post(STREAM_PATH, {"types": types}).splitlines()

    def post(self, path: str, body: object) -> bytes:
        """Send JSON."""
        return self.send("POST", path, msgspec.json.encode(body))

    def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send a request, and read the body of its answer."""
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 204):
            raise BenchFailed(f"{path} was answered {answer.status}: {text[:300]!r}")
        return text


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure at one worker, by the CPU time of both: what else the machine does must not tell."""
    with scene() as found, servers.service(found, workers=1) as service:
        found.load_assets(LIBRARY, _ASSETS)
        devices = found.sign_in(scale.devices, LIBRARY)
        results: list[Result] = [
            _beside_floor("the catalog", AT_LEAST, found, service, devices, rounds, scale, progress)
        ]
    try:
        with postgres_server() as server:
            immich_library.fill(server, sizes_of(_POSTGRES_ROWS), progress)
            env = {"LEDGER_SOURCE": "postgres", "LEDGER_POSTGRES": server.url}
            with scene() as found, servers.service(found, workers=1, env=env) as service:
                devices = found.sign_in(scale.devices, immich_library.USER)
                before = _statements(server)
                one = _beside_floor("PostgreSQL", POSTGRES_AT_LEAST, found, service, devices, rounds, scale, progress)
                progress(f"{_statements(server) - before:,} transactions at PostgreSQL")
                results.append(one)
    except NoPostgres as error:
        progress(f"skipped: {error}")
    return results


def _beside_floor(
    name: str,
    at_least: float,
    found: Scene,
    service: Server,
    devices: Sequence[Device],
    rounds: int,
    scale: Scale,
    progress: Progress,
) -> Comparison:
    """Poll all devices of a service and a floor in turn; raises BenchFailed where polls put anything on record."""
    with servers.floor("poll", found.folder, workers=1) as floor:
        for device in devices:
            up_to_date(service, device)
        before = found.event_count()
        phones = tuple(Phone(poll=poll_request(device)) for device in devices)
        asked, took_s = 0, {True: 0.0, False: 0.0}

        def per_cpu_s(server: Server) -> float:
            nonlocal asked
            cpu_s = server.cpu_s()
            answered = sent(Phones(port=server.port, phones=phones, seconds=scale.ack_s)).count
            cpu_s = server.cpu_s() - cpu_s
            asked += answered
            took_s[server is floor] = min(cpu_s / answered, took_s[server is floor] or cpu_s)
            return answered / cpu_s

        floors, own = alternate(rounds, lambda: per_cpu_s(floor), lambda: per_cpu_s(service), progress)
        if appended := found.event_count() - before:
            raise BenchFailed(f"{asked:,} polls that found nothing appended {appended:,} events")
    note = f"CPU of the worker: {took_s[False] * 1e6:.0f} µs a poll, {took_s[True] * 1e6:.0f} µs in the floor"
    return Comparison(
        name=f"empty polls of {name}, {len(devices)} devices, 1 worker", unit="/s of CPU", floor=floors, ours=own,
        at_least=at_least, notes=(note,),
    )  # fmt: skip


def _statements(server: PostgresServer) -> int:
    return int(server.run("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))
