"""I3 and I4 over the catalog: whatever is written while a device syncs, cut off anywhere, it ends with the catalog.

Children are written before their parents, and whose parents never come; they are not in the catalog before these are.

The device is the simulated one: its own SQLite copy with the app's foreign keys, which no row may ever break.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, cast

from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from endpoints.sync.stream_lines import chunks
from ledger import keys
from ledger.acks import completed_types, parse_ack
from ledger.entity_types import COMPLETE, mask_of
from ledger.positions import Position
from ledger.starting_over import reset_due
from ledger.state import Checkpoint, Offer, State
from ops.simulate.api import Server
from ops.simulate.check import check
from ops.simulate.copy import Copy
from ops.simulate.parse import parse_runs
from ops.simulate.tables import TYPES_V1, TYPES_V2
from projections.entities.catalog.catalog import Catalog
from projections.entities.catalog.layout import keys_of
from projections.entities.catalog.write_arguments import Write, arguments
from projections.entities.catalog.writer import WRITE
from projections.entities.entity import Entity, read_line
from projections.entities.forms import form
from projections.entities.registry import entity_types_for, row
from projections.entities.source import Page
from tests.support.ledger.given import long_examples
from tests.support.sources.samples import sample
from tests.support.stores.fake_store import FakeStore

LIBRARY: Final = "L"
USERS: Final = ("u1", "u2")
ASSETS: Final = ("a1", "a2")
ALBUMS: Final = ("b1", "b2")
PEOPLE: Final = ("p1", "p2")

Op = tuple[str, Any]


def _asset(draw: DrawFn) -> dict[str, Any]:
    asset = draw(st.sampled_from(ASSETS))
    changes = {"id": asset, "ownerId": draw(st.sampled_from(USERS)), "checksum": asset}
    return {**changes, "isFavorite": draw(st.booleans())}


@st.composite
def upserts(draw: DrawFn) -> Op:
    one_of = st.sampled_from
    user, asset, album, person = (draw(one_of(ids)) for ids in (USERS, ASSETS, ALBUMS, PEOPLE))
    maybe_asset, maybe_person = draw(one_of([None, asset])), draw(one_of([None, person]))
    text = draw(one_of(["x", "y"]))
    pair = {"albumId": album, "assetId": asset}
    entity_type, changes = draw(
        one_of(
            [
                ("AuthUserV1", {"name": text}),
                ("UserV1", {"id": user, "name": text}),
                ("UserV1", {"id": user, "name": text}),
                ("AssetV2", None), ("AssetV2", None), ("AssetV1", None), ("PartnerAssetV2", None),
                ("PartnerAssetBackfillV1", None), ("AlbumAssetCreateV2", None), ("AlbumAssetUpdateV2", None),
                ("AssetExifV1", {"assetId": asset, "city": text}),
                ("AlbumAssetExifUpdateV1", {"assetId": asset, "city": text}),
                ("PartnerAssetExifV1", {"assetId": asset, "city": text}),
                ("AlbumV2", {"id": album, "name": text, "thumbnailAssetId": maybe_asset}),
                ("AlbumV1", {"id": album, "name": text, "thumbnailAssetId": maybe_asset, "ownerId": user}),
                ("AlbumUserV1", {"albumId": album, "userId": user, "role": draw(one_of(["owner", "viewer"]))}),
                ("AlbumToAssetV1", pair), ("AlbumToAssetBackfillV1", pair),
                ("PersonV1", {"id": person, "ownerId": user, "name": text}),
                ("AssetFaceV2", {"id": f"f{text}", "assetId": asset, "personId": maybe_person}),
                ("AssetOcrV1", {"id": f"o{text}", "assetId": asset}),
                ("AssetEditV1", {"id": f"e{text}", "assetId": asset}),
                ("AssetMetadataV1", {"assetId": asset, "key": text}),
                ("MemoryV1", {"id": "m1", "ownerId": user, "isSaved": text == "x"}),
                ("MemoryToAssetV1", {"memoryId": "m1", "assetId": asset}),
                ("StackV1", {"id": "s1", "ownerId": user}), ("PartnerStackBackfillV1", {"id": "s1", "ownerId": user}),
                ("PartnerV1", {"sharedById": "u2", "sharedWithId": "u1", "inTimeline": text == "x"}),
                ("UserMetadataV1", {"userId": user, "value": {"a": text}}),
            ]
        )
    )  # fmt: skip
    return "put", (entity_type, _asset(draw) if changes is None else changes)


@st.composite
def deletes(draw: DrawFn) -> Op:
    one_of = st.sampled_from
    user, asset, album, person = (draw(one_of(ids)) for ids in (USERS, ASSETS, ALBUMS, PEOPLE))
    text = draw(one_of(["x", "y"]))
    return "put", draw(
        one_of(
            [
                ("UserDeleteV1", {"userId": user}), ("AssetDeleteV1", {"assetId": asset}),
                ("PartnerAssetDeleteV1", {"assetId": asset}), ("AlbumDeleteV1", {"albumId": album}),
                ("AlbumUserDeleteV1", {"albumId": album, "userId": user}),
                ("AlbumToAssetDeleteV1", {"albumId": album, "assetId": asset}),
                ("PersonDeleteV1", {"personId": person}), ("AssetFaceDeleteV1", {"assetFaceId": f"f{text}"}),
                ("AssetOcrDeleteV1", {"id": f"o{text}", "assetId": asset}), ("MemoryDeleteV1", {"memoryId": "m1"}),
                ("MemoryToAssetDeleteV1", {"memoryId": "m1", "assetId": asset}), ("StackDeleteV1", {"stackId": "s1"}),
                ("PartnerStackDeleteV1", {"stackId": "s1"}),
                ("PartnerDeleteV1", {"sharedById": "u2", "sharedWithId": "u1"}),
                ("AssetMetadataDeleteV1", {"assetId": asset, "key": text}),
                ("AssetEditDeleteV1", {"editId": f"e{text}"}),
            ]
        )
    )  # fmt: skip


@st.composite
def writes(draw: DrawFn) -> Op:
    return draw(deletes() if draw(st.integers(0, 3)) == 0 else upserts())


@st.composite
def ops(draw: DrawFn) -> Op:
    kind = draw(st.integers(0, 19))
    if kind == 19:
        return "purge", None
    if kind == 15:
        return "crash", draw(upserts())[1]
    if kind >= 16:
        return "sync", (draw(st.integers(0, 40)), draw(st.lists(writes(), max_size=8)))
    return draw(writes())


BEGINNING: Final[list[Op]] = [
    ("put", found)
    for found in [
        *[("UserV1", {"id": user}) for user in USERS],
        *[("AssetV2", {"id": asset, "ownerId": "u1", "checksum": asset}) for asset in ASSETS],
        ("AlbumV2", {"id": "b1", "thumbnailAssetId": "a1"}),
        ("AlbumUserV1", {"albumId": "b1", "userId": "u1"}),
        ("AlbumToAssetV1", {"albumId": "b1", "assetId": "a1"}),
        ("AssetExifV1", {"assetId": "a1"}),
        ("PersonV1", {"id": "p1", "ownerId": "u1"}),
        ("AssetFaceV2", {"id": "fx", "assetId": "a1", "personId": "p1"}),
        ("MemoryV1", {"id": "m1", "ownerId": "u1"}),
        ("MemoryToAssetV1", {"memoryId": "m1", "assetId": "a1"}),
    ]
]
"""A small library to begin with, so that most of what is drawn changes something."""


class Sink:
    """A library, and who writes into it, in any order."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.catalog = Catalog(self.store)

    async def write(self, entity_type: str, changes: dict[str, Any]) -> None:
        data = sample(entity_type, **changes)
        await self.catalog.put(LIBRARY, [read_line(json.dumps({"type": entity_type, "data": data}).encode())])

    async def crash(self, entity_type: str, changes: dict[str, Any]) -> None:
        """Write as a writer does that dies before it has looked at what waited for this."""
        data = sample(entity_type, **changes)
        entity = read_line(json.dumps({"type": entity_type, "data": data}).encode())
        if not entity.row.is_delete:
            owner = [] if entity.owner is None else [Write.of(entity.owner)]
            args = arguments([Write.of(entity), *owner])
            await self.store.script(WRITE, keys_of(LIBRARY), [0, *args[1:]])

    async def look_at_all(self) -> None:
        """Look at every row that waits, whatever was noted; see `assert_nothing_was_missed`."""
        waiting, arrived = keys.catalog_waiting(LIBRARY), keys.catalog_arrived(LIBRARY)
        for name in await self.store.command("HKEYS", waiting, key=waiting):
            await self.store.command("ZADD", arrived, 0, b"=" + name, key=arrived)
        await self.catalog.release(LIBRARY)

    async def assert_nothing_was_missed(self) -> None:
        """Only what was noted is looked at: assert that no other row could go."""
        waiting = keys.catalog_waiting(LIBRARY)
        before = await self.store.command("HGETALL", waiting, key=waiting)
        horizon = await self.catalog.horizon(LIBRARY)
        await self.look_at_all()
        assert await self.store.command("HGETALL", waiting, key=waiting) == before
        assert await self.catalog.horizon(LIBRARY) == horizon

    async def listed(self, *, waiting: bool) -> list[bytes]:
        pages = [page async for page in self.catalog.entities(LIBRARY, waiting=waiting)]
        return [line for page in pages for line in page]

    async def waits_for_nothing(self) -> list[bytes]:
        """List the rows that wait though all their parents are there.

        One that would give a served row another owner goes on waiting while others refer to that row.
        """
        entities = [read_line(line) for line in await self.listed(waiting=False)]
        served = {_as_parent(entity): entity for entity in entities}
        referred_to = {ref for entity in entities for ref in entity.refs}
        key = keys.catalog_waiting(LIBRARY)
        found = await self.store.command("HGETALL", key, key=key)
        refs = [entry.decode().split("\n")[2:] for entry in found[1::2]]
        waiting = []
        for name, its in zip(found[::2], refs, strict=True):
            form_name, _, entity_id = name.decode().partition("|")
            row = f"{form(form_name).table}|{entity_id}"
            if row in referred_to and row in served and _owner(served[row]) not in its:
                continue
            if served.keys() >= {ref for ref in its if ref[0] != "*"}:
                waiting.append(name)
        return waiting


