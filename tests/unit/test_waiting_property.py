"""Whatever lets a row go that waits is noted when it is written: nobody has to look at all rows that wait.

Small batches over a few ids, so that owners come, go and change while rows wait for them and others refer to these.
After each, whether its writer died or not, what was noted is looked at, and then no other row that waits could go.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from ledger import keys
from projections.entities.catalog.layout import keys_of
from projections.entities.catalog.write_arguments import Write, arguments
from projections.entities.catalog.writer import WRITE
from projections.entities.entity import Entity, read_line
from tests.support.ledger.given import long_examples
from tests.support.sources.samples import sample
from tests.unit.test_catalog_property import LIBRARY, Sink

Drawn = tuple[str, dict[str, Any]]

USERS: Final = ("u1", "u2")
ASSETS: Final = ("a1", "a2")


@st.composite
def upserts(draw: DrawFn) -> Drawn:
    user, asset = draw(st.sampled_from(USERS)), draw(st.sampled_from(ASSETS))
    owned, of_asset = {"id": asset, "ownerId": user}, {"assetId": asset}
    return draw(
        st.sampled_from(
            [
                ("UserV1", {"id": user}),
                ("AssetV2", owned), ("AssetV2", owned), ("PartnerAssetV2", owned), ("AlbumAssetCreateV2", owned),
                ("MemoryV1", {"id": "m", "ownerId": user}), ("PersonV1", {"id": "p", "ownerId": user}),
                ("AssetExifV1", of_asset), ("AssetOcrV1", {"id": "o", **of_asset}),
                ("AssetFaceV2", {"id": "f", **of_asset, "personId": "p"}), ("AssetFaceV2", {"id": "f", **of_asset}),
                ("MemoryToAssetV1", {"memoryId": "m", **of_asset}),
                ("AlbumV2", {"id": "b", "thumbnailAssetId": asset}), ("AlbumV2", {"id": "b"}),
                ("AlbumUserV1", {"albumId": "b", "userId": user, "role": "viewer"}),
            ]
        )
    )  # fmt: skip


@st.composite
def deletes(draw: DrawFn) -> Drawn:
    user, asset = draw(st.sampled_from(USERS)), draw(st.sampled_from(ASSETS))
    return draw(
        st.sampled_from(
            [
                ("UserDeleteV1", {"userId": user}), ("UserDeleteV1", {"userId": user}),
                ("AssetDeleteV1", {"assetId": asset}), ("PartnerAssetDeleteV1", {"assetId": asset}),
                ("MemoryDeleteV1", {"memoryId": "m"}), ("PersonDeleteV1", {"personId": "p"}),
                ("AssetFaceDeleteV1", {"assetFaceId": "f"}), ("AssetOcrDeleteV1", {"id": "o", "assetId": asset}),
                ("MemoryToAssetDeleteV1", {"memoryId": "m", "assetId": asset}), ("AlbumDeleteV1", {"albumId": "b"}),
            ]
        )
    )  # fmt: skip


Step = tuple[str, list[Drawn], int]
STEPS: Final[st.SearchStrategy[Step]] = st.one_of(
    st.tuples(st.sampled_from(["put", "put", "crash"]), st.lists(upserts(), min_size=1, max_size=4), st.integers(0, 2)),
    st.tuples(st.just("put"), st.lists(deletes(), min_size=1, max_size=2), st.just(0)),
    st.tuples(st.just("purge"), st.just([]), st.just(0)),
)


BEGINNING: Final[list[Step]] = [
    ("put", [("UserV1", {"id": "u1"}), ("AssetV2", {"id": "a1", "ownerId": "u1"})], 0),
    ("put", [("AssetV2", {"id": "a1", "ownerId": "u2"}), ("AssetOcrV1", {"id": "o", "assetId": "a1"})], 0),
    ("put", [("UserV1", {"id": "u2"}), ("AssetV2", {"id": "a2", "ownerId": "u2"})], 0),
]
"""An asset that is to get another owner, but not while something refers to it."""


def read(drawn: Drawn) -> Entity:
    entity_type, changes = drawn
    return read_line(json.dumps({"type": entity_type, "data": sample(entity_type, **changes)}).encode())


async def run(steps: list[Step]) -> None:
    sink = Sink()
    arrived = keys.catalog_arrived(LIBRARY)
    for kind, drawn, looked_at in steps:
        entities = [read(one) for one in drawn]
        if kind == "purge":
            await sink.catalog.purge_tombstones(LIBRARY, await sink.catalog.horizon(LIBRARY))
        elif kind == "crash":
            args = arguments([Write.of(entity) for entity in entities])
            await sink.store.script(WRITE, keys_of(LIBRARY), [looked_at, *args[1:]])
            continue
        else:
            await sink.catalog.put(LIBRARY, entities)
            assert await sink.store.command("ZCARD", arrived, key=arrived) == 0
        await sink.catalog.release(LIBRARY)
        await sink.assert_nothing_was_missed()
    await sink.catalog.release(LIBRARY)
    await sink.assert_nothing_was_missed()


@long_examples
@given(st.lists(STEPS, min_size=3, max_size=12))
def test_what_was_noted_is_all_there_is_to_look_at(steps: list[Step]) -> None:
    note(json.dumps(steps))
    asyncio.run(run([*BEGINNING, *steps]))
