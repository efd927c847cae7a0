"""One generation of a service: an arbiter in a process of its own, with its workers, as the parent sees it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ops.server.messages import Start, Told, encode_start
from ops.server.systemd import without_notify

log = logging.getLogger("syncledger.serve")

KILL_AFTER_S: Final = 3.0
"""How long behind the grace an arbiter may live."""


class Bounds(msgspec.Struct, frozen=True):
    """What the parent must know of a generation's settings, whichever version they are of."""

    workers: int
    grace_s: float
    drain_s: float


class Generation:
    """An arbiter process; what its workers accept waits until the gate is opened."""

    def __init__(self, start: Start, listeners: Sequence[int], environ: Mapping[str, str]) -> None:
        """Start it; the listening sockets (descriptors) stay the parent's."""
        self.start = start
        self.settings = start.settings
        """What it runs with, once it has told where it read them anew."""
        self.refused = ""
        """Why it does not serve, where it said so."""
        self.terminated_s: float | None = None
        self.drained_by_s: float | None = None
        self.began_s = time.monotonic()
        self._ready: set[int] = set()
        self._said = b""
        self._told, told = os.pipe()
        gate, self._gate = os.pipe()
        os.set_blocking(self._told, False)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ops.server.arbiter", ",".join(map(str, listeners)), str(told), str(gate)],
                stdin=subprocess.PIPE,
                pass_fds=(*listeners, told, gate),
                env=without_notify(environ) | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # Ctrl-C at the terminal is for the parent alone, which passes it on
            )
        finally:
            os.close(told)
            os.close(gate)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode_start(start))
            self._process.stdin.close()
        except BrokenPipeError:
            log.error("the arbiter ended at once")

    @property
    def pid(self) -> int:
        """The arbiter's process id."""
        return self._process.pid

    @property
    def bounds(self) -> Bounds:
        """What its settings bound."""
        return msgspec.json.decode(self.settings, type=Bounds)

    @property
    def ready(self) -> bool:
        """Whether all of its workers are ready."""
        return len(self._ready) >= self.bounds.workers

    @property
    def status(self) -> int | None:
        """How the arbiter ended; None while it lives."""
        return self._process.poll()

    @property
    def ended(self) -> bool:
        """Whether the arbiter has ended."""
        return self.status is not None

    def fileno(self) -> int:
        """Readable when it told something, or has ended."""
        return self._told

    def hear(self) -> bool:
        """Take in what it told; False when it will tell no more."""
        try:
            said = os.read(self._told, 65536)
        except BlockingIOError:
            return True
        *lines, self._said = (self._said + said).split(b"\n")
        for line in lines:
            told = msgspec.json.decode(line, type=Told)
            if bytes(told.settings):
                self.settings = msgspec.Raw(bytes(told.settings))
            self.refused = told.refused or self.refused
            if told.ready:
                self._ready.add(told.ready)
        return bool(said)

    def open(self) -> None:
        """Let it accept connections. May be called twice."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    def drain(self) -> None:
        """Have it accept no more, and end with its last connection, or when `LEDGER_DRAIN` is over (`look`)."""
        self.drained_by_s = time.monotonic() + self.bounds.drain_s
        self._process.send_signal(signal.SIGUSR2)

    def terminate(self) -> None:
        """Have it end in order, within its grace."""
        self.terminated_s = time.monotonic()
        self._process.terminate()

    def hurry(self) -> None:
        """Have it end without waiting for anything."""
        self._process.send_signal(signal.SIGQUIT)

    def kill(self) -> None:
        """End it by force, with its workers and whatever it does."""
        if not self.ended:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def look(self) -> None:
        """Terminate it when its drain is over, and kill it when its grace is."""
        now_s = time.monotonic()
        if self.terminated_s is not None:
            if not self.ended and now_s > self.terminated_s + self.bounds.grace_s + KILL_AFTER_S:
                log.error("the arbiter does not end, killing it", extra={"arbiter": self.pid})
                self.kill()
        elif self.drained_by_s is not None and now_s > self.drained_by_s and not self.ended:
            log.warning("breaking off what is open since the replacement", extra={"arbiter": self.pid})
            self.terminate()

    def close(self) -> None:
        """Give up the pipes; it must have ended."""
        self.open()
        os.close(self._told)