def _owner(entity: Entity) -> str:
    return f"user|{getattr(entity.data, 'owner_id', '')}"


def _as_parent(entity: Entity) -> str:
    assert entity.row.form is not None
    return f"{entity.row.form.table}|{entity.id}"


class Busy(Catalog):
    """The catalog as a stream reads it, while others write between its pages."""

    def __init__(self, sink: Sink, meanwhile: list[Op]) -> None:
        super().__init__(sink.store)
        self._sink = sink
        self._meanwhile = iter(meanwhile)

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        async for page in super().pages(library, entity_type, after, before, 2):
            yield page
            if (op := next(self._meanwhile, None)) is not None:
                await self._sink.write(*op[1])


class Phone:
    """A device over the catalog: the stream's own lines, one ack per run, cut off after any of them."""

    def __init__(self, sink: Sink, copy: Copy, types: tuple[str, ...]) -> None:
        self._sink = sink
        self._copy = copy
        self._rows = entity_types_for(types)
        self._state = State(sid="s", user="u", library=LIBRARY, seq=1, at_us=0, hash=b"", created_at_us=0)

    async def sync(self, lines: int | None = None, meanwhile: list[Op] | None = None) -> None:
        """Read up to so many lines (None: all), while others write between the pages."""
        source = Busy(self._sink, meanwhile or [])
        snapshot = await source.horizon(LIBRARY)
        if reset_due(self._state, await source.tombstone_floor(LIBRARY)):
            self._copy.wipe()
            self._state = State(sid="s", user="u", library=LIBRARY, seq=1, at_us=0, hash=b"", created_at_us=0)
        if not self._state.started:
            self._with(started=(Offer(snapshot, mask_of(row.name for row in self._rows)),))
        body = b"".join([chunk async for chunk in chunks(source, self._state, self._rows, snapshot)])
        read = body.splitlines(keepends=True)[:lines]
        for run in parse_runs(b"".join(read), 1):
            self._copy.apply(run)
            ack = parse_ack(run.acks[-1])
            self._with(checkpoints={**self._state.checkpoints, ack.type: Checkpoint(ack.position, 0)})
            if ack.type == COMPLETE:
                self._with(heard=(Offer(ack.position.at_us, completed_types(ack.position.id)),))

    def _with(self, **changes: Any) -> None:
        fields = {name: getattr(self._state, name) for name in State.__struct_fields__}
        self._state = State(**{**fields, **changes})

    @property
    def complete_us(self) -> int:
        return self._state.checkpoints[COMPLETE].position.at_us


