"""What can be wrong with a device because of where its library comes from: rules as in `device_rules`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.positions import iso_from_us
from projections.entities.source import HeldBack
from projections.explain.case import Case, Finding, rows_text
from projections.unknown_types import told

LAG_US: Final = 60_000_000
"""A horizon further behind than this hinders, whoever holds it."""
HELD_US: Final = 2_000_000
"""One that somebody holds is told from here on: devices are not sent what was written since."""
_SHOWN: Final = 3


def source_down(case: Case) -> Finding | None:
    """The source does not answer, so there is no stream."""
    if case.over or case.answers:
        return None
    health = case.facts.library.health
    says = f"The source of its library does not answer: {health.text}. Streams are answered 503 until it does."
    return Finding("source_unavailable", "stops", says)


def horizon_lags(case: Case) -> Finding | None:
    """Somebody holds the horizon back, so what is new is not sent yet."""
    library = case.facts.library
    holder = library.health.holder
    if case.over or not case.answers or library.lags_us < (HELD_US if holder else LAG_US):
        return None
    since, lags_s = iso_from_us(library.horizon_us), library.lags_us // 1_000_000
    because = f"It is held back by {holder}, and comes when that ends" if holder else library.health.text
    says = f"What was written since {since}, {lags_s:,} s ago, is not sent yet. {because}."
    return Finding("source_lags", "hinders" if library.lags_us >= LAG_US else "note", says)


def library_unknown(case: Case) -> Finding | None:
    """There is no such library, or nothing in it yet."""
    library = case.facts.library
    if case.over or not case.answers or library.known:
        return None
    says = (
        f"There is nothing of library {case.state.library} in its source ({library.health.kind}) but, at most, the row "
        "of its user: either it is new and empty, or no library has this id and the session was made with a wrong one. "
        "A session keeps its library: end it, and sign in again with the right one."
    )
    return Finding("library_unknown", "hinders", says)


def rows_wait(case: Case) -> Finding | None:
    """Rows refer to others that the device cannot have."""
    found = _asked_for(case, "missing_parent")
    if case.over or not found:
        return None
    shown = "; ".join(
        f"{_rows(each)}, like {each.example_id}, which needs {_named(each.parent)}" for each in found[:_SHOWN]
    )
    says = (
        f"Rows that the app could not store are held back: {shown}. What they need was never written, this library may "
        "not see it, or no device can read it; each is sent as soon as that is there."
    )
    return Finding("rows_held_back", "hinders", says)


def rows_unfit(case: Case) -> Finding | None:
    """Rows are not as the app reads them."""
    found = _asked_for(case, "unfit")
    if case.over or not found:
        return None
    shown = "; ".join(f"{_rows(each)}, like {each.example_id}, at {each.parent}" for each in found[:_SHOWN])
    says = (
        f"Rows that would stop the app's parser are left out, and what refers to them: {shown}. Each is sent once it "
        "is right in the source."
    )
    return Finding("rows_unfit", "hinders", says)


def sent_again(case: Case) -> Finding | None:
    """The source sends rows otherwise than when the device got them."""
    again = case.facts.library.again
    if case.over or case.reset_due or not again:
        return None
    says = f"Rows of {', '.join(again)} are made otherwise than when it got them: its next stream sends them once more."
    return Finding("sent_again", "note", says)


def types_left_out(case: Case) -> Finding | None:
    """Apps ask for more than this version knows."""
    if case.over or not case.facts.unknown:
        return None
    return Finding("types_left_out", "note", told(case.facts.unknown))


def _asked_for(case: Case, reason: str) -> Sequence[HeldBack]:
    """Pick what is held back of the types the device asks for, or of all where it never asked."""
    types = case.facts.types
    return [
        each
        for each in case.facts.library.held_back
        if each.reason == reason and each.rows and (not types or each.entity_type in types)
    ]


def _rows(each: HeldBack) -> str:
    return f"{rows_text(each.rows)} of {each.entity_type}"


def _named(parent: str) -> str:
    """Name a parent, `table|id`, in words."""
    table, _, entity_id = parent.partition("|")
    return f"the {table} {entity_id}"
