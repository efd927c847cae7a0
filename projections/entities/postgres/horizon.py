"""How far a PostgreSQL database can be read so that nothing appears there later.

A row is stamped when it is written and seen when its transaction commits. One stamped before another may be seen after
it: whoever has read past its stamp by then never gets it. So the horizon stays below the start of the oldest
transaction that may still write. It rests on these facts of PostgreSQL (15 to 18):

1. A transaction's `now()` is the instant at which its first statement arrived, and `pg_stat_activity.xact_start` shows
   just that value until it ends. No stamp taken in a transaction, by now() or by clock_timestamp(), is earlier.
2. A statement arrives like this: the backend reads the clock, shows the state `active` with that instant as
   `query_start`, begins the transaction, shows `xact_start`. So an active backend without `xact_start` counts by
   `query_start`. Between reading the clock and showing the state it is invisible, for microseconds as a rule: the
   horizon is at most the statement's own instant less a second (MARGIN_US). A backend that the machine stops right
   there for longer than that is not covered.
3. A commit makes rows visible first (ProcArrayEndTransaction) and clears `xact_start` after. A transaction that is gone
   from pg_stat_activity is seen by every snapshot taken from then on, so pages must be read by later statements, none
   of them in a transaction that is older than the horizon.
4. `backend_xid` is given to a transaction when it first writes a row, and taken away in the same step that makes its
   rows visible. It is read after the state, never before.
5. PREPARE TRANSACTION lists the transaction in pg_prepared_xacts before its backend forgets it, and COMMIT PREPARED
   makes its rows visible before it is taken off. So pg_prepared_xacts is read second. When it began is not kept
   anywhere: the horizon that was known before it was listed is below that, and holds until it ends.
6. Columns of other roles' sessions are NULL without `pg_read_all_stats`, and `xact_start` is never shown with
   `track_activities` off. Both are refused: nothing could be promised.

With `stamps = "clock"` (every stamp is taken by clock_timestamp() while its row is written, as Immich's `updateId`), a
transaction that has written counts from its start; one that has not counts only while a statement runs, and from that
statement's start, since it may have taken a stamp before it was given its `backend_xid`.

What it costs. While a transaction is open, no row written after its start is sent to anybody: devices get them when
it ends, nothing is lost. This goes for a forgotten `idle in transaction`, a long UPDATE and, for one statement at a
time, a dump. `Horizon.oldest` names who holds the horizon back; all of them are shown by
`SELECT pid, application_name, state, xact_start FROM pg_stat_activity ORDER BY xact_start`. PostgreSQL can bound them:
`idle_in_transaction_session_timeout`, `transaction_timeout` (17), or `pg_terminate_backend(pid)`.

Deletes are kept for a time, if the mapping says so. A horizon that long ago is refused too, with the name of who holds
it: all a device can hear of by then may be purged, so each stream would only tell it to start over, and the next one
again. The same goes for a server's clock that is half that time ahead of this machine's: by a clock that jumped,
everything would be purged at once, and everybody would start over for nothing.

What it does not cover: stamps that a writer sets itself (COPY of old rows, a restored dump, logical replication into
this database), columns that round to less than milliseconds, SQL sent over a replication connection (whose `xact_start`
is never shown), and a server clock that is set back. Up to a second back is inside the margin; more is noticed and
logged: rows written until the clock is where it was can be missed by devices that synced in between, and only a reset
of theirs brings them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

import asyncpg

from ledger.positions import iso_from_us
from projections.entities.postgres.pool import APPLICATION
from projections.entities.source import SourceUnavailable

log = logging.getLogger(__name__)

MARGIN_US: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)

_SINCE: Final = {
    "transaction": "coalesce(a.xact_start, CASE WHEN a.state <> 'idle' THEN a.query_start END)",
    "clock": """CASE WHEN a.backend_xid IS NOT NULL
                     THEN coalesce(a.xact_start, CASE WHEN a.state <> 'idle' THEN a.query_start END)
                     WHEN a.state IN ('active', 'fastpath function call') THEN a.query_start END""",
}
# now() is the instant of this statement, before it looks at anything. Sessions that cannot write are left out: ours are
# read-only, autovacuum (which has no role) writes no rows, walsenders decode what is committed. Of a session that is
# hidden only process, application, role and transaction id are told.
_ACTIVITY: Final = """
SELECT now() AS at, pg_is_in_recovery() AS replica, current_setting('max_prepared_transactions')::int AS prepared,
       current_setting('track_activities') AS shown, w.pid, w.application, w.state, w.since, w.hidden
