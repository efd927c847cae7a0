"""Three users of an Immich server live on while five phones sync, are cut off anywhere, and sync again.

Two of them share a cluster group, and one of these has a phone with the app of 3.3.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.immich.database import ImmichDatabase
from tests.immich.life import Life
from tests.immich.phone import phones
from tests.support.processes.running import RunningService
from tests.support.sources.near_horizon import APPLICATION, near_horizon
from tests.support.stores.postgres_server import PostgresServer

__all__ = ["near_horizon"]

ACTS = 6
RUNS = 12
"""A sync has about this many runs, so a cut comes anywhere in it."""
SETTLED = 0.25


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """A database for all lives here: each has users of its own."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        yield database.build("3.3")
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


@pytest.mark.parametrize(
    ("seed", "rounds"), [(0, 8), *(pytest.param(seed, 25, marks=pytest.mark.soak) for seed in range(3))]
)
def test_every_phone_ends_with_what_its_user_sees(
    seed: int, rounds: int, service: RunningService, database: ImmichDatabase, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    ann, eve = (database.user(f"{name}-{seed}-{rounds}") for name in ("ann", "eve"))
    group = database.value('SELECT "clusterGroupId" FROM "user" WHERE id = $1', ann)
    users = [ann, database.user(f"bob-{seed}-{rounds}", clusterGroupId=group), eve]
    life = Life(database, dice, users)
    with phones(service, database, tmp_path, *users, ann, newer=[ann]) as made:
        for _ in range(rounds):
            for _ in range(dice.randrange(ACTS)):
                life.act()
            if dice.random() < SETTLED:
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
