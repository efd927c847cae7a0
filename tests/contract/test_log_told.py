"""How far the log is behind, what it refuses and who does not sign it, as `/metrics` and `/readyz` have it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ledger import keys
from ledger.chain import record
from ledger.store.interface import Store
from ledger.transparency.notes import VerifierKey
from ops.witness.client import post
from projections.archive.errors import ArchiveUnavailable
from projections.census import record as census_record
from projections.census.record import Kept
from projections.census.taking import Census
from projections.transparency import telling
from projections.transparency.noted import read_noted
from projections.transparency.telling import LogFigures, figures
from projections.transparency.witnesses import Witness, Witnesses
from tests.contract.test_notary import PARTITIONS, Writer, put
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import Log
from tests.support.ledger.logs import LEDGER, log_of, place_at, run

SECOND_US = 1_000_000


@pytest.fixture
async def store(valkey_store: Store) -> Store:
    """A store that holds a ledger."""
    await valkey_store.command("HSET", keys.meta(), "partitions", PARTITIONS, "id", LEDGER, key=keys.meta())
    return valkey_store


async def now_of(store: Store) -> int:
    """Tell the time by which stream ids are made."""
    seconds, micros = await store.command("TIME", key=keys.meta())
    return int(seconds) * SECOND_US + int(micros)


async def test_how_far_it_is_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    place, writer = place_at(), Writer(store)
    assert await figures(store, place, None, PARTITIONS, NOW) == LogFigures()
    await writer.act(30)
    later = await now_of(store) + 90 * SECOND_US
    found = await figures(store, place, None, PARTITIONS, later)
    assert (found.entries, found.unlogged, 90 <= found.behind_s < 150) == (0, 30, True)
    await run(log_of(store, place))
    assert await figures(store, place, None, PARTITIONS, later) == LogFigures(entries=31)
    await writer.act(25)
    monkeypatch.setattr(telling, "_PAGE", 3)
    assert (await figures(store, place, None, PARTITIONS, later)).unlogged == 25
    monkeypatch.setattr(telling, "COUNTED", 10)
    found = await figures(store, place, None, PARTITIONS, later)
    assert (found.unlogged, 80 <= found.behind_s < 150) == (10, True), "bounded, and the oldest is known all the same"


async def test_what_it_refuses_and_who_does_not_sign(store: Store, tmp_path: Path) -> None:
    place, log = place_at(tmp_path.as_uri()), Log(store)
    ann = await log.create("ann")
    closed = socket.create_server(("127.0.0.1", 0))
    key = VerifierKey("away.example", 4, bytes(32))
    away = Witnesses([Witness(key, f"http://127.0.0.1:{closed.getsockname()[1]}")], post, within_s=0.1)
    await run(log_of(store, place)._replace(witnesses=away))
    (lie,) = record((offered("AlbumV2"),), ann.sid, 4, NOW, ann.hash)
    await put(store, log.partition, lie)
    await run(log_of(store, place)._replace(witnesses=away))
    found = await figures(store, place, away, PARTITIONS, await now_of(store))
    assert (found.refused, found.unwitnessed) == (1, 1)
    (tmp_path / "checkpoint").write_text("nonsense")
    assert (await figures(store, place, away, PARTITIONS, NOW)).unwitnessed == 0
    closed.close()


async def test_why_nothing_is_logged_is_noted_until_it_is_again(store: Store, tmp_path: Path) -> None:
    """The place is a folder, then none for a while, as when its disk is not mounted."""
    folder, writer = tmp_path / "log", Writer(store)
    log = log_of(store, place_at(folder.as_uri()))
    await run(log)
    folder.rename(tmp_path / "away")
    folder.write_text("")
    await writer.act(3)
    with pytest.raises(ArchiveUnavailable):
        await run(log)
    assert (await read_noted(store)).wrong.startswith("nothing is logged: object storage")
    folder.unlink()
    (tmp_path / "away").rename(folder)
    await run(log)
    noted = await read_noted(store)
    assert (noted.wrong, noted.size) == ("", 4)


async def test_the_census_keeps_what_was_known(store: Store) -> None:
    told: list[LogFigures] = [LogFigures(31, 25, 90.5, 1, 2)]

    async def of_log(_: int) -> LogFigures:
        if not told:
            raise ArchiveUnavailable("it is away")
        return told.pop()

    async def horizon(_: str) -> int:
        return NOW

    async def held_back() -> dict[str, int]:
        return {}

    kept = Kept(store)
    assert await kept.of_log() == (0, 0.0)
    census = Census(store, PARTITIONS, lambda: NOW, horizon, held_back, of_log)
    for _ in range(2):  # the second time the place is away
        await census.take()
        assert await kept.of_log() == (25, 90.5)
        printed = {family.name: numbers for family, numbers in await kept.read()}
        assert [printed[family.name] for family in census_record.OF_LOG] == [[31], [25], [90.5], [1], [2]]
    await Census(store, PARTITIONS, lambda: NOW, horizon, held_back).take()
    assert await kept.of_log() == (0, 0.0), "there is no log any more"
