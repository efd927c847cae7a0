"""A wish at Immich that a phone start over, in every order of what may happen to it: nothing is lost on either side.

The phone was with Immich to the end and comes here, or is sent back there, while its owner wishes, Immich touches the
row of its session, and syncs break off: before the ack of the reset, behind it, and in the middle of what follows.

Left out is what nothing tells: that Immich emptied a phone of which it had no checkpoint before either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import product
from random import Random
from typing import Final, Literal

import pytest

from ledger.commands import RequestReset
from ledger.personal import plain
from ledger.state import State
from projections.immich.wishes import can_go_back
from tests.support.beside import phone as beside
from tests.support.beside.immich import RESET, Line
from tests.support.beside.phone import Phone
from tests.support.beside.tables import ME, Asset, Share

HOUR_MS: Final = 3_700_000
ACTIONS: Final = (
    "press", "touch", "look", "asked here", "here", "here, ack lost", "here, reset alone", "here, half", "there",
    "there, reset alone",
)  # fmt: skip


class Life:
    """A phone that Immich has sent everything, and what happens to it."""

    def __init__(self) -> None:
        self.phone = Phone(Random(1))
        self.phone.breaks = 0.0
        self.at_it = False
        self.pressed_at = -1
        tables = self.phone.tables
        for number in range(2):
            tables.assets[f"mine{number}"] = Asset(ME, tables.uuid7(), tables.uuid7())
            tables.assets[f"eves{number}"] = Asset("eve", tables.uuid7(), tables.uuid7())
            tables.tick(5)
        tables.albums["shared"] = tables.uuid7()
        tables.members["shared", "eve"] = Share(tables.uuid7(), tables.uuid7())
        tables.members["shared", ME] = Share(tables.uuid7(), tables.uuid7())
        tables.links["shared", "eves0"] = tables.uuid7()
        tables.tick(5)

    async def act(self, action: str) -> None:
        """Do one thing; between any two something is written."""
        phone, immich = self.phone, self.phone.immich
        match action.split(", "):
            case ["press"]:
                state = None if phone.session is None else phone.session.state
                self.at_it = state is not None and immich.pending_reset and not state.pending_reset and not (
                    state.reset_sent or state.heard or can_go_back(state)
                )  # fmt: skip
                self.pressed_at = phone.wipes
                immich.press()
            case ["touch"]:
                phone.tables.tick(HOUR_MS)
                immich.mark = phone.tables.uuid7()
            case ["look"]:
                await phone.look()
            case ["asked here"]:
                await (await phone.look()).act(RequestReset(on=True, by=plain("operator")))
            case ["here", *how]:
                await self.sync(phone._of_ours, phone._ack_ours, *how)
            case ["there", *how]:
                await self.sync(phone._of_immich, phone._ack_immich, *how)
                if not immich.checkpoints and not phone._is_known_there():
                    await self.sync(phone._of_immich, phone._ack_immich)  # what nothing would tell
        tables = phone.tables
        tables.tick(700)
        tables.assets["mine0"] = tables.assets["mine0"]._replace(update_id=tables.uuid7())
        tables.tick(700)

    async def sync(
        self, lines: Callable[[], AsyncIterator[Line]], ack: Callable[[str], Awaitable[None]], how: str = ""
    ) -> None:
        """Sync to the end, or break off: in the first run before its ack, behind it, or in the middle."""
        for _ in range(2):
            runs = [run async for run in self.phone._runs(lines(), wild=False)]
            most = {"": len(runs), "half": (len(runs) + 1) // 2}.get(how, 1)
            for run in runs[:most]:
                for line in run:
                    self.phone._apply(line)
                if how == "ack lost":
                    return
                await ack(run[-1].ack)
            if runs[0][0].type != RESET or how == "reset alone":
                return

    async def ends_here(self) -> None:
        """Sync here until all is done, and see that it is."""
        for _ in range(3):
            self.phone.tables.tick(3000)
            await self.act("here")
        self.phone.tables.tick(3000)
        await self.sync(self.phone._of_ours, self.phone._ack_ours)
        self.phone.check()
        await self.phone.look()
        assert not self.phone.immich.pending_reset, "the wish is taken back"
        assert self.pressed_at < 0 or self.at_it or self.phone.wipes > self.pressed_at, "what was wished was done"
        wipes = self.phone.wipes
        for _ in range(2):
            await self.act("touch")
            await self.act("here")
        assert self.phone.wipes == wipes, "once"

    async def ends_there(self) -> None:
        """Sync with Immich until all is done, and see that it is."""
        for _ in range(2):
            self.phone.tables.tick(3000)
            await self.sync(self.phone._of_immich, self.phone._ack_immich)
        self.phone.check()


def live(actions: Sequence[str], end: Literal["here", "there"]) -> None:
    """Live a life of these actions from the first sync with Immich on."""

    async def lived() -> None:
        life = Life()
        await life.sync(life.phone._of_immich, life.phone._ack_immich)
        for action in actions:
            await life.act(action)
        await (life.ends_here() if end == "here" else life.ends_there())

    try:
        asyncio.run(lived())
    except AssertionError as error:
        error.add_note(f"{', then '.join(actions)}, and to the end {end}")
        raise


def every(length: int) -> None:
    """Live all lives of so many actions behind the wish."""
    for actions in product(ACTIONS, repeat=length):
        live(("press", *actions), "here")
        live(("press", *actions), "there")


def test_nothing_is_lost_in_any_order_of_two_things_behind_a_wish() -> None:
    every(2)


@pytest.mark.soak
def test_nothing_is_lost_in_any_order_of_four_things_behind_a_wish() -> None:
    every(4)


def test_taken_back_with_the_ack_it_would_lose_what_a_phone_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone acknowledges the reset, breaks off, and is sent back to Immich."""
    actions = ("press", "here, reset alone", "look")
    live(actions, "there")

    def with_the_ack(state: State, asked: str, mark: str) -> str:
        return "wait" if state.pending_reset or state.reset_sent else "take_back"

    monkeypatch.setattr(beside, "follows", with_the_ack)
    with pytest.raises(AssertionError, match="rows are missing"):
        live(actions, "there")
