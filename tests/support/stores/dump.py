"""All that a store holds, for tests of what must not be there."""

from __future__ import annotations

from typing import Any, Final

from ledger.store.interface import Store

_READ: Final = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", 0, -1),
    b"list": ("LRANGE", 0, -1),
    b"stream": ("XRANGE", "-", "+"),
}


async def values_of(store: Store) -> dict[bytes, Any]:
    """Read every key of a store with its value as the server answers it.

    What says that partitions and their indexes are whole is left out: a ledger has that from its beginning.
    """
    found = {}
    for names in await store.each_primary("KEYS", "*"):
        for name in names:
            if name.endswith(b"}:whole"):
                continue
            verb, *rest = _READ[await _type(store, name)]
            value = await store.command(verb, name, *rest, key=name)
            if not (name.endswith(b"}:sids") and value == [b"@filled"]):
                found[name] = value
    return found


def bytes_of(value: Any) -> bytes:
    """Join a reply to one text, to look for something in it."""
    return b"\n".join(map(bytes_of, value)) if isinstance(value, list) else bytes(value)


async def _type(store: Store, name: bytes) -> bytes:
    kind = await store.command("TYPE", name, key=name)
    return kind if isinstance(kind, bytes) else kind.encode()
