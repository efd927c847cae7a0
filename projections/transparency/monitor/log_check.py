"""The log by itself: tiles lead to the signed root, leaves to the state tree, batches and checkpoints fit both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from ledger.errors import CorruptLedger
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.entries import ClosedLeaf, EventLeaf, Leaf, StateLeaf, parse_leaf
from ledger.transparency.merkle import leaf_hash
from ledger.transparency.notes import BadNote, VerifierKey, parse_note, verified
from ledger.transparency.state_tree import Node, Record
from ledger.transparency.tiles import (
    BUNDLE_LEVEL,
    HASH_BYTES,
    HEIGHT,
    WIDTH,
    Tile,
    hash_in,
    levels,
    tile_of,
    unpack_bundle,
)
from projections.archive.errors import ObjectMissing
from projections.bounded_tasks import each
from projections.transparency import batches
from projections.transparency.batches import Batch
from projections.transparency.errors import LogContradicts
from projections.transparency.monitor.findings import LogFinding, LogReport
from projections.transparency.place import (
    BATCHES,
    CHECKPOINT,
    CHECKPOINTS,
    LOG,
    MINIMUM,
    LogPlace,
    batch_name,
    checkpoint_name,
)
from projections.transparency.states import KeptStates, StateTree
from projections.transparency.tree import TreeReader, find_tile

LOOKED_BACK: Final = 10_000
"""How many of the newest batches and checkpoints are read; what is in older ones is in the tiles, which all are."""
_AT_ONCE: Final = 16
_TRIES: Final = 5

OnLeaf = Callable[[int, EventLeaf], None]


class Published(NamedTuple):
    """The log as of its published checkpoint; `cursors`: up to where each partition is in it.

    `minimum`: below which index it is pruned. `wrong`: why its state tree and cursors cannot be told, which are empty
    then.
    """

    checkpoint: Checkpoint
    tree: TreeReader
    states: StateTree
    cursors: dict[int, str]
    wrong: LogContradicts | None = None
    minimum: int = 0


async def open_published(
    place: LogPlace, origin: str, keys: Sequence[VerifierKey], *, must_sign: bool = True
) -> Published | None:
    """Read the published checkpoint and the state it proves; None before the first. Raises LogContradicts.

    A job that goes on meanwhile supersedes what belongs to a checkpoint: then the next one is taken. The state tree is
    kept in memory once it was read, 80 bytes a session. Without `must_sign` nobody's signature is asked for.
    """
    for attempt in range(_TRIES):
        last = attempt == _TRIES - 1
        content = await place.find(CHECKPOINT)
        if content is None:
            return None
        checkpoint = read_checkpoint(CHECKPOINT, content, origin, keys, must_sign=must_sign)
        tree, minimum = TreeReader(place, checkpoint.size), (await place.pruned()).minimum
        if minimum > checkpoint.size:
            raise LogContradicts(MINIMUM, f"it is {minimum}, the log has {checkpoint.size} entries")
        try:
            leaf = parse_leaf(await tree.leaf(checkpoint.size - 1, checkpoint.root))
            if not isinstance(leaf, StateLeaf):
                raise LogContradicts(CHECKPOINT, "its last entry is no state root")
            states = await StateTree.open(place, leaf.size, Node(leaf.root, leaf.sessions), kept=KeptStates(None))
            cursors = await _cursors(place, checkpoint.size)
        except (ObjectMissing, CorruptLedger) as error:
            if not last and await place.find(CHECKPOINT) != content:
                continue
            wrong = error if isinstance(error, LogContradicts) else LogContradicts(CHECKPOINT, str(error))
            return Published(checkpoint, tree, StateTree(place), {}, wrong, minimum)
        if cursors is None:
            if last:
                wrong = LogContradicts(BATCHES, f"there is none that ends where the checkpoint does: {leaf.size + 1}")
                return Published(checkpoint, tree, StateTree(place), {}, wrong, minimum)
            continue
        return Published(checkpoint, tree, states, cursors, None, minimum)
    raise AssertionError("the last try raises")


def read_checkpoint(
    name: str, content: bytes, origin: str, keys: Sequence[VerifierKey], *, must_sign: bool = True
) -> Checkpoint:
    """Read a checkpoint of this log that one of its keys signed; raises LogContradicts."""
    try:
        note = parse_note(content.decode())
        checkpoint = parse_checkpoint(note.text)
        signed = verified(note, keys)
    except (BadNote, ValueError) as error:
        raise LogContradicts(name, str(error)) from error
    if checkpoint.origin != origin:
        raise LogContradicts(name, f"it is one of log {checkpoint.origin}, this ledger's is {origin}")
    if must_sign and not signed:
        raise LogContradicts(name, "no key of this log signed it")
    return checkpoint


async def _cursors(place: LogPlace, size: int) -> dict[int, str] | None:
    """Find the cursors behind which a log of `size` ends; None where its batch was settled, or is not found."""
    at = await batches.newest(place)
    while at is not None and at.end > size and at.previous >= 0:
        at = await batches.read(place, at.previous)
    return None if at is None or at.end != size or at.settled else at.cursors


class LogCheck:
    """Checks all of a published log; what is wrong goes to `report`. Raises ArchiveUnavailable."""

    def __init__(
        self,
        place: LogPlace,
        published: Published,
        report: LogReport,
        keys: Sequence[VerifierKey],
        on_leaf: OnLeaf,
        follows: ClosedLeaf | None = None,
    ) -> None:
        """`on_leaf` is told each event's index and leaf, in no order. `follows`: what the place says it follows."""
        self._follows = follows
        self._place = place
        self._log = published
        self._size = published.checkpoint.size
        self._report = report
        self._keys = keys
        self._on_leaf = on_leaf
        self._met = 0

    async def check(self, on_progress: Callable[[], None]) -> None:
        """Check tiles, bundles, the state tree, batches and checkpoints."""
        self._on_progress = on_progress
        before = self._report.different
        await self._tiles()
        self._report.minimum = self._log.minimum
        if self._log.wrong is None and self._report.different == before and (missing := await self._unmet()):
            self._report.wrong("state/", f"{missing:,} of its sessions have no entry that they are said to end with")
        roots_hold = self._report.different == before
        await self._batches(roots_hold)
        await self._checkpoints(roots_hold)

    async def _unmet(self) -> int:
        """Count the sessions whose last entry, by the state tree, was not met; those that are pruned do not count."""
        pruned = 0
        if self._log.minimum:
            async for records in self._log.states.records():
                pruned += sum(record.entry < self._log.minimum for record in records)
        return self._log.states.node.sessions - pruned - self._met

    def _is_pruned(self, tile: Tile) -> bool:
        """Tell whether a tile or bundle lies below the minimum index whole, so that it may be gone."""
        end = (tile.number + 1) << (HEIGHT * (max(tile.level, 0) + 1))
        return tile.width == WIDTH and end <= self._log.minimum

    async def _tiles(self) -> None:
        """Go down from the right edge, which the root is made of, to all leaves."""
        try:
            if await self._log.tree.root() != self._log.checkpoint.root:
                what = "the tiles at the log's right edge do not lead to the signed root: one of them was changed"
                self._report.wrong("tile/", what)
        except LogContradicts as error:
            self._report.wrong(str(error.details["object"]), str(error.details["what"]))
        for level in reversed(levels(self._size)):
            hashes = self._size >> (HEIGHT * level)
            if hashes % WIDTH:
                await self._tile(level, hashes // WIDTH, None)

    async def _tile(self, level: int, number: int, expected: bytes | None) -> None:
        """Check a tile, of which the one above has the hash `expected`, and all below it."""
        tile = tile_of(level, number, self._size)
        content = await find_tile(self._place, tile)
        if content is None and self._is_pruned(tile):
            return
        if content is None or len(content) != tile.width * HASH_BYTES:
            self._report.wrong(tile.path, "it is missing" if content is None else f"it has {len(content)} bytes")
            return
        if expected is not None and hash_in(content, 0, WIDTH) != expected:
            self._report.wrong(tile.path, "it was changed: the tile above it has another hash of it")
            return
        if level == 0:
            await self._bundle(tile._replace(level=BUNDLE_LEVEL), content)
            return
        first = number * WIDTH
        held = [content[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(tile.width)]

        async def below(at: int) -> None:
            await self._tile(level - 1, first + at, held[at])

        await each(range(tile.width), below, _AT_ONCE if level == 1 else 1)

    async def _bundle(self, bundle: Tile, hashes: bytes) -> None:
        content = await find_tile(self._place, bundle)
        if content is None and self._is_pruned(bundle):
            return
        if content is None:
            self._report.wrong(bundle.path, "it is missing")
            return
        try:
            packed = unpack_bundle(content)
            if b"".join(map(leaf_hash, packed)) != hashes:
                self._report.wrong(bundle.path, "it was changed: its leaves are not those of its tile")
                return
            await self._leaves(bundle.number * WIDTH, packed)
        except LogContradicts as error:
            self._report.wrong(str(error.details["object"]), str(error.details["what"]))
        except CorruptLedger as error:
            self._report.wrong(bundle.path, str(error))
        self._report.entries += len(packed)
        self._on_progress()

    async def _leaves(self, first: int, packed: list[bytes]) -> None:
        """Compare leaves with the state tree, which knows of each session the last one."""
        leaves = list(map(parse_leaf, packed))
        known = await self._log.states.find({leaf.sid for leaf in leaves if isinstance(leaf, EventLeaf)})
        if not first:
            self._check_first(leaves[0])
        for at, leaf in enumerate(leaves, first):
            if isinstance(leaf, StateLeaf):
                if leaf.size != at:
                    self._report.note(LogFinding(f"it is the state root over {leaf.size} entries", entry=at))
                continue
            if isinstance(leaf, ClosedLeaf):
                if at:
                    self._report.note(
                        LogFinding(f"it tells of closed log {leaf.origin}, as only the first may", entry=at)
                    )
                continue
            if self._log.wrong is None:
                self._met += self._is_last(at, leaf, known.get(leaf.sid))
                self._on_leaf(at, leaf)

    def _check_first(self, leaf: Leaf) -> None:
        """Hold what the place says of a closed log before this one to the first entry."""
        found = leaf if isinstance(leaf, ClosedLeaf) else None
        if found != self._follows:
            self._report.wrong(LOG, "which log it follows is said otherwise there than in the first entry")
            self._report.set_follows(found)

    def _is_last(self, at: int, leaf: EventLeaf, known: Record | None) -> bool:
        sid = leaf.sid.hex()
        if known is None or known.entry < at:
            self._report.note(LogFinding("the state tree does not know of it", sid, at))
        elif known.entry == at and (known.seq, known.hash) != (leaf.seq, leaf.hash):
            self._report.note(LogFinding("the state tree has another event there", sid, at))
        return known is not None and known.entry == at >= self._log.minimum

    async def _batches(self, roots_hold: bool) -> None:
        firsts = [first for first in await self._numbers(BATCHES) if first < self._size]
        ends = [*firsts[1:], self._size]
        firsts = [first for first, end in zip(firsts, ends, strict=bool(firsts)) if end > self._log.minimum]
        is_all = len(firsts) <= LOOKED_BACK and not self._log.minimum
        expected = 0 if is_all or not firsts else firsts[-LOOKED_BACK:][0]
        previous: int | None = -1 if not expected else None
        for first in firsts[-LOOKED_BACK:]:
            try:
                batch = await batches.read(self._place, first)
                if batch is None:
                    continue
                if first != expected:
                    self._report.wrong(batch_name(expected), "it is missing, or was replaced: none begins there")
                elif previous is not None and batch.previous != previous:
                    self._report.wrong(batch_name(first), "it was replaced: it follows another batch")
                elif roots_hold:
                    await self._batch(batch)
                expected, previous = batch.end, first
                self._report.batches += 1
            except LogContradicts as error:
                self._report.wrong(str(error.details["object"]), str(error.details["what"]))
                return
        if firsts and expected < self._size:
            self._report.wrong(batch_name(expected), "it is missing")

    async def _batch(self, batch: Batch) -> None:
        if batch.end > self._size:
            return  # it is written just now, or no checkpoint was signed behind it yet
        if await self._log.tree.range(0, batch.end) != batch.root:
            raise LogContradicts(batch_name(batch.first), "it was replaced: its root is not the log's there")
        if batch.settled:
            return
        at = batch.first
        for leaf in batches.leaves_of(batch):
            if await self._log.tree.range(at, at + 1) != leaf_hash(leaf):
                what = f"it was replaced: its leaf {at - batch.first} is not entry {at}"
                raise LogContradicts(batch_name(batch.first), what)
            at += 1

    async def _checkpoints(self, roots_hold: bool) -> None:
        sizes = [size for size in await self._numbers(CHECKPOINTS) if self._log.minimum <= size <= self._size]
        if roots_hold:
            await each(sizes[-LOOKED_BACK:], partial(self._checkpoint), _AT_ONCE)
        if self._size not in sizes[-1:]:
            self._report.wrong(checkpoint_name(self._size), "it is missing")

    async def _checkpoint(self, size: int) -> None:
        name = checkpoint_name(size)
        try:
            origin = self._log.checkpoint.origin
            # Keys of long ago may be gone; what they signed must lead to the same tree all the same.
            found = read_checkpoint(name, await self._place.read(name), origin, self._keys, must_sign=False)
            if found.size != size or await self._log.tree.range(0, size) != found.root:
                raise LogContradicts(name, "it is forked: another tree of this size was signed")
            self._report.checkpoints += 1
        except ObjectMissing:
            return
        except LogContradicts as error:
            self._report.wrong(name, str(error.details["what"]))

    async def _numbers(self, prefix: str) -> list[int]:
        found = [
            int(text)
            async for page in self._place.objects.names(prefix)
            for info in page
            if (text := info.name.removeprefix(prefix)).isdigit()
        ]
        return sorted(found)
