"""Where a device stands that synced with Immich: its checkpoints there, as positions of ours. Pure.

Immich keeps one ack for each entity type, `Type|<UUIDv7>[|extra]`, as the device sent it. What is a device's own stands
here where it stands there. What is shared with it does not: Immich sends all up to the main type's ack E at once when a
share is new, whatever its age, and all behind E as it comes; here a row stands by the share's age, as backfill or as
itself. So the types of what is shared are taken over together, by what Immich must have sent up to E.

The rules hold for devices that Immich itself sent everything to; what it skipped stays skipped until a reset. Tests of
random lives hold them (`tests/faults/test_adoption_lives.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from ledger.acks import Ack, completion
from ledger.commands import AdoptCheckpoints, ClearCheckpoints
from ledger.entity_types import CODES, COMPLETE, RESET, mask_of, types_in
from ledger.events import IMMICH
from ledger.positions import MAX_US, Position
from ledger.state import State
from projections.entities.registry import ROWS, upserts_of

USERS_BACK_US: Final = 1_000_000
"""How much lower users are put: they stand in two places here, of which one is when their transaction began."""
AHEAD_US: Final = 60_000_000
"""An ack of what was written so much later than the ack itself is none that Immich ever sent."""

_COMPLETE_ID: Final = "complete"
_LAST_ROW: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CARRIERS: Final = ("SyncAckV1", RESET)

Reason = Literal["unreadable", "unknown_type", "without_main", "with_deletes", "restarted_here"]


class CheckpointRow(NamedTuple):
    """A row of `session_sync_checkpoint`. `updated_at_us`: by the database's clock, as all instants here."""

    type: str
    ack: str
    updated_at_us: int


class Shares(NamedTuple):
    """What is shared with the device's user now, by `createId`, canonical uuids in any order.

    `partners`: of the rows of `partner` with the user as `"sharedWithId"`. `albums`: of its rows of `album_user`.
    """

    partners: Sequence[str] = ()
    albums: Sequence[str] = ()


class Look(NamedTuple):
    """What a look at all of a session's checkpoints tells: the newest `"updatedAt"` (0 without any), their types."""

    newest_us: int
    types: frozenset[str]


class Adoption(NamedTuple):
    """What to do with what was found.

    `anew` are the entity types that begin anew though Immich has a checkpoint of them, and why: to be counted and named
    (`named`). `unreadable`: not as Immich writes them; `unknown_type`: not known to this version; `without_main`: of
    what is shared, where the main type's is missing; `with_deletes`: because their delete type's is unreadable;
    `restarted_here`: the device began anew here, of which Immich does not know, and has got none of it since.
    """

    command: AdoptCheckpoints
    anew: Mapping[str, Reason]


class Group(NamedTuple):
    """The types in which Immich sends one kind of rows that are shared. `update` is empty where there is none."""

    main: str
    backfill: str
    update: str
    shares: Literal["partners", "albums"]

    @property
    def types(self) -> tuple[str, ...]:
        """The entity types of the group."""
        return tuple(name for name in (self.main, self.backfill, self.update) if name)


GROUPS: Final = (
    Group("PartnerAssetV1", "PartnerAssetBackfillV1", "", "partners"),
    Group("PartnerAssetV2", "PartnerAssetBackfillV2", "", "partners"),
    Group("PartnerAssetExifV1", "PartnerAssetExifBackfillV1", "", "partners"),
    Group("PartnerStackV1", "PartnerStackBackfillV1", "", "partners"),
    Group("AlbumAssetCreateV1", "AlbumAssetBackfillV1", "AlbumAssetUpdateV1", "albums"),
    Group("AlbumAssetCreateV2", "AlbumAssetBackfillV2", "AlbumAssetUpdateV2", "albums"),
    Group("AlbumAssetExifCreateV1", "AlbumAssetExifBackfillV1", "AlbumAssetExifUpdateV1", "albums"),
    Group("AlbumUserV1", "AlbumUserBackfillV1", "", "albums"),
    Group("AlbumToAssetV1", "AlbumToAssetBackfillV1", "", "albums"),
)
_GROUP_OF: Final = {name: group for group in GROUPS for name in group.types}
_DELETES: Final = tuple(row.name for row in ROWS if row.is_delete)
_ALL: Final = mask_of(row.name for row in ROWS if row.form is not None)


class _Ack(NamedTuple):
    """An ack of Immich's: the uuid it is of, and for backfills the row in that share, or that it is complete."""

    id: str
    extra: str = ""


