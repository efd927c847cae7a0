"""What the last census found, and when commands last succeeded: one hash of the store that every worker prints."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from ledger import keys
from ledger.errors import LedgerError
from ledger.figures.families import Family
from ledger.store.interface import Arg, Store

log = logging.getLogger(__name__)

SPANS_S: Final = {"1h": 3600, "1d": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
LONGER: Final = "longer"
NEVER: Final = "never"
BEHIND_S: Final = {"0": 0, "1m": 60, **SPANS_S}
COMMANDS: Final = ("archive", "backup")

Command = Literal["archive", "backup"]

SESSIONS: Final = Family("sessions_living", "gauge", "Sessions that live.")
SEEN: Final = Family(
    "devices_seen",
    "gauge",
    "Living sessions by when they were last heard of, to the hour; each is in one class.",
    ("within",),
    [(within,) for within in (*SPANS_S, LONGER)],
)
COMPLETED: Final = Family(
    "devices_completed",
    "gauge",
    "Living sessions by when they last acknowledged a whole stream that brought something; each is in one class.",
    ("within",),
    [(within,) for within in (*SPANS_S, LONGER, NEVER)],
)
BEHIND: Final = Family(
    "devices_behind",
    "gauge",
    "Living sessions by how far the last stream they completed is behind what could be sent; each is in one class.",
    ("by",),
    [(by,) for by in (*BEHIND_S, LONGER, NEVER)],
)
PARTITIONS: Final = Family(
    "partitions",
    "gauge",
    "Partitions by whether they have all their projections; unread: could not be asked.",
    ("state",),
    [("whole",), ("not_whole",), ("unread",)],
)
BROKEN: Final = Family("sessions_broken", "gauge", "Sessions that cannot be rebuilt; `syncledger verify` names them.")
STORED: Final = Family("events_stored", "gauge", "Events in the store's streams, without those in the archive.")
OLDEST: Final = Family(
    "oldest_stored_event_timestamp_seconds",
    "gauge",
    "When the oldest event was appended that is not sealed in the archive; 0 without any.",
)
HELD_BACK: Final = Family(
    "rows_held_back_now",
    "gauge",
    "Rows that are held back now: their parent is missing, or no device could read them.",
    ("reason",),
    [("missing_parent",), ("unfit",)],
)
LOG_ENTRIES: Final = Family("proof_entries", "gauge", "Entries of the transparency log; 0 without one.")
LOG_UNLOGGED: Final = Family(
    "proof_unlogged_events", "gauge", "Events that are not in the transparency log yet, counted up to 10,000."
)
LOG_BEHIND: Final = Family(
    "proof_behind_seconds",
    "gauge",
    "How old the oldest event is that is not in the transparency log yet; 0 where all are, or there is none.",
)
LOG_REFUSED: Final = Family(
    "proof_refused_sessions",
    "gauge",
    "Sessions with events that contradict what is logged of them, so that they are not logged; counted up to 100.",
)
LOG_UNWITNESSED: Final = Family(
    "proof_unwitnessed", "gauge", "Witnesses that have not signed the newest checkpoint of the transparency log."
)
TAKEN: Final = Family("census_timestamp_seconds", "gauge", "When these figures of the whole ledger were last counted.")
SUCCESS: Final = Family(
    "command_last_success_timestamp_seconds",
    "gauge",
    "When a command last did all it was to do, whoever ran it and wherever; 0 for never.",
    ("command",),
    [(command,) for command in COMMANDS],
)
FAILURE: Final = Family(
    "command_last_failure_timestamp_seconds",
    "gauge",
    "When a command last failed, or found what is wrong; 0 for never.",
    ("command",),
    [(command,) for command in COMMANDS],
)
SECONDS: Final = Family(
    "command_seconds", "gauge", "How long a command took the last time.", ("command",), [(c,) for c in COMMANDS]
)

OF_LOG: Final = (LOG_ENTRIES, LOG_UNLOGGED, LOG_BEHIND, LOG_REFUSED, LOG_UNWITNESSED)
ASKED: Final = (HELD_BACK, *OF_LOG)
"""Those that others are asked for: where they do not answer, what was known stays."""
COUNTED: Final = (SESSIONS, SEEN, COMPLETED, BEHIND, PARTITIONS, BROKEN, STORED, OLDEST, HELD_BACK, *OF_LOG, TAKEN)
FAMILIES: Final = (*COUNTED, SUCCESS, FAILURE, SECONDS)

Found = Mapping[tuple[str, tuple[str, ...]], float]


class Kept:
    """Keeps and reads the figures of a whole ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, found: Found) -> None:
        """Keep figures; those that are not among them stay. Raises StoreUnavailable."""
        pairs: list[Arg] = []
        for (name, labels), number in found.items():
            pairs += (_field(name, labels), repr(float(number)))
        if pairs:
            await self._store.command("HSET", keys.census(), *pairs, key=keys.census())

    async def read(self) -> Sequence[tuple[Family, list[float]]]:
        """Read all families with their numbers, 0 where nothing is kept; raises StoreUnavailable."""
        flat = await self._store.command("HGETALL", keys.census(), key=keys.census())
        kept: dict[str, float] = {}
        for name, number in zip(flat[::2], flat[1::2], strict=True):
            try:
                kept[name.decode()] = float(number)
            except ValueError:
                log.error("the figure %r is no number: HDEL it from %s", name, keys.census().decode())
        return [
            (family, [kept.get(_field(family.name, labels), 0.0) for labels in family.values]) for family in FAMILIES
        ]

    async def of_log(self) -> tuple[int, float]:
        """Tell how many events were last found not to be logged yet, and how old the oldest was, in s.

        Raises StoreUnavailable.
        """
        fields = [_field(family.name, ()) for family in (LOG_UNLOGGED, LOG_BEHIND)]
        found = await self._store.command("HMGET", keys.census(), *fields, key=keys.census())
        try:
            unlogged, behind_s = (float(number or 0) for number in found)
        except ValueError:
            return 0, 0.0  # `read` names it
        return int(unlogged), behind_s

    async def ran(self, command: Command, began_s: float, *, ok: bool) -> None:
        """Note that a command ran, from `began_s` of the monotonic clock until now; raises nothing."""
        moment = (SUCCESS if ok else FAILURE).name
        try:
            await self.write(
                {(moment, (command,)): time.time(), (SECONDS.name, (command,)): time.monotonic() - began_s}
            )
        except LedgerError as error:
            log.warning("that %s ran could not be noted: %s", command, error)


def _field(name: str, labels: tuple[str, ...]) -> str:
    return "|".join((name, *labels))
