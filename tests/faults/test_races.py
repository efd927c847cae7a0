"""Everything a device may do, racing its own logout on two workers: it happened before, or not at all."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from ledger import keys
from tests.support.processes.running import RunningService
from tests.support.sources.samples import sample

ACKS = 6
USERS = 8
BROKEN = 0
"""Stands for a stream that began and was broken off."""
ALLOWED = {
    "ack": {204, 401},
    "reset": {204, 401},
    "clear": {204, 401},
    "stream": {200, 401, BROKEN},
    "child": {201, 401},
    "logout": {200},
}


async def race(client: httpx.AsyncClient, token: str, dice: random.Random) -> list[tuple[str, int]]:
    """Open a stream, then acknowledge its lines, and more, while the session is ended; returns what was answered."""
    presented = {"Authorization": f"Bearer {token}"}
    answer = await client.post("/api/sync/stream", json={"types": ["UsersV1"]}, headers=presented)
    acks = [line.rpartition('"ack":"')[2].rstrip('"}') for line in answer.text.splitlines()[:-1]]
    assert len(acks) >= ACKS

    async def ask(what: str, method: str, path: str, body: object, delay_s: float) -> tuple[str, int]:
        await asyncio.sleep(delay_s)
        try:
            return what, (await client.request(method, path, json=body, headers=presented)).status_code
        except (httpx.ReadError, httpx.RemoteProtocolError):
            return what, BROKEN

    def moment() -> float:
        return dice.uniform(0, 0.004)

    asked = [ask("ack", "POST", "/api/sync/ack", {"acks": [ack]}, moment()) for ack in dice.sample(acks, ACKS)]
    others = [
        ask("reset", "POST", "/api/sync/ack", {"acks": ["SyncResetV1|reset"]}, moment()),
        ask("clear", "DELETE", "/api/sync/ack", {"types": ["UserV1"]}, moment()),
        ask("stream", "POST", "/api/sync/stream", {"types": ["PeopleV1"]}, moment()),
        ask("child", "POST", "/api/sessions", {"deviceType": "late"}, moment()),
    ]
    chosen = dice.randrange(len(others))
    for at, other in enumerate(others):
        if at == chosen:
            asked.append(other)
        else:
            other.close()
    asked.append(ask("logout", "POST", "/api/auth/logout", None, dice.uniform(0.001, 0.003)))
    answered = await asyncio.gather(*asked)
    late = await client.post("/api/sync/ack", json={"acks": acks[-1:]}, headers=presented)
    assert late.status_code == 401
    return answered


async def race_all(url: str, tokens: list[str]) -> Counter[tuple[str, int]]:
    dice = random.Random(2)
    counted: Counter[tuple[str, int]] = Counter()
    limits = httpx.Limits(max_connections=ACKS + 2, max_keepalive_connections=ACKS + 2)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:
        for token in tokens:
            counted.update(await race(client, token, dice))
    return counted


@pytest.mark.parametrize("rounds", [40, pytest.param(200, marks=pytest.mark.soak)])
def test_acks_that_race_logout_leave_nothing_of_the_session(tmp_path: Path, rounds: int) -> None:
    with RunningService(tmp_path / "s", workers=2) as service:
        rows = ({"type": "UserV1", "id": f"u{n}", "data": sample("UserV1", id=f"u{n}")} for n in range(20))
        service.put("lib", rows)
        tokens = [t for user in range(USERS) for t in service.sign_in_many(rounds // USERS, f"user{user}")]
        assert len(tokens) == rounds
        counted = asyncio.run(race_all(service.url, tokens))
        for what, status in counted:
            assert status in ALLOWED[what], counted
        assert counted["logout", 200] == rounds
        assert min(counted["ack", 204], counted["ack", 401]) > rounds / 4, f"that was no race: {counted}"

        sids = {sha256(token.encode()).hexdigest() for token in tokens}
        with service.store() as store:
            living = [key for key in store.scan_iter(count=1000) if b":session:" in key or b":checkpoints:" in key]
            assert living == [], "no session is left, no child either"
            ended: set[str] = set()
            for partition in range(service.settings.partitions):
                ended |= {sid.decode() for sid in store.hkeys(keys.ended(partition))}
                assert store.zcard(keys.activity(partition)) == 0
            for user in range(USERS):
                name = f"user{user}"
                partition = keys.partition_of(name, service.settings.partitions)
                assert store.hlen(keys.devices(partition, name)) == 0
        assert sids <= ended
        report = service.verify()
        assert (report["sessions"], report["ended"]) == (0, len(ended))
        assert service.faults() == []
