"""What the store's user must be able to do, where an access control list (ACL) bounds it; and what it may not.

A rule that lacks something is met by one request in a thousand, so all is tried before a service starts.
"""

from __future__ import annotations

import re
from typing import Final

from ledger.errors import StoreFull
from ledger.store.error_replies import NotPermitted, NotServing
from ledger.store.interface import Script, Store

PATTERNS: Final = {"{p*": b"{p0}:permitted", "{l*": b"{l}:permitted", "ledger:*": b"ledger:permitted"}
"""The keys of a ledger, as a list names them, and a key of each kind to try."""
_TRY: Final = Script.load("ledger.store", "permitted.lua", allow_oom=True)
_OUTSIDE: Final = (("INFO", "server"), ("EVAL", "return 1", 0), ("SCAN", 0, "COUNT", 1), ("DBSIZE",), ("PING",))
_FOR_REPLICAS: Final = ("WAIT", 0, 0)  # which blocks nobody
_COMMAND: Final = re.compile(r"the '([^']+)' (sub)?command")


async def lacking(store: Store, *, waits: bool = False) -> list[str]:
    """List what a user lacks, as rules of an ACL (`+info`, `~ledger:*`); `waits`: replicas are waited for.

    Raises StoreUnavailable. Where the server takes no writes now, only what does not write is tried.
    """
    found: dict[str, None] = {}
    first = next(iter(PATTERNS.values()))
    for command in (*_OUTSIDE, *((_FOR_REPLICAS,) if waits else ())):
        try:
            await store.command(*command, key=first)
        except NotPermitted as error:
            found[_rule(str(error), str(command[0]))] = None
    for pattern, name in PATTERNS.items():
        try:
            missing = await store.script(_TRY, [name], [])
        except NotPermitted as error:
            text = str(error)
            found[_rule(text, "") if _COMMAND.search(text) else f"~{pattern}"] = None
        except (NotServing, StoreFull):
            continue
        else:
            found |= {f"+{name.decode()}": None for name in missing}
    return list(found)


def _rule(text: str, command: str) -> str:
    named = _COMMAND.search(text)
    return f"+{named[1] if named else command.lower()}"


def lacking_text(rules: list[str], user: str) -> str:
    """Say what a user lacks, and what to do."""
    quoted = " ".join(f"'{rule}'" if "*" in rule else rule for rule in rules)
    return (
        f"The store's user {user} may not do all that is needed. On the server: ACL SETUSER {user} {quoted}; "
        "ops/docs/stores.md lists all that a user needs"
    )
