"""Files of an Immich server take over one another's checksum while phones sync: none is stopped for good.

What its rows were before, the database does not tell. A phone whose stream is one page long is sent what makes room at
once; a longer one may stop it once, and the next stream begins where it began.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from ops.simulate.errors import RefusedRow
from tests.immich.database import ImmichDatabase, sha1
from tests.immich.phone import Phone, phones
from tests.support.processes.running import RunningService
from tests.support.sources.near_horizon import APPLICATION, near_horizon
from tests.support.stores.postgres_server import PostgresServer

__all__ = ["near_horizon"]

ROUNDS = 8
ACTS = 8
RUNS = 12


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """A database for all tests here: each has users of its own."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        yield database.build()
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def service(
    database: ImmichDatabase, near_horizon: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """The service on that database."""
    folder = tmp_path_factory.mktemp("service")
    with RunningService(folder, factory=APPLICATION, source="postgres", postgres=database.url) as service:
        yield service
        assert not service.faults()


class Files:
    """One user's assets and a few contents, no two assets with the same, as the database demands."""

    def __init__(self, database: ImmichDatabase, dice: random.Random, user: UUID) -> None:
        self._db, self._dice, self._user = database, dice, user
        self._free = [f"{user} {number}" for number in range(6)]
        self._contents: dict[UUID, str] = {}
        for _ in range(4):
            self._upload()

    def _upload(self) -> None:
        content = self._take()
        self._contents[self._db.asset(self._user, content)] = content

    def act(self) -> None:
        """Do one thing."""
        here = sorted(self._contents)
        match self._dice.choice(("upload", "upload", "change", "swap", "swap", "touch", "touch", "delete")):
            case "upload" if self._free:
                self._upload()
            case "change" if here and self._free:
                asset = self._dice.choice(here)
                self._set(asset, self._take(), free=True)
            case "swap" if len(here) > 1:
                one, two = self._dice.sample(here, 2)
                contents = self._contents[one], self._contents[two]
                self._db.update("asset", one, checksum=sha1(uuid4().hex))
                self._set(two, contents[0], free=False)
                self._set(one, contents[1], free=False)
            case "touch" if here:
                self._db.update("asset", self._dice.choice(here), isFavorite=self._dice.random() < 0.5)
            case "delete" if here:
                asset = self._dice.choice(here)
                self._db.delete("asset", id=asset)
                self._free.append(self._contents.pop(asset))

    def _take(self) -> str:
        return self._free.pop(self._dice.randrange(len(self._free)))

    def _set(self, asset: UUID, content: str, *, free: bool) -> None:
        if free:
            self._free.append(self._contents[asset])
        self._contents[asset] = content
        self._db.update("asset", asset, checksum=sha1(content))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
def test_a_phone_can_store_what_it_is_sent(
    seed: int, service: RunningService, database: ImmichDatabase, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    user = database.user(f"swapping-{seed}")
    files = Files(database, dice, user)
    with phones(service, database, tmp_path, user, user) as made:
        for _ in range(ROUNDS):
            for _ in range(dice.randrange(ACTS)):
                files.act()
            database.settle()
            for phone in made:
                match dice.choice(("sync", "cut", "cut before the ack", "off")):
                    case "sync":
                        phone.sync()
                    case "cut":
                        phone.sync_cut(dice.randrange(RUNS), before_ack=False)
                    case "cut before the ack":
                        phone.sync_cut(dice.randrange(RUNS), before_ack=True)
        for phone in made:
            phone.settled()


def test_the_replaced_original_of_an_asset_that_is_touched_after_it_is_stored(
    service: RunningService, database: ImmichDatabase, tmp_path: Path
) -> None:
    user = database.user("replacing")
    asset = database.asset(user, "one")
    with phones(service, database, tmp_path, user) as (phone,):
        assert phone.settled().placeholders == 0
        database.apart_s = 0.01
        database.update("asset", asset, checksum=sha1("two"))
        database.asset(user, "one")
        database.update("asset", asset, isFavorite=True)
        assert phone.settled().placeholders == 1
        database.update("asset", asset, isFavorite=False)  # alone it takes nobody's place
        assert phone.settled().placeholders == 0
        database.apart_s = 0.0


def test_a_phone_that_a_long_run_stops_is_sent_what_makes_room_next_time(
    service: RunningService, database: ImmichDatabase, tmp_path: Path
) -> None:
    user = database.user("rewriting")
    assets = [database.asset(user, f"content {number}") for number in range(240)]
    with phones(service, database, tmp_path, user) as (phone,):
        phone.settled()
        rewrite(database, assets, "rewritten", [f"content {number}" for number in reversed(range(240))])
        database.settle()
        with pytest.raises(RefusedRow, match="UNIQUE"):
            phone.sync()
        result = phone.settled()
        assert (result.placeholders, result.by_type["AssetV2"], result.reset) == (240, 480, False)
        for asset in assets:
            database.update("asset", asset, isFavorite=True)
        assert phone.settled().placeholders == 0  # so many that just changed are sent once


def rewrite(database: ImmichDatabase, assets: list[UUID], between: str, contents: list[str]) -> None:
    """Give assets these contents, which are one another's."""
    for asset in assets:
        database.update("asset", asset, checksum=sha1(f"{between} {asset}"))
    for asset, content in zip(assets, contents, strict=True):
        database.update("asset", asset, checksum=sha1(content))


def test_a_partners_phone_is_stopped_once_at_most(
    service: RunningService, database: ImmichDatabase, tmp_path: Path
) -> None:
    """Of partners' assets some come as backfill and some as changed: either may take over what the other had."""
    ann, bob = database.user("partner-ann"), database.user("partner-bob")
    assets = [database.asset(ann, f"shared {number}") for number in range(4)]
    database.partner(ann, bob)
    with phones(service, database, tmp_path, bob) as (phone,):
        phone.settled()
        for turn in range(3):
            order = [f"shared {(number + turn) % 4}" for number in range(4)]
            rewrite(database, assets, f"between {turn}", order)
            database.update("asset", assets[turn], isFavorite=True)
            database.settle()
            retried(phone)
            phone.settled()


def retried(phone: Phone) -> None:
    """Sync, again if the first time the phone cannot store what comes."""
    try:
        phone.sync()
    except RefusedRow:
        phone.sync()
