"""Immich's own tables of sessions and API keys: each question and each change is one statement.

Immich keeps SHA-256 digests of tokens and keys, as raw bytes. Read are only the columns in `projections.immich.grants`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from projections.entities.postgres.pool import Postgres
from projections.entities.source import SourceUnavailable

POOL: Final = 2
"""Connections of each worker beside those of its streams, so that no phone waits behind pages to be admitted."""
STATEMENT_S: Final = 5.0
MOST_CHARS: Final = 64

# One row comes also where no token is found. Of two rows with one token, which Immich never writes, the older counts.
_SESSIONS: Final = """
SELECT facts.*, found.* FROM (
  SELECT EXISTS (SELECT FROM "user") AS users,
         has_column_privilege('session', 'updatedAt', 'UPDATE') AS touches,
         has_column_privilege('session', 'isPendingSyncReset', 'UPDATE') AS clears
) facts LEFT JOIN (
  SELECT DISTINCT ON (s.token) s.token, s.id::text AS id, s."userId"::text AS "user", s."parentId"::text AS parent,
         (extract(epoch FROM s."createdAt") * 1000000)::bigint AS created_at_us,
         extract(epoch FROM s."expiresAt" - now())::float8 AS expires_s,
         s."updatedAt" < now() - interval '1 day' AS unused, s."deviceType" AS device_type,
         s."deviceOS" AS device_os, s."appVersion" AS app_version, s."isPendingSyncReset" AS pending_reset,
         s."updateId"::text AS update_id, u."isAdmin" AS admin, synced.*
  FROM session s JOIN "user" u ON u.id = s."userId" CROSS JOIN LATERAL (
    SELECT coalesce((extract(epoch FROM max(c."updatedAt")) * 1000000)::bigint, 0) AS synced_us,
           count(*) AS synced_types
    FROM session_sync_checkpoint c WHERE c."sessionId" = s.id
  ) synced
  WHERE s.token = ANY($1::bytea[]) AND u."deletedAt" IS NULL AND (s."expiresAt" IS NULL OR s."expiresAt" > now())
  ORDER BY s.token, s."createdAt"
) found ON true
"""
_API_KEYS: Final = """
SELECT k.key, k.permissions::text[] AS permissions FROM api_key k JOIN "user" u ON u.id = k."userId"
WHERE k.key = ANY($1::bytea[]) AND u."deletedAt" IS NULL
"""
# Immich keeps addresses in lower case, and one only once.
_USER_OF: Final = """
SELECT u.id::text FROM "user" u WHERE lower(u.email) = $1 ORDER BY u."deletedAt" IS NOT NULL LIMIT 1
"""
_THERE: Final = "SELECT token FROM session WHERE token = ANY($1::bytea[])"
# One row comes also without a checkpoint. Of one statement all is of one instant.
_STAND: Final = """
SELECT shares.*, c.type, c.ack, (extract(epoch FROM c."updatedAt") * 1000000)::bigint AS updated_at_us
FROM (
  SELECT ARRAY(SELECT p."createId"::text FROM partner p WHERE p."sharedWithId" = $2::text::uuid) AS partners,
         ARRAY(SELECT a."createId"::text FROM album_user a WHERE a."userId" = $2::text::uuid) AS albums
) shares LEFT JOIN session_sync_checkpoint c ON c."sessionId" = $1::text::uuid ORDER BY c.type
"""
# What a restore makes last are foreign keys, after all rows; while it runs others than Immich are connected, or copy.
_SANE: Final = """
SELECT 'session'::regclass::oid::text || ' ' || '"user"'::regclass::oid::text || ' '
         || 'api_key'::regclass::oid::text || ' ' || 'session_sync_checkpoint'::regclass::oid::text AS tables,
       EXISTS (SELECT FROM session) AS sessions, EXISTS (SELECT FROM "user") AS users,
       EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'session'::regclass AND contype = 'f') AS bound,
       EXISTS (SELECT FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
                 AND (application_name IN ('psql', 'pg_restore') OR query ~* '^\\s*copy\\s.*\\sfrom\\s')) AS restoring
"""
_TOUCH: Final = """
UPDATE session SET "updatedAt" = clock_timestamp()
WHERE id = ANY($1::text[]::uuid[]) AND "updatedAt" < now() - interval '1 day'
"""
_CLEAR: Final = """
UPDATE session SET "isPendingSyncReset" = false
WHERE id = $1::text::uuid AND "isPendingSyncReset" AND "updateId" = $2::text::uuid RETURNING id
"""

# Where Immich has no checkpoint of the device, it sends it all as it is.
_WISH: Final = """
UPDATE session s SET "isPendingSyncReset" = true
WHERE s.id = $1::text::uuid AND NOT s."isPendingSyncReset"
  AND EXISTS (SELECT FROM session_sync_checkpoint c WHERE c."sessionId" = s.id)
