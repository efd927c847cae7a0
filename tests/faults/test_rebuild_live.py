"""All projections deleted under live traffic, then rebuilt, killed and rebuilt: 503 meanwhile, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import threading
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from ledger import keys
from ledger.acks import Ack, format_ack
from ledger.entity_types import CODES
from ledger.events import AcksRecorded
from ledger.keys import partition_of
from ledger.log.reader import read_partition
from ledger.positions import Position
from ops.bench.rig import filling
from ops.opening.ledger import Opened
from tests.support.processes.running import COMMAND, RunningService
from tests.support.sources.samples import sample
from tests.support.stores.servers import wait_until

TYPE = "UserMetadataV1"
FIRST_US = 1_500_000_000_000_000


class Scale(NamedTuple):
    """How much there is of all; `background`: devices and events beside, so that a rebuild takes its time."""

    users: int
    devices: int
    acks_per_s: int
    background: tuple[int, int]
    kills: int


SHORT = Scale(users=10, devices=20, acks_per_s=60, background=(100, 20_000), kills=3)
LONG = Scale(users=20, devices=40, acks_per_s=500, background=(300, 60_000), kills=4)


class Device:
    """A device that acknowledges one position after the other, and knows which were answered."""

    def __init__(self, user: str, token: str) -> None:
        self.user = user
        self.sid = sha256(token.encode()).hexdigest()
        self.headers = {"Authorization": f"Bearer {token}"}
        self.answered = 0

    @property
    def next_ack(self) -> str:
        return format_ack(Ack(TYPE, position(self.answered + 1), 1))


def position(number: int) -> Position:
    return Position(FIRST_US + number, f"e-{number}")


class Traffic:
    """Many devices at once, in a thread of its own: acks above all, and now and then anything else."""

    def __init__(self, url: str, devices: list[Device], acks_per_s: int) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        self.signed_in: list[str] = []
        self._url = url
        self._devices = devices
        self._pause_s = len(devices) / acks_per_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=len(self._devices))
        async with httpx.AsyncClient(base_url=self._url, timeout=60, trust_env=False, limits=limits) as client:
            await asyncio.gather(*(self._live(client, device, n) for n, device in enumerate(self._devices)))

    async def _live(self, client: httpx.AsyncClient, device: Device, number: int) -> None:
        dice = random.Random(number)
        for _ in range(100):
            if await self._ask(client, device, "POST", "/api/sync/stream", {"types": [TYPE]}):
                break
            await asyncio.sleep(0.1)
        while not self._over.is_set():
            began = time.monotonic()
            if await self._ask(client, device, "POST", "/api/sync/ack", {"acks": [device.next_ack]}):
                device.answered += 1
            if dice.random() < 0.02:
                await self._ask(client, device, "GET", "/api/sessions")
                await self._ask(client, device, "POST", "/api/sync/stream", {"types": [TYPE]})
            if dice.random() < 0.005:
                await self._sign_in_and_out(client, device)
            await asyncio.sleep(max(0.0, self._pause_s - (time.monotonic() - began)))

    async def _sign_in_and_out(self, client: httpx.AsyncClient, device: Device) -> None:
        """Make a child and end it, which may not be possible now; one that stays is looked for at the end."""
        made = await client.post("/api/sessions", json={"deviceType": "child"}, headers=device.headers)
        self._count("POST /api/sessions", made)
        if made.status_code == 201:
            token = made.json()["token"]
            out = await client.post("/api/auth/logout", headers={"Authorization": f"Bearer {token}"})
            self._count("POST /api/auth/logout", out)
            if out.status_code != 200:
                self.signed_in.append(token)

    async def _ask(
        self, client: httpx.AsyncClient, device: Device, method: str, path: str, body: object = None
    ) -> bool:
        answer = await client.request(method, path, json=body, headers=device.headers)
        self._count(f"{method} {path}", answer)
        return answer.status_code < 300

    def _count(self, what: str, answer: httpx.Response) -> None:
        self.answers[what, answer.status_code] += 1
        refused = answer.status_code == 503 and int(answer.headers.get("retry-after", 0)) >= 1
        if answer.status_code >= 300 and not refused:
            self.wrong.append(f"{what}: {answer.status_code} {answer.text[:200]}")


def delete_projections(service: RunningService) -> int:
    """Delete every key of every partition but its stream, first what says that it is whole."""
    with service.store() as store:
        names = [name for name in store.scan_iter("{p*", count=1000) if not name.endswith(b":stream")]
        names.sort(key=lambda name: not name.endswith(b":whole"))
        for start in range(0, len(names), 500):
            store.delete(*names[start : start + 500])
    return len(names)


def killed_rebuild(service: RunningService, dice: random.Random) -> bool:
    """Begin a rebuild and kill it in the middle of its work; False if it was done before."""
    if not not_whole(service):
        delete_projections(service)
    left = max(0, not_whole(service) - dice.randrange(4))
    process = subprocess.Popen(
        [*COMMAND, "rebuild"],
        cwd=service.folder,
        env=service.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: not_whole(service) <= left or process.poll() is not None, "the rebuild to work", 60)
        time.sleep(dice.uniform(0, 0.05))
        return process.poll() is None
    finally:
        process.kill()
        process.wait(30)


def not_whole(service: RunningService) -> int:
    with service.store() as store:
        return sum(store.get(keys.whole(p)) != b"1" for p in range(service.settings.partitions))


async def recorded(found: Opened, device: Device) -> set[int]:
    """Read which positions of a device are in the log."""
    times: set[int] = set()
    async for page in read_partition(found.store, partition_of(device.user, found.ledger.partitions)):
        for entry in page:
            event = entry.recorded.event
            if entry.recorded.sid == device.sid and isinstance(event, AcksRecorded):
                times |= {ack.at_us for ack in event.moved if ack.code == CODES[TYPE]}
    return times


@pytest.mark.parametrize("scale", [SHORT, pytest.param(LONG, marks=pytest.mark.soak)], ids=["short", "long"])
def test_projections_deleted_under_traffic_are_rebuilt_and_no_answer_is_taken_back(
    tmp_path: Path, scale: Scale
) -> None:
    dice = random.Random(4)
    with RunningService(tmp_path / "service", workers=2) as service:
        with service.store() as store:
            socket = f"unix://{store.connection_pool.connection_kwargs['path']}"
        filling.fill(socket, service.settings.partitions, *scale.background)
        service.put("lib", [{"type": "UserV1", "id": "u1", "data": sample("UserV1", id="u1")}])
        users = [f"owner-{n}" for n in range(scale.users)]
        devices = [
            Device(user, token)
            for user in users
            for token in service.sign_in_many(scale.devices // scale.users, user, "lib")
        ]
        gone = service.sign_in("gone")
        assert service.client(gone).post("/api/auth/logout").status_code == 200

        with Traffic(service.url, devices, scale.acks_per_s) as traffic:
            time.sleep(2)
            acked_before = sum(device.answered for device in devices)
            assert delete_projections(service) > scale.devices
            killed = sum(killed_rebuild(service, dice) for _ in range(scale.kills))
            if not not_whole(service):
                delete_projections(service)
            left = not_whole(service)
            answer = service.client(gone).get("/api/sessions")
            assert answer.status_code in (401, 503), answer.text
            report = json.loads(service.command("rebuild", "--json").stdout)
            assert not_whole(service) == 0
            time.sleep(1)
            assert not traffic.wrong, traffic.wrong[:5]
            acked_at_rebuilt = sum(device.answered for device in devices)
            time.sleep(1)
        answered = sum(device.answered for device in devices)

        assert not traffic.wrong, traffic.wrong[:5]
        assert traffic.answers["POST /api/sync/ack", 503] > 0
        assert acked_before > 0
        assert answered > acked_at_rebuilt, "acks are taken again"
        assert killed >= 2
        assert (report["broken"], report["not_whole"]) == (0, [])
        assert report["partitions"] == left
        service.verify()

        async def compare(found: Opened) -> None:
            for device in devices:
                times = await recorded(found, device)
                assert {FIRST_US + n for n in range(1, device.answered + 1)} <= times, (
                    "an answered ack is not in the log"
                )
                state = await found.ledger.load(device.user, device.sid)
                assert state.checkpoints[TYPE].position.at_us >= FIRST_US + device.answered
                assert state.checkpoints[TYPE].position.at_us == max(times)

        service.inside(compare)
        assert service.client(gone).get("/api/sessions").status_code == 401
        for token in traffic.signed_in:
            assert service.client(token).post("/api/auth/logout").status_code == 200
        assert service.faults() == []
