"""A PostgreSQL of the benchmark's own: a new cluster in a temporary folder, on a unix socket, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import psutil

from ops.bench.rig.processes import STOP_S, BenchFailed

OLDEST: Final = 15
DATABASE: Final = "postgres"
_START_S: Final = 60.0
_PROGRAMS: Final = ("initdb", "postgres", "psql")
_ACCOUNTS: Final = ("postgres", "nobody")

# As a server of 4 GB would be set, but without waiting for the disk: what is measured is reading.
_SETTINGS: Final = {
    "listen_addresses": "",
    "shared_buffers": "1GB",
    "effective_cache_size": "3GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "100",
}


class NoPostgres(BenchFailed):
    """PostgreSQL is not installed, or nobody is there to run it."""


class PostgresServer(msgspec.Struct, frozen=True):
    """A running cluster; `folder` holds its socket, `url` is the address of its one database."""

    folder: Path
    programs: Path
    pid: int

    @property
    def url(self) -> str:
        """The address, over the unix socket, which asks for no password."""
        return f"postgresql://postgres@/{DATABASE}?host={self.folder}"

    def cpu_s(self) -> float:
        """The CPU time it has used so far, with that of connections that are gone."""
        postmaster = psutil.Process(self.pid)
        spent = sum(postmaster.cpu_times()[:4])
        for child in postmaster.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # then it is in the postmaster's own by the next look
                spent += sum(child.cpu_times()[:2])
        return float(spent)

    def psql(self, *options: str) -> list[str]:
        """The command that runs psql on the database."""
        return [
            *(str(self.programs / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
            *("-h", str(self.folder), "-U", "postgres", "-d", DATABASE, *options),
        ]

    def run(self, sql: str, *, timeout_s: float = 1800) -> str:
        """Run statements and return their rows, unaligned; raises BenchFailed with what psql said."""
        done = subprocess.run(
            self.psql("-f", "-"), input=sql, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode:
            raise BenchFailed(f"psql: {done.stderr.strip()[-2000:]}")
        return done.stdout.rstrip("\n")


def programs() -> Path:
    """Return the folder of the newest PostgreSQL on PATH or where Debian installs it; raises NoPostgres."""
    on_path = shutil.which("postgres")
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *([Path(on_path).parent] if on_path else [])]
    found = [
        (_version(folder), folder) for folder in folders if all(os.access(folder / name, os.X_OK) for name in _PROGRAMS)
    ]
    if not found or max(found)[0] < OLDEST:
        raise NoPostgres(f"PostgreSQL {OLDEST} or later is not installed")
    return max(found)[1]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a cluster in a temp folder; both are gone afterwards. Raises NoPostgres where there is none to start."""
    where, runs_as = programs(), account()
    with TemporaryDirectory(prefix="syncledger-bench-") as name:
        folder = Path(name)
        if runs_as:
            os.chown(folder, runs_as["user"], runs_as["group"])
        log = folder / "postgres.log"
        with log.open("ab") as output:
            common: dict[str, Any] = {
                **runs_as, "stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "cwd": folder,
            }  # fmt: skip
            made = [str(where / "initdb"), "-D", "data", "-U", "postgres", "--auth=trust", "--no-sync"]
            done = subprocess.run([*made, "--encoding=UTF8", "--locale=C.UTF-8"], check=False, **common)
            if done.returncode:
                raise BenchFailed(
                    f"PostgreSQL makes no cluster in {folder}:\n{log.read_text(errors='replace')[-2000:]}"
                )
            options = {**_SETTINGS, "unix_socket_directories": str(folder)}
            set_to = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
            process = subprocess.Popen(
                [str(where / "postgres"), "-D", "data", *set_to], start_new_session=True, **common
            )
        try:
            server = PostgresServer(folder, where, process.pid)
            _await(server, process, log)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # ends connections, then the server
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait()


def _await(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        if subprocess.run(server.psql("-c", "SELECT 1"), capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise BenchFailed(f"PostgreSQL does not start:\n{log.read_text(errors='replace')[-2000:]}")


def _version(folder: Path) -> int:
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\) (\d+)", said)
    return int(found[1]) if found else 0


def account() -> dict[str, Any]:
    """As whom the server runs, as `subprocess` takes it: PostgreSQL refuses root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return {}
    for name in _ACCOUNTS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise NoPostgres("PostgreSQL does not run as root, and there is no user postgres or nobody to run it")
