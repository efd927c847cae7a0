"""How the console's pages name devices, and say times, numbers and what others wrote; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger.positions import iso_from_us
from ledger.session_ids import short_id
from projections.sent.record import How

SECOND_US: Final = 1_000_000
MAX_SHOWN_CHARS: Final = 300
_ISO: Final = re.compile(r"(?<!\|)\b([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?Z")
"""An instant in a sentence; one behind a bar is part of an ack, which is told as it is."""
_CLASS: Final = re.compile("([0-9]+)([mhd])")
_SPANS: Final = ((86_400, "day"), (3600, "h"), (60, "min"), (1, "s"))


def clean(text: object, most: int = MAX_SHOWN_CHARS) -> str:
    """Make what a device or a user wrote safe to read: no character that is not seen or turns the others around.

    What is longer than `most` characters is cut, and ends with an ellipsis.
    """
    given = str(text)
    shown = given if len(given) <= most else given[: most - 1] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)


def device(device_type: str | None, device_os: str | None, app_version: str | None = None) -> str:
    """Name a device by what it says of itself, each thing once; "A device" where it says nothing."""
    parts = dict.fromkeys(filter(None, (device_type, device_os, app_version)))
    return clean(" · ".join(parts)) if parts else "A device"


def prose(text: object, most: int = 4000) -> str:
    """Print a sentence as `clean` does, with its instants to the second."""
    return _ISO.sub(r"\1 \2 UTC", clean(text, most))


def colour(how: How) -> str:
    """Tell the colour of a stream that ended so: good, bad, or '' for neither."""
    return {"completed": "good", "ended": ""}.get(how, "bad")


def number(value: float) -> str:
    """Print a number: whole ones in groups of three, others with as many digits as tell something."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def span(us: float) -> str:
    """Print how long something takes or is ago, in its largest unit."""
    seconds = max(0, int(us // SECOND_US))
    for size, name in _SPANS:
        if seconds >= size:
            count = seconds // size
            return f"{count:,} {name}{'s' if name == 'day' and count > 1 else ''}"
    return "0 s"


def ago(us: float) -> str:
    """Print how long ago something was."""
    return f"{span(us)} ago" if us >= SECOND_US else "just now"


def seconds(value: float | None) -> str:
    """Print a short time in the unit that fits it; a dash for none."""
    if value is None:
        return "\N{EN DASH}"
    return f"{number(value * 1000)} ms" if value < 1 else f"{number(value)} s"


def time_class(text: str) -> str:
    """Name a class of times as figures have it (`1h`, `30d`, `longer`)."""
    found = _CLASS.fullmatch(text)
    if found is None:
        return {"0": "nothing"}.get(text, text)
    unit = {"m": "minute", "h": "hour", "d": "day"}[found[2]]
    return f"{found[1]} {unit}{'' if found[1] == '1' else 's'}"


def minute(us: int) -> str:
    """Print an instant to the second, in UTC."""
    return iso_from_us(us)[:19].replace("T", " ")


def short(sid: str) -> str:
    """Shorten a session's id as logs do."""
    return short_id(sid) + "…"


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "nothing"


def _types_of(acks: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text.partition("|")[0] for text in acks))


def told(event: str, data: Mapping[str, Any]) -> str:
    """Tell in a line what an event says, of its words as `projections/history/words.py` has them."""
    by = f" by {clean(data['by'])}" if data.get("by") else ""
    match event:
        case "session_created":
            how = f" ({clean(data['authenticatedBy'])})" if data.get("authenticatedBy") else ""
            return f"signed in{how}: {device(data.get('deviceType'), data.get('deviceOS'), data.get('appVersion'))}"
        case "stream_offered":
            return f"was offered {_listed(data.get('types', ()))} up to {prose(data.get('snapshot', ''))}"
        case "acks_recorded":
            moved, stale = data.get("moved", ()), int(data.get("staleCount", 0))
            late = f"{stale:,} late ack{'s' if stale != 1 else ''} changed nothing" if stale else ""
            taken = f"acknowledged {_listed(_types_of(moved))}" if moved else ""
            return "; ".join(filter(None, (taken, late))) or "acknowledged nothing new"
        case "ack_refused":
            return (
                f"an ack of {_listed(_types_of([str(data.get('ack', ''))]))} was refused: {clean(data.get('reason'))}"
            )
        case "checkpoints_cleared":
            types = data.get("types")
            what = "all checkpoints" if types is None else f"checkpoints of {_listed(types)}"
            return f"{what} cleared ({clean(data.get('cause'))}){by}"
        case "checkpoints_adopted":
            return clean(data.get("says", "checkpoints adopted"))
        case "sync_reset_requested":
            cause = f" ({clean(data['cause'])})" if data.get("cause") else ""
            return ("asked to start over" if data.get("on") else "no longer asked to start over") + cause + by
        case "reset_sent":
            return f"was sent a reset ({clean(data.get('cause'))})"
        case "device_described":
            described = device(data.get("deviceType"), data.get("deviceOS"), data.get("appVersion"))
            return f"says it is {described}"
        case "token_rotated":
            return "got a new token"
        case "token_first_used":
            return "used its new token for the first time"
        case "session_ended":
            return f"signed out: {clean(data.get('reason')).replace('_', ' ')}{by}"
        case "session_resumed":
            return f"goes on, as {clean(data.get('by'))} says"
        case "history_lost":
            return f"events {data.get('from')} to {data.get('to')} were lost ({clean(data.get('cause'))})"
        case _:
            return event.replace("_", " ")
