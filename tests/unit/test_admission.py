"""Which tokens of a session admit: the one in use, new ones, replaced ones in their grace; and how they change."""

from __future__ import annotations

import pytest

from ledger.admission import Caller, Standing, standing
from ledger.commands import RotateToken, UseToken
from ledger.errors import CorruptLedger, Refused
from ledger.events import CheckpointsCleared, SessionCreated, SessionEnded, TokenFirstUsed, TokenRotated
from ledger.evolve import TOKENS
from ledger.state import State
from tests.support.ledger.given import CREATED, NOW, SID, given, then, when

GRACE_US = 60_000_000
FIRST = bytes.fromhex(SID)
SECOND, THIRD, FOURTH = (bytes([number]) * 32 for number in (2, 3, 4))
HOUR_US = 3_600_000_000


def caller(token: bytes, number: int, *, genuine: bool = True, expires_at_us: int | None = None) -> Caller:
    return Caller("ann", SID, token, number, expires_at_us, genuine)


def rotated(token: bytes, number: int, expires_at_us: int | None = None) -> TokenRotated:
    return TokenRotated(token, number, expires_at_us)


def used(token: bytes, at_us: int = NOW) -> TokenFirstUsed:
    return TokenFirstUsed(token, at_us + GRACE_US)


def stands(state: State, token: bytes, number: int, now_us: int = NOW, *, genuine: bool = True) -> Standing:
    return standing(state, caller(token, number, genuine=genuine), now_us)


def test_the_first_token_is_good_until_another_is_used() -> None:
    assert stands(given(), FIRST, 0) is Standing.GOOD
    state = given(rotated(SECOND, 1))
    assert stands(state, FIRST, 0, NOW + 1000 * HOUR_US) is Standing.GOOD, "the reply with the new one may be lost"
    assert stands(state, SECOND, 1) is Standing.NEW


def test_a_new_token_replaces_all_others_when_it_is_first_used() -> None:
    state = given(rotated(SECOND, 1), rotated(THIRD, 1), used(THIRD))
    assert stands(state, THIRD, 1, NOW + HOUR_US) is Standing.GOOD
    for token, number in ((FIRST, 0), (SECOND, 1)):
        assert stands(state, token, number, NOW + GRACE_US - 1) is Standing.GOOD
    assert stands(state, FIRST, 0, NOW + GRACE_US) is Standing.SPENT
    assert stands(state, SECOND, 1, NOW + GRACE_US) is Standing.UNKNOWN, "another tab refreshed at once: no copy"


def test_a_token_that_was_never_used_proves_no_copy_however_many_there_were() -> None:
    tokens = [bytes([number]) * 32 for number in range(1, 10)]
    state = given(*(rotated(token, number) for number, token in enumerate(tokens, 1)))
    assert len(state.new_tokens) == TOKENS
    assert stands(state, tokens[0], 1) is Standing.UNKNOWN, "forgotten before it was used"
    assert stands(state, tokens[-1], 9) is Standing.NEW
    after = then(state, used(tokens[-1]))
    for number, token in enumerate(tokens[:-1], 1):
        assert stands(after, token, number, NOW + GRACE_US) is Standing.UNKNOWN
    assert stands(after, FIRST, 0, NOW + GRACE_US) is Standing.SPENT, "those push out none that was in use"
    assert len(after.old_tokens) == TOKENS


def test_many_refreshes_between_uses_keep_the_memory_of_what_was_used() -> None:
    state, number, in_use = given(), 0, [FIRST]
    for _ in range(4):
        for _ in range(12):
            number += 1
            state = then(state, rotated(bytes([number]) * 32, number))
        in_use.append(bytes([number]) * 32)
        state = then(state, used(in_use[-1]))
    assert [token.digest for token in state.old_tokens if token.was_used] == in_use[:-1]
    assert len(state.old_tokens) <= 2 * TOKENS


