"""Taking entities in: lines of any size and kind, in bounded memory, in order."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import StoreUnavailable
from projections.entities.catalog.catalog import Catalog
from projections.entities.catalog.ingest import MAX_REFUSALS, IngestReport, LineSplitter, Refusal, ingest
from projections.entities.catalog.writer import Written
from projections.entities.entity import MAX_LINE_BYTES, Entity
from projections.entities.source import HeldBack
from tests.support.sources.samples import ASSET_ID, SAMPLES, sample
from tests.support.stores.fake_store import FakeStore


def line(entity_type: str, **changes: Any) -> bytes:
    return json.dumps({"type": entity_type, "data": sample(entity_type, **changes)}).encode() + b"\n"


async def chunks(body: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def take(body: bytes, catalog: Catalog | None = None, **options: Any) -> IngestReport:
    return await ingest(catalog or Catalog(FakeStore()), "L", chunks(body), **options)


async def test_every_line_is_taken_unchanged_or_refused() -> None:
    catalog = Catalog(FakeStore())
    body = line("UserV1") + b"\n  \r\n" + line("AssetV2").replace(b"\n", b"\r\n") + b"nonsense\n" + line("AlbumV2")
    report = await take(body, catalog, origin="library.ndjson")
    assert report == IngestReport(
        lines=6,
        taken=3,
        refused=1,
        refusals=[Refusal(5, None, None, (), report.refusals[0].message)],
        origin="library.ndjson",
    )
    assert "JSON" in report.refusals[0].message
    again = await take(body, catalog)
    assert (again.taken, again.unchanged, again.refused) == (0, 3, 1)


async def test_a_refusal_names_the_line_the_entity_and_the_field() -> None:
    body = line("UserV1") + line("AssetV2", id="a1", width=5.0).replace(b'"type"', b'"id":"a1","type"', 1)
    report = await take(body + line("AssetV2", id="a2"))
    (refusal,) = report.refusals
    assert refusal == Refusal(2, "AssetV2", "a1", ("data", "width"), refusal.message)
    assert "int" in refusal.message
    assert report.taken == 2


async def test_what_the_catalog_refuses_is_reported_with_its_line() -> None:
    body = line("AssetDeleteV1") + b"\n" + line("AssetFaceV2") + line("UserV1")
    report = await take(body)
    (refusal,) = report.refusals
    assert (refusal.line, refusal.type, refusal.path) == (3, "AssetFaceV2", ("data", "assetId"))
    assert report.taken == 2


async def with_owner() -> Catalog:
    """Make a catalog with the user whose rows are written."""
    catalog = Catalog(FakeStore())
    assert (await take(line("UserV1"), catalog)).taken == 1
    return catalog


async def test_what_waits_at_the_end_is_told_with_an_example_and_the_parent() -> None:
    catalog = await with_owner()
    children = [line("AssetExifV1", assetId=f"a{number}") for number in range(500)]
    report = await take(b"".join(children) + line("AssetFaceV2", id="f", personId="p"), catalog)
    assert (report.taken, report.refused, report.waiting) == (501, 0, 501)
    assert report.waits == [
        HeldBack("AssetExifV1", 500, "missing_parent", "a0", "asset|a0"),
        HeldBack("AssetFaceV2", 1, "missing_parent", "f", f"asset|{ASSET_ID}"),
    ]
    parents = [line("AssetV2", id=f"a{number}") for number in range(1, 500)]
    report = await take(b"".join(parents) + line("AssetV2"), catalog)
    assert (report.taken, report.refused, report.waiting) == (500, 0, 2)
    assert report.waits == [
        HeldBack("AssetExifV1", 1, "missing_parent", "a0", "asset|a0"),
        HeldBack("AssetFaceV2", 1, "missing_parent", "f", "person|p"),
    ]
    report = await take(line("AssetV2", id="a0") + line("PersonV1", id="p"), catalog)
    assert (report.taken, report.waiting, report.waits) == (2, 0, [])


async def test_children_before_their_parents_in_one_body_wait_for_nothing_at_the_end() -> None:
    catalog = await with_owner()
    lines = [line(name, id=f"x{number}") if name == "AssetV2" else line(name, assetId=f"x{number}")
             for name in ("AssetExifV1", "AssetV2") for number in range(700)]  # fmt: skip
    report = await take(b"".join(lines), catalog)
    assert (report.taken, report.refused, report.waiting) == (1400, 0, 0)
    assert (await catalog.count("L"))["AssetExifV1"] == 700


async def test_only_the_first_refusals_are_kept() -> None:
    report = await take(b"x\n" * (MAX_REFUSALS + 500) + line("UserV1"))
    assert (report.refused, len(report.refusals), report.taken) == (MAX_REFUSALS + 500, MAX_REFUSALS, 1)
    assert report.refusals[-1].line == MAX_REFUSALS


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x00", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"type":"UserV1","data":' + b"[" * 100_000 + b"}",
        b"[" * 200_000, b'{"type":"\\ud800","data":{}}', b'{"type":{},"id":[],"data":{}}',
        b'{"type":"AssetDeleteV1","data":{"assetId":"\\ud800"}}', b'{"id":"' + b"y" * 200_000 + b'"}',
        b'{"type":"AssetDeleteV1","data":{"assetId":"a|b"}}', b"z" * (10 << 20), b'"' * 3000,
    ],
    ids=lambda raw: repr(raw[:30]),
)  # fmt: skip
async def test_a_hostile_line_is_refused_and_stops_nothing(hostile: bytes) -> None:
    report = await take(line("UserV1") + hostile + b"\n" + line("AssetV2"))
    assert (report.lines, report.taken, report.refused) == (3, 2, 1)
    assert report.refusals[0].line == 2
    json.dumps([report.refusals[0].type, report.refusals[0].id, report.refusals[0].message]).encode()


async def test_a_mark_of_byte_order_is_passed_over_and_the_last_line_needs_no_end() -> None:
    report = await take(b"\xef\xbb\xbf" + line("UserV1") + line("AssetV2").rstrip())
    assert (report.lines, report.taken, report.refused) == (2, 2, 0)


async def test_nothing_is_taken_from_an_empty_body() -> None:
    assert await take(b"") == IngestReport()
    assert await take(b"\n\n") == IngestReport(lines=2)


async def test_the_last_line_about_an_entity_wins_however_batches_are_cut() -> None:
    catalog = await with_owner()
    parts = []
    for number in range(3000):
        parts.append(line("AssetV2", id=f"a{number % 7}", width=number))
        if number % 500 == 250:
            parts.append(line("AssetDeleteV1", assetId="a3"))
    report = await take(b"".join(parts), catalog)
    assert (report.taken, report.refused) == (3006, 0)
    rows = [json.loads(found) for found in await listing(catalog)]
    found = {row["data"]["id"]: row["data"]["width"] for row in rows if row["type"] == "AssetV2"}
    assert found == {f"a{number % 7}": number for number in range(2993, 3000)}


async def listing(catalog: Catalog) -> list[bytes]:
    return [found async for page in catalog.entities("L") for found in page]


async def test_everything_listed_can_be_taken_again() -> None:
    catalog, copy = Catalog(FakeStore()), Catalog(FakeStore())
    await take(b"".join(line(name) for name in SAMPLES if "Delete" not in name), catalog)
    report = await take(b"".join(await listing(catalog)), copy)
    assert report.refused == 0
    assert sorted(await listing(copy)) == sorted(await listing(catalog))
    assert report.taken == len(await listing(catalog))


async def test_progress_is_told_as_it_goes() -> None:
    seen: list[int] = []
    body = b"".join(line("AssetV2", id=f"a{number}") for number in range(2000))
    report = await take(body, on_progress=lambda so_far: seen.append(so_far.taken))
    assert seen == sorted(seen)
    assert len(seen) >= 5
    assert seen[-1] == report.taken == 2000


class Sink:
    """Counts what is on its way at the same time; fails after a while if told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.taken = self.flying = self.most_flying = self.largest = self.batches = 0
        self._fail_at = fail_at

    async def put(self, library: str, entities: list[Entity]) -> Written:
        self.batches += 1
        number = self.batches
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        self.largest = max(self.largest, len(entities))
        try:
            for _ in range(5):
                await asyncio.sleep(0)
            if number == self._fail_at:
                raise StoreUnavailable("gone", maybe_done=True)
        finally:
            self.flying -= 1
        self.taken += len(entities)
        return Written(taken=len(entities))

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        return ()


