"""A database with Immich's schema for the benchmarks: one user's library of a million rows, and others' beside it.

Everything follows from a row's number, so that two runs have the same library. Rows come in the order of time, as in a
database that grew: each was last changed a while after the one before.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

import msgspec

from ops.bench.postgres.server import PostgresServer
from ops.bench.rig.rounds import Progress


class Sizes(msgspec.Struct, frozen=True):
    """How many rows of each table the measured user sees; `partner` is how many assets a partner shares with them."""

    assets: int
    partner: int
    albums: int
    in_albums: int
    people: int
    faces: int
    texts: int
    stacks: int
    memories: int
    in_memories: int

    @property
    def rows(self) -> int:
        """All of the user's rows: every asset has its exif, every album its owner and a member."""
        own = self.assets * 2 + self.partner * 2 + self.albums * 3 + self.in_albums + self.people + self.faces
        return own + self.texts + self.stacks + self.memories + self.in_memories


def sizes_of(rows: int) -> Sizes:
    """Share a number of rows among the tables as a library of photos does."""
    part = rows / 1_000_000
    return Sizes(
        assets=int(300_000 * part),
        partner=int(25_000 * part),
        albums=int(500 * part) + 2,
        in_albums=int(100_000 * part),
        people=int(1_000 * part) + 2,
        faces=int(160_000 * part),
        texts=int(60_000 * part),
        stacks=int(5_000 * part),
        memories=int(2_500 * part) + 1,
        in_memories=int(20_000 * part),
    )


def uuid_of(table: int, number: int) -> str:
    """The id of a table's row with a number, as `id_of` in the database makes it."""
    return f"{table:08x}-0000-4000-8000-{number:012x}"


USER: Final = uuid_of(1, 1)
PARTNER: Final = uuid_of(1, 2)
STRANGER: Final = uuid_of(1, 3)

# Numbers of tables in ids.
_USERS, _ASSETS, _ALBUMS, _PEOPLE, _FACES, _TEXTS, _STACKS, _MEMORIES, _CLUSTERS = range(1, 10)

_FUNCTIONS: Final = """
SET session_replication_role = replica; -- what is filled in refers to what is there
CREATE FUNCTION id_of(kind integer, number bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$ SELECT (lpad(to_hex(kind), 8, '0') || '-0000-4000-8000-' || lpad(to_hex(number), 12, '0'))::uuid $$;
-- A quarter of a second between two rows of a table, the last a day ago.
CREATE FUNCTION changed(number bigint, rows bigint) RETURNS timestamptz LANGUAGE sql STABLE AS
  $$ SELECT date_trunc('day', now()) - interval '1 day' - (rows - number) * interval '250 ms' $$;
"""

