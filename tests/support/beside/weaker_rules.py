"""Rules of adoption that leave one thing out: what a test of random lives must find wrong, or it has no power."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from ledger.acks import Ack
from ledger.state import State
from projections.immich.adoption import GROUPS, Adoption, CheckpointRow, Shares, adopt
from tests.support.beside.phone import Rule
from tests.support.beside.source import at, in_share

END_US: Final = 2**52
_BACKFILLS: Final = {group.backfill for group in GROUPS}
_UPDATES: Final = {group.update for group in GROUPS if group.update}
_MAINS: Final = {group.main for group in GROUPS}


def _as_it_is(found: CheckpointRow) -> Ack:
    """Take an ack for a position, whatever its type."""
    name, entity_id, *extra = found.ack.split("|")
    if not extra:
        return Ack(name, at(entity_id))
    return Ack(name, in_share(entity_id, "f" * 36 if extra[0] == "complete" else extra[0]))


def _but(types: Iterable[str]) -> Rule:
    """Make the rule that takes acks of these types as they are."""
    as_they_are = frozenset(types)

    def rule(
        rows: list[CheckpointRow], shares: Shares, began_us: int, horizon_us: int, revision: int, state: State | None
    ) -> Adoption | None:
        made = adopt(rows, shares, began_us, horizon_us, revision, state)
        if made is None:
            return None
        kept = [ack for ack in made.command.positions if ack.type not in as_they_are]
        kept += [_as_it_is(found) for found in rows if found.type in as_they_are]
        return made._replace(command=replace(made.command, positions=tuple(kept)))

    return rule


def _above_the_horizon(
    rows: list[CheckpointRow], shares: Shares, began_us: int, horizon_us: int, revision: int, state: State | None
) -> Adoption | None:
    return adopt(rows, shares, began_us, END_US, revision, state)


def _as_if_never_restarted(
    rows: list[CheckpointRow], shares: Shares, began_us: int, horizon_us: int, revision: int, state: State | None
) -> Adoption | None:
    return adopt(rows, shares, began_us, horizon_us, revision, None)


def _once(
    rows: list[CheckpointRow], shares: Shares, began_us: int, horizon_us: int, revision: int, state: State | None
) -> Adoption | None:
    return adopt(rows, shares, began_us, horizon_us, revision, state) if state is None else None


MAINS_AS_THEY_ARE: Final = _but(_MAINS)
ABOVE_THE_HORIZON: Final[Rule] = _above_the_horizon
_STORED: Final = [name for group in GROUPS for name in group.types]
WEAKER: Final[dict[str, Rule]] = {
    "each type by itself": _but([*_STORED, "UserV1", "AlbumDeleteV1", "AssetDeleteV1", "AlbumToAssetDeleteV1"]),
    "backfill where it is": _but(_BACKFILLS),
    "updates where they are": _but(_UPDATES),
    "as if nothing began anew here": _as_if_never_restarted,
    "only once": _once,
}
