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

UPCASTS: Final[dict[int, Mapping[str, Upcast]]] = {}
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
