"""The supervising parent of a service: embedded server below, gunicorn arbiter and workers beside.

The parent owns what must outlive the workers: the listening socket, so that a crashed arbiter loses no connection,
and the embedded server. It never runs the application, so nothing of uvicorn's or gunicorn's ending touches it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import FrameType

from ledger.errors import LedgerError, NoLedger
from ops.embedded.server import EmbeddedServer
from ops.opening.ledger import begin_ledger
from ops.opening.store import until_there
from ops.server.arbiter import Start, encode_start
from ops.server.listening import address_of, listen
from ops.server.logs import configure_logging
from ops.settings.settings import Settings
from ops.settings.variables import told_unknown

log = logging.getLogger("syncledger.serve")

APPLICATION = "ops.app:create_app"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
KILL_AFTER_S = 3.0
LONGEST_RESTART_DELAY_S = 5.0


def print_addresses(addresses: Sequence[str]) -> None:
    """Tell the person at the terminal that the service is ready, and where."""
    print(f"Sync ledger ready at {' and '.join(addresses)}", flush=True)  # noqa: T201


def serve(
    settings: Settings, *, factory: str = APPLICATION, on_ready: Callable[[Sequence[str]], None] = print_addresses
) -> int:
    """Run the service until it is told to stop (SIGTERM, SIGINT, SIGHUP) and return the exit status.

    Must be called in the main thread. `on_ready` gets the addresses when every worker accepts requests.
    """
    configure_logging(settings.log)
    for told in told_unknown(os.environ):
        log.warning("%s", told)
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        try:
            listeners = listen(settings.host, settings.port)
            for listener in listeners:
                stack.enter_context(listener)
            if settings.redis_url is None:
                server = EmbeddedServer(settings.data_dir, report=log.info, cancelled=signals.asked)
                redis_url = server.join()
                stack.callback(server.leave)
                server.watch()
            else:
                redis_url = settings.redis_url
            ledger_id = asyncio.run(until_there(partial(begin_ledger, redis_url, settings), signals.asked))
            start = Start(settings, redis_url, factory, os.getpid(), ledger_id)
            with Supervisor(start, listeners, signals, on_ready) as supervisor:
                return supervisor.run()
        except LedgerError as error:
            if signals.asked():
                return 0
            print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
            return 2 if isinstance(error, NoLedger) else 1


class StopSignals:
    """Counts stop signals, and wakes up whoever waits for its descriptor when one, or a child's end, arrives."""

    def __init__(self) -> None:
        self.count = 0
        self.last: signal.Signals | None = None
        self._wake, self._woken = socket.socketpair()
        self._previous: dict[signal.Signals, object] = {}
        self._previous_fd = -1

    def __enter__(self) -> StopSignals:
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` has it
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_fd)
        self._wake.close()
        self._woken.close()

    def asked(self, times: int = 1) -> bool:
        """Tell whether the service was told to stop, at least so often."""
        return self.count >= times

    def fileno(self) -> int:
        """Readable when something arrived."""
        return self._woken.fileno()

    def clear(self) -> None:
        """Forget the wake-ups so far; the counts stay."""
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            return

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number in STOP_SIGNALS:
            self.count += 1
            self.last = signal.Signals(number)


class Supervisor:
    """Keeps one arbiter alive until told to stop."""

    def __init__(
        self,
        start: Start,
        listeners: Sequence[socket.socket],
        signals: StopSignals,
        on_ready: Callable[[Sequence[str]], None],
    ) -> None:
        self._start = start
        self._listeners = listeners
        self._signals = signals
        self._on_ready = on_ready
        self._addresses = [address_of(listener) for listener in listeners]
        self._ready, self._ready_write = os.pipe()
        self._ready_workers = 0
        self._was_ready = False
        self._arbiter: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._arbiter is not None and self._arbiter.poll() is None:
            self._arbiter.kill()
            self._arbiter.wait()
        os.close(self._ready)
        os.close(self._ready_write)

    def run(self) -> int:
        """Run until a stop signal (0) or until the application cannot start (1)."""
        delay_s = 0.1
        while not self._signals.asked():
            began = time.monotonic()
            self._spawn()
            self._wait(self._signals.asked)
            if self._signals.asked():
                break
            assert self._arbiter is not None
            status = self._arbiter.returncode
            if not self._was_ready:
                log.critical("the service could not start; see the lines above", extra={"status": status})
                return 1
            delay_s = 0.1 if time.monotonic() - began > 10 else min(delay_s * 2, LONGEST_RESTART_DELAY_S)
            log.error("the arbiter ended unexpectedly, starting another", extra={"status": status})
            self._sleep(delay_s)
        return self._stop()

    def _spawn(self) -> None:
        listening = [listener.fileno() for listener in self._listeners]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._arbiter = subprocess.Popen(
            [sys.executable, "-P", "-m", "ops.server.arbiter", ",".join(map(str, listening)), str(self._ready_write)],
            stdin=subprocess.PIPE,
            pass_fds=(*listening, self._ready_write),
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal is for the parent alone, which passes it on
        )
        assert self._arbiter.stdin is not None
        try:
            self._arbiter.stdin.write(encode_start(self._start))
            self._arbiter.stdin.close()
        except BrokenPipeError:
            log.error("the arbiter ended at once")

    def _wait(self, until: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait for the arbiter's end, for `until` after a signal, or for the deadline, and notice ready workers."""
        assert self._arbiter is not None
        while self._arbiter.poll() is None and not until():
            left_s = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if left_s <= 0:
                return
            readable = select.select([self._signals.fileno(), self._ready], [], [], left_s)[0]
            self._signals.clear()
            if self._ready in readable:
                self._note_ready(os.read(self._ready, 4096))

    def _note_ready(self, lines: bytes) -> None:
        self._ready_workers += lines.count(b"\n")
        if not self._was_ready and self._ready_workers >= self._start.settings.workers:
            self._was_ready = True
            log.info("ready", extra={"address": " ".join(self._addresses), "workers": self._start.settings.workers})
            self._on_ready(self._addresses)

    def _sleep(self, delay_s: float) -> None:
        """Wait, unless a stop signal comes."""
        deadline = time.monotonic() + delay_s
        while not self._signals.asked() and (left_s := deadline - time.monotonic()) > 0:
            select.select([self._signals], [], [], left_s)
            self._signals.clear()

    def _stop(self) -> int:
        """End the arbiter: in order, quickly after a second signal, by force after a third or when time is up."""
        gc.freeze()  # PERF: as in ops/server/arbiter.py
        for listener in self._listeners:
            listener.close()  # else clients would queue up at a door that nobody opens any more
        arbiter = self._arbiter
        if arbiter is None or arbiter.poll() is not None:
            return 0
        log.info("stopping", extra={"signal": self._signals.last and self._signals.last.name})
        arbiter.terminate()
        deadline = time.monotonic() + self._start.settings.grace_s + KILL_AFTER_S
        self._wait(lambda: self._signals.asked(2), deadline)
        if arbiter.poll() is None and time.monotonic() < deadline:
            log.info("stopping at once")
            arbiter.send_signal(signal.SIGQUIT)
            self._wait(lambda: self._signals.asked(3), time.monotonic() + KILL_AFTER_S)
        if arbiter.poll() is None:
            log.error("the arbiter does not end, killing it")
            arbiter.kill()
            arbiter.wait()
        return 0
