"""Clients that offer HTTP/2 over http, as Java's does by default: their bodies are read like all others."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from ledger.commands import OfferStream
from ledger.entity_types import ENTITY_TYPES, mask_of
from tests.support.phones.http import START_US, Live

ASSET: Final = "AssetV2|2023-11-14T22:13:19.000001Z|a1"
ALBUM: Final = "AlbumV2|2023-11-14T22:13:19.000001Z|b1"
USER: Final = {
    "id": "u1", "name": "Ann", "email": "ann@example.test", "avatarColor": None, "deletedAt": None,
    "hasProfileImage": False, "profileChangedAt": "2024-01-01T00:00:00.000Z",
}  # fmt: skip
SOURCE: Final = Path(__file__).with_name("Offering.java")
Asked = tuple[str, str, str, str, str]
"""Method, address, a field that says who asks, its value, body."""


@pytest.fixture
def live(valkey_url: str) -> Iterator[Live]:
    with Live(valkey_url) as live:
        yield live


def java(asked: list[Asked]) -> list[str]:
    """Send the requests over one connection; gives a line for each, its status and body."""
    arguments = [argument for one in asked for argument in one]
    quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")  # it lives for a second
    return _output("java", *quick, str(SOURCE), *arguments).splitlines()


def curl(asked: list[Asked]) -> list[str]:
    """Send the requests; gives a line for each, its status and body."""
    return [
        _output(
            "curl", "--silent", "--show-error", "--max-time", "20", "--http2", "--write-out", "%{stderr}%{http_code} ",
            "--request", method, url, "--header", f"{field}: {value}", "--data-binary", body,
        )
        for method, url, field, value, body in asked
    ]  # fmt: skip


def _output(program: str, *arguments: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60)
    if program == "curl" and done.returncode == 4:
        pytest.skip("this curl speaks no HTTP/2")
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout if program == "curl" else done.stdout


@pytest.mark.parametrize("client", [java, curl])
def test_its_bodies_are_read(live: Live, client: Any) -> None:
    device = live.run(live.service.sign_in())
    live.run(live.service.ledger.execute("ann", device.sid, OfferStream(START_US, mask_of(ENTITY_TYPES))))
    key, _ = live.run(live.service.api_keys.create(["entities.write"], name="", now_us=1))
    entity = json.dumps({"type": "UserV1", "id": "u1", "data": USER})
    entities = ("POST", f"{live.url}/ledger/libraries/lib/entities", "x-api-key", key, entity)

    def by_device(method: str, path: str, body: Any) -> Asked:
        return method, live.url + path, "Authorization", f"Bearer {device.token}", json.dumps(body)

    answers = client(
        [
            entities,
            entities,
            by_device("POST", "/api/sync/ack", {"acks": [ASSET, ALBUM]}),
            by_device("DELETE", "/api/sync/ack", {"types": ["AssetV2"]}),
            by_device("POST", "/api/sessions", {"duration": 60}),
        ]
    )
    statuses, bodies = zip(*(answer.split(" ", 1) for answer in answers), strict=True)
    assert statuses == ("200", "200", "204", "204", "201")
    assert [json.loads(body)["taken"] for body in bodies[:2]] == [1, 0]
    assert json.loads(bodies[1])["unchanged"] == 1
    assert "expiresAt" in json.loads(bodies[4])
    kept = httpx.get(live.url + "/api/sync/ack", headers={"authorization": f"Bearer {device.token}"}).json()
    assert kept == [{"type": "AlbumV2", "ack": ALBUM}]