def test_a_replaced_token_is_told_for_long_and_the_first_one_always() -> None:
    tokens = [bytes([number]) * 32 for number in range(1, 30)]
    state = given(*(event for number, token in enumerate(tokens, 1) for event in (rotated(token, number), used(token))))
    assert len(state.old_tokens) == TOKENS
    for number, token in enumerate(tokens[:-1], 1):
        told = Standing.SPENT if number > len(tokens) - 1 - TOKENS else Standing.UNKNOWN
        assert stands(state, token, number, NOW + GRACE_US) is told, "what nobody remembers ends nothing"
    assert stands(state, FIRST, 0, NOW + GRACE_US) is Standing.SPENT, "its digest is the session's id"
    assert stands(state, tokens[-1], 29, NOW + GRACE_US) is Standing.GOOD
    assert stands(state, tokens[0], 1, NOW, genuine=False) is Standing.UNKNOWN, "anybody can claim a number"


def test_a_forged_token_ends_nothing() -> None:
    assert stands(given(), SECOND, 1, genuine=False) is Standing.UNKNOWN
    assert stands(given(rotated(SECOND, 1), used(SECOND)), THIRD, 1, genuine=False) is Standing.UNKNOWN


def test_a_token_of_a_future_that_was_lost_ends_nothing() -> None:
    assert stands(given(rotated(SECOND, 1), used(SECOND)), THIRD, 2) is Standing.UNKNOWN


@pytest.mark.parametrize("events", [(), (rotated(SECOND, 1),)])
def test_an_expired_token_is_unknown(events: tuple[TokenRotated, ...]) -> None:
    for token, number in ((FIRST, 0), (SECOND, 1)):
        presented = caller(token, number, expires_at_us=NOW)
        assert standing(given(*events), presented, NOW) is Standing.UNKNOWN


def test_a_token_of_another_user_is_unknown() -> None:
    assert standing(given(), caller(FIRST, 0)._replace(user="bob"), NOW) is Standing.UNKNOWN


def test_only_the_token_in_use_can_ask_for_a_new_one() -> None:
    state = given(rotated(SECOND, 1), used(SECOND))
    assert when(state, RotateToken(SECOND, THIRD, 2)) == (TokenRotated(THIRD, 2),)
    with pytest.raises(Refused, match="replaced by a newer one"):
        when(state, RotateToken(FIRST, THIRD, 2))
    assert when(given(), RotateToken(FIRST, SECOND, 1, NOW + HOUR_US)) == (TokenRotated(SECOND, 1, NOW + HOUR_US),)


def test_only_the_first_use_is_on_record() -> None:
    state = given(rotated(SECOND, 1))
    assert when(state, UseToken(SECOND, GRACE_US)) == (used(SECOND),)
    assert when(then(state, used(SECOND)), UseToken(SECOND, GRACE_US)) == ()
    assert when(state, UseToken(FIRST, GRACE_US)) == ()


def test_tokens_touch_nothing_else_of_a_session() -> None:
    before = given(CheckpointsCleared(None, "deleted"))
    after = then(before, rotated(SECOND, 1), used(SECOND))
    for field in (
        "checkpoints",
        "offered",
        "epoch",
        "epochs",
        "started",
        "heard",
        "reset_sent",
        "noted",
        "expires_at_us",
        "library",
    ):
        assert getattr(after, field) == getattr(before, field)


def test_a_session_lasts_as_long_as_its_longest_token() -> None:
    state = given(SessionCreated("ann", "photos", token_expires_at_us=NOW + 10))
    assert state.over_at_us == NOW + 10
    assert state.lives_at(NOW + 9)
    assert not state.lives_at(NOW + 10)
    state = then(state, rotated(SECOND, 1, NOW + 30))
    assert state.over_at_us == NOW + 30, "the new one may be on its way"
    assert then(state, used(SECOND)).over_at_us == NOW + 30
    assert then(state, rotated(THIRD, 1)).over_at_us is None


def test_no_token_outlives_the_session() -> None:
    state = given(SessionCreated("ann", "photos", expires_at_us=NOW + 20, token_expires_at_us=NOW + 10))
    assert state.over_at_us == NOW + 10
    assert then(state, rotated(SECOND, 1, NOW + 50)).over_at_us == NOW + 20
    assert given(CREATED).over_at_us is None


def test_tokens_end_with_their_session() -> None:
    state = given(rotated(SECOND, 1))
    with pytest.raises(CorruptLedger):
        then(then(state, SessionEnded("logout")), used(SECOND))
