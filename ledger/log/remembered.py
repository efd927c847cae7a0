"""What one process remembers of sessions: the states it saw last, to decide on without loading them.

What is remembered may be out of date at any time: another process may have written. So it is only ever decided on where
the append proves it current.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ledger.log.append import SEEN_FOR_US
from ledger.log.milestones import passes
from ledger.state import State

RECENT: Final = 4096
"""How many sessions' states are remembered, about 5 KB each."""


class _Kept(Struct):
    state: State
    seen_us: int


class Recent:
    """The states of the sessions used last, each with when its activity was last noted from here (0: never)."""

    def __init__(self, passed: Callable[[State], None] = lambda _: None) -> None:
        """`passed` is told of a state that went by a milestone since the one that was kept before."""
        self._passed = passed
        self._states: OrderedDict[str, _Kept] = OrderedDict()
        self._ended: OrderedDict[str, State] = OrderedDict()
        self._confirmed: OrderedDict[str, bytes] = OrderedDict()

    def find(self, sid: str, now_us: int) -> State | None:
        """Return the state kept of a session, unless its activity must be noted anew, which takes a load."""
        kept = self._states.get(sid)
        return kept.state if kept is not None and kept.seen_us > now_us - SEEN_FOR_US else None

    def keep(self, state: State, seen_us: int | None = None) -> State:
        """Keep a state for the next command; `seen_us`: when its activity was noted, if that was now."""
        states, sid = self._states, state.sid
        kept = states.get(sid)
        if kept is None:
            states[sid] = _Kept(state, seen_us or 0)
            if len(states) > RECENT:
                states.popitem(last=False)
        else:
            if passes(kept.state.seq, state.seq):
                self._passed(state)
            kept.state = state
            if seen_us is not None:
                kept.seen_us = seen_us
            states.move_to_end(sid)
        if self._ended:  # it lives again
            self._ended.pop(sid, None)
        return state

    def keep_ended(self, state: State) -> None:
        """Keep of a session that has ended only that it has: a store that lost its end would let it live again."""
        self.forget(state.sid)
        self._ended[state.sid] = replace(state, checkpoints={}, offered=(), started=(), heard=(), noted=())
        if len(self._ended) > RECENT:
            self._ended.popitem(last=False)

    def confirm(self, sid: str, digest: bytes) -> None:
        """Keep that replicas have the end of a session; `digest`: the hash of that event."""
        self._confirmed[sid] = digest
        if len(self._confirmed) > RECENT:
            self._confirmed.popitem(last=False)

    def is_confirmed(self, sid: str, digest: bytes) -> bool:
        """Tell whether replicas are known to have the end of a session."""
        return self._confirmed.get(sid) == digest

    def known(self, sid: str) -> State | None:
        """Return what is known of a session, living or ended."""
        return self._ended.get(sid) or self.last(sid)

    def every(self) -> list[State]:
        """List all that is known."""
        return [*(kept.state for kept in self._states.values()), *self._ended.values()]

    def correct(self, sid: str, found: State | None) -> None:
        """Put what the store just answered in place of what is kept, though that is newer: the store has lost it."""
        if found is None:
            self.forget(sid)
        else:
            self.keep(found)

    def last(self, sid: str) -> State | None:
        """Return the state that was kept last of a session, however long ago its activity was noted."""
        kept = self._states.get(sid)
        return None if kept is None else kept.state

    def forget(self, sid: str) -> None:
        """Drop the state kept of a session, if one is; that it has ended stays known."""
        self._states.pop(sid, None)