RETURNING s."updateId"::text AS mark
"""


class ImmichSession(NamedTuple):
    """A living session there, of a user who is not deleted.

    `expires_s`: in how many seconds it is over, or never. `unused`: nobody used it at Immich for a day, which deletes
    it after 90. `pending_reset`: its owner wants the device to start over; `update_id` changes whenever anything of the
    row does. `synced_us`: when the device acknowledged something at Immich last (0: never), `synced_types` of how many
    entity types Immich has an ack.
    """

    token: bytes
    id: str
    user: str
    parent: str | None
    created_at_us: int
    expires_s: float | None
    unused: bool
    device_type: str
    device_os: str
    app_version: str
    pending_reset: bool
    update_id: str
    synced_us: int
    synced_types: int
    admin: bool = False
    """Whether its user administers Immich."""

    @property
    def synced(self) -> tuple[int, int]:
        """What changes whenever the device acknowledges something at Immich, or Immich clears it."""
        return self.synced_us, self.synced_types

    @property
    def described(self) -> tuple[str, str, str]:
        """What it says of its device."""
        return self.device_type, self.device_os, self.app_version


class ImmichCheckpoint(NamedTuple):
    """What Immich keeps of one entity type that a session acknowledged: the ack as it was sent, and when."""

    type: str
    ack: str
    updated_at_us: int


class Stand(NamedTuple):
    """Where a device stands at Immich: what it acknowledged, and what is shared with its user, all at one instant.

    `horizon_us` is the source's, read before. `partners` and `albums` are the `createId` of each share.
    """

    session: ImmichSession
    horizon_us: int
    checkpoints: tuple[ImmichCheckpoint, ...]
    partners: tuple[str, ...]
    albums: tuple[str, ...]


class Looked(NamedTuple):
    """What a look at sessions found, by token; and whether our role may touch them and clear their wish of a reset."""

    sessions: dict[bytes, ImmichSession]
    touches: bool
    clears: bool


class Sanity(NamedTuple):
    """Whether a session that is not there can be believed to be gone: which tables there are, and what is wrong."""

    tables: str
    wrong: str


class ImmichTables:
    """Asks and changes; all methods raise SourceUnavailable."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def sessions(self, tokens: Sequence[bytes]) -> Looked:
        """Find living sessions by the SHA-256 of their tokens.

        Raises SourceUnavailable too where no user is there: then the tables are being filled again.
        """
        rows = await self._postgres.ask(lambda connection: connection.fetch(_SESSIONS, tokens))
        facts = rows[0]
        if not facts["users"]:
            raise SourceUnavailable("Immich's database has no users: it is being restored, or Immich was never set up")
        found = [_session(row) for row in rows if row["token"] is not None]
        return Looked({row.token: row for row in found}, facts["touches"], facts["clears"])

    async def permissions(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, ...]]:
        """Find what API keys may do, by their SHA-256."""
        rows = await self._postgres.ask(lambda connection: connection.fetch(_API_KEYS, keys))
        return {row["key"]: tuple(row["permissions"]) for row in rows}

    async def user_of(self, email: str) -> str | None:
        """Tell whose e-mail address (in lower case) this is; None if it is nobody's."""
        found = await self._postgres.ask(lambda connection: connection.fetchval(_USER_OF, email))
        return None if found is None else str(found)

    async def there(self, tokens: Sequence[bytes]) -> set[bytes]:
        """Tell which tokens have a row, whether they are good for anything or not."""
        rows = await self._postgres.ask(lambda connection: connection.fetch(_THERE, tokens))
        return {row["token"] for row in rows}

    async def stand(self, session: ImmichSession, horizon_us: int) -> Stand:
        """Read where a device stands at Immich; `horizon_us` was read before."""
        rows = await self._postgres.ask(lambda connection: connection.fetch(_STAND, session.id, session.user))
        found = tuple(
            ImmichCheckpoint(row["type"], row["ack"], row["updated_at_us"]) for row in rows if row["type"] is not None
        )
        return Stand(session, horizon_us, found, tuple(rows[0]["partners"]), tuple(rows[0]["albums"]))

    async def sanity(self) -> Sanity:
        """Tell whether the database is in order, and not about to be."""
        row = await self._postgres.ask(lambda connection: connection.fetchrow(_SANE))
        wrong = (
            "it has no users" if not row["users"] else
            "it has no sessions" if not row["sessions"] else
            "its sessions are not bound to users yet" if not row["bound"] else
            "somebody restores it" if row["restoring"] else ""
        )  # fmt: skip
        return Sanity(row["tables"], wrong)

    async def touch(self, sessions: Sequence[str]) -> None:
        """Note at Immich that sessions are used, those that were not for a day."""
        await self._write(_TOUCH, sessions)

    async def clear_reset(self, session: str, update_id: str) -> bool:
        """Take the wish of a reset back if the row is still the one that was seen; tells whether it was."""
        return bool(await self._write(_CLEAR, session, update_id))

    async def wish_reset(self, session: str) -> str | None:
        """Wish for a reset, where Immich has checkpoints and none is wished for yet; returns the row's new mark."""
        rows = await self._write(_WISH, session)
        return str(rows[0]["mark"]) if rows else None

    async def _write(self, sql: str, *values: Any) -> list[Any]:
        """Write in a transaction of its own: connections are read-only by themselves."""
        async with self._postgres.connection(writes=True) as connection:
            return list(await connection.fetch(sql, *values))

    async def close(self) -> None:
        """Close the connections."""
        await self._postgres.close()


def _session(row: Any) -> ImmichSession:
    found = {name: row[name] for name in ImmichSession._fields}
    for name in ("device_type", "device_os", "app_version"):
        found[name] = _clean(found[name] or "")
    return ImmichSession(**found)


def _clean(text: str) -> str:
    """Cut what a device said of itself, of which Immich keeps any length."""
    return "".join(char for char in text[:MOST_CHARS] if char.isprintable()).strip()