class Listing:
    """Stands where `check` reads the service's listing."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    @contextlib.contextmanager
    def listing(self, library: str, api_key: str | None) -> Iterator[Iterator[bytes]]:
        yield iter(self._lines)


async def run(drawn: list[Op], types: tuple[str, ...], folder: str) -> None:
    sink = Sink()
    with Copy(Path(folder) / "copy.sqlite") as copy:
        phone = Phone(sink, copy, types)
        for op, argument in drawn:
            if op == "put":
                await sink.write(*argument)
            elif op == "crash":
                await sink.crash(*argument)
            elif op == "sync":
                await phone.sync(*argument)
            else:
                horizon = await sink.catalog.horizon(LIBRARY)
                await sink.catalog.purge_tombstones(LIBRARY, horizon)
        await sink.catalog.release(LIBRARY)
        await sink.assert_nothing_was_missed()
        await phone.sync()
        await phone.sync()
        assert phone.complete_us == await sink.catalog.horizon(LIBRARY)
        lines = await sink.listed(waiting=False)
        result = check(copy, cast(Server, Listing(lines)), LIBRARY, types)
        assert result.equal, [str(difference) for difference in result.differences]
        assert await sink.waits_for_nothing() == []
        waiting = len(await sink.listed(waiting=True)) - len(lines)
        assert sum(held.rows for held in await sink.catalog.held_back(LIBRARY)) == waiting


@st.composite
def histories(draw: DrawFn) -> list[Op]:
    """Draw the beginning in any order and not all of it, and what comes then."""
    beginning = draw(st.permutations(BEGINNING))[: draw(st.integers(0, len(BEGINNING)))]
    return [*beginning, *draw(st.lists(ops(), min_size=15, max_size=60))]


@long_examples
@given(histories())
def test_a_device_ends_with_exactly_the_catalog(drawn: list[Op]) -> None:
    note(json.dumps(drawn))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(drawn, TYPES_V2, folder))


def as_of_an_old_server(op: Op) -> Op | None:
    """Leave out what gives an album no owner or another: the owner that an AlbumV1 tells is no row of the catalog."""
    kind, argument = op
    if kind == "sync":
        lines, meanwhile = argument
        return kind, (lines, [old for other in meanwhile if (old := as_of_an_old_server(other))])
    if kind not in ("put", "crash"):
        return op
    entity_type, changes = argument
    if entity_type in ("AlbumUserV1", "AlbumUserDeleteV1", "UserDeleteV1"):
        return None
    if entity_type == "AlbumV2":
        return kind, ("AlbumV1", {**changes, "ownerId": "u1"})
    return op


@long_examples
@given(histories())
def test_an_old_device_ends_with_exactly_the_catalog(drawn: list[Op]) -> None:
    note(json.dumps(drawn))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run([old for op in drawn if (old := as_of_an_old_server(op))], TYPES_V1, folder))


def test_the_types_of_the_test_cover_every_form() -> None:
    asked = {found.form.name for found in entity_types_for(TYPES_V2) if found.form is not None}
    assert asked == {found.form.name for name in TYPES_V1 for found in entity_types_for([name]) if found.form} | {
        "edit", "ocr"
    }  # fmt: skip
    assert row("AssetV2").form is not None