def adopt(
    rows: Iterable[CheckpointRow],
    shares: Shares,
    began_us: int,
    horizon_us: int,
    revision: int = 0,
    state: State | None = None,
) -> Adoption | None:
    """Tell where a device stands by Immich's checkpoints of its session; None where it has none there.

    `rows` are all of them and `shares` those of its user, read in one statement or snapshot, and before that the
    source's horizon: but for deletes no position is put above it, since a share or a row that is committed late must
    find the device in front of it. Deletes are never put lower than they are: a marker that comes again may take a row
    with it that is made anew, and Immich would not know, should the device go back before it has that again.
    `began_us`: the `"createdAt"` of Immich's session. `revision`: the newest of the source's resends (0 without any),
    since the device has Immich's rows as they are now. `state`: the session's here, where there is one.

    The command is appended together with the session's creation (`CreateSession.adopted`), or by itself where the
    session lives: then it opens new epochs and takes the place of all that was known. Never fails: what cannot be read
    begins anew, and is named.
    """
    found, anew, newest_us = _read(rows)
    if not newest_us:
        return None
    limit = _uuid_at(horizon_us)
    positions = {
        name: _at(ack.id) if name in _DELETES else _own(name, ack, limit)
        for name, ack in found.items()
        if name not in _GROUP_OF
    }
    for group in GROUPS:
        within = shares.partners if group.shares == "partners" else shares.albums
        positions |= _shared(group, found, anew, within, limit)
    if state is not None and state.adopted is not None and state.adopted.restarted:
        _keep_below(positions, state, anew)
    _put_deletes(positions, anew)
    complete = positions.pop(COMPLETE, None)
    acks = [Ack(name, position) for name, position in positions.items()]
    if complete is not None:  # below it the device has heard of all deletes, also of types that begin anew
        acks.append(completion(complete.at_us, _ALL, 1))
    types = mask_of(name for name in (*found, *anew) if name in CODES)
    acks.sort(key=lambda ack: CODES[ack.type])
    return Adoption(AdoptCheckpoints(tuple(acks), IMMICH, began_us, newest_us, types, revision), anew)


def moved_on(state: State, look: Look) -> bool:
    """Tell whether the device has synced at Immich since its checkpoints there were adopted: then it is done anew.

    So it is where they never were, as of a session that began here.
    """
    return bool(look.types) and (state.adopted is None or look.newest_us > state.adopted.as_of_us)


def gone(state: State, look: Look) -> ClearCheckpoints | None:
    """Tell what is to be cleared here because Immich has cleared it; None where it has not.

    Its updates clear single types of all sessions, to have them sent again. Where no checkpoint is left the device has
    started over there, and may hold nothing: then all are cleared. Ask only of a database that is sane (no restore is
    running), and only where the device has not `moved_on`.
    """
    if state.adopted is None:
        return None
    left = mask_of(name for name in look.types if name in CODES)
    types = types_in(state.adopted.mask & ~left)
    if not types:
        return None
    return ClearCheckpoints(None if not left else mask_of(together(types)), IMMICH)


def together(types: Iterable[str]) -> frozenset[str]:
    """Name what must begin anew where these types do: who gets deletes again needs what came back behind them too."""
    found = set(types)
    found.update(*map(upserts_of, types))
    for name in tuple(found):
        if name in _GROUP_OF:
            found.update(_GROUP_OF[name].types)
    return frozenset(found)


def _read(rows: Iterable[CheckpointRow]) -> tuple[dict[str, _Ack], dict[str, Reason], int]:
    """Read the acks; returns them by type, what begins anew and why, and when the newest changed."""
    found: dict[str, _Ack] = {}
    anew: dict[str, Reason] = {}
    newest_us = 0
    for row in rows:
        newest_us = max(newest_us, row.updated_at_us)
        if row.type in _CARRIERS:
            continue
        if row.type not in CODES:
            anew[row.type] = "unknown_type"
        elif (ack := _parse(row)) is None:
            anew[row.type] = "unreadable"
        else:
            found[row.type] = ack
    return found, anew, newest_us


