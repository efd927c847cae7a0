"""The signals that a service's parent is sent: to stop, or, by a hang-up, to be replaced while it serves."""

from __future__ import annotations

import os
import signal
import socket
import time
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SETTLE_S: Final = 0.5
"""How long after a hang-up the terminal may still seem to be there: the kernel takes it away behind the signal."""


class Signals:
    """Counts what it is told, and wakes up whoever waits for its descriptor when a signal, or a child's end, arrives.

    A hang-up asks for a replacement, unless the terminal that the service was started at went with it: then it is one
    more signal to stop.
    """

    def __init__(self) -> None:
        self.count = 0
        self.last: signal.Signals | None = None
        self._hung_up_s: float | None = None
        self._has_terminal = False
        self._wake, self._woken = socket.socketpair()
        self._previous: dict[signal.Signals, object] = {}
        self._previous_fd = -1

    def __enter__(self) -> Signals:
        self._has_terminal = has_terminal()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD):
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
        if self._hung_up_s is not None and self._has_terminal and not has_terminal():
            self._hung_up_s, self._has_terminal = None, False
            self._count(signal.SIGHUP)
        return self.count >= times

    @property
    def settled(self) -> bool:
        """Whether no hang-up waits to be understood."""
        return self._hung_up_s is None

    def take_hang_up(self) -> bool:
        """Tell, once, that a replacement was asked for; many hang-ups at a time are one."""
        if self.asked() or self._hung_up_s is None:
            return False
        if self._has_terminal and time.monotonic() - self._hung_up_s < SETTLE_S:
            return False
        self._hung_up_s = None
        return True

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
            self._count(signal.Signals(number))
        elif number == signal.SIGHUP:
            self._hung_up_s = time.monotonic()

    def _count(self, number: signal.Signals) -> None:
        self.count += 1
        self.last = number


def has_terminal() -> bool:
    """Tell whether this process belongs to a terminal that is there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
