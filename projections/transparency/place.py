"""How the log lies in objects.

log.json                     whose log it is
checkpoint                   a copy of the newest checkpoint
checkpoints/<size>           every checkpoint that was signed
newest                       about where the batches end
batch/<first index>          what fixes the order: written once, under the condition that it is not there
tile/<L>/<N>, tile/entries/… as C2SP tlog-tiles has them; they follow from the batches
minimum                      below which index nothing is kept any more, and how far that was removed
state/<size>                 the records of the state tree that changed
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from ledger.transparency.entries import ClosedLeaf
from projections.archive.errors import ObjectExists, ObjectMissing
from projections.archive.objects import Objects
from projections.bounded_tasks import each
from projections.transparency.errors import LogContradicts

LOG: Final = "log.json"
CHECKPOINT: Final = "checkpoint"
MINIMUM: Final = "minimum"
NEWEST: Final = "newest"
FORMAT: Final = 1
FORMAT_FOLLOWING: Final = 2
"""Of a log that follows a closed one: who does not know its first leaf must not begin it without."""
BATCHES: Final = "batch/"
CHECKPOINTS: Final = "checkpoints/"
STATES: Final = "state/"
MAX_OBJECT_BYTES: Final = 256 * 1024 * 1024
"""Nothing that is read whole is longer; what is, is none of ours."""
_AT_ONCE: Final = 16


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The log that was closed for another one to begin, as `ClosedLeaf` has it."""

    origin: str
    size: int
    why: str
    checkpoint: str = ""

    @property
    def leaf(self) -> ClosedLeaf:
        """What the log behind it begins with."""
        return ClosedLeaf(self.origin, self.size, self.why, self.checkpoint)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whose log lies in a place, and which one it follows, if that was closed."""

    format: int = FORMAT
    origin: str
    ledger: str
    follows: Closed | None = None


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """Below which index the log is pruned (C2SP tlog-tiles), and up to where what is below is removed already."""

    minimum: int = 0
    swept: int = 0


class LogPlace:
    """The objects of one log. All methods raise ArchiveUnavailable."""

    def __init__(self, objects: Objects, shown: str = "") -> None:
        """`shown`: what the place is called in messages."""
        self.objects = objects
        self.shown = shown

    async def identity(self) -> Identity | None:
        """Tell whose log this is; None where there is none. Raises LogContradicts."""
        found = await self.find(LOG)
        if found is None:
            return None
        try:
            identity = msgspec.json.decode(found, type=Identity)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LogContradicts(LOG, f"it cannot be read: {error}") from error
        if identity.format not in (FORMAT, FORMAT_FOLLOWING):
            what = f"it has format {identity.format}, this version reads up to {FORMAT_FOLLOWING}: upgrade"
            raise LogContradicts(LOG, what)
        return identity

    async def begin(self, identity: Identity) -> Identity:
        """Make this the place of a log, unless it is one; tells whose it is then."""
        try:
            await self.objects.put(LOG, msgspec.json.encode(identity))
        except ObjectExists:
            found = await self.identity()
            assert found is not None, "it is never removed"
            return found
        return identity

    async def pruned(self) -> Pruned:
        """Tell how far the log is pruned; raises LogContradicts."""
        found = await self.find(MINIMUM)
        try:
            return Pruned() if found is None else msgspec.json.decode(found, type=Pruned)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LogContradicts(MINIMUM, f"it cannot be read: {error}") from error

    async def find(self, name: str) -> bytes | None:
        """Read an object; None if there is none."""
        try:
            return await self.read(name)
        except ObjectMissing:
            return None

    async def read(self, name: str) -> bytes:
        """Read an object; raises ObjectMissing, LogContradicts for one that is too long."""
        parts, size = [], 0
        async for chunk in self.objects.chunks(name):
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_OBJECT_BYTES:
                raise LogContradicts(name, f"it is longer than {MAX_OBJECT_BYTES:,} bytes")
        return b"".join(parts)

    async def replace_all(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write objects whose content follows from batches, so that it does not matter who else does."""
        names: list[str] = []

        async def write(item: tuple[str, bytes]) -> None:
            names.append(item[0])
            await self.objects.write(*item)

        await each(contents, write, _AT_ONCE)
        await self.objects.settle(names)


def batch_name(first: int) -> str:
    """Name the batch whose first leaf has this index."""
    return f"{BATCHES}{first:020d}"


def checkpoint_name(size: int) -> str:
    """Name the checkpoint of this size."""
    return f"{CHECKPOINTS}{size:020d}"


def state_name(size: int) -> str:
    """Name what changed of the state tree up to a log of this size."""
    return f"{STATES}{size:020d}"