def _parse(row: CheckpointRow) -> _Ack | None:
    """Read one ack; None where Immich cannot have sent it."""
    name, _, rest = row.ack.partition("|")
    entity_id, _, extra = rest.lower().partition("|")
    if name != row.type or _UUID7.fullmatch(entity_id) is None:
        return None
    if not _us(entity_id) <= min(row.updated_at_us + AHEAD_US, MAX_US):
        return None
    group = _GROUP_OF.get(name)
    if group is None or name != group.backfill:
        return _Ack(entity_id)
    return _Ack(entity_id, extra) if extra in ("", _COMPLETE_ID) or _UUID.fullmatch(extra) else None


def _own(name: str, ack: _Ack, limit: str) -> Position:
    position = _at(min(ack.id, limit))
    return Position(max(position.at_us - USERS_BACK_US, 0), "") if name == "UserV1" else position


def _shared(
    group: Group, found: Mapping[str, _Ack], anew: dict[str, Reason], shares: Sequence[str], limit: str
) -> dict[str, Position]:
    """Place the types of one kind of shared rows; what of them begins anew is added to `anew`.

    Of a share that Immich's backfill is past, the device has what stands up to E, whenever the share began. So all of
    its backfill here is done where the share is not newer than E, and else that up to E; the shares behind begin anew.
    Of one that it is not past (it was committed late) nothing counts, so the main types go back to where it began.
    """
    main, backfill = found.get(group.main), found.get(group.backfill)
    if main is None or group.backfill in anew:
        anew.update({name: "without_main" for name in group.types if name in found and name not in anew})
        return {}
    end = reached = min(main.id, limit)
    places: dict[str, Position] = {}
    for share in sorted(shares):
        done = backfill is not None and (share < backfill.id or backfill == (share, _COMPLETE_ID))
        if done and share <= end:
            places[group.backfill] = _in_share(share, _LAST_ROW)
            continue
        if not done:
            reached = min(reached, share)
        if share < limit and backfill is not None:
            if done:
                places[group.backfill] = _in_share(share, end)
            elif share == backfill.id and backfill.extra:
                places[group.backfill] = _in_share(share, min(backfill.extra, end))
        break
    places[group.main] = _at(reached)
    if group.update in found:  # it may be ahead of E, where Immich sends what is changed as new
        places[group.update] = _at(min(found[group.update].id, reached))
    return places


def _keep_below(positions: dict[str, Position], state: State, anew: dict[str, Reason]) -> None:
    """Put no rows above where the device stands here: it began anew here, and Immich does not know.

    What it has heard of deletes stays true.
    """
    for name, position in list(positions.items()):
        held = state.checkpoints.get(name)
        if name in _DELETES or name == COMPLETE:
            continue
        if held is None:
            del positions[name]
            anew[name] = "restarted_here"
        else:
            positions[name] = min(position, held.position, key=_key)


def _put_deletes(positions: dict[str, Position], anew: dict[str, Reason]) -> None:
    """Put no delete type lower than what it deletes: a marker must not take again what came back behind it.

    Immich sends a type's deletes before the rest, all below one instant, so those up to any of its rows were sent.
    """
    for name in _DELETES:
        upserts = [found for found in upserts_of(name) if found in positions]
        if anew.get(name) == "unreadable":
            for found in upserts:
                del positions[found]
                anew[found] = "with_deletes"
        elif upserts:
            highest = max((positions[found] for found in upserts), key=_key)
            positions[name] = max(positions.get(name, highest), highest, key=_key)


def _at(entity_id: str) -> Position:
    return Position(_us(entity_id), entity_id)


def _in_share(share: str, row: str) -> Position:
    """Print the place of a row in a share, as the source of Immich's tables does."""
    return Position(_us(share), f"{share}:{row}")


def _uuid_at(us: int) -> str:
    """Print what no uuid of an instant or later is below."""
    digits = f"{-(-us // 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


def _us(uuid7: str) -> int:
    return int(uuid7[:8] + uuid7[9:13], 16) * 1000


def _key(position: Position) -> tuple[int, bool, bytes]:
    return position.key


def named(anew: Mapping[str, Reason]) -> Iterator[str]:
    """Put what begins anew into words, for logs: `type: why`."""
    for name, reason in anew.items():
        yield f"{name[:64]}: {_REASONS[reason]}"


_REASONS: Final[Mapping[Reason, str]] = {
    "unreadable": "its ack is not as Immich writes it",
    "unknown_type": "this version does not know the type",
    "without_main": "the checkpoint that the others of its kind go by is missing or not as Immich writes it",
    "with_deletes": "the ack of its delete type is not as Immich writes it",
    "restarted_here": "the device began anew here, and has got none of it since",
}
