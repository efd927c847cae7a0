"""What happens when a connection ends in the middle, over real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from ledger.commands import EndSession, OfferStream
from ledger.entity_types import mask_of
from tests.support.phones.http import START_US, Live
from tests.support.stores.servers import wait_until

ENTITIES = 30_000
PATH = "/ledger/libraries/lib/entities"
ACK = "AssetV2|2023-11-14T22:13:19.000001Z|a1"


@pytest.fixture
def live(valkey_url: str) -> Iterator[Live]:
    with Live(valkey_url) as live:
        yield live


def user(number: int) -> bytes:
    data = {
        "id": f"u{number}", "name": f"User {number}", "email": f"u{number}@example.test", "avatarColor": None,
        "deletedAt": None, "hasProfileImage": False, "profileChangedAt": "2024-01-01T00:00:00.000Z",
    }  # fmt: skip
    return json.dumps({"type": "UserV1", "id": f"u{number}", "data": data}).encode() + b"\n"


def write(live: Live, count: int) -> None:
    """Write users, their body sent in pieces of unknown sum."""
    key, _ = live.run(live.service.api_keys.create(["entities.write"], name="", now_us=1))
    body = (b"".join(user(number) for number in range(at, min(at + 500, count))) for at in range(0, count, 500))
    answer = httpx.post(live.url + PATH, headers={"x-api-key": key}, content=body, timeout=60)
    report = answer.json()
    assert (report["lines"], report["taken"], report["refused"], report["waiting"]) == (count, count, 0, 0)


def send_half(live: Live, method: str, path: str, credential: str, part: bytes) -> None:
    """Send the head of a request, a part of its body, and leave."""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n{credential}\r\ncontent-length: {len(part) + 100}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        connection.sendall(head.encode() + part)


def count(live: Live) -> int:
    return live.run(live.service.catalog.count("lib"))["UserV1"]


def test_a_delete_cut_short_forgets_nothing(live: Live) -> None:
    device = live.run(live.service.sign_in())
    live.run(live.service.ledger.execute("ann", device.sid, OfferStream(START_US, mask_of(["AssetV2"]))))
    authorization = {"authorization": f"Bearer {device.token}"}
    answer = httpx.post(live.url + "/api/sync/ack", headers=authorization, json={"acks": [ACK]})
    assert answer.status_code == 204
    send_half(live, "DELETE", "/api/sync/ack", f"authorization: Bearer {device.token}", b"")
    send_half(live, "DELETE", "/api/sync/ack", f"authorization: Bearer {device.token}", b"{}")
    wait_until(lambda: live.connections == 0, "the server to notice")
    assert httpx.get(live.url + "/api/sync/ack", headers=authorization).json() == [{"type": "AssetV2", "ack": ACK}]


def test_an_upload_cut_short_takes_no_half_line(live: Live) -> None:
    key, _ = live.run(live.service.api_keys.create(["entities.write"], name="", now_us=1))
    send_half(live, "POST", PATH, f"x-api-key: {key}", user(1) + user(2) + user(3).rstrip(b"}\n"))
    wait_until(lambda: live.connections == 0, "the server to notice")
    assert count(live) <= 2
    write(live, 3)
    assert count(live) == 3


def begin_reading(live: Live, token: str) -> socket.socket:
    """Ask for the library and take the first bytes of it; the rest does not fit into the buffers on the way."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", live.port))
    connection.sendall(f"GET {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    return connection


def test_a_reader_that_leaves_ends_the_reading(live: Live) -> None:
    write(live, ENTITIES)
    device = live.run(live.service.sign_in())
    wait_until(lambda: live.tasks() == 1, "only the server itself to be left")
    connections = [begin_reading(live, device.token) for _ in range(3)]
    assert live.tasks() > 3
    for connection in connections:
        connection.close()
    wait_until(lambda: live.tasks() == 1, "the streams to end")


def test_whoever_is_signed_out_gets_no_clean_end(live: Live) -> None:
    write(live, ENTITIES)
    device = live.run(live.service.sign_in())
    with begin_reading(live, device.token) as connection:
        live.run(live.service.ledger.execute("ann", device.sid, EndSession("revoked")))
        read = b""
        try:
            while part := connection.recv(1 << 16):
                read = (read + part)[-100:]
        except ConnectionResetError:
            return
    assert not read.endswith(b"0\r\n\r\n"), "the last chunk would tell that this is the whole"


def test_the_whole_library_is_read_by_whoever_stays(live: Live) -> None:
    write(live, ENTITIES)
    device = live.run(live.service.sign_in())
    answer = httpx.get(live.url + PATH, headers={"authorization": f"Bearer {device.token}"}, timeout=60)
    assert len(answer.content.splitlines()) == ENTITIES
