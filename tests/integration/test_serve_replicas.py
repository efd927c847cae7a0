"""A service that waits for replicas: what must not be lost is answered when they have it, and acks wait for nobody."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.support.processes.running import RunningService
from tests.support.sources.samples import sample
from tests.support.stores.replicated import COUNT, Replicated, binary_of
from tests.support.stores.servers import wait_until


def put(url: str, key: str) -> httpx.Response:
    line = json.dumps({"type": "UserV1", "id": "u1", "data": sample("UserV1", id="u1")})
    return httpx.post(f"{url}/ledger/libraries/lib/entities", headers={"x-api-key": key}, content=line, timeout=30)


def test_a_sign_in_that_no_replica_has_is_503_and_an_ack_is_not(tmp_path: Path) -> None:
    with Replicated(binary_of("valkey"), tmp_path / "store") as servers:
        with RunningService(
            tmp_path / "service",
            redis_url=servers.primary.url,
            durability="replica",
            replicas=str(COUNT),
            replica_timeout="300ms",
        ) as service:
            token, key = service.sign_in(), service.entities_key
            with service.client(token) as client:
                ready = client.get("/readyz").json()
                assert f"answered when {COUNT} replicas have them ({COUNT} connected)" in ready["durability"]
                assert f"({COUNT} connected)" in service.log.read_text()
                assert client.post("/api/sessions", json={}).status_code == 201
                servers.replicas[0].pause()
                answer = client.post("/api/sessions", json={})
                assert answer.status_code == 503
                assert "not confirmed by 2 replicas" in answer.json()["message"]
                assert int(answer.headers["retry-after"]) >= 1
                assert client.post("/api/sync/ack", json={"acks": []}).status_code == 204
                assert put(service.url, key).status_code == 503
                for _ in range(3):  # signed out, which no second replica has: it may live again, so it is no 401 yet
                    answer = client.post("/api/auth/logout")
                    assert answer.status_code == 503
                    assert int(answer.headers["retry-after"]) >= 1
                assert client.post("/api/sync/stream", json={"types": ["AssetsV2"]}).status_code == 503
                servers.replicas[0].resume()
                wait_until(servers.in_sync, "the replica to catch up")
                assert put(service.url, key).json()["unchanged"] == 1
                assert client.post("/api/auth/logout").status_code == 401
                assert client.post("/api/sync/stream", json={"types": ["AssetsV2"]}).status_code == 401