_FILL: Final = """
INSERT INTO cluster_group (id) VALUES (id_of({clusters}, 1));
INSERT INTO "user" (id, email, name, "clusterGroupId", "updateId")
  SELECT id_of({users}, n), 'user' || n || '@example.com', 'User ' || n, id_of({clusters}, 1),
    immich_uuid_v7(changed(n, 3))
  FROM generate_series(1, 3) n;
INSERT INTO partner ("sharedById", "sharedWithId", "inTimeline", "createId", "updateId")
  SELECT id_of({users}, 2), id_of({users}, 1), true, id, id FROM immich_uuid_v7(changed(0, 1000000)) id;
INSERT INTO asset (id, "ownerId", type, "originalPath", "fileCreatedAt", "fileModifiedAt", "isFavorite", duration,
    checksum, "checksumAlgorithm", "createdAt", "updatedAt", "originalFileName", thumbhash, "localDateTime", "updateId",
    visibility, width, height)
  SELECT id_of({assets}, n),
    id_of({users}, CASE WHEN n > {own} + {partner} THEN 3 WHEN n > {own} THEN 2 ELSE 1 END),
    CASE WHEN n % 20 = 0 THEN 'VIDEO' ELSE 'IMAGE' END, '/photos/IMG_' || n || '.HEIC', at, at, n % 10 = 0,
    CASE WHEN n % 20 = 0 THEN 12345 END, sha, 'sha1', at, at, 'IMG_' || lpad(n::text, 8, '0') || '.HEIC',
    substring(sha FOR 25), at, immich_uuid_v7(at), 'timeline', 4032, 3024
  FROM generate_series(1, {all_assets}) n, changed(n, {all_assets}) at, substring(sha256(int8send(n)) FOR 20) sha;
INSERT INTO asset_exif ("assetId", make, model, "exifImageWidth", "exifImageHeight", "fileSizeInByte", orientation,
    "dateTimeOriginal", "modifyDate", "lensModel", "fNumber", "focalLength", iso, latitude, longitude, city, state,
    country, description, "exposureTime", "timeZone", "updatedAt", "updateId")
  SELECT id_of({assets}, n), 'Apple', 'iPhone 15 Pro', 4032, 3024, 2500000 + n, '6', at, at,
    'iPhone 15 Pro back triple camera 6.86mm f/1.78', 1.78, 6.86, 80, 52.5 + (n % 1000) / 1e4, 13.4 + (n % 777) / 1e4,
    'Berlin', 'Land Berlin', 'Germany', '', '1/120', 'Europe/Berlin', at, immich_uuid_v7(at)
  FROM generate_series(1, {all_assets}) n, changed(n, {all_assets}) at;
INSERT INTO album (id, "albumName", "createdAt", "updatedAt", description, "updateId")
  SELECT id_of({albums}, n), 'Album ' || n, at, at, '', immich_uuid_v7(at)
  FROM generate_series(1, {album_rows}) n, changed(n, {album_rows}) at;
INSERT INTO album_user ("albumId", "userId", role, "createId", "updateId", "createdAt", "updatedAt")
  SELECT id_of({albums}, n), id_of({users}, member),
    (CASE member WHEN 1 THEN 'owner' ELSE 'viewer' END)::album_user_role_enum, id, id, at, at
  FROM generate_series(1, {album_rows}) n, generate_series(1, 2) member, changed(n, {album_rows}) at,
    immich_uuid_v7(at + member * interval '1 ms') id;
INSERT INTO album_asset ("albumId", "assetId", "createdAt", "updatedAt", "updateId")
  SELECT id_of({albums}, 1 + n % {album_rows}), id_of({assets}, 1 + n % {own}), at, at, immich_uuid_v7(at)
  FROM generate_series(1, {in_albums}) n, changed(n, {in_albums}) at
  ON CONFLICT DO NOTHING;
INSERT INTO person_group (id, "clusterGroupId") SELECT id_of({people}, n), id_of({clusters}, 1)
  FROM generate_series(1, {person_rows}) n;
INSERT INTO person ("ownerId", "personGroupId", "createdAt", "updatedAt", name, "updateId")
  SELECT id_of({users}, 1), id_of({people}, n), at, at, 'Person ' || n, immich_uuid_v7(at)
  FROM generate_series(1, {person_rows}) n, changed(n, {person_rows}) at;
INSERT INTO asset_face (id, "assetId", "personGroupId", "imageWidth", "imageHeight", "boundingBoxX1", "boundingBoxY1",
    "boundingBoxX2", "boundingBoxY2", "updatedAt", "updateId")
  SELECT id_of({faces}, n), id_of({assets}, 1 + n % {own}), id_of({people}, 1 + n % {person_rows}), 4032, 3024, 100,
    100, 400, 400, at, immich_uuid_v7(at)
  FROM generate_series(1, {face_rows}) n, changed(n, {face_rows}) at;
INSERT INTO asset_ocr (id, "assetId", x1, y1, x2, y2, x3, y3, x4, y4, "boxScore", "textScore", text, "updateId")
  SELECT id_of({texts}, n), id_of({assets}, 1 + n % {own}), 0.1, 0.1, 0.9, 0.1, 0.9, 0.2, 0.1, 0.2, 0.97, 0.88,
    'Exit ' || n, immich_uuid_v7(at)
  FROM generate_series(1, {text_rows}) n, changed(n, {text_rows}) at;
INSERT INTO stack (id, "createdAt", "updatedAt", "updateId", "primaryAssetId", "ownerId")
  SELECT id_of({stacks}, n), at, at, immich_uuid_v7(at), id_of({assets}, n), id_of({users}, 1)
  FROM generate_series(1, {stack_rows}) n, changed(n, {stack_rows}) at;
INSERT INTO memory (id, "createdAt", "updatedAt", "ownerId", type, data, "memoryAt", "updateId")
  SELECT id_of({memories}, n), at, at, id_of({users}, 1), 'on_this_day', '{{"year": 2019}}', at, immich_uuid_v7(at)
  FROM generate_series(1, {memory_rows}) n, changed(n, {memory_rows}) at;
INSERT INTO memory_asset ("memoriesId", "assetId", "createdAt", "updatedAt", "updateId")
  SELECT id_of({memories}, 1 + n % {memory_rows}), id_of({assets}, 1 + n % {own}), at, at, immich_uuid_v7(at)
  FROM generate_series(1, {in_memories}) n, changed(n, {in_memories}) at
  ON CONFLICT DO NOTHING;
"""


def fill(server: PostgresServer, sizes: Sizes, progress: Progress) -> None:
    """Make the schema and the rows; raises BenchFailed if the database refuses any of it."""
    progress(f"filling a database with {sizes.rows:,} rows")
    server.run(resources.files("ops.bench.postgres").joinpath("immich_schema.sql").read_text(encoding="utf-8"))
    server.run(
        _FUNCTIONS
        + _FILL.format(
            users=_USERS,
            assets=_ASSETS,
            albums=_ALBUMS,
            people=_PEOPLE,
            faces=_FACES,
            texts=_TEXTS,
            stacks=_STACKS,
            memories=_MEMORIES,
            clusters=_CLUSTERS,
            own=sizes.assets,
            partner=sizes.partner,
            all_assets=sizes.assets + sizes.partner * 2,
            album_rows=sizes.albums,
            in_albums=sizes.in_albums,
            person_rows=sizes.people,
            face_rows=sizes.faces,
            text_rows=sizes.texts,
            stack_rows=sizes.stacks,
            memory_rows=sizes.memories,
            in_memories=sizes.in_memories,
        )
    )
    server.run("VACUUM ANALYZE")


def touch(server: PostgresServer, assets: int) -> int:
    """Change some of the user's assets; return an instant (µs) after all rows before and below these.

    Comes back when a second has passed, so that the horizon lies above them.
    """
    since_us = server.run("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    ids = f"SELECT id_of({_ASSETS}, n * 7) FROM generate_series(1, {assets}) n"  # noqa: S608 - two numbers of ours
    change = f'UPDATE asset SET "isFavorite" = NOT "isFavorite" WHERE id IN ({ids})'  # noqa: S608
    server.run(f"SELECT pg_sleep(0.01); {change}; SELECT pg_sleep(1.5)")
    return int(since_us)
