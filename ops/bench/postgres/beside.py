"""`beside`: phones with tokens of Immich's beside phones with our own, on one database of Immich's schema.

What an ack costs more because its token is Immich's, by CPU time, in rounds with our own tokens in turn. And how often
Immich's database is asked while many phones acknowledge: that follows from the recheck, not from their number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib import resources
from typing import Final

from ops.bench.acks import Pusher
from ops.bench.postgres.server import NoPostgres, PostgresServer, postgres_server
from ops.bench.rig import servers
from ops.bench.rig.processes import BenchFailed, Server
from ops.bench.rig.results import Bound, Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Device, scene

AT_LEAST: Final = 0.9
ASKED_AT_MOST: Final = 2.0
"""A second and worker: one look for all phones, and what a worker asks by itself."""
_RECHECK_S: Final = 2.0
_AT_ONCE: Final = 250
_STREAM_S: Final = 60.0
_PHONES: Final = """
INSERT INTO cluster_group (id) VALUES ('00000001-0000-4000-8000-000000000000');
INSERT INTO "user" (id, email, name, "clusterGroupId")
  SELECT ('00000002-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, n || '@example.com', 'User ' || n,
    '00000001-0000-4000-8000-000000000000'
  FROM generate_series(0, {last}) n;
INSERT INTO session (token, "userId", "deviceType", "deviceOS")
  SELECT sha256(convert_to('phone-' || n, 'UTF8')), ('00000002-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    'Pixel 9', 'Android'
  FROM generate_series(0, {last}) n;
VACUUM ANALYZE;
"""


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure acks and questions; nothing where PostgreSQL is not installed."""
    try:
        with postgres_server() as server:
            server.run(resources.files("ops.bench.postgres").joinpath("immich_schema.sql").read_text(encoding="utf-8"))
            server.run(_PHONES.format(last=scale.phones - 1))
            return [_acks(server, rounds, scale, progress), *_asked(server, scale, progress)]
    except NoPostgres as error:
        progress(f"skipped: {error}")
        return []


def _phones(count: int) -> list[Device]:
    """List phones whose tokens are Immich's."""
    tokens = [f"phone-{number}" for number in range(count)]
    users = [f"00000002-0000-4000-8000-{number:012x}" for number in range(count)]
    return [Device(user, sha256(token.encode()).hexdigest(), token) for user, token in zip(users, tokens, strict=True)]


@contextmanager
def _beside(server: PostgresServer, *, own: int = 0) -> Iterator[tuple[Server, list[Device]]]:
    """Serve that database, with tokens of Immich's, or for so many devices with our own; a ledger for each."""
    env = {"LEDGER_SOURCE": "postgres", "LEDGER_POSTGRES": server.url}
    if not own:
        env |= {"LEDGER_IDENTITY": "immich", "LEDGER_IMMICH_RECHECK": f"{_RECHECK_S:g}s"}
    with scene() as found:
        devices = found.sign_in(own, _phones(1)[0].user) if own else []
        with servers.service(found, workers=1, env=env) as service:
            yield service, devices


def _acks(server: PostgresServer, rounds: int, scale: Scale, progress: Progress) -> Comparison:
    """Acknowledge with tokens of either kind."""
    with _beside(server, own=scale.devices) as (own, devices), _beside(server) as (immich, _):
        phones = _phones(scale.devices)
        _offer(own, devices)
        _offer(immich, phones)
        pushers = {own.port: Pusher(devices), immich.port: Pusher(phones)}
        cost_us: dict[int, list[float]] = {own.port: [], immich.port: []}

        def per_cpu_s(service: Server) -> float:
            before_s = service.cpu_s()
            loaded = pushers[service.port].push(service, scale.ack_s, scale.ack_limit)
            cost_us[service.port].append((service.cpu_s() - before_s) / loaded.answered * 1e6)
            return 1e6 / cost_us[service.port][-1]

        floors, ours = alternate(rounds, lambda: per_cpu_s(own), lambda: per_cpu_s(immich), progress)
    least_own, least_immich = (min(cost_us[service.port]) for service in (own, immich))
    return Comparison(
        name=f"acks with tokens of Immich's beside our own, {scale.devices} phones",
        unit="/s of CPU",
        floor=floors,
        ours=ours,
        at_least=AT_LEAST,
        notes=(f"an ack takes {least_own:.0f} µs of a worker with our own token, {least_immich:.0f} with Immich's",),
    )


def _asked(server: PostgresServer, scale: Scale, progress: Progress) -> Iterator[Bound]:
    """Count the statements that Immich's database is asked while few and many phones acknowledge all the time."""
    server.run("ALTER DATABASE postgres SET log_statement = 'all'")  # of connections that begin from now on
    for count in (scale.devices, scale.phones):
        with _beside(server) as (service, _):
            phones = _phones(count)
            _offer(service, phones)
            pusher = Pusher(phones)
            time.sleep(min(2 * _RECHECK_S, scale.ack_s))
            before, began_s = _statements(server), time.monotonic()
            pusher.push(service, 4 * scale.ack_s, 4 * scale.ack_limit)
            seconds = time.monotonic() - began_s
            asked = (_statements(server) - before) / seconds
        progress(f"{count:,} phones, {pusher.answered / seconds:,.0f} acks/s: {asked:.1f} statements a second")
        yield Bound(
            name=f"statements at Immich's database, {count:,} phones",
            unit="/s",
            value=asked,
            at_most=ASKED_AT_MOST,
            notes=(f"{pusher.answered / seconds:,.0f} acks a second, with a recheck of {_RECHECK_S:g} s",),
        )


def _statements(server: PostgresServer) -> int:
    """Count the statements that the server has noted so far."""
    log = (server.folder / "postgres.log").read_bytes()
    return log.count(b"LOG:  execute ") + log.count(b"LOG:  statement: ")


def _offer(service: Server, phones: Sequence[Device]) -> None:
    """Open a stream for each phone, many at once, so that the service admits their acks."""

    async def one(phone: Device, turns: asyncio.Semaphore) -> None:
        async with turns:
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            try:
                writer.write(phone.stream_request)
                answer = await reader.readuntil(b"0\r\n\r\n")
            finally:
                writer.close()
        if not answer.startswith(b"HTTP/1.1 200 ") or b"SyncCompleteV1" not in answer:
            raise BenchFailed(f"a stream was answered {answer[:300]!r}")

    async def every() -> None:
        turns = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.timeout(_STREAM_S):
            await asyncio.gather(*(one(phone, turns) for phone in phones))

    asyncio.run(every())
