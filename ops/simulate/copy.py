"""The device's copy of a library: an SQLite file with the rules of the app's own database.

A run is one transaction, so a device that is killed anywhere finds a copy that ends between two runs. `acked` notes
the last ack of each type that the server has confirmed: nothing at or below it may ever be sent again.
"""

# ruff: noqa: S608 - every name put into a statement comes from tables.py

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from ops.simulate.errors import RefusedRow, UnusableCopy
from ops.simulate.parse import SHAPES, Row, Run, fields_of
from ops.simulate.tables import FORMS, TABLES, Table

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x53594C44
_OWNER_ROW: Final = """
INSERT INTO album_user ("albumId", "userId", "role") VALUES (?, ?, 'owner')
ON CONFLICT ("albumId", "userId") DO UPDATE SET "role" = 'owner'
"""
_SQL_KINDS: Final = {"b": "INTEGER", "i": "INTEGER", "f": "REAL"}


class Write(NamedTuple):
    """One statement of a run, and which of a row's values it takes (`pick` None: all)."""

    sql: str
    pick: Callable[[Row], Row] | None


class Copy:
    """A device's own database; a context manager that closes it."""

    def __init__(self, path: Path, unbound: Collection[str] = ()) -> None:
        """Open the file, or create it with its folder; raises UnusableCopy.

        `unbound` are the tables that a new file has without foreign keys.
        """
        self.path = path
        self._unbound = unbound
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise UnusableCopy(f"{path} cannot be used as a device's copy: {error}") from error

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._db.close()

    @property
    def db(self) -> sqlite3.Connection:
        """The open connection, for reading."""
        return self._db

    def _prepare(self) -> None:
        execute = self._db.execute
        application, version, tables = (
            execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version", "schema_version")
        )
        if tables and (application, version) != (_APPLICATION_ID, SCHEMA_VERSION):
            raise UnusableCopy(f"{self.path} is not a device's copy of this version: give another file with --db")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = OFF")  # outlives the process, which is what a crash is here; not the machine
        execute("PRAGMA cache_size = -65536")
        execute("PRAGMA foreign_keys = ON")
        if not tables:
            with self._transaction():
                for table in TABLES.values():
                    execute(create_sql(table, rules=table.name not in self._unbound))
                    for number, body in enumerate(table.unique):
                        execute(f'CREATE UNIQUE INDEX "{table.name}_unique_{number}" ON "{table.name}" {body}')
                    for column, parent in table.references.items():
                        if column != table.key[0] and parent != "user":  # deleting a user is rare and may scan
                            execute(f'CREATE INDEX "{table.name}_{column}" ON "{table.name}" ("{column}")')
                execute("CREATE TABLE install (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
                execute("CREATE TABLE acked (type TEXT PRIMARY KEY, ack TEXT NOT NULL)")
                execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def apply(self, run: Run, *, die_after: int | None = None) -> None:
        """Store a run in one transaction; raises RefusedRow and stores nothing if a row breaks a rule.

        `die_after` kills this process once that many of its rows are written, which is before the commit unless it
        is the whole run.
        """
        writes = WRITES[run.type]
        if not writes:
            if die_after is not None:
                die()
            return
        rows = run.rows if die_after is None else run.rows[:die_after]
        try:
            with self._transaction():
                self._write(writes, rows)
                if die_after is not None and die_after < len(run.rows):
                    die()
        except sqlite3.IntegrityError as error:
            raise RefusedRow(self._blame(run, error)) from error
        except sqlite3.Error as error:
            raise UnusableCopy(f"{self.path}: {error}") from error
        if die_after is not None:
            die()

    def _write(self, writes: tuple[Write, ...], rows: list[Row]) -> None:
        for write in writes:
            self._db.executemany(write.sql, rows if write.pick is None else map(write.pick, rows))

    def _blame(self, run: Run, error: sqlite3.IntegrityError) -> str:
        """Say which line of a refused run it was, by trying them one at a time."""
        self._db.execute("BEGIN")
        try:
            for number, row in enumerate(run.rows, run.first):
                try:
                    self._write(WRITES[run.type], [row])
                except sqlite3.IntegrityError as reason:
                    return f"line {number} of the stream, {run.type} {row[0]}: {reason}"
        finally:
            self._db.execute("ROLLBACK")
        return f"lines {run.first} to {run.first + len(run.rows) - 1} of the stream, {run.type}: {error}"

    def wipe(self) -> None:
        """Forget the library and every ack, as SyncResetV1 asks; the install stays."""
        self._db.execute("PRAGMA foreign_keys = OFF")
        try:
            with self._transaction():
                for name in (*TABLES, "acked"):
                    self._db.execute(f'DELETE FROM "{name}"')
        finally:
            self._db.execute("PRAGMA foreign_keys = ON")

    def note(self, name: str, value: str) -> None:
        """Remember a fact about this install."""
        self._db.execute("INSERT OR REPLACE INTO install VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        """Return a remembered fact, None if there is none."""
        row = self._db.execute("SELECT value FROM install WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def confirm(self, entity_type: str, ack: str) -> None:
        """Note that the server took this ack."""
        self._db.execute("INSERT OR REPLACE INTO acked VALUES (?, ?)", (entity_type, ack))

    def confirmed(self) -> dict[str, str]:
        """Return the last ack of each type that the server took."""
        return dict(self._db.execute("SELECT type, ack FROM acked"))

    def forget_acks(self, types: tuple[str, ...] | None = None) -> None:
        """Forget the confirmed acks of these types (None: of all), because the server was told to."""
        if types is None:
            self._db.execute("DELETE FROM acked")
        else:
            self._db.executemany("DELETE FROM acked WHERE type = ?", [(name,) for name in types])

    def counts(self) -> dict[str, int]:
        """Return how many rows each table holds, without the empty ones."""
        counted = {name: int(self._db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in TABLES}
        return {name: count for name, count in counted.items() if count}


def die() -> None:
    """End this process as a crash does: nothing is flushed, closed or told."""
    os.kill(os.getpid(), signal.SIGKILL)


def create_sql(table: Table, *, schema: str = "main", extra_key: str = "", rules: bool = True) -> str:
    """Return the CREATE TABLE of a table, with a further key column or without the foreign keys if asked."""
    parts = []
    for field in fields_of(table.fields):
        null = "" if field.nullable or field.optional else " NOT NULL"
        default = f" DEFAULT {table.defaults[field.name]}" if field.name in table.defaults else ""
        parts.append(f'"{field.name}" {_SQL_KINDS.get(field.kind, "TEXT")}{null}{default}')
        parent = table.references.get(field.name)
        if rules and parent:
            action = "CASCADE" if null else "SET NULL"
            parts[-1] += f' REFERENCES "{parent}"(id) ON DELETE {action}'
    key = ", ".join(f'"{name}"' for name in table.key)
    if extra_key:
        parts.append(f'"{extra_key}" TEXT NOT NULL')
        key += f', "{extra_key}"'
    return f'CREATE TABLE "{schema}"."{table.name}" ({", ".join(parts)}, PRIMARY KEY ({key}))'


def _writes_of(entity_type: str) -> tuple[Write, ...]:
    """Return the statements for lines of a type, none for the types that change nothing."""
    form = FORMS[entity_type]
    if not form.table:
        return ()
    table = TABLES[form.table]
    columns = SHAPES[entity_type].columns
    if form.removes:
        where = " AND ".join(f'"{column}" = ?' for column in table.key)
        return (Write(f'DELETE FROM "{table.name}" WHERE {where}', _picker(columns, form.removes)),)
    own = {field.name for field in fields_of(table.fields)}
    kept = tuple(column for column in columns if column in own)
    upsert = Write(upsert_sql(table, kept), _picker(columns, kept))
    if entity_type == "AlbumV1":
        return upsert, Write(_OWNER_ROW, _picker(columns, ("id", "ownerId")))
    return (upsert,)


def upsert_sql(table: Table, columns: tuple[str, ...], *, schema: str = "main", extra_key: str = "") -> str:
    """Return the statement that inserts a row or brings the columns of the present one up to date."""
    keys = (*table.key, extra_key) if extra_key else table.key
    names = ", ".join(f'"{column}"' for column in columns)
    changes = ", ".join(f'"{column}" = excluded."{column}"' for column in columns if column not in keys)
    key = ", ".join(f'"{column}"' for column in keys)
    conflict = f"UPDATE SET {changes}" if changes else "NOTHING"
    values = ", ".join("?" * len(columns))
    return f'INSERT INTO "{schema}"."{table.name}" ({names}) VALUES ({values}) ON CONFLICT ({key}) DO {conflict}'


def _picker(columns: tuple[str, ...], wanted: tuple[str, ...]) -> Callable[[Row], Row] | None:
    if columns == wanted:
        return None
    places = [columns.index(name) for name in wanted]
    return lambda row: tuple([row[place] for place in places])


WRITES: Final = {entity_type: _writes_of(entity_type) for entity_type in FORMS}