FROM (SELECT 1) one LEFT JOIN LATERAL (
  SELECT a.pid, a.application_name AS application, a.state, {since} AS since,
         coalesce(a.query = '<insufficient privilege>', false) AS hidden
  FROM pg_stat_activity a
  WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND a.pid <> pg_backend_pid()
    AND a.usesysid IS NOT NULL
    AND a.backend_type IS DISTINCT FROM 'walsender'
    AND (a.backend_xid IS NOT NULL OR NOT {ours})
  ORDER BY hidden DESC, a.state = 'disabled' DESC NULLS LAST, since NULLS LAST LIMIT 1
) w ON true
"""
_PREPARED: Final = """
SELECT transaction::text AS xid, gid, prepared FROM pg_prepared_xacts WHERE database = current_database()
ORDER BY prepared
"""


class HorizonUnknown(SourceUnavailable):
    """Nothing can be promised about this database for now; the message says what to do."""


class OnReplica(HorizonUnknown):
    """The server follows another one, or does so now: a new connection may lead to the one that takes writes."""


class OldestWriter(NamedTuple):
    """Who holds the horizon back: its process (None: a prepared transaction), since when in µs, and both in words."""

    pid: int | None
    application: str
    since_us: int
    text: str


class Horizon(NamedTuple):
    """An instant in whole ms, in µs: no row stamped before it appears any more.

    `behind_us` is how far it lies before the server's clock, at least a second; `oldest` who makes it more than that.
    """

    us: int
    behind_us: int
    oldest: OldestWriter | None


class HorizonReader:
    """Reads the horizon of one database; remembers what prepared transactions ask it to. One for all of a process."""

    def __init__(
        self,
        stamps: Literal["transaction", "clock"],
        keeps_deletes_us: int | None = None,
        our_clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        *,
        shares_sessions: bool = False,
    ) -> None:
        """`keeps_deletes_us`: delete markers are gone after that time; None where they stay.

        `shares_sessions`: those who write may use the sessions that ours have named, so that none is known by its name.
        """
        self._keeps_deletes_us = keeps_deletes_us
        self._our_clock_us = our_clock_us
        ours = "false" if shares_sessions else f"a.application_name = '{APPLICATION}'"
        self._activity = _ACTIVITY.format(since=_SINCE[stamps], ours=ours)
        self._last_us: int | None = None
        self._clock_us = 0
        self._prepared: dict[str, int] = {}

    async def read(self, connection: asyncpg.Connection) -> Horizon:
        """Tell the horizon, by a connection outside of a transaction, or one that just began it (`Postgres`).

        Raises HorizonUnknown, and whatever of asyncpg's errors the connection raises.
        """
        shared = getattr(connection, "shared", False)
        assert shared or not connection.is_in_transaction(), "an older snapshot would not see what was committed since"
        seen = await connection.fetchrow(self._activity)
        now_us = _us(seen["at"])
        self._watch_clock(now_us)
        if seen["replica"]:
            raise OnReplica("PostgreSQL is a replica, which does not know who writes: use the address of the primary")
        if seen["hidden"]:
            raise HorizonUnknown(
                f"What session {seen['pid']} ({seen['application']}) does is hidden from this role, so how far the "
                "database can be read is not known: GRANT pg_read_all_stats to the role of this service"
            )
        if seen["state"] == "disabled" or seen["shown"] != "on":
            who = "PostgreSQL" if seen["shown"] != "on" else f"Session {seen['pid']} ({seen['application']})"
            raise HorizonUnknown(
                f"{who} does not show transactions, so how far the database can be read is not known: "
                "set track_activities = on"
            )
        us, oldest = now_us - MARGIN_US, None
        if seen["since"] is not None and _us(seen["since"]) < us:
            us = _us(seen["since"])
            oldest = _writer(seen, us)
        if seen["prepared"]:
            us, oldest = await self._below_prepared(connection, us, oldest)
        us -= us % 1000
        self._last_us = us
        if self._keeps_deletes_us is not None:
            self._above_purged(now_us, us, oldest, self._keeps_deletes_us)
        return Horizon(us, now_us - us, oldest)

    def _above_purged(self, now_us: int, us: int, oldest: OldestWriter | None, keeps_us: int) -> None:
        """Refuse a horizon below which all deletes may be purged, and a clock by which they only seem to be."""
        ahead_us = now_us - self._our_clock_us()
        if ahead_us > keeps_us // 2:
            raise HorizonUnknown(
                f"PostgreSQL's clock is {ahead_us / 1e6:,.0f} s ahead of this machine's, so which deletes are purged "
                "is not known, and devices would start over for nothing: set both clocks"
            )
        if now_us - us < keeps_us:
            return
        who = f"by {oldest.text}" if oldest is not None else "by the margin of a second"
        raise HorizonUnknown(
            f"The database can be read up to {iso_from_us(us)} only, held back {who}; deletes are kept for "
            f"{keeps_us / 1e6:,.0f} s, so devices could miss some: end it (pg_terminate_backend, ROLLBACK PREPARED)"
        )

    async def _below_prepared(
        self, connection: asyncpg.Connection, us: int, oldest: OldestWriter | None
    ) -> tuple[int, OldestWriter | None]:
        """Keep below what was the horizon when each prepared transaction was not yet one."""
        rows = await connection.fetch(_PREPARED)
        # Only of those still there: ids are taken again after four thousand million others.
        self._prepared = {row["xid"]: self._prepared[row["xid"]] for row in rows if row["xid"] in self._prepared}
        for row in rows:
            said = f"prepared transaction '{row['gid']}' (since {iso_from_us(_us(row['prepared']))})"
            if row["xid"] not in self._prepared:
                if self._last_us is None:
                    raise HorizonUnknown(
                        f"The {said} is open, and when it began is not known: COMMIT PREPARED or ROLLBACK PREPARED it"
                    )
                self._prepared[row["xid"]] = self._last_us
            if self._prepared[row["xid"]] < us:
                us = self._prepared[row["xid"]]
                oldest = OldestWriter(None, "", us, said)
        return us, oldest

    def _watch_clock(self, now_us: int) -> None:
        if now_us < self._clock_us - MARGIN_US:
            log.error(
                "PostgreSQL's clock went back by %.1f s: what is written until it is %s there can be missed by devices "
                "that have synced up to then; ask them to start over",
                (self._clock_us - now_us) / 1e6,
                iso_from_us(self._clock_us),
            )
            self._clock_us = now_us
        self._clock_us = max(self._clock_us, now_us)


def _writer(seen: asyncpg.Record, us: int) -> OldestWriter:
    name = seen["application"] or "unnamed"
    return OldestWriter(
        seen["pid"], name, us, f"process {seen['pid']} ({name}), {seen['state']}, open since {iso_from_us(us)}"
    )


def _us(at: datetime) -> int:
    return (at - _EPOCH) // _US
