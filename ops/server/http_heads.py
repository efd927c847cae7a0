"""Heads of requests, and which of them came before."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from ops.server.http_rules import Fields, Target

MOST_HEADS: Final = 2048
MOST_HEAD_BYTES: Final = 2048
MOST_FIELDS: Final = 32
"""How many heads a worker remembers, how long they may be, and of how many fields: about 2 KB each, 10 KB at most."""
END: Final = b"\r\n\r\n"
_METHODS: Final = {name.encode(): name for name in ("GET", "POST", "DELETE", "PUT", "HEAD")}


class Head:
    """The head of a request that is to be answered. Nothing changes it but what is `prepared` of it."""

    __slots__ = ("fields", "keeps_alive", "line", "method", "prepared", "target", "version")

    def __init__(self, method: bytes, url: bytes, version: str, target: Target, fields: Fields, keeps_alive: bool):
        self.line = b"%b %b" % (method, url)
        """The method and the target, as they were sent."""
        self.method = _METHODS.get(method) or method.decode("ascii")
        self.version = version
        self.target = target
        self.fields = fields
        """Names in lower case."""
        self.keeps_alive = keeps_alive
        """Whether its client would send another request behind it."""
        self.prepared: Any = None
        """What the quick way of such requests knows of it."""

    @property
    def body_bytes(self) -> int | None:
        """How long its body is; None where the head does not say it."""
        size = 0
        for name, value in self.fields:
            if name == b"transfer-encoding":
                return None
            if name == b"content-length":
                if not value.isdigit():
                    return None
                size = int(value)
        return size


class KnownHeads:
    """The heads that came last, by their bytes: what the parser made of one before, it would make of it again.

    PERF: a client sends one and the same head again and again, and most of what HTTP costs is to take it apart. One is
    remembered when it comes for the second time: where a proxy numbers requests, none comes again, and to remember
    them would cost as much as to take them apart.
    """

    def __init__(self, most: int = MOST_HEADS) -> None:
        self._most = most
        self._came = [0] * most
        """The hashes of those that came once, each in the one place that it may be in."""
        self._heads: OrderedDict[bytes, tuple[Head, int]] = OrderedDict()
        self.find: Final = self._heads.get
        """Tell, by all bytes of a head, what it is and how many bytes of body belong to it; None if it is not known."""

    def __len__(self) -> int:
        """Tell how many are remembered."""
        return len(self._heads)

    def came_before(self, raw: bytes) -> bool:
        """Note that a head came that is not known; tells whether it did before, so that it is worth remembering."""
        mark = hash(raw)
        place = mark % self._most
        came, self._came[place] = self._came[place], mark
        return came == mark and len(raw) <= MOST_HEAD_BYTES

    def keep(self, raw: bytes, head: Head, body_bytes: int) -> None:
        """Remember a head, unless it has very many fields; the one that was first is forgotten for it."""
        if len(head.fields) > MOST_FIELDS:  # each takes twenty times what it is on the wire, if that is little
            return
        self._heads[raw] = head, body_bytes
        if len(self._heads) > self._most:
            self._heads.popitem(last=False)
