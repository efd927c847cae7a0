"""The state tree in its packs: one object a run with the buckets that changed, read by pieces.

A pack ends with its root, which tells where each group of 256 buckets is: in this pack, or in one before. So a run
writes what changed and no more. Once superseded pieces are more than half of all, a run writes every piece anew.
"""

from __future__ import annotations

import struct
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from struct import Struct as Packed
from typing import IO, Final, NamedTuple

import msgspec

from ledger.errors import CorruptLedger
from ledger.transparency.state_tree import (
    BUCKETS,
    RECORD_BYTES,
    Bucket,
    Node,
    Record,
    bucket_of,
    join_all,
    path_above,
    path_to,
)
from ledger.transparency.state_tree import (
    Path as TreePath,
)
from projections.archive.errors import ObjectExists
from projections.bounded_tasks import each
from projections.transparency.errors import LogContradicts
from projections.transparency.place import STATES, LogPlace, state_name

FORMAT: Final = 1
GROUP: Final = 256
GROUPS: Final = BUCKETS // GROUP
SLACK_BYTES: Final = 4 * 1024 * 1024
"""How much superseded may lie in packs, however little they hold."""
_AT_ONCE: Final = 32
KEPT_BYTES: Final = 64 * 1024 * 1024
"""How many bytes of buckets are kept in memory, those used last, unless all are to be: those of 800,000 sessions."""
_MAGIC: Final = b"SYNCSTAT"
_END: Final = Packed(">QI8s")
_ENTRY: Final = Packed(">BQQI32sI")


class Piece(NamedTuple):
    """Where a bucket or group lies: the size that names its pack, its offset and length there; and its subtree."""

    pack: int
    offset: int
    length: int
    hash: bytes
    sessions: int

    @property
    def node(self) -> Node:
        """Its subtree."""
        return Node(self.hash, self.sessions)


_NONE: Final = Piece(0, 0, 0, Node().hash, 0)


class _Root(msgspec.Struct, frozen=True, array_like=True):
    """The end of a pack: where all groups are that have sessions, and how long each pack is that one of them needs."""

    format: int
    size: int
    groups: dict[int, Piece]
    packs: dict[int, int]


class KeptStates:
    """Buckets and groups in memory, of whichever tree has them: a bucket is known by its hash, a group by its place."""

    def __init__(self, most_bytes: int | None = KEPT_BYTES) -> None:
        """`most_bytes`: of buckets; None for all, which are 80 bytes a session.

        Who looks for most of them, in no order, must not read each bucket again and again.
        """
        self._most_bytes = most_bytes
        self._bytes = 0
        self._buckets: OrderedDict[int, tuple[bytes, Bucket]] = OrderedDict()
        self._groups: dict[int, tuple[Piece, list[Piece]]] = {}

    def bucket(self, number: int, piece: Piece) -> Bucket | None:
        """Find a bucket that has the hash of its piece."""
        found = self._buckets.get(number)
        if found is None or found[0] != piece.hash:
            return None
        self._buckets.move_to_end(number)
        return found[1]

    def keep_bucket(self, number: int, digest: bytes, bucket: Bucket) -> None:
        """Keep a bucket of this hash, and let those go that were not used for longest."""
        before = self._buckets.pop(number, None)
        if before is not None:
            self._bytes -= len(before[1].packed)
        self._buckets[number] = digest, bucket
        self._bytes += len(bucket.packed)
        while self._most_bytes is not None and self._bytes > self._most_bytes and len(self._buckets) > 1:
            self._bytes -= len(self._buckets.popitem(last=False)[1][1].packed)

    def group(self, number: int, piece: Piece) -> list[Piece] | None:
        """Find the pieces of a group that lies there."""
        found = self._groups.get(number)
        return found[1] if found is not None and found[0] == piece else None

    def keep_group(self, number: int, piece: Piece, pieces: list[Piece]) -> None:
        """Keep the pieces of a group."""
        self._groups[number] = piece, pieces


