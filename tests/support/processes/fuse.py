"""A fuse that ends a process from inside, while it works: at its n-th use of a store, be it Redis or object storage.

A kill from outside comes too late or too early as the machine pleases. This one comes within the work, whatever time
that takes: from the n-th use on until the kill nothing more is asked of any store, while what was asked goes on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import obstore

from ledger.store.shared_connection import Link

_OBJECT_USES: Final = ("put_async", "get_async", "get_range_async", "head_async", "delete_async")
_HELD_S: Final = 60.0


class Fuse(NamedTuple):
    """When it burns: `delay_s` after use number `at` (0: never). Any signal but SIGKILL lets the work go on."""

    at: int = 0
    delay_s: float = 0.0
    signal: int = signal.SIGKILL


class Lit:
    """A fuse in this process; `uses` counts what was asked of stores."""

    def __init__(self, fuse: Fuse) -> None:
        self.uses = 0
        self._fuse = fuse
        for name in _OBJECT_USES:
            setattr(obstore, name, self._counted(getattr(obstore, name)))
        setattr(Link, "send", self._counted(Link.send))  # noqa: B010 - a method, for all links

    def _counted(self, use: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            self._burn()
            return use(*args, **named)

        return counted

    def _burn(self) -> None:
        at, delay_s, sent = self._fuse
        self.uses += 1
        if at and self.uses == at:
            timer = threading.Timer(delay_s, os.kill, (os.getpid(), sent))
            timer.daemon = True
            timer.start()
        elif at and self.uses > at and sent == signal.SIGKILL:
            time.sleep(_HELD_S)
