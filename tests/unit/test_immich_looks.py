"""Many who ask for the same few things: how often is asked for them, how old answers get, and who goes first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from projections.entities.source import SourceUnavailable
from projections.immich.looks import Looks


class Asked:
    """What may be found, and every question that was asked; `down` lets questions fail."""

    def __init__(self, **found: int) -> None:
        self.found = {name.encode(): value for name, value in found.items()}
        self.questions: list[list[bytes]] = []
        self.down = False
        self.at_once = 0
        self.held: asyncio.Event | None = None

    async def __call__(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        self.questions.append(list(digests))
        self.at_once += 1
        assert self.at_once == 1
        await asyncio.sleep(0)
        if self.held is not None:
            await self.held.wait()
        self.at_once -= 1
        if self.down:
            raise SourceUnavailable("down")
        return {digest: self.found[digest] for digest in digests if digest in self.found}


class Clock:
    """A clock that the test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_thousand_who_ask_are_one_question_and_none_while_its_answer_is_good() -> None:
    asked, clock = Asked(**{f"phone{number}": number for number in range(1000)}), Clock()
    looks = Looks(asked, 10, clock=clock)
    names = list(asked.found)
    assert await asyncio.gather(*(looks.find(name) for name in names)) == list(range(1000))
    for _ in range(5):
        clock.now_s += 0.9
        assert await asyncio.gather(*(looks.find(name) for name in names)) == list(range(1000))
    assert [len(question) for question in asked.questions] == [1000]


async def test_who_asks_again_is_asked_for_again_before_the_answer_is_too_old_and_waits_for_nothing() -> None:
    asked, clock = Asked(phone=1), Clock()
    looks = Looks(asked, 10, clock=clock)
    await looks.find(b"phone")
    clock.now_s += 6
    asked.found[b"phone"], asked.held = 2, asyncio.Event()
    assert await looks.find(b"phone") == 1
    await asyncio.sleep(0.01)
    assert len(asked.questions) == 2
    assert await looks.find(b"phone") == 1
    asked.held.set()
    await asyncio.sleep(0.01)
    assert await looks.find(b"phone") == 2


@pytest.mark.parametrize("found", [{}, {"phone": 1}])
async def test_an_answer_is_never_older_than_it_may_be(found: dict[str, int]) -> None:
    asked, clock = Asked(**found), Clock()
    looks = Looks(asked, 10, clock=clock)
    assert await looks.find(b"phone") == found.get("phone")
    asked.found = {} if found else {b"phone": 2}
    clock.now_s += 10
    assert await looks.find(b"phone") == asked.found.get(b"phone")


async def test_what_says_that_it_ends_sooner_is_good_until_then() -> None:
    asked, clock = Asked(phone=3), Clock()
    looks = Looks(asked, 10, ends_in_s=float, clock=clock)
    await looks.find(b"phone")
    asked.found.clear()
    clock.now_s += 2.9
    assert await looks.find(b"phone") == 3
    clock.now_s += 0.2
    assert await looks.find(b"phone") is None


async def test_questions_are_a_while_apart_however_many_ask() -> None:
    asked = Asked(**{f"phone{number}": number for number in range(30)})
    looks = Looks(asked, 10, every_s=0.1)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for number in range(3):
        await asyncio.gather(*(looks.find(f"phone{10 * number + each}".encode()) for each in range(10)))
    assert len(asked.questions) == 3
    assert loop.time() - began_s >= 0.2


async def test_a_question_is_about_so_many_at_most_and_those_that_were_known_go_first() -> None:
    asked, clock = Asked(known=1), Clock()
    looks = Looks(asked, 10, every_s=0, clock=clock, at_once=3)
    await looks.find(b"known")
    clock.now_s += 20
    names = [b"guess%d" % number for number in range(8)] + [b"known"]
    await asyncio.gather(*map(looks.find, names))
    assert asked.questions[1:] == [
        [b"known", b"guess0", b"guess1"],
        [b"guess2", b"guess3", b"guess4"],
        [b"guess5", b"guess6", b"guess7"],
    ]


async def test_so_many_wait_at_most() -> None:
    asked = Asked()
    asked.held = asyncio.Event()
    looks = Looks(asked, 10, waiting=4)
    waiting = [asyncio.create_task(looks.find(b"%d" % number)) for number in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(SourceUnavailable, match="4 others wait"):
        await looks.find(b"one more")
    asked.held.set()
    assert await asyncio.gather(*waiting) == [None] * 4


async def test_so_many_are_kept_at_most_and_guesses_take_the_place_of_none_that_was_found() -> None:
    asked = Asked(phone1=1, phone2=2, phone3=3)
    looks = Looks(asked, 10, every_s=0, known=2, unknown=2)
    for name in (b"phone1", b"guess1", b"guess2", b"guess3", b"phone2", b"phone3"):
        await looks.find(name)
    before = len(asked.questions)
    for name in (b"phone2", b"phone3", b"guess2", b"guess3"):
        await looks.find(name)
    assert len(asked.questions) == before
    assert (looks.last(b"phone1"), looks.last(b"phone3"), looks.last(b"guess3")) == (None, 3, None)


async def test_what_is_gone_is_remembered_as_what_it_was() -> None:
    asked, clock = Asked(phone=1), Clock()
    looks = Looks(asked, 10, every_s=0, clock=clock)
    await looks.find(b"phone")
    asked.found.clear()
    for _ in range(2):
        clock.now_s += 11
        assert (await looks.find(b"phone"), looks.last(b"phone")) == (None, 1)


async def test_while_nothing_answers_what_is_known_is_good_as_long_as_ever_and_then_it_is_said() -> None:
    asked, clock = Asked(phone=1), Clock()
    looks = Looks(asked, 10, every_s=0, clock=clock)
    await looks.find(b"phone")
    asked.down = True
    clock.now_s += 9
    assert await looks.find(b"phone") == 1
    await asyncio.sleep(0.01)
    clock.now_s += 1
    for name in (b"phone", b"guess"):
        with pytest.raises(SourceUnavailable, match="down"):
            await looks.find(name)
    asked.down = False
    assert (await looks.find(b"phone"), await looks.find(b"guess")) == (1, None)


async def test_who_leaves_takes_nobody_with_them_and_an_end_is_told_to_all() -> None:
    asked = Asked(phone=1)
    asked.held = asyncio.Event()
    looks = Looks(asked, 10)
    one, other = (asyncio.create_task(looks.find(b"phone")) for _ in range(2))
    await asyncio.sleep(0.01)
    one.cancel()
    asked.held.set()
    assert await other == 1
    asked.held.clear()
    waits = asyncio.create_task(looks.find(b"another"))
    await asyncio.sleep(0.01)
    await looks.close()
    with pytest.raises(SourceUnavailable, match="shutting down"):
        await waits
