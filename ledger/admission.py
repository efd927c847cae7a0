"""Who may act for a session: what a presented token claims, and where it stands with the session's state.

A session has one token in use. A refresh adds a new one, which replaces it when it is first used; what it replaced is
good for a grace from then on, so neither a lost reply nor a request on its way locks a device out. A token that was in
use and comes after its grace was copied: the session ends. One that never was in use proves nothing: two tabs may have
refreshed at once, or a device often. It is refused, and so is one of so long ago that nobody remembers what it was.
"""

from __future__ import annotations

from enum import Enum
from hmac import compare_digest
from typing import NamedTuple

from ledger.state import State


class Caller(NamedTuple):
    """What a token claims. Only its digest, found in the session's state, admits it.

    `digest` is the token's SHA-256 and `number` counts the tokens of a session from 0; the first one's digest is the
    session's id. `genuine`: its signature is ours, which is looked at for later tokens only.
    """

    user: str
    sid: str
    digest: bytes
    number: int = 0
    expires_at_us: int | None = None
    genuine: bool = False


class Standing(Enum):
    """Where a token stands with its session."""

    GOOD = "good"
    NEW = "never used before: it replaces the one in use"
    SPENT = "replaced, and its grace is over"
    UNKNOWN = "expired, never used and past its grace, forgotten, or none of this session's"


def standing(state: State, caller: Caller, now_us: int) -> Standing:
    """Tell where a token stands with the session it claims; the session itself must live."""
    if state.user != caller.user or (caller.expires_at_us is not None and caller.expires_at_us <= now_us):
        return Standing.UNKNOWN
    if compare_digest(caller.digest, state.token) if state.token else caller.number == 0:
        return Standing.GOOD
    if any(compare_digest(caller.digest, token.digest) for token in state.new_tokens):
        return Standing.NEW
    for token in state.old_tokens:
        if compare_digest(caller.digest, token.digest):
            if now_us < token.until_us:
                return Standing.GOOD
            return Standing.SPENT if token.was_used else Standing.UNKNOWN
    # Too long ago to be remembered, or of a future that was lost, in a restore. The first one surely was in use.
    return Standing.SPENT if caller.number == 0 else Standing.UNKNOWN


def admits(state: State, caller: Caller, now_us: int) -> bool:
    """Tell whether a session lets a token in as it is: it lives, and nothing is to be put on record of the token."""
    return state.lives_at(now_us) and standing(state, caller, now_us) is Standing.GOOD
