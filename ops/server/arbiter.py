"""The gunicorn arbiter, run in a process of its own between the supervising parent and the workers.

`python -m ops.server.arbiter LISTEN_FD,… TOLD_FD GATE_FD` reads a `Start` as JSON from stdin, so that secrets show up
in no list of processes. It tells the parent by `Told`s, one a line of TOLD_FD, and its workers accept connections once
GATE_FD ends. The parent may be of an older version, so both messages only grow.
"""

from __future__ import annotations

import gc
import importlib
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from ledger.errors import InvalidInput, LedgerError
from ops.figures.shared import SharedFigures
from ops.server.connection_balance import Load
from ops.server.listening import BACKLOG
from ops.server.logs import configure_logging, log_crashes
from ops.server.messages import Start, Told, decode_settings, decode_start, encode_settings, tell
from ops.server.worker import KEEP_ALIVE_S, LedgerWorker
from ops.settings.settings import Settings

WORKER_TIMEOUT_S = 60


class LedgerApplication(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """Gunicorn's view of the service: its configuration, and how a worker gets its application."""

    def __init__(self, start: Start, settings: Settings, listen_fds: Sequence[int], told_fd: int, gate_fd: int) -> None:
        self.start = start
        self.settings = settings
        self.gate_fd = gate_fd
        self.takes_over = start.takes_over
        self._told_fd = told_fd
        slots = 2 * settings.workers  # twice: a worker that ends and its successor overlap
        self.connections, self.figures = Load(slots), SharedFigures(slots)
        self._listen_fds = listen_fds
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        shared_memory = "/dev/shm"  # noqa: S108 - heartbeats are files without a name there
        values: dict[str, Any] = {
            "bind": [f"fd://{fd}" for fd in self._listen_fds],
            "backlog": BACKLOG,
            "workers": self.settings.workers,
            "worker_class": LedgerWorker,
            "worker_tmp_dir": shared_memory if Path(shared_memory).is_dir() else None,
            "timeout": WORKER_TIMEOUT_S,
            # Workers break open streams before (worker.py); who still lives at the end of the grace is killed.
            "graceful_timeout": max(1, math.ceil(self.settings.grace_s)),
            "keepalive": KEEP_ALIVE_S,
            "logger_class": ArbiterLog,
            "proc_name": "syncledger",
            "control_socket_disable": True,
            "pre_fork": _give_slot,
            "child_exit": _clear_slot,
        }
        for name, value in values.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def tell_ready(self) -> None:
        """Tell the parent that this worker is ready."""
        tell(self._told_fd, Told(ready=os.getpid()))

    def load(self) -> Any:
        """Build the application, in the worker."""
        configure_logging(self.settings.log, self.settings.log_format)
        module, _, function = self.start.factory.partition(":")
        try:
            create = getattr(importlib.import_module(module), function)
            return create(self.settings, self.settings.redis_url or self.start.redis_url, self.start.ledger_id)
        except LedgerError as error:
            logging.getLogger("syncledger.serve").critical("%s", error)
            sys.exit(Arbiter.APP_LOAD_ERROR)


def _give_slot(arbiter: Arbiter, worker: LedgerWorker) -> None:
    """Give a worker that is about to be forked a place to count its connections."""
    taken = {other.slot for other in arbiter.WORKERS.values()}
    worker.slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
    arbiter.app.figures.begin(worker.slot)


def _clear_slot(_: Arbiter, worker: LedgerWorker) -> None:
    """Forget the connections of a worker that has ended, and keep what it counted."""
    worker.app.connections.clear(worker.slot)
    worker.app.figures.end(worker.slot)


class ArbiterLog(Logger):  # type: ignore[misc] # gunicorn has no types
    """Gunicorn's log, written by our handler like everything else."""

    def setup(self, cfg: Any) -> None:
        """Keep gunicorn from adding handlers of its own."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
        self.error_log.handlers = []


class LedgerArbiter(Arbiter):  # type: ignore[misc] # gunicorn has no types
    """An arbiter that ends when its parent is gone, or, told to drain, when its workers have nobody left.

    What gunicorn does at other signals is left out: the parent is who replaces workers.
    """

    app: LedgerApplication
    LISTENERS: list[Any]
    _draining = False

    def maybe_promote_master(self) -> None:
        """Look at the parent; gunicorn calls this at least once a second."""
        if os.getppid() != self.app.start.parent_pid:
            self.log.error("the supervising process is gone, shutting down")
            raise StopIteration

    def manage_workers(self) -> None:
        """Keep as many workers as there are to be; who drains starts none."""
        if not self._draining:
            super().manage_workers()
        elif not self.WORKERS:
            raise StopIteration

    def handle_usr2(self) -> None:
        """Leave the listening sockets to those who come after, and end when the last connection has."""
        self._draining = True
        for listener in self.LISTENERS:
            listener.close()
        self.LISTENERS = []
        self.kill_workers(signal.SIGUSR2)

    def handle_hup(self) -> None:
        """Leave it be: new workers would have the old code and settings."""
        self.log.warning("the signal is for the parent, process %d, alone", self.app.start.parent_pid)

    handle_ttin = handle_ttou = handle_winch = handle_hup


def main() -> None:
    """Run the arbiter until it is told to stop."""
    listen_fds = [int(fd) for fd in sys.argv[1].split(",")]
    told_fd, gate_fd = int(sys.argv[2]), int(sys.argv[3])
    start = decode_start(sys.stdin.buffer.read())
    settings = decode_settings(start.settings)
    configure_logging(settings.log, settings.log_format)
    log_crashes()
    gc.disable()  # PERF: what is imported stays, and would be looked through a dozen times while it grows
    importlib.import_module(start.factory.partition(":")[0])  # once, before the workers are forked
    if start.anew:
        from ops.server.replacing.renewal import checked_anew  # PERF: only who replaces others waits for this

        try:
            settings = checked_anew(start, settings)
        except LedgerError as error:
            tell(told_fd, Told(refused=error.told if isinstance(error, InvalidInput) else str(error)))
            sys.exit(1)
        configure_logging(settings.log, settings.log_format)
        tell(told_fd, Told(settings=encode_settings(settings)))
    gc.freeze()  # PERF: workers share what is here as long as they do not look through it for garbage
    gc.enable()
    try:
        LedgerArbiter(LedgerApplication(start, settings, listen_fds, told_fd, gate_fd)).run()
    finally:
        gc.freeze()  # PERF: Python collects garbage once more when it ends; with our modules that is half a second


if __name__ == "__main__":
    main()
