"""`mixed`: what a service is asked in a day at once: of a hundred requests 80 polls, 15 acks and 5 streams.

They come at their own times, not when the one before was answered, so what is slow shows in all behind it. The users
have as many devices as may live: what a script does for one device must not grow with them. A user of one device, who
only acknowledges, does so without them first and then beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from msgspec.structs import replace
from redis import Redis

from ledger.events import AcksRecorded
from ops.bench import poll
from ops.bench.children.phones import ACK, POLL, STREAM, Answered, Phone, Phones, Took
from ops.bench.rig import assets, servers, wire
from ops.bench.rig.processes import BenchFailed, Server
from ops.bench.rig.results import Bound, Result
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import ACK_PATH, STREAM_BODY, STREAM_PATH, Device, Scene, scene

LIBRARY: Final = "mixed"
WEIGHTS: Final = (80, 15, 5)
AT_MOST_MS: Final = {POLL: 50.0, ACK: 50.0, STREAM: 250.0}
SCRIPTS_MS: Final = 2.0
_ASSETS: Final = 100
_PARTS: Final = 3
"""Of the sessions of a phone one polls, one acknowledges and one streams: each would spoil it for the others."""
QUIET_RATE: Final = 25.0
"""Acks a second of the user of one device."""
_SCRIPTS: Final = "latency_percentiles_usec_evalsha"


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure once, for as long as all rounds take together, at one worker."""
    with scene() as found, servers.service(found, workers=1) as service:
        found.load_assets(LIBRARY, _ASSETS)
        progress(f"signing {scale.mixed_users} users in, with {scale.mixed_devices:,} devices each")
        users = [f"{LIBRARY}-{number}" for number in range(scale.mixed_users)]
        devices = [device for user in users for device in found.sign_in_at(user, LIBRARY, scale.mixed_devices)]
        quiet = _quiet_phone(service, found)  # a new user is a new row, which would find its way into polls
        phones = _phones(service, devices, scale)
        already = found.count_events(AcksRecorded)
        job = Phones(
            port=service.port,
            phones=phones,
            weights=WEIGHTS,
            seconds=rounds * scale.mixed_s,
            rate=scale.mixed_rate,
            first_us=assets.START_US,
            acks=int(rounds * scale.mixed_s * scale.mixed_rate),
        )
        alone = Phones(
            port=service.port,
            phones=(quiet,),
            weights=(0, 1, 0),
            seconds=job.seconds,
            rate=QUIET_RATE,
            first_us=assets.START_US,
            acks=int(job.seconds * QUIET_RATE) + 1,
        )
        progress(f"{alone.rate:,.0f} acks a second of one device for {alone.seconds:.0f} s")
        without = poll.sent(alone)
        beside = replace(alone, first_us=alone.first_us + alone.acks * wire.STEP_US)
        with Redis.from_url(found.url) as redis, ThreadPoolExecutor(1) as pool:
            redis.config_resetstat()
            redis.config_set("slowlog-log-slower-than", 1000)
            redis.slowlog_reset()
            progress(f"{job.rate:,.0f} requests a second beside them for {job.seconds:.0f} s")
            before_s = service.cpu_s()
            running = pool.submit(poll.sent, beside)
            answered, within = poll.sent(job), running.result()
            cpu_us = (service.cpu_s() - before_s) / (answered.count + within.count) * 1e6
            scripts: Any = redis.info("latencystats").get(_SCRIPTS) or {}
            longest = max((entry["duration"] for entry in redis.slowlog_get(128)), default=0)
        acks = sum(sent.kinds[ACK].count for sent in (answered, without, within) if ACK in sent.kinds)
        if (recorded := found.count_events(AcksRecorded) - already) != acks:
            raise BenchFailed(f"{acks:,} acks were answered 204, {recorded:,} are in the streams")
    if "p99" not in scripts:
        raise BenchFailed("the server tells nothing of how long its scripts took")
    return [
        *_results(answered, cpu_us, float(scripts["p99"]) / 1000, longest / 1000, scale),
        _of_the_quiet(without.kinds[ACK], within.kinds[ACK]),
    ]


def _quiet_phone(service: Server, found: Scene) -> Phone:
    """Sign the user of one device in, who is sent all there is."""
    (device,) = found.sign_in_at(f"{LIBRARY}-quiet", LIBRARY, 1)
    poll.offered_all(service, device)
    return Phone(poll=b"", ack=wire.ack_parts(ACK_PATH, device.token, assets.TYPE, assets.asset(0)["id"]))


def _phones(service: Server, devices: Sequence[Device], scale: Scale) -> tuple[Phone, ...]:
    """Have as many phones as the scale says, of sessions spread over all, each brought where it begins."""
    step = max(len(devices) // (scale.devices * _PARTS), 1)
    chosen = devices[::step][: scale.devices * _PARTS]
    phones = []
    for number in range(0, len(chosen) - len(chosen) % _PARTS, _PARTS):
        polls, acks, streams = chosen[number : number + _PARTS]
        poll.up_to_date(service, polls)
        poll.offered_all(service, acks)
        ack = wire.ack_parts(ACK_PATH, acks.token, assets.TYPE, assets.asset(number)["id"])
        stream = wire.request("POST", STREAM_PATH, STREAM_BODY, token=streams.token)
        phones.append(Phone(poll=poll.poll_request(polls), ack=ack, stream=stream))
    return tuple(phones)


def _results(answered: Answered, cpu_us: float, p99_ms: float, longest_ms: float, scale: Scale) -> list[Result]:
    results: list[Result] = []
    for kind, took in answered.kinds.items():
        note = f"{took.count:,} of them; half within {took.p50_ms:.1f} ms, all within {took.most_ms:.0f} ms"
        at_most = AT_MOST_MS[kind]
        results.append(
            Bound(name=f"{kind}s in the mix, p99", unit="ms", value=took.p99_ms, at_most=at_most, notes=(note,))
        )
    mix = f"80 % polls, 15 % acks, 5 % streams of {_ASSETS} rows"
    asked = f"{scale.mixed_rate:,.0f} requests a second: {mix}; and {QUIET_RATE:.0f} acks of a user of one device"
    told = f"of users with {scale.mixed_devices:,} devices; the longest took {longest_ms:.1f} ms"
    return [
        *results,
        Bound(name="CPU of the worker in the mix", unit="µs", value=cpu_us, at_most=600, notes=(asked,)),
        Bound(name="scripts in the mix, p99", unit="ms", value=p99_ms, at_most=SCRIPTS_MS, notes=(told,)),
    ]


def _of_the_quiet(without: Took, within: Took) -> Bound:
    told = (
        f"half of {within.count:,} within {within.p50_ms:.1f} ms, all within {within.most_ms:.0f} ms; without the mix "
        f"half of {without.count:,} within {without.p50_ms:.1f} ms, all within {without.most_ms:.0f} ms"
    )
    return Bound(
        name="acks of a user of one device beside the mix, p99",
        unit="ms",
        value=within.p99_ms,
        at_most=AT_MOST_MS[ACK],
        base=without.p99_ms,
        notes=(told,),
    )
