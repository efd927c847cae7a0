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


class NotServing(StoreUnavailable):
    """The server refuses what it is to do: it became a replica, is loading, its disk failed.

    What can be done about it is not known here, but behind the same address another server may answer by now.
    """


class NotPermitted(StoreUnavailable):
    """The server does not let our user in, or do this; `permissions.py` tells what it must be able to do."""


# What is wrong with a command or its key; everything else in capitals is about the server, or what it lets us do, like
# LOADING, READONLY and MASTERDOWN (a replica), MISCONF (writes are off because the disk failed), NOREPLICAS (fewer than
# min-replicas-to-write), UNBLOCKED (it became a replica meanwhile).
_OF_THE_COMMAND = frozenset({"ERR", "WRONGTYPE", "EXECABORT", "CROSSSLOT", "BUSYGROUP", "BUSYKEY", "NOGROUP"})


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
        case "BUSY":  # another script runs too long: the same server may serve in a moment
            return StoreUnavailable(f"the store is not ready: {text}", maybe_done=False)
        case "NOPERM" | "NOAUTH" | "WRONGPASS":
            return NotPermitted(f"the store's user may not do what is needed: {text}", maybe_done=False)
        case _ if code in _OF_THE_COMMAND or not (code.isalpha() and code.isupper()):
            return StoreReplyError(text)
        case _:
            return NotServing(f"the store is not ready: {text}", maybe_done=False)
