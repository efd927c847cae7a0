"""The gunicorn arbiter, run in a process of its own between the supervising parent and the workers.

`python -m ops.server.arbiter LISTEN_FD,… READY_FD` reads a `Start` as JSON from stdin, so that secrets show up in no
list of processes.
"""

from __future__ import annotations

import gc
import importlib
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from ledger.errors import LedgerError
from ops.figures.shared import SharedFigures
from ops.server.connection_balance import Load
from ops.server.logs import configure_logging
from ops.server.worker import KEEP_ALIVE_S, LedgerWorker
from ops.settings.settings import Settings

WORKER_TIMEOUT_S = 60
BACKLOG = 2048


class Start(msgspec.Struct, frozen=True):
    """What the parent tells the arbiter."""

    settings: Settings
    redis_url: str
    factory: str
    """`module:function`, called in each worker with the settings, the Redis URL and the ledger's id.

    It returns the ASGI application.
    """
    parent_pid: int
    ledger_id: str = ""
    """The ledger that the parent found or began: a worker begins none, and serves this one also while it is gone."""


def encode_start(start: Start) -> bytes:
    """Return the JSON that `decode_start` reads."""
    return msgspec.json.encode(start, enc_hook=str)


def decode_start(data: bytes) -> Start:
    """Read what the parent wrote."""
    return msgspec.json.decode(data, type=Start, dec_hook=lambda kind, value: kind(value))


class LedgerApplication(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """Gunicorn's view of the service: its configuration, and how a worker gets its application."""

    def __init__(self, start: Start, listen_fds: Sequence[int], ready_fd: int) -> None:
        self.start = start
        self.settings = start.settings
        self.ready_fd = ready_fd
        slots = 2 * start.settings.workers  # twice: a worker that ends and its successor overlap
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

    def load(self) -> Any:
        """Build the application, in the worker."""
        configure_logging(self.settings.log)
        module, _, function = self.start.factory.partition(":")
        try:
            create = getattr(importlib.import_module(module), function)
            return create(self.settings, self.start.redis_url, self.start.ledger_id)
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
    """An arbiter that ends when its parent is gone."""

    app: LedgerApplication

    def maybe_promote_master(self) -> None:
        """Look at the parent; gunicorn calls this at least once a second."""
        if os.getppid() != self.app.start.parent_pid:
            self.log.error("the supervising process is gone, shutting down")
            raise StopIteration


def main() -> None:
    """Run the arbiter until it is told to stop."""
    listen_fds, ready_fd = [int(fd) for fd in sys.argv[1].split(",")], int(sys.argv[2])
    start = decode_start(sys.stdin.buffer.read())
    configure_logging(start.settings.log)
    importlib.import_module(start.factory.partition(":")[0])  # once, before the workers are forked
    try:
        LedgerArbiter(LedgerApplication(start, listen_fds, ready_fd)).run()
    finally:
        gc.freeze()  # PERF: Python collects garbage once more when it ends; with our modules that is half a second


if __name__ == "__main__":
    main()
