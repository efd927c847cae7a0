"""What systemd gives a service, its sockets, and what it wants to be told: https://www.freedesktop.org/software/systemd."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from gunicorn import systemd

log = logging.getLogger("syncledger.serve")

NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"


def is_activated() -> bool:
    """Tell whether the sockets to listen on were given to this process."""
    return bool(systemd.listen_fds(unset_environment=False))


def given_listeners() -> list[socket.socket]:
    """Take the sockets to listen on that this process was given, none where it was given none; once."""
    first = systemd.SD_LISTEN_FDS_START
    listeners = [socket.socket(fileno=fd) for fd in range(first, first + systemd.listen_fds())]
    os.environ.pop("LISTEN_FDNAMES", None)
    for listener in listeners:
        listener.set_inheritable(False)
    return listeners


def notify(*states: str) -> None:
    """Tell systemd how the service is, like `READY=1`; nothing happens where nobody wants to know."""
    systemd.sd_notify("\n".join(states), log)


def notify_reloading() -> None:
    """Tell systemd that a replacement has begun, whose end `READY=1` tells."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def without_notify(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for processes that are not to speak for the service."""
    return {name: value for name, value in environ.items() if name != NOTIFY_SOCKET}
