"""The embedded durable server of a data folder: joined by every service and command that uses the folder.

Whoever comes first starts it, whoever leaves last stops it, and a service that dies without leaving changes nothing:
the server goes on and the next one finds it by its socket.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import redis

from ledger.errors import StoreUnavailable
from ops.embedded.append_only import lost_manifest
from ops.embedded.files import EmbeddedServerError, Files, Lock, describe, prepare_files, remove_short_folder
from ops.embedded.process import (
    ANSWER_TIMEOUT_S,
    MEND,
    SHUTDOWN_TIMEOUT_S,
    START_TIMEOUT_S,
    Peer,
    client,
    log_tail,
    reap,
    spawn,
    wait_loaded,
    what_it_says,
)

__all__ = ["EmbeddedServer", "EmbeddedServerError", "embedded_server"]

log = logging.getLogger("syncledger.embedded")

ENDING_S = 0.5
"""How long a server that is ending may still be seen, while those who asked it have lost their connections."""


def report_to_stderr(message: str) -> None:
    """Tell the person at the terminal of something that takes long."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


class EmbeddedServer:
    """This process's share in the server of one data folder."""

    def __init__(
        self,
        data_dir: Path,
        report: Callable[[str], None] = report_to_stderr,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the folder; a long load is told to `report` and given up when `cancelled` turns true."""
        self._data_dir = data_dir
        self._report = report
        self._cancelled = cancelled
        self._files: Files | None = None
        self._users: Lock | None = None
        self._stopping = threading.Event()
        self._peer: Peer | None = None
        self._watcher: threading.Thread | None = None

    @property
    def files(self) -> Files:
        """Where its files are."""
        assert self._files is not None, "not joined"
        return self._files

    @property
    def url(self) -> str:
        """The address of the server: the same for as long as the folder exists."""
        return f"unix://{quote(os.fspath(self.files.socket))}"

    def join(self) -> str:
        """Count as a user of the server, start it unless it runs, wait until it has loaded, and return its URL.

        Raises EmbeddedServerError, and leaves nothing behind then.
        """
        self._files = prepare_files(self._data_dir)
        try:
            self._ensure_running()
        except BaseException:
            self.leave()
            raise
        return self.url

    def watch(self) -> None:
        """From now on start the server again whenever it dies, until `leave`."""
        assert self._watcher is None, "already watched"
        self._watcher = threading.Thread(target=self._keep_alive, name="embedded-server", daemon=True)
        self._watcher.start()

    def leave(self) -> None:
        """Be no user any more; the last one stops the server and waits for its end. May be called twice."""
        self._stopping.set()
        self._close_peer()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
            self._close_peer()
        if self._users is None:
            return
        try:
            with self._start_lock():
                if self._users.try_exclusive():
                    self._stop()
        finally:
            self._users.close()
            self._users = None

    def why_it_ended(self) -> str:
        """Tell why the server is gone that was joined, as its log has it; '' where it stays. Waits for ENDING_S."""
        if self._peer is None or not self._peer.wait_ended(ENDING_S):
            return ""
        how = reap(self._peer.pid) or "another process had started it"
        return f"The embedded server ended ({how}); its log ends with:\n{log_tail(self.files, 2)}{self._disk_hint()}"

    def _ensure_running(self) -> None:
        """Find the server or start it, then wait until it has loaded; keeps a connection open to notice its end."""
        with self._start_lock():
            if self._users is None:
                self._users = Lock(self.files.users_lock)
                self._users.shared()
            peer = Peer.connect(self.files.socket) or self._start()
        self._close_peer()
        self._peer = peer
        wait_loaded(self.files, self._report, lambda: self._stopping.is_set() or self._cancelled())

    def _close_peer(self) -> None:
        if self._peer is not None:
            self._peer.close()

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        """Hold the lock of starting and stopping; whoever holds it does so for seconds at most."""
        try:
            lock = Lock(self.files.start_lock)
        except OSError as error:
            raise EmbeddedServerError(f"Cannot use the data folder {self._data_dir}: {describe(error)}") from error
        deadline = time.monotonic() + START_TIMEOUT_S + SHUTDOWN_TIMEOUT_S * 3
        try:
            while not lock.try_exclusive():
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"Another process holds {lock.path} for too long; end it and try again")
                time.sleep(0.005)
            yield
        finally:
            lock.close()

    def _start(self) -> Peer:
        """Start the server and return as soon as it accepts connections. The start lock is held."""
        try:
            held = Lock(self.files.server_lock)
        except OSError as error:
            raise EmbeddedServerError(f"Cannot use the data folder {self._data_dir}: {describe(error)}") from error
        try:
            if (running := self._wait_for_predecessor(held)) is not None:
                return running
            if lost_manifest(self.files.folder):
                raise EmbeddedServerError(
                    f"The list of append-only files in {self.files.folder} is lost, and the server would begin anew: "
                    f"{MEND}"
                )
            prepare_files(self._data_dir)  # whoever left last may have removed the socket's folder since
            process = spawn(self.files, held)
        except OSError as error:
            raise EmbeddedServerError(f"Cannot start the embedded server: {describe(error)}") from error
        finally:
            held.close()
        deadline = time.monotonic() + START_TIMEOUT_S
        while (peer := Peer.connect(self.files.socket)) is None:
            if process.poll() is not None:
                raise EmbeddedServerError(
                    f"The embedded server did not start:\n{what_it_says(self.files)}{self._disk_hint()}"
                )
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise EmbeddedServerError(
                    f"The embedded server did not start in {START_TIMEOUT_S:g} s; see {self.files.log}"
                )
            time.sleep(0.005)
        log.info("embedded server started, pid %d", process.pid)
        return peer

    def _wait_for_predecessor(self, held: Lock) -> Peer | None:
        """Take the server lock, or return the server that holds it and answers after all; a silent one is an error."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while not held.try_exclusive():
            if (peer := Peer.connect(self.files.socket)) is not None:
                return peer
            if time.monotonic() > deadline:
                pid_file = self.files.folder / "valkey.pid"
                pid = pid_file.read_text().strip() if pid_file.exists() else "unknown"
                raise EmbeddedServerError(
                    f"A server works on {self.files.folder} but does not answer at {self.files.socket}; "
                    f"stop it (its process was {pid} when it started) and try again"
                )
            time.sleep(0.01)
        return None

    @contextmanager
    def alone(self) -> Iterator[Files]:
        """Keep the server from being started, for work on its files; raises EmbeddedServerError while it runs."""
        self._files = prepare_files(self._data_dir)
        with self._start_lock():
            held = Lock(self.files.server_lock)
            try:
                if not held.try_exclusive():
                    raise EmbeddedServerError(
                        f"A server works on {self.files.folder}: stop the services that use it and try again"
                    )
                yield self.files
            finally:
                held.close()

    def _disk_hint(self) -> str:
        status = os.statvfs(self.files.folder)
        free_bytes = status.f_bavail * status.f_frsize
        told = f"\nOnly {free_bytes // 1024} KiB are free on the disk of {self._data_dir}: make room there"
        return told if free_bytes < 16 * 1024**2 else ""

    def _stop(self) -> None:
        """End the server: asked, then told, then by force, which loses no answered write. The start lock is held."""
        peer = Peer.connect(self.files.socket)
        if peer is None:
            return
        try:
            try:
                with client(self.files.socket, timeout_s=SHUTDOWN_TIMEOUT_S) as connection:
                    connection.execute_command("SHUTDOWN", "NOSAVE")
            except redis.RedisError as error:
                log.debug("SHUTDOWN: %s", error)
            if not peer.wait_ended(SHUTDOWN_TIMEOUT_S):
                log.warning("embedded server does not follow SHUTDOWN; terminating pid %s", peer.pid)
                peer.signal(signal.SIGTERM)
                if not peer.wait_ended(SHUTDOWN_TIMEOUT_S):
                    log.warning("embedded server does not follow SIGTERM; killing pid %s", peer.pid)
                    peer.signal(signal.SIGKILL)
                    peer.wait_ended(SHUTDOWN_TIMEOUT_S)
            reap(peer.pid)
            remove_short_folder(self.files)
            log.info("embedded server stopped, pid %s", peer.pid)
        finally:
            peer.close()

    def _keep_alive(self) -> None:
        """Wait for the server's end and start it again, at once the first time, then less and less eagerly."""
        delay_s = 0.05  # a stop signal sent to the server and to us alike is seen here before a restart
        while not self._stopping.is_set():
            peer = self._peer
            if peer is not None:
                since = time.monotonic()
                peer.wait_gone()
                if self._stopping.wait(delay_s):
                    return
                how = reap(peer.pid) or "another process had started it"
                delay_s = 0.05 if time.monotonic() - since > 10 else min(delay_s * 2, 30.0)
                log.error(
                    "embedded server ended unexpectedly (%s), starting it again; its log ends with: %s",
                    how,
                    log_tail(self.files, 1),
                )
                self._peer = None
                peer.close()
            try:
                self._ensure_running()
            except EmbeddedServerError as error:
                if self._stopping.wait(delay_s):
                    return
                delay_s = min(delay_s * 2, 30.0)
                log.error("embedded server: %s", error)


@contextmanager
def embedded_server(data_dir: Path, report: Callable[[str], None] = report_to_stderr) -> Iterator[str]:
    """Yield the URL of the durable server of `data_dir`, started when needed and stopped by its last user.

    Raises EmbeddedServerError when the folder or the server cannot be used, or the server ended while it was used.
    """
    server = EmbeddedServer(data_dir, report)
    url = server.join()
    try:
        yield url
    except StoreUnavailable as error:
        if told := server.why_it_ended():
            raise EmbeddedServerError(told) from error
        raise
    finally:
        server.leave()
