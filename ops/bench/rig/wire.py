"""Requests as bytes, built before the clock runs. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.positions import iso_from_us

USER_AGENT: Final = "immich-android/3.2.2"
STAMP_BYTES: Final = 27
STEP_US: Final = 1_000_007  # every stamp in a second of its own, so that nobody gains from remembering the last second


def request(method: str, path: str, body: bytes = b"", *, token: str | None = None) -> bytes:
    """One HTTP/1.1 request on a connection that stays open, as a small client writes it."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"user-agent: {USER_AGENT}", "accept: */*"]
    if token is not None:
        lines.append(f"authorization: Bearer {token}")
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def ack_parts(path: str, token: str, entity_type: str, entity_id: str) -> tuple[bytes, bytes]:
    """An ack request without its time: `head + stamp + tail` is the whole of it."""
    hole = "#" * STAMP_BYTES
    whole = request("POST", path, f'{{"acks":["{entity_type}|{hole}|{entity_id}"]}}'.encode(), token=token)
    head, hole_found, tail = whole.rpartition(hole.encode())
    if not hole_found:
        raise ValueError("the request lost the place of its time")
    return head, tail


def stamps(first_us: int, count: int) -> list[bytes]:
    """`count` growing times in the form acks carry, each in a second of its own, from `first_us` on."""
    return [iso_from_us(first_us + n * STEP_US).encode() for n in range(count)]


def ack_of(line: bytes) -> bytes:
    """The ack of a served line; raises ValueError for a line without one."""
    return msgspec.json.decode(line, type=_Line).ack.encode()


class _Line(msgspec.Struct):
    ack: str
