"""The supervising parent of a service: embedded server below, gunicorn arbiters and workers beside.

The parent owns what must outlive the workers: the listening sockets, so that a crashed arbiter loses no connection,
and the embedded server. It never runs the application, so nothing of uvicorn's or gunicorn's ending touches it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from ledger.errors import LedgerError, NoLedger
from ops.embedded.server import EmbeddedServer
from ops.opening.ledger import begin_ledger
from ops.opening.store import until_there
from ops.server.listening import ServiceError, address_of, listen
from ops.server.logs import configure_logging, log_crashes
from ops.server.messages import Start, encode_settings
from ops.server.replacing.generation import KILL_AFTER_S, Generation
from ops.server.replacing.handover import Door, Predecessor, Successor
from ops.server.signals import Signals
from ops.server.systemd import given_listeners, notify, notify_reloading
from ops.settings.settings import Settings
from ops.settings.variables import told_unknown

log = logging.getLogger("syncledger.serve")

APPLICATION = "ops.app:create_app"
LONGEST_RESTART_DELAY_S = 5.0
READY_WITHIN_S: Final = 120.0
"""How long a replacement may take to be ready before it is given up."""
MOST_DRAINING: Final = 3
"""How many generations may end beside the one that serves: each takes as much memory. The oldest is hurried."""


def print_addresses(addresses: Sequence[str]) -> None:
    """Tell the person at the terminal that the service is ready, and where."""
    print(f"Sync ledger ready at {' and '.join(addresses)}", flush=True)  # noqa: T201


def serve(
    settings: Settings,
    *,
    factory: str = APPLICATION,
    on_ready: Callable[[Sequence[str]], None] = print_addresses,
    overrides: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> int:
    """Run the service until it is told to stop (SIGTERM, SIGINT, the end of its terminal) and return the exit status.

    Must be called in the main thread. `on_ready` gets the addresses when every worker accepts requests. `overrides` is
    what the command line said, by the settings' fields: SIGHUP has the settings read anew. `replace` takes over from
    the service that runs on the data folder, where one does.
    """
    configure_logging(settings.log, settings.log_format)
    log_crashes()
    for told in told_unknown(os.environ):
        log.warning("%s", told)
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        try:
            predecessor = Predecessor.ask(settings.data_dir, settings.port) if replace else None
            if predecessor is not None:
                stack.callback(predecessor.close)
            elif replace:
                log.info("no service runs on %s: starting one", settings.data_dir)
            listeners = _listeners(settings, predecessor, stack)
            if settings.redis_url is None:
                server = EmbeddedServer(settings.data_dir, report=log.info, cancelled=signals.asked)
                redis_url = server.join()
                stack.callback(server.leave)
                server.watch()
            else:
                redis_url = settings.redis_url
            notify("STATUS=waiting for the store")
            ledger_id = asyncio.run(until_there(partial(begin_ledger, redis_url, settings), signals.asked))
            given = {name: value for name, value in (overrides or {}).items() if value is not None}
            start = Start(encode_settings(settings), redis_url, factory, os.getpid(), ledger_id, given)
            with Supervisor(start, settings.data_dir, listeners, signals, on_ready, predecessor) as supervisor:
                return supervisor.run()
        except LedgerError as error:
            if signals.asked():
                return 0
            if settings.log_format == "json":
                log.critical("%s", error)
            else:
                print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
            return 2 if isinstance(error, NoLedger) else 1


def _listeners(settings: Settings, predecessor: Predecessor | None, stack: ExitStack) -> list[socket.socket]:
    """Open the sockets to listen on, or take them from systemd, or from the service before this one."""
    listeners = given_listeners()
    if any(listener.family not in (socket.AF_INET, socket.AF_INET6) for listener in listeners):
        raise ServiceError("systemd's socket unit names more than TCP ports: ListenStream=2283")
    if listeners:
        addresses = " and ".join(address_of(listener) for listener in listeners)
        log.info("listening at %s, as systemd's socket unit says and not LEDGER_HOST and LEDGER_PORT", addresses)
    else:
        listeners = listen(settings.host, settings.port, predecessor.listeners if predecessor else ())
    for listener in listeners:
        stack.enter_context(listener)
    return listeners


class Supervisor:
    """Keeps one generation of workers serving until told to stop, and puts others into its place."""

    def __init__(
        self,
        start: Start,
        data_dir: Path,
        listeners: Sequence[socket.socket],
        signals: Signals,
        on_ready: Callable[[Sequence[str]], None],
        predecessor: Predecessor | None = None,
    ) -> None:
        self._start = start
        self._data_dir = data_dir
        self._listeners = listeners
        self._signals = signals
        self._on_ready = on_ready
        self._predecessor = predecessor
        self._addresses = [address_of(listener) for listener in listeners]
        self._was_ready = False
        self._door: Door | None = None
        self._successor: Successor | None = None
        self._current: Generation | None = None
        self._coming: Generation | None = None
        self._draining: list[Generation] = []
        self._deaf: set[Generation] = set()
        """Those that will tell no more."""
        self._restart_s = 0.0
        self._delay_s = 0.1

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._door is not None:
            self._door.close()
        for generation in self._generations():
            generation.kill()
            generation.close()

    def run(self) -> int:
        """Run until a stop signal (0), until another service took over (0), or until the application cannot start (1).

        Raises ServiceError where the service before this one does not hand over.
        """
        self._current = self._spawn(structs.replace(self._start, takes_over=self._predecessor is not None))
        if self._predecessor is None:
            self._current.open()
        while not self._signals.asked():
            self._wait()
            self._look_at_the_old()
            if (status := self._look()) is not None:
                return status
        return self._stop()

    def _look(self) -> int | None:
        """See to the generations that are there; gives what to exit with once there is nothing to see to."""
        current = self._current
        if current is None:
            self._signals.take_hang_up()  # that is for the successor now
            if self._draining:
                return None
            log.info("all that was open has ended")
            return 0
        self._look_at_current(current)
        if current.ended and not self._was_ready:
            log.critical("the service could not start; see the lines above", extra={"status": current.status})
            return 1
        self._look_at_coming()
        if self._successor is None and self._coming is None and self._was_ready and self._signals.take_hang_up():
            self._renew()
        return None

    # The one that serves ----------------------------------------------------------------------------------------------

    def _look_at_current(self, current: Generation) -> None:
        if not current.ended:
            if not self._was_ready and current.ready:
                self._begin(current)
            return
        if not self._was_ready or self._coming is not None:
            return
        now_s = time.monotonic()
        if not self._restart_s:
            self._delay_s = 0.1 if now_s - current.began_s > 10 else min(self._delay_s * 2, LONGEST_RESTART_DELAY_S)
            log.error("the arbiter ended unexpectedly, starting another", extra={"status": current.status})
            self._restart_s = now_s + self._delay_s
        elif now_s >= self._restart_s:
            self._restart_s = 0.0
            self._close(current)
            self._current = self._spawn(structs.replace(self._start, settings=current.settings))
            self._current.open()

    def _begin(self, current: Generation) -> None:
        """Serve for the first time, behind the service that served before."""
        if self._predecessor is not None:
            self._predecessor.take_over()
            log.info("took over", extra={"from": self._predecessor.pid})
        current.open()
        self._was_ready = True
        self._door = Door.open(self._data_dir, self._listeners)
        log.info("ready", extra={"address": " ".join(self._addresses), "workers": current.bounds.workers})
        notify("READY=1", f"MAINPID={os.getpid()}", "STATUS=serving")
        self._on_ready(self._addresses)

    # One that comes ---------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Start a generation that reads its settings anew, behind a gate."""
        assert self._current is not None
        log.info("starting a replacement", extra={"arbiter": self._current.pid})
        notify_reloading()
        before = self._current.settings
        self._coming = self._spawn(structs.replace(self._start, settings=before, anew=True, takes_over=True))

    def _look_at_coming(self) -> None:
        coming = self._coming
        if coming is None:
            return
        if coming.ended:
            self._give_up(coming, coming.refused or "it could not start, the lines above tell why")
        elif coming.ready:
            self._put_in_place(coming)
        elif time.monotonic() > coming.began_s + READY_WITHIN_S:
            self._give_up(coming, f"it was not ready within {READY_WITHIN_S:.0f} s")

    def _give_up(self, coming: Generation, why: str) -> None:
        log.error("not replaced, and served on as before: %s", why)
        self._coming = None
        coming.kill()
        self._close(coming)
        notify("READY=1", "STATUS=serving as before, for a replacement failed: see the log")

    def _put_in_place(self, coming: Generation) -> None:
        assert self._current is not None
        coming.open()
        before, self._current, self._coming = self._current, coming, None
        self._restart_s = 0.0
        self._drain(before)
        log.info("replaced", extra={"arbiter": coming.pid, "workers": coming.bounds.workers, "before": before.pid})
        notify("READY=1", "STATUS=serving")

    def _drain(self, generation: Generation) -> None:
        """Have a generation end with what is open, and the oldest that do so at once where they are too many."""
        generation.drain()
        self._draining.append(generation)
        for oldest in self._draining[:-MOST_DRAINING]:
            if oldest.terminated_s is None:
                log.warning("breaking off what is open since %d replacements", MOST_DRAINING)
                oldest.terminate()

    # Who comes instead of this process --------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Hear who would take over."""
        assert self._door is not None
        refuse = ""
        if self._successor is not None or self._coming is not None:
            refuse = "A replacement is under way already: try again when it is there, or has failed; the log tells"
        successor = self._door.admit(self._listeners, refuse)
        if successor is not None:
            self._successor = successor
            log.info("another process is about to take over", extra={"successor": successor.pid})

    def _hear_successor(self) -> None:
        """Hand over to who is ready, or go on without who is gone."""
        successor, self._successor = self._successor, None
        assert successor is not None
        ready = successor.serves()
        if not (ready and successor.answer()):
            successor.answer(refused="it was given up")
            log.error("not replaced, and served on as before: process %d ended before it was ready", successor.pid)
            return
        assert self._door is not None
        assert self._current is not None
        self._door.close(handed_over=True)
        self._door = None
        log.info("handed over; ending once what is open has ended", extra={"successor": successor.pid})
        notify(f"MAINPID={successor.pid}")
        for listener in self._listeners:
            listener.close()
        before, self._current = self._current, None
        self._drain(before)

    def _look_at_the_old(self) -> None:
        for generation in list(self._draining):
            generation.look()
            if generation.ended:
                log.info("what was replaced has ended", extra={"arbiter": generation.pid})
                self._draining.remove(generation)
                self._close(generation)
        successor = self._successor
        if successor is not None and time.monotonic() > successor.since_s + READY_WITHIN_S:
            self._successor = None
            successor.answer(refused=f"it took longer than {READY_WITHIN_S:.0f} s; the service before it serves on")
            log.error("not replaced, and served on as before: process %d was not ready in time", successor.pid)

    # All of them ------------------------------------------------------------------------------------------------------

    def _generations(self) -> list[Generation]:
        return [each for each in (self._current, self._coming, *self._draining) if each is not None]

    def _spawn(self, start: Start) -> Generation:
        return Generation(start, [listener.fileno() for listener in self._listeners], os.environ)

    def _close(self, generation: Generation) -> None:
        self._deaf.discard(generation)
        generation.close()

    def _wait(self, longest_s: float = 1.0) -> None:
        """Wait until there is something to look at, a second at most."""
        telling = [each for each in self._generations() if each not in self._deaf]
        doors = [each for each in (self._door, self._successor) if each is not None]
        if self._restart_s or not self._signals.settled:
            longest_s = 0.05
        readable = select.select([self._signals, *telling, *doors], [], [], longest_s)[0]
        self._signals.clear()
        for each in telling:
            if each in readable and not each.hear():
                self._deaf.add(each)
        if self._successor in readable:
            self._hear_successor()
        elif self._door in readable:
            self._admit()

    def _stop(self) -> int:
        """End all: in order, quickly after a second signal, by force after a third or when time is up."""
        gc.freeze()  # PERF: as in ops/server/arbiter.py
        for listener in self._listeners:
            listener.close()  # else clients would queue up at a door that nobody opens any more
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._successor is not None:
            self._successor.close()  # it goes on by itself
            self._successor = None
        living = [each for each in self._generations() if not each.ended]
        if not living:
            return 0
        log.info("stopping", extra={"signal": self._signals.last and self._signals.last.name})
        notify("STOPPING=1", "STATUS=ending what is open")
        for generation in living:
            generation.terminate()
        deadline = time.monotonic() + max(each.bounds.grace_s for each in living) + KILL_AFTER_S
        self._wait_ended(living, 2, deadline)
        if any(not each.ended for each in living) and time.monotonic() < deadline:
            log.info("stopping at once")
            for generation in living:
                generation.hurry()
            self._wait_ended(living, 3, time.monotonic() + KILL_AFTER_S)
        for generation in living:
            if not generation.ended:
                log.error("the arbiter does not end, killing it")
                generation.kill()
        return 0

    def _wait_ended(self, living: Sequence[Generation], signals: int, deadline: float) -> None:
        """Wait until all have ended, for so many signals, or for the deadline."""
        while any(not each.ended for each in living) and not self._signals.asked(signals):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            self._wait(min(1.0, left_s))
