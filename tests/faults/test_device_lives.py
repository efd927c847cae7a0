"""Random lives of one device against a plain model of what a phone must hold.

The phone is as the app is: it applies a line, acks each run of one type, empties itself at a reset line before it acks
that, and stops anywhere. It asks for all types or some, leaves streams half read, has two open, polls when there is
nothing new, clears checkpoints by list or all, with its rows or without; its acks are lost, answered too late, repeated
and reordered; resets are asked for and taken back; delete markers are purged in between and in mid-stream. It runs over
the real rules, the real begin and lines of a stream, and a library in memory.

What a phone must hold is plain: after two whole syncs exactly what lives, and at no moment a child without its parent.
It is emptied only where somebody asked for it, or where by its own notes it could have missed a delete; and an
acknowledged reset is the end of it.

Left out is what no server can mend: a line that is on its way while another stream of the same device tells of a later
change of the row, and the ack of one reset that arrives behind the line of the next (its text has no room for which).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from endpoints.sync import stream_lines
from tests.support.phones.random_phone import Phone


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    """Send each page by itself, so that things happen between pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_lines, "CHUNK_BYTES", 1)
        yield


def live(lives: range) -> None:
    """Live lives; the first that ends otherwise than it must is named."""
    for number in lives:
        try:
            asyncio.run(Phone(Random(number)).live())
        except AssertionError as error:
            error.add_note(f"in life {number}")
            raise


def test_a_phone_holds_what_it_must_whatever_it_went_through() -> None:
    live(range(60))


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_a_phone_holds_what_it_must_in_ten_thousand_lives(part: int) -> None:
    live(range(1000 * part, 1000 * (part + 1)))
