"""How often things happened, counted for all workers in one hash of the store; it survives restarts.

For what is rare and worth an operator's look: refusals and rows that wait, not requests. A count may miss what happened
while the store was away, and is never taken for more than a hint.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from msgspec.structs import fields

from ledger import keys
from ledger.errors import LedgerError
from ledger.store.interface import Store
from projections.entities.registry import ROWS

log = logging.getLogger(__name__)

OTHER: Final = "other"


class Known(NamedTuple):
    """What a counter counts, and the one label it may have with all its values."""

    help: str
    label: str = ""
    values: tuple[str, ...] = ()


_ENTITY_TYPES: Final = tuple(row.name for row in ROWS if row.form is not None and not row.is_delete)

_FIELDS: Final = tuple(
    f"{row.name}.{field.encode_name}"
    for row in ROWS
    if row.form is not None and not row.is_delete
    for field in fields(row.payload)
)

# Every counter there is. The values of labels are listed, so that the hash is bounded whoever asks for what.
COUNTERS: Final[dict[str, Known]] = {
    "sign_in_refused": Known(
        "Sign-ins that admitted nobody, by why.",
        "reason",
        (
            "not_enabled",
            "state_missing",
            "state_mismatch",
            "verifier_missing",
            "answer_invalid",
            "provider_refused",
            "code_refused",
            "issuer_mismatch",
            "id_token_invalid",
            "nonce_mismatch",
            "id_token_expired",
            "id_token_too_large",
            "claim_missing",
            "claim_differs",
            "email_missing",
            "not_registered",
            "email_taken",
            "identity_taken",
            "logout_token_invalid",
        ),
    ),
    "provider_unavailable": Known("Requests that failed because the identity provider did not answer."),
    # Refused credentials of requests, sign-ins left out.
    "bad_tokens": Known("Credentials that admitted nobody: unknown, ended, expired or replaced."),
    "token_reused": Known("Sessions ended because a token came back long after it was replaced: a copy, most likely."),
    "sockets_refused": Known("Web sockets that were not opened or let go, because there were too many."),
    "limited": Known(
        "Requests answered 429, by the limit they met.", "what", ("sign_in", "account", "bad_token", "refresh")
    ),
    "slow_bodies": Known("Requests answered 408 because their body stopped coming or came too slowly."),
    "claim_conflicts": Known(
        "Sign-ins of known identities whose claim names another user; `syncledger user conflicts` names who."
    ),
    "source_unavailable": Known("Requests answered 503 and streams broken off because the source did not answer."),
    "sessions_mended": Known("Sessions that could not be read and were made anew from their events."),
    "sessions_damaged": Known("Sessions that could not be read nor mended; the log names them, at most once a minute."),
    # What goes through many passes over what it cannot read; the log names it.
    "passed_over": Known(
        "What a job could not do its work on and passed over, by what it is.",
        "what",
        ("partition", "session", "library"),
    ),
    "job_failed": Known(
        "Runs of background jobs that failed, to be tried again.",
        "job",
        (
            "expire",
            "version",
            "compare",
            "clock",
            "gone",
            "look",
            "census",
            "certificates",
            "notarize",
            "watch",
            "index",
            "rates",
        ),
    ),
    "unknown_types": Known(
        "Types of the protocol that apps asked for and this version does not know, left out beside a backend."
    ),
    # By streams that were sent to their end, each of which counts a row it meets again once more; and by writes to a
    # catalog, over HTTP or by the command, which count a row that is new among those that wait.
    "rows_held_back": Known(
        "Rows that a stream or a write met and that no device could store, so that they wait, by entity type.",
        "entity_type",
        _ENTITY_TYPES,
    ),
    "rows_unfit": Known(
        "Rows held back because no device could read them, by entity type and field; rows they keep are not counted.",
        "field",
        _FIELDS,
    ),
    "runs_cut": Known(
        "Runs of an entity type that ended early because a parent had changed during the stream.",
        "entity_type",
        _ENTITY_TYPES,
    ),
}


class Count(NamedTuple):
    """A counter's value; `label_value` is empty for a counter without a label."""

    name: str
    label_value: str
    value: int


class Counters:
    """Counters in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, name: str, by: int = 1, /, **labels: str) -> None:
        """Count more; a label's unknown value counts as `other`. Raises Unavailable, KeyError for no known counter.

        A count whose reply was lost is not made again.
        """
        await self._store.command("HINCRBY", keys.counters(), _field(name, labels), by, key=keys.counters())

    async def note(self, name: str, by: int = 1, /, **labels: str) -> None:
        """Count as `add` does, for who does not depend on it: what could not be counted is logged."""
        try:
            await self.add(name, by, **labels)
        except LedgerError as error:
            log.error("not counted: %s: %s", name, error)

    async def all(self) -> list[Count]:
        """Read every counter in the order of the table, with every value of its label; 0 where nothing was counted."""
        flat = await self._store.command("HGETALL", keys.counters(), key=keys.counters())
        found: dict[str, int] = {}
        for raw, value in zip(flat[::2], flat[1::2], strict=True):
            try:
                found[raw.decode()] = int(value)
            except ValueError:
                log.error("the counter %r holds no number: HDEL it from %s", raw, keys.counters().decode())
        counts = []
        for name, known in COUNTERS.items():
            for value in (*known.values, OTHER) if known.label else ("",):
                field = _field(name, {known.label: value} if known.label else {})
                if value != OTHER or field in found:
                    counts.append(Count(name, value, found.get(field, 0)))
        return counts


def _field(name: str, labels: dict[str, str]) -> str:
    """Name a count: the counter, then its label and value."""
    known = COUNTERS[name]
    if labels.keys() != ({known.label} if known.label else set()):
        raise KeyError(f"{name} has the label {known.label!r}, and is given {sorted(labels)}")
    if not known.label:
        return name
    value = labels[known.label]
    return f"{name}{{{known.label}={value if value in known.values else OTHER}}}"
