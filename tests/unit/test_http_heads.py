"""Heads that a worker knows again: the last of them, and none that is long or has very many fields."""

from __future__ import annotations

import tracemalloc

import pytest

from ops.server import http_heads
from ops.server.http_heads import Head, KnownHeads
from ops.server.http_rules import Fields, target_of


def head(*fields: tuple[bytes, bytes]) -> Head:
    return Head(b"POST", b"/a?b", "1.1", target_of(b"/a?b"), [(b"host", b"x"), *fields], True)


def test_what_is_known_of_heads_is_bounded() -> None:
    known, one = KnownHeads(most=3), head()
    for number in range(5):
        known.keep(b"%d" % number, one, number)
    assert [known.find(b"%d" % number) for number in range(5)] == [None, None, (one, 2), (one, 3), (one, 4)]
    assert len(known) == 3
    assert http_heads.MOST_HEADS * http_heads.MOST_HEAD_BYTES <= 4 << 20


def test_a_head_is_worth_remembering_when_it_comes_again_and_is_not_long() -> None:
    known = KnownHeads(most=1)
    first, then, long = b"first", b"then", b"x" * (http_heads.MOST_HEAD_BYTES + 1)
    assert [known.came_before(raw) for raw in (first, first, then, first, long, long)] == [False, True, *[False] * 4]
    assert [known.came_before(long[1:]) for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ([], 0),
        ([(b"content-length", b"0")], 0),
        ([(b"content-length", b"12")], 12),
        ([(b"content-length", b"12"), (b"transfer-encoding", b"chunked")], None),
        ([(b"transfer-encoding", b"chunked")], None),
        ([(b"content-length", b"+1")], None),
        ([(b"content-length", b"")], None),
    ],
)
def test_how_long_a_body_is_follows_from_its_length_alone(fields: Fields, size: int | None) -> None:
    assert head(*fields).body_bytes == size


def test_a_head_takes_ten_kilobytes_at_most() -> None:
    known = KnownHeads(most=50)
    tracemalloc.start()
    for count in (500, http_heads.MOST_FIELDS, 1):
        size = http_heads.MOST_HEAD_BYTES // count - len(b": \r\n")
        for number in range(50):
            fields = [(b"%0*d" % (size // 2, field), b"%0*d" % (size - size // 2, field)) for field in range(count)]
            one = Head(b"GET", b"/", "1.1", target_of(b"/"), fields, keeps_alive=True)
            known.keep(b"%0*d" % (http_heads.MOST_HEAD_BYTES, number), one, 0)
        taken, _ = tracemalloc.get_traced_memory()
        assert len(known) == (0 if count == 500 else 50)
        assert taken < 50 * 10 * 1024
        known = KnownHeads(most=50)
    tracemalloc.stop()
