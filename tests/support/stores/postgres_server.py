"""A real PostgreSQL for tests: its own cluster in a temporary folder, on loopback and a unix socket.

PostgreSQL refuses to run as root, so for root it runs as an existing user without rights, in a folder of that user's
beside pytest's, which only root may enter. The folder goes when the server's context ends, and also when the test
process is killed (a keeper waits for that). Nothing here touches a server that it did not start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from ops.bench.postgres.server import NoPostgres, account, programs
from tests.support.stores.servers import STOP_TIMEOUT_S, free_port, quit_with_parent, wait_until

USER: Final = "postgres"
PASSWORD: Final = "only-for-tests"  # what TCP connections must present; the unix socket asks for none
START_TIMEOUT_S: Final = 60.0
DEFAULTS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "log_checkpoints": "off",
    "timezone": "America/New_York",  # so that what assumes UTC is found out
}

_EMPTY: Final = """
DO $$ BEGIN
    PERFORM pg_terminate_backend(pid, 10000)
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
END $$;
SET client_min_messages = error;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
SELECT datacl IS NULL AND datconnlimit = -1
    AND (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) = 1
    AND (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)') = 1
    AND NOT EXISTS (SELECT FROM pg_extension WHERE extname <> 'plpgsql')
    AND NOT EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid)
    AND NOT EXISTS (SELECT FROM pg_publication)
    AND NOT EXISTS (SELECT FROM pg_event_trigger)
    AND NOT EXISTS (SELECT FROM pg_default_acl)
    AND NOT EXISTS (SELECT FROM pg_largeobject_metadata)
    AND NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())
    AND NOT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database())
FROM pg_database d WHERE datname = current_database()
"""
"""Empties a database; "t" if nothing is left of what was done to it."""

_numbers = count(1)


class PostgresBinaries(NamedTuple):
    """Where the programs of one PostgreSQL are."""

    initdb: str
    postgres: str
    psql: str


@cache
def postgres_binaries() -> PostgresBinaries | None:
    """Return the newest PostgreSQL (15 or later) on PATH or where Debian installs it; None without one."""
    try:
        folder = programs()
    except NoPostgres:
        return None
    return PostgresBinaries(*(str(folder / name) for name in PostgresBinaries._fields))


def _folder(owner: Mapping[str, Any]) -> tuple[Path, subprocess.Popen[bytes]]:
    """Make a folder that only its owner may enter, with a keeper that removes it behind this process."""
    folder = Path(tempfile.mkdtemp(prefix="syncledger-postgres-"))
    watchdog = Path(__file__).parent.parent / "watchdog.py"
    keeper = subprocess.Popen(
        [sys.executable, "-I", str(watchdog), str(folder), "--remove"], stdin=subprocess.PIPE, start_new_session=True
    )
    if owner:
        os.chown(folder, owner["user"], owner["group"])
    return folder, keeper


@cache
def _new_cluster() -> Path:
    """Make the data of a cluster that never ran, for servers to begin with; once a process, as it takes seconds."""
    binaries = postgres_binaries()
    assert binaries is not None
    folder, keeper = _folder(owner := account())
    _keepers.append(keeper)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)  # the folder is closed to everybody else
    with (folder / "log").open("ab") as said:
        subprocess.run(
            [
                *(binaries.initdb, "-D", str(folder / "data"), "-U", USER, "--pwfile", str(password)),
                *("--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-instructions"),
                *("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=folder,
            check=True,
            **owner,
        )
    return folder / "data"


_keepers: list[subprocess.Popen[bytes]] = []


class PostgresServer:
    """One cluster on a fixed address, with the superuser `postgres`.

    It keeps its data and address over stop(), kill() and start(). Databases sort text by ICU's rules for English, as
    Immich's do not sort by bytes either. `folder` takes the log; `options` are further settings of the server,
    `environment` further variables of its processes.
    """

    def __init__(
        self, folder: Path, options: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        binaries = postgres_binaries()
        assert binaries is not None, "PostgreSQL 15 or later is not installed"
        self.binaries = binaries
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._options = {**DEFAULTS, **(options or {})}
        self._environment = {**os.environ, **(environment or {})}
        self._account = account()
        self._home: Path | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._emptied: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def home(self) -> Path:
        """The server's own folder: the data in `data`, and its unix socket."""
        assert self._home is not None, "the server was not started"
        return self._home

    @property
    def url(self) -> str:
        """The address of the database `postgres`, with the superuser's password."""
        return self.url_of("postgres")

    def url_of(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        """The address of a database over TCP."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def socket_url_of(self, database: str, *, user: str = USER) -> str:
        """The address of a database over the unix socket, without a password."""
        return f"postgresql://{user}@/{database}?host={self.home}&port={self.port}"

    @property
    def alive(self) -> bool:
        """Tell whether the server runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start the server on its address, at first with a new cluster, and wait until it takes connections."""
        assert not self.alive, "the server already runs"
        if self._home is None:
            self._create()
        settings = {
            **self._options,
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.home),
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self.binaries.postgres, "-D", str(self.home / "data")),
                    *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=self._environment,
                start_new_session=True,
                preexec_fn=quit_with_parent,
                **self._account,
            )
        try:
            wait_until(self._ready, f"PostgreSQL on port {self.port} to be ready", START_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End the server and its connections in order; nothing happens when it is dead."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server and its connections as a crash would; nothing happens when it is dead."""
        self._end(signal.SIGQUIT)

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run statements as the superuser and return the rows, unaligned; raise RuntimeError with what psql said."""
        done = subprocess.run(
            [
                *(self.binaries.psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
                *("-h", str(self.home), "-p", str(self.port), "-U", USER, "-d", database, "-f", "-"),
            ],
            input=sql,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def create_database(self) -> str:
        """Make an empty database and return its address, which no other had."""
        name = f"test_{next(_numbers)}"
        self.psql(
            f"ALTER DATABASE {self._emptied.pop()} RENAME TO {name}" if self._emptied else f"CREATE DATABASE {name}"
        )
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Remove a database of `create_database`, whoever is connected.

        One that can be emptied is kept for the next: to copy a whole one takes ten times as long as most tests.
        """
        name = url.rpartition("/")[2]
        try:
            if self.psql(_EMPTY, name) == "t":
                self._emptied.append(name)
                return
        except RuntimeError:  # it takes no connections, or something in it cannot be dropped
            pass
        self.psql(f"DROP DATABASE {name} WITH (FORCE)")

    @property
    def _log(self) -> Path:
        return self.folder / "postgres.log"

    def _create(self) -> None:
        self._home, self._keeper = _folder(self._account)
        subprocess.run(["cp", "-a", str(_new_cluster()), str(self._home / "data")], check=True)

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended at start:\n{self._log.read_text()[-2000:]}")
        try:
            lines = (self.home / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # The file may be that of a server killed before. Its first line is the process, its eighth what that is at.
        return len(lines) > 7 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready"

    def _end(self, number: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        if self._keeper is not None:
            self._keeper.communicate(timeout=30)


def dumped(server: PostgresServer, database: str) -> str:
    """Dump a database, as an operator does."""
    command = ["pg_dump", "-h", str(server.home), "-p", str(server.port), "-U", "postgres", database]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "".join(
        line for line in said.splitlines(keepends=True) if not line.startswith(("\\restrict", "\\unrestrict"))
    )  # of psql's own