async def repeat(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    for found in lines:
        yield found


async def test_memory_is_bounded_whatever_the_size() -> None:
    sink = Sink()
    block = b"".join(line("AssetV2", id=f"a{number}") for number in range(100))
    await ingest(sink, "L", repeat([block]))  # warm-up: decoders are made at first use
    tracemalloc.start()
    try:
        report = await ingest(sink, "L", repeat(block for _ in range(200)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.taken == 20_000
    assert sink.most_flying <= 2
    assert sink.largest <= 400
    assert peak < 8 << 20


async def test_trouble_in_the_store_is_raised_and_leaves_no_task_behind() -> None:
    sink = Sink(fail_at=3)
    block = b"".join(line("AssetV2", id=f"a{number}") for number in range(500))
    with pytest.raises(StoreUnavailable):
        await ingest(sink, "L", repeat([block] * 20))
    assert sink.flying == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@given(st.lists(st.binary(max_size=8).map(lambda raw: raw.replace(b"\n", b"")), min_size=1), st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    body = b"\n".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    splitter = LineSplitter()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        found += splitter.feed(body[start:end])
    found += splitter.end()
    expected = body.split(b"\n")
    if not expected[-1]:
        expected.pop()
    if expected:
        expected[0] = expected[0].removeprefix(b"\xef\xbb\xbf")
    assert found == expected


def test_a_line_that_is_too_long_is_cut_but_shows_that_it_is() -> None:
    splitter = LineSplitter()
    found: list[bytes] = []
    for _ in range(100):
        found += splitter.feed(b"x" * 10_000)
    found += splitter.feed(b"x\nnext\n")
    assert [len(found[0]) > MAX_LINE_BYTES, len(found[0]) < 2 * MAX_LINE_BYTES, found[1:]] == [True, True, [b"next"]]