class StateTree:
    """The state tree of a log as of one size. All methods raise LogContradicts, ArchiveUnavailable."""

    def __init__(self, place: LogPlace, root: _Root | None = None, kept: KeptStates | None = None) -> None:
        """Begin with an empty tree; `open` reads one. `kept`: what is in memory of it, and of those before."""
        self._kept = KeptStates() if kept is None else kept
        self._place = place
        self._root = root or _Root(FORMAT, 0, {}, {})

    @classmethod
    async def open(cls, place: LogPlace, size: int, expected: Node, *, kept: KeptStates | None = None) -> StateTree:
        """Open the tree of a log of `size`; raises ObjectMissing."""
        name = state_name(size)
        tail, length = await place.objects.tail(name, 64 * 1024)
        try:
            offset, root_length, magic = _END.unpack(tail[-_END.size :])
            if magic != _MAGIC or root_length + _END.size > len(tail) or offset + root_length + _END.size != length:
                raise LogContradicts(name, "it does not end as what changed of the state tree does")
            root = msgspec.msgpack.decode(tail[-_END.size - root_length : -_END.size], type=_Root)
        except (msgspec.DecodeError, ValueError, struct.error) as error:
            raise LogContradicts(name, f"its end cannot be read: {error!r}") from error
        if root.format != FORMAT or root.size != size or not root.groups.keys() <= set(range(GROUPS)):
            raise LogContradicts(name, "it is of another size, or of a newer version")
        tree = cls(place, root, kept)
        if tree.node != expected:
            raise LogContradicts(name, "its root is not the one that is in the log")
        return tree

    @property
    def node(self) -> Node:
        """The whole tree's root, and how many sessions it has."""
        return join_all(self._nodes())

    async def find(self, sids: Iterable[bytes]) -> dict[bytes, Record]:
        """Find the records of sessions; those that are not there are left out."""
        wanted: dict[int, list[bytes]] = {}
        for sid in sids:
            if sid[0] in self._root.groups:
                wanted.setdefault(bucket_of(sid), []).append(sid)
        found: dict[bytes, Record] = {}

        def look(bucket: Bucket, number: int) -> None:
            for sid in wanted[number]:
                if (record := bucket.find(sid)) is not None:
                    found[sid] = record

        async def read(number: int) -> None:
            look(await self._bucket(number), number)

        # PERF: who looks for all sessions finds almost all buckets in memory, where nothing is to be waited for.
        unread = []
        for number in sorted(wanted):
            piece = (await self._group(number // GROUP))[number % GROUP]
            if (kept := self._kept.bucket(number, piece)) is not None:
                look(kept, number)
            elif piece.sessions:
                unread.append(number)
        if unread:
            await each(unread, read, _AT_ONCE)
        return found

    async def path(self, sid: bytes) -> TreePath:
        """Lead to a session's place."""
        number = bucket_of(sid)
        bucket, group = await self._bucket(number), await self._group(sid[0])
        beside = [node for node, _ in path_above(self._nodes(), sid[0])]
        beside += [node for node, _ in path_above([piece.node for piece in group], sid[1])]
        return path_to(sid, bucket, beside, None if len(bucket) else await self._alone_beside(number, beside))

    async def records(self) -> AsyncIterator[list[Record]]:
        """Read the records of all sessions in the order of their ids, a group of buckets at a time."""
        for group in sorted(self._root.groups):
            found: list[Record] = []
            for at, piece in enumerate(await self._group(group)):
                if piece.sessions:
                    found += (await self._bucket(group * GROUP + at)).records()
            yield found

    async def grow(self, size: int, changes: Mapping[bytes, Record], spool: Path | None = None) -> StateTree:
        """Write the tree as it is with these records, for a log of `size`, and give it.

        All is written anew where most of what lies there is superseded.
        """
        by_bucket: dict[int, dict[bytes, Record]] = {}
        for sid, record in changes.items():
            by_bucket.setdefault(bucket_of(sid), {})[sid] = record
        anew = sum(self._root.packs.values()) > 2 * self._live_bytes() + SLACK_BYTES
        by_group: dict[int, list[int]] = {}
        for number in sorted(by_bucket):
            by_group.setdefault(number // GROUP, []).append(number)
        groups = dict(self._root.groups)
        with tempfile.TemporaryFile(prefix="syncledger-state-", dir=spool) as file:
            pack = _Pack(file, size)
            for group in range(GROUPS) if anew else sorted(by_group):
                if group in groups or group in by_group:
                    groups[group] = await self._write_group(pack, group, by_group.get(group, []), by_bucket, anew=anew)
            length = pack.offset
            packs = {} if anew else dict(self._root.packs)
            root = _Root(FORMAT, size, groups, packs | {size: length})
            ending = msgspec.msgpack.encode(root)
            file.write(ending + _END.pack(length, len(ending), _MAGIC))
            made = StateTree(self._place, root, self._kept)
            try:
                await self._place.objects.create(state_name(size), file)
            except ObjectExists:  # a job that was killed wrote it
                return await StateTree.open(self._place, size, made.node, kept=self._kept)
        return made

    async def remove_superseded(self) -> int:
        """Remove packs that this tree does not need, and no older one; gives how many those were.

        Only after a tree was written anew is there any, or where a job was killed.
        """
        needed = set(self._root.packs)
        names = [
            info.name
            async for page in self._place.objects.names(STATES)
            for info in page
            if (text := info.name.removeprefix(STATES)).isdigit()
            and int(text) < self._root.size
            and int(text) not in needed
        ]
        await self._place.objects.delete(names)
        return len(names)

    @property
    def is_alone(self) -> bool:
        """Tell whether its pack needs no other one."""
        return len(self._root.packs) == 1

    def _live_bytes(self) -> int:
        groups = self._root.groups.values()
        return sum(piece.sessions * RECORD_BYTES + piece.length for piece in groups)

    def _nodes(self) -> list[Node]:
        return [self._root.groups.get(group, _NONE).node for group in range(GROUPS)]

    async def _write_group(
        self, pack: _Pack, group: int, changed: list[int], by_bucket: dict[int, dict[bytes, Record]], *, anew: bool
    ) -> Piece:
        pieces = list(await self._group(group))
        numbers = range(group * GROUP, (group + 1) * GROUP) if anew else changed
        wanted = [number for number in numbers if pieces[number % GROUP].sessions]
        held: dict[int, Bucket] = {}

        async def read(number: int) -> None:
            held[number] = await self._bucket(number)

        await each(wanted, read, _AT_ONCE)
        for number in numbers:
            bucket = held.get(number, Bucket())
            if number in by_bucket:
                bucket = bucket.changed(by_bucket[number])
                node = bucket.node()
                self._kept.keep_bucket(number, node.hash, bucket)
            elif not len(bucket):
                continue
            else:
                node = pieces[number % GROUP].node
            pieces[number % GROUP] = pack.add(bucket.packed, node)
        content = b"".join(_ENTRY.pack(at, *piece) for at, piece in enumerate(pieces) if piece.sessions)
        written = pack.add(content, join_all([piece.node for piece in pieces]))
        self._kept.keep_group(group, written, pieces)
        return written

    async def _group(self, group: int) -> list[Piece]:
        """Read where a group's buckets are."""
        piece, pieces = self._root.groups.get(group, _NONE), [_NONE] * GROUP
        kept = self._kept.group(group, piece)
        if kept is not None:
            return kept
        if piece.sessions:
            content, name = await self._content(piece), state_name(piece.pack)
            if len(content) % _ENTRY.size:
                raise LogContradicts(name, f"a group at {piece.offset} is cut")
            for at, *values in _ENTRY.iter_unpack(content):
                pieces[at] = Piece(*values)
            if join_all([each.node for each in pieces]) != piece.node:
                raise LogContradicts(name, f"the group at {piece.offset} is not the one that was written")
        self._kept.keep_group(group, piece, pieces)
        return pieces

    async def _bucket(self, number: int) -> Bucket:
        piece = (await self._group(number // GROUP))[number % GROUP]
        kept = self._kept.bucket(number, piece)
        if kept is not None:
            return kept
        bucket = Bucket()
        if piece.sessions:
            name = state_name(piece.pack)
            try:
                bucket = Bucket(await self._content(piece))
                node = bucket.node()
            except LogContradicts:
                raise
            except CorruptLedger as error:
                raise LogContradicts(name, f"the bucket at {piece.offset}: {error}") from error
            if node != piece.node:
                raise LogContradicts(name, f"the bucket at {piece.offset} is not the one that was written")
            self._kept.keep_bucket(number, node.hash, bucket)
        return bucket

    async def _content(self, piece: Piece) -> bytes:
        return await self._place.objects.read(state_name(piece.pack), piece.offset, piece.length)

    async def _alone_beside(self, number: int, beside: list[Node]) -> Record | None:
        """Find the only record in the smallest subtree that holds an empty bucket and anything."""
        for depth in range(len(beside) - 1, -1, -1):
            if not beside[depth].sessions:
                continue
            if beside[depth].sessions > 1:
                return None
            width = len(beside) - 1 - depth
            start = ((number >> width) ^ 1) << width
            for other in range(start, start + (1 << width)):
                if other // GROUP in self._root.groups and (await self._group(other // GROUP))[other % GROUP].sessions:
                    return (await self._bucket(other)).only()
        return None


class _Pack:
    """A pack that is being written."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.offset = 0
        self._file = file
        self._size = size

    def add(self, content: bytes, node: Node) -> Piece:
        """Add a bucket or group."""
        piece = Piece(self._size, self.offset, len(content), node.hash, node.sessions)
        self._file.write(content)
        self.offset += len(content)
        return piece
