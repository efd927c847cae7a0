"""Writes into the embedded catalog: batches of entities, an atomic script each; deletes with what hangs on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger import keys
from ledger.errors import Contended
from ledger.positions import Position
from ledger.store.interface import Store
from ledger.store.scripts import Arg, Script
from projections.entities.catalog.cascade import Child, child_writes
from projections.entities.catalog.layout import LAYOUT, USERS, WAITS_US, keys_of
from projections.entities.catalog.write_arguments import (
    BATCH_BYTES,
    BATCH_ROWS,
    LEAVE,
    NOTHING,
    WITH_LAST,
    Write,
    arguments,
    batches,
)
from projections.entities.entity import Entity
from projections.entities.forms import DELETE, FORMS, form
from projections.entities.lines import payload_of, position_of
from projections.entities.registry import row

_ROUNDS_WITHOUT_PROGRESS: Final = 20
_SCAN_ROWS: Final = 100

WRITE: Final = Script.load("projections.entities.catalog", "rows.lua", "waiting.lua", "write.lua", behind=LAYOUT)
CHILDREN: Final = Script.load("projections.entities.catalog", "children.lua", behind=LAYOUT)
OWNERS: Final = Script.load("projections.entities.catalog", "owners.lua")

_WITH_CHILDREN: Final = frozenset(parent.table for f in FORMS for parent in f.parents)


class Written(Struct):
    """What became of entities: taken (written anew), unchanged, and refused as (index, path, message).

    `waiting` counts those of the taken and unchanged that refer to rows which are not there, and so wait; `held_back`
    those that are new among what waits, by entity type.
    """

    taken: int = 0
    unchanged: int = 0
    refused: list[tuple[int, tuple[str | int, ...], str]] = []
    waiting: int = 0
    held_back: dict[str, int] = {}


class Writer:
    """Writes entities of libraries; safe with any number of writers at once."""

    def __init__(self, store: Store, now_us: Callable[[], int]) -> None:
        """`now_us` dates the delete markers that cascades make up; stamps come from the server."""
        self._store = store
        self._now_us = now_us

    async def put(self, library: str, entities: Sequence[Entity]) -> Written:
        """Write entities in their order; each is whole or untouched, equal ones keep their place.

        Runs of upserts are one script; a delete removes what refers to it before it is done itself. Refused are a row
        whose parent was deleted, and another owner of a row that others refer to. A row whose parent is not there waits
        for it, and what it replaces is served until then; rows that waited for one of these go on their way before this
        returns. If this raises, some of the entities may be written; writing all again is harmless.
        """
        written = Written()
        at = 0
        for (deleting, owned), run in groupby(entities, lambda e: (e.row.is_delete, e.owner is not None)):
            some = list(run)
            writes = [Write.of(entity) for entity in some]
            if deleting:
                outcomes = await self._remove(library, writes)
            elif owned:
                outcomes = await self._put_with_owners(library, some, writes)
            else:
                outcomes = await self._run(library, writes)
            if outcomes.count("w") == len(outcomes):
                written.taken += len(outcomes)
            else:
                _tell(written, at, some, outcomes)
            at += len(some)
        return written

    async def put_new(self, library: str, entities: Sequence[Entity]) -> None:
        """Write those entities of which the library has no trace: neither a row nor a delete marker."""
        await self._run(library, [Write.of(entity, NOTHING) for entity in entities])

    async def put_over(self, library: str, entity: Entity, place: Position) -> None:
        """Write an entity if what stands for its id is still the row at this place."""
        await self._run(library, [Write.of(entity, f"{entity.row.letter}{place.at_us}".encode())])

    async def release(self, library: str) -> None:
        """Let rows go that wait for nothing any more, where a writer died before it came to it.

        The script that gives a row what it waits for notes that with it, so what was noted is all there is to look at,
        however many rows wait. Costs one question where nothing was.
        """
        arrived = keys.catalog_arrived(library)
        if await self._store.command("ZCARD", arrived, key=arrived):
            while await self._step(library, [], []):
                pass

    async def owners(self, library: str, albums: Iterable[str]) -> list[tuple[str, str, bytes, bytes]]:
        """Find owners' memberships of albums, also those that wait: album id, membership id, its place, its line."""
        members = form("album_user")
        every = keys_of(library)
        at = every.index(keys.catalog_ids(library, members.name))
        letters = "".join(letter for letter, _ in members.variants)
        found = iter(
            await self._store.script(OWNERS, [*every[1:4], *every[at : at + 1 + len(letters)]], [letters, *albums])
        )
        return [
            (album_id.decode(), member_id.decode(), held, line)
            for album_id, member_id, held, line in zip(found, found, found, found, strict=True)
        ]

    async def _put_with_owners(self, library: str, albums: Sequence[Entity], writes: Sequence[Write]) -> list[str]:
        """Write albums, each with its owner's membership, which ends those of all others who own it, in one script.

        Where the new owner waits for its user, the former one stays until that comes.
        """
        paired: list[Write] = []
        for album, write in zip(albums, writes, strict=True):
            assert album.owner is not None
            paired += (write, Write.of(album.owner, WITH_LAST))
        return (await self._run(library, paired))[::2]

    async def _remove(self, library: str, removals: Sequence[Write]) -> list[str]:
        """Remove rows with all that refers to them, children before parents, each step leaving a valid catalog.

        Returns a letter for each: w removed, u was before, m not as expected.
        """
        users = {w.id for w in removals if w.form.table == USERS}
        if users:
            await self._run(library, [Write(form(USERS), LEAVE, user) for user in users])
            await self._remove_rows_of_users(library, users)
        outcomes = [""] * len(removals)
        open_at = list(range(len(removals)))
        stuck = 0
        while open_at:
            batch = open_at[: BATCH_ROWS // 2]
            parents = {removals[at].as_parent for at in batch}
            more, children = await self._children(library, parents)
            writes = child_writes(children, parents, self._now_us())
            done = await self._run(library, writes + ([] if more else [removals[at] for at in batch]))
            for at, outcome in zip(batch, done[len(writes) :], strict=False):
                outcomes[at] = outcome if outcome in "wum" else ""
            open_at = [at for at in open_at if not outcomes[at]]
            stuck = 0 if "w" in done or "u" in done else stuck + 1
            if stuck > _ROUNDS_WITHOUT_PROGRESS:
                raise Contended("other writers keep changing what is being deleted")
        return outcomes

    async def _children(self, library: str, parents: set[str]) -> tuple[bool, list[Child]]:
        """Find what refers to rows, and whether there is more of it."""
        wanted = [parent for parent in parents if parent.partition("|")[0] in _WITH_CHILDREN]
        if not wanted:
            return False, []
        args: list[Arg] = [BATCH_ROWS // 2, BATCH_BYTES // 2, *wanted]
        reply = await self._store.script(CHILDREN, keys_of(library), args)
        found = iter(reply[1:])
        children = [
            Child(parent.decode(), name.decode(), child_id.decode(), held, line, _refs_of(refs))
            for parent, name, child_id, held, line, refs in zip(found, found, found, found, found, found, strict=True)
        ]
        return bool(reply[0]), children

    async def _remove_rows_of_users(self, library: str, users: set[str]) -> None:
        """Remove all rows that refer to users, by reading everything; those that wait are found by their parents.

        No more come meanwhile: the users are leaving.
        """
        for referring in FORMS:
            fields = [parent.field for parent in referring.parents if parent.table == USERS]
            for letter, stored in referring.variants if fields else ():
                if letter != DELETE:
                    await self._remove_rows_where(library, stored, fields, users)

    async def _remove_rows_where(self, library: str, stored: str, fields: Sequence[str], users: set[str]) -> None:
        found = row(stored)
        assert found.form is not None
        low = "-inf"
        while True:
            rows = keys.catalog_rows(library, stored)
            span = (low, f"({WAITS_US}", "BYSCORE", "LIMIT", 0, _SCAN_ROWS)
            lines = await self._store.command("ZRANGE", rows, *span, key=rows)
            if not lines:
                return
            removals = []
            for line in lines:
                data = payload_of(found, line)
                if any(getattr(data, field) in users for field in fields):
                    place = position_of(line)  # one that changes meanwhile comes again, behind these
                    held = f"{found.form.name}:{found.letter}{place.at_us}".encode()
                    removals.append(Write.removing(found.form, data, place.id, self._now_us(), held))
            if removals:
                await self._remove(library, removals)
            low = f"({position_of(lines[-1]).at_us}"

    async def _run(self, library: str, writes: Sequence[Write]) -> list[str]:
        """Run writes, then let rows go that waited for them, in bounded steps.

        Returns a letter for each as the script does; behind it, for a refused one the table of the deleted parent, for
        one that waits the missing parent.
        """
        outcomes: list[str] = []
        left = 0
        for batch in batches(writes):
            left = await self._step(library, batch, outcomes)
        while left:
            left = await self._step(library, [], outcomes)
        return outcomes

    async def _step(self, library: str, batch: Sequence[Write], outcomes: list[str]) -> int:
        """Run one script; returns how much has arrived for which rows that wait are still to be looked at."""
        reply = await self._store.script(WRITE, keys_of(library), arguments(batch))
        letters = list(reply[0].decode())
        for at, why in zip(reply[2::2], reply[3::2], strict=True):
            letters[at] += why.decode()
        outcomes += letters
        return int(reply[1])


def _refs_of(lines: bytes) -> tuple[str, ...]:
    return tuple(lines.decode().split("\n")) if lines else ()


def _tell(written: Written, start: int, entities: Sequence[Entity], outcomes: Sequence[str]) -> None:
    for at, (entity, outcome) in enumerate(zip(entities, outcomes, strict=True), start):
        letter = outcome[0]
        if letter in "wh":
            written.taken += 1
        elif letter in "ue":
            written.unchanged += 1
        else:
            written.refused.append((at, *_problem(entity, outcome)))
        written.waiting += letter in "he"
        if letter == "h":
            stored = entity.row.stored
            written.held_back[stored] = written.held_back.get(stored, 0) + 1


def _problem(entity: Entity, outcome: str) -> tuple[tuple[str | int, ...], str]:
    if outcome == "k":
        return ("data", "ownerId"), "cannot change while others refer to this; delete it, then write it and them again"
    return _path_to(entity, outcome[1:]), f"the {outcome[1:]} was deleted; write it again first"


def _path_to(entity: Entity, table: str) -> tuple[str | int, ...]:
    """Name the field that refers to a table; only `data` where several do."""
    assert entity.row.form is not None
    if entity.owner is not None and table == USERS:
        return ("data", "ownerId")
    names: dict[str, Any] = {f.name: f.encode_name for f in msgspec.structs.fields(entity.row.payload)}
    fields = [names[parent.field] for parent in entity.row.form.parents if parent.table == table]
    return ("data", *fields) if len(fields) == 1 else ("data",)
