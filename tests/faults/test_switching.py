"""A phone with a large library that is sent from Immich to this service, back, and over again, broken off anywhere.

What each switch sends is the table in ops/docs/beside-immich.md; `pytest -s` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.immich.both import BothPhone, rows
from tests.immich.database import ImmichDatabase
from tests.support.stores.postgres_server import PostgresServer

ASSETS: Final = 100_000
PARTNERS, PARTNERS_ASSETS = 3, 5_000
ALBUMS, IN_ALBUM = 10, 1_000
CHANGED: Final = 1_000
_FILL: Final = """
INSERT INTO asset ("ownerId", type, "originalPath", "originalFileName", "fileCreatedAt", "fileModifiedAt",
    "localDateTime", checksum, "checksumAlgorithm", "updateId")
  SELECT '{owner}', 'IMAGE', '/' || n, 'IMG_' || n, at, at, at, substring(sha256(int8send(n)) FOR 20), 'sha1',
    immich_uuid_v7(at)
  FROM generate_series(1, {count}) n, LATERAL (SELECT now() - interval '9 days' + n * interval '1 s' AS at) t;
INSERT INTO asset_exif ("assetId", make, "updateId")
  SELECT a.id, 'Canon', a."updateId" FROM asset a WHERE a."ownerId" = '{owner}';
"""


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """A database of the test's own."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        yield database.build()
    postgres.drop_database(url)


@pytest.mark.soak
def test_each_switch_sends_little_and_no_row_is_missing(database: ImmichDatabase, tmp_path: Path) -> None:
    dice = Random(1)
    ann = database.user("ann")
    database.execute(_FILL.format(owner=ann, count=ASSETS))
    partners = [database.user(f"partner{number}") for number in range(PARTNERS)]
    for partner in partners:
        database.execute(_FILL.format(owner=partner, count=PARTNERS_ASSETS))
        database.partner(partner, ann)
    for partner in partners:
        database.asset(partner)  # they took photos since
    eve = database.user("eve")
    database.execute(_FILL.format(owner=eve, count=ALBUMS * IN_ALBUM))
    for number in range(ALBUMS):
        album = database.album(eve, [ann])
        database.execute(
            'INSERT INTO album_asset ("albumId", "assetId") '
            f'SELECT $1, id FROM asset WHERE "ownerId" = $2 ORDER BY id LIMIT {IN_ALBUM} OFFSET {number * IN_ALBUM}',
            album, eve,
        )  # fmt: skip
    database.execute("ANALYZE")

    def change() -> None:
        database.execute(
            'UPDATE asset SET "isFavorite" = NOT "isFavorite" WHERE id IN '
            f'(SELECT id FROM asset WHERE "ownerId" = $1 ORDER BY random() LIMIT {CHANGED})',
            ann,
        )
        database.settle()

    told: list[tuple[str, int]] = []
    with BothPhone(database, ann, tmp_path / "phone.db") as phone:
        database.settle()
        for what, sync, changes in (
            ("first sync, with Immich", phone.at_immich, False),
            ("here", phone.at_ours, False),
            (f"here, {CHANGED:,} assets changed", phone.at_ours, True),
            ("back with Immich", phone.at_immich, False),
            (f"back with Immich, {CHANGED:,} assets changed", phone.at_immich, True),
            ("here again", phone.at_ours, False),
            ("back with Immich again", phone.at_immich, False),
        ):
            if changes:
                change()
            told.append((what, rows(sync().items())))
            assert phone.differences() == [], what
        held = told[0][1]
        assert held > 2 * ASSETS
        most = {what: lines for what, lines in told[1:] if lines > 2 * CHANGED + held // 50}
        assert not most, "a switch sends what changed, and little else"
    with BothPhone(database, ann, tmp_path / "cut.db") as phone:
        lines = 0
        for _ in range(6):
            for sync in (phone.at_immich, phone.at_ours):
                lines += rows(sync(dice.randrange(1, 30), before_ack=dice.random() < 0.5).items())
            change()
        lines += rows(phone.at_ours().items())
        told.append(("a first sync broken off 12 times, on either side in turn, all syncs together", lines))
        assert phone.differences() == []
        assert rows(phone.at_ours().items()) == 0
    print("\n" + "\n".join(f"| {what} | {lines:,} |" for what, lines in told))
