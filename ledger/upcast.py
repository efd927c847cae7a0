"""Reading what older versions wrote: pure functions that lead an event from one schema to the next.

A field that is only added, at the end and with a default, needs none: the schema stays. What changes the meaning of
stored fields raises `SCHEMA` in `ledger.events` and adds a function here, from the schema before to the new one. Only
what is decoded is changed: the stored bytes, and so the hash over them, stay as they are for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Stored = list[Any]
"""A stored event as msgpack tells it: its tag, then its fields."""
Upcast = Callable[[Stored], Stored]


def _personal(*places: int) -> Upcast:
    """Make a step that lays the texts at these places out as `ledger.personal` does: plain, which they were."""

    def step(stored: Stored) -> Stored:
        return [_plain(value) if place in places else value for place, value in enumerate(stored)]

    return step


def _plain(value: Any) -> bytes:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} in place of a text")
    return b"\0" + value.encode() if value else b""


UPCASTS: Final[dict[int, Mapping[str, Upcast]]] = {
    1: {  # personal texts as bytes, plain or sealed
        "session_created": _personal(4, 5, 6),
        "sync_reset_requested": _personal(2),
        "device_described": _personal(1, 2, 3),
        "session_ended": _personal(2),
    },
}
"""Schema -> tag -> what makes an event of that schema one of the next. A tag without a function is the same in both."""


def upcast(stored: Stored, schema: int, to: int, steps: Mapping[int, Mapping[str, Upcast]] = UPCASTS) -> Stored:
    """Lead an event of `schema` to schema `to`; raises ValueError for one that has no tag."""
    for number in range(schema, to):
        if not stored or not isinstance(stored[0], str):
            raise ValueError("it has no tag")
        step = steps.get(number, {}).get(stored[0])
        if step is not None:
            stored = step(stored)
    return stored
