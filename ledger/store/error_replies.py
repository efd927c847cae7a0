"""What an error reply of a server means, as the ledger's own errors.

Every error below says that the command was not carried out. `NoScript`, `Moved`, `Ask` and `NotNow` never reach a
caller of a store: they are answered by loading the script, by going to another node, or by trying again shortly.
"""

from __future__ import annotations

from ledger.errors import LedgerError, StoreFull, StoreReplyError, StoreUnavailable


class NoScript(StoreReplyError):
    """The server does not have the script; load it and try again."""


class _Redirect(StoreReplyError):
    """Another node answers for the slot; `host` is empty when it is the host that replied."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        _code, slot, address = text.split(" ", 2)
        host, _colon, port = address.rpartition(":")
        self.slot = int(slot)
        self.host = host.removeprefix("[").removesuffix("]")
        self.port = int(port)


class Moved(_Redirect):
    """The slot lives on another node from now on."""


class Ask(_Redirect):
    """The slot is on its way to another node; only this command goes there, after ASKING."""


class NotNow(StoreUnavailable):
    """The cluster is between two states (TRYAGAIN, CLUSTERDOWN); the same command may succeed in a moment."""

    def __init__(self, text: str) -> None:
        super().__init__(f"the store is not ready: {text}", maybe_done=False)


# LOADING: reading its data back after a start. READONLY and MASTERDOWN: a replica. MISCONF: writes are off because the
# disk failed. BUSY: another script runs too long. NOREPLICAS: fewer replicas than min-replicas-to-write.
_NOT_READY = frozenset({"LOADING", "READONLY", "MASTERDOWN", "MISCONF", "BUSY", "NOREPLICAS"})


def error_from_reply(text: str) -> LedgerError:
    """Translate the text of an error reply; what has no meaning of its own here is a StoreReplyError."""
    code = text.partition(" ")[0]
    match code:
        case "NOSCRIPT":
            return NoScript(text)
        case "OOM":
            return StoreFull(f"the store is full: {text}")
        case "MOVED":
            return Moved(text)
        case "ASK":
            return Ask(text)
        case "TRYAGAIN" | "CLUSTERDOWN":
            return NotNow(text)
        case _ if code in _NOT_READY:
            return StoreUnavailable(f"the store is not ready: {text}", maybe_done=False)
        case _:
            return StoreReplyError(text)
