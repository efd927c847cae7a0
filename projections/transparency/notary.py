"""The job that writes the log: what happened since, in batches, then the state tree, then a signed checkpoint.

At whatever point it ends, the next one goes on behind the newest batch. A batch is the only thing that decides; all
else follows from batches, and whoever writes it writes the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import msgspec

from ledger.errors import CorruptLedger, UnknownEvent
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.entries import (
    ClosedLeaf,
    EventLeaf,
    StateLeaf,
    pack_closed,
    pack_event,
    pack_state,
    parse_leaf,
)
from ledger.transparency.notes import SignerKey
from ledger.transparency.state_tree import Node, Record
from ledger.transparency.tiles import BUNDLE_LEVEL, HEIGHT, WIDTH, Tile, levels, pack_bundle
from projections.archive.errors import ArchiveNotGiven, ObjectMissing
from projections.transparency import batches
from projections.transparency.batches import NAMED, Batch, Refusal
from projections.transparency.errors import LogContradicts
from projections.transparency.going_on import GoneOn
from projections.transparency.place import CHECKPOINT, NEWEST, LogPlace, batch_name, checkpoint_name, state_name
from projections.transparency.reading import Behind, Foreign, Row, is_linked, kind_of, previous_of
from projections.transparency.signing import Checkpoints
from projections.transparency.states import KeptStates, StateTree
from projections.transparency.tree import TreeReader, TreeWriter, remove_partials
from projections.transparency.witnesses import Witnesses

BATCH_LEAVES: Final = 65_536
"""Behind how many leaves a batch ends, but for those of its last page: 5 MB."""
RUN_EVENTS: Final = 500_000
"""Behind how many events a run writes the state tree and a checkpoint, at least; another one takes the rest."""
RUN_SHARE: Final = 10
"""Of how many sessions a run takes one event at least, since it may write the tree of all of them."""
_WINDOW: Final = 16
"""Of how many partitions the first events are asked for at once."""
_IDLE_ROWS: Final = 1000
"""For how many entries that were passed over the cursors are worth a leaf."""


class NotaryReport(msgspec.Struct):
    """What a run did. `size`: of the log now; `more`: there is more to log than one run takes.

    `refused`: events that are not logged, ever, for they do not follow what is; of their sessions some are named.
    `foreign`: stream entries that are no events. `stopped`: partitions that are held up, and why.
    `unwitnessed`: witnesses that did not sign the checkpoint, and why.
    """

    events: int = 0
    size: int = 0
    batches: int = 0
    refused: int = 0
    refusals: list[Refusal] = []
    foreign: int = 0
    stopped: dict[int, str] = {}
    unwitnessed: dict[str, str] = {}
    more: bool = False
    made_good: GoneOn | None = None
    """What the store had lost of what is logged, if anything."""


Progress = Callable[[NotaryReport], None]


class Notary:
    """One run of the job. Raises Overtaken, LogContradicts, LogRefused, ArchiveUnavailable, StoreUnavailable."""

    def __init__(
        self,
        place: LogPlace,
        origin: str,
        keys: Sequence[SignerKey],
        behind: Behind,
        witnesses: Witnesses | None = None,
        follows: ClosedLeaf | None = None,
        kept: KeptStates | None = None,
    ) -> None:
        """Take where the log is, what it is called, the keys that sign it (newest first), what is to be logged, who
        else signs, what it follows if another one was closed, and what is in memory of its state tree."""
        self._kept = KeptStates() if kept is None else kept
        self._follows = follows
        self.report = NotaryReport()
        self.cursors: dict[int, str] = {}
        self._place = place
        self._checkpoints = Checkpoints(place, origin, keys, witnesses)
        self._behind = behind
        self._tree = TreeWriter()
        self._states = StateTree(place, kept=self._kept)
        self._newest: Batch | None = None
        self._state_at = -1
        self._tips: dict[bytes, Record] = {}
        self._changed: dict[bytes, Record] = {}
        self._leaves: list[bytes] = []
        self._refusals: dict[bytes, Refusal] = {}
        self._passed = 0
        self._most = RUN_EVENTS

    @property
    def size(self) -> int:
        """How many leaves the log has in batches."""
        return self._tree.size

    async def open(self) -> None:
        """Read where the log is: its newest checkpoint, the batches behind that, and the state they lead to."""
        newest = await batches.newest(self._place)
        if newest is None:
            if await self._place.find(CHECKPOINT) is not None:
                raise LogContradicts(CHECKPOINT, "there is no batch that leads to it")
            if self._follows is not None:
                self._leaves.append(pack_closed(self._follows))
            await self._checkpoints.ask_witnesses(self.size)
            return
        ahead: list[Batch] = []
        at: Batch | None = newest
        checkpoint: Checkpoint | None = None
        while at is not None and (checkpoint := await self._checkpoints.of(at.end)) is None:
            ahead.insert(0, at)
            previous = at.previous
            at = await batches.read(self._place, previous) if previous >= 0 else None
            if at is None and previous >= 0:
                raise LogContradicts(batch_name(previous), "it is missing")
        if checkpoint is not None:
            await self._resume(checkpoint)
        for batch in ahead:
            await self._replay(batch)
        self._newest = newest
        self.cursors = dict(newest.cursors)
        self.report.refused = newest.refused
        self._refusals = {refusal.sid: refusal for refusal in newest.refusals}
        await self._checkpoints.ask_witnesses(self.size)

    async def take(self, partitions: Iterable[int], on_progress: Progress = lambda _: None) -> None:
        """Log what happened in partitions since, one after the other, as much as a run takes."""
        numbers = list(partitions)
        for start in range(0, len(numbers), _WINDOW):
            window = numbers[start : start + _WINDOW]
            pages = [self._behind.first_page(number, self.cursors.get(number, "")) for number in window]
            for number, (record, first) in zip(window, await asyncio.gather(*pages), strict=True):
                try:
                    async for rows in self._behind.rows(number, record, first, self.cursors.get(number, "")):
                        await self._log(number, rows, record.cut)
                        on_progress(self.report)
                        if number in self.report.stopped or self.report.events >= self._most:
                            break
                except (ArchiveNotGiven, CorruptLedger) as error:
                    if isinstance(error, LogContradicts):
                        raise
                    self.report.stopped[number] = str(error)
                if self.report.events >= self._most:
                    self.report.more = True
                    return

    async def finish(self, note: Callable[[int], Awaitable[None]]) -> None:
        """Write what was taken, the state tree and a checkpoint; `note` is told the size before that is signed."""
        if self._leaves:
            await self._write_batch()
        if self.size > self._checkpoints.size or self._passed >= _IDLE_ROWS:
            if self._state_at != self.size - 1 or self._passed >= _IDLE_ROWS:
                await self._write_state()
            await self._place.replace_all(self._tree.edge())
            await self._checkpoints.sign(self.size, self._tree.root(), note)
        published = await self._checkpoints.published()
        size = 0 if published is None else parse_checkpoint(published.text).size
        if size < self._checkpoints.size:
            await self._publish(size)
        elif published is not None and size == self._checkpoints.size:
            await self._checkpoints.have_witnessed(published, self.report.unwitnessed)
        self.report.size = self.size
        self.report.refusals = list(self._refusals.values())

    async def _resume(self, checkpoint: Checkpoint) -> None:
        """Go on behind a checkpoint, whose tree and states are read and compared with it."""
        size = self._checkpoints.size = checkpoint.size
        self._tree = await TreeWriter.resume(self._place, size)
        if self._tree.root() != checkpoint.root:
            raise LogContradicts(checkpoint_name(size), "the tiles do not lead to its root: one of them was changed")
        leaf = parse_leaf(await TreeReader(self._place, size).leaf(size - 1, checkpoint.root))
        if not isinstance(leaf, StateLeaf):
            raise LogContradicts(checkpoint_name(size), "its last leaf is no state root")
        await self._open_states(leaf)

    async def _open_states(self, leaf: StateLeaf) -> None:
        try:
            self._states = await StateTree.open(self._place, leaf.size, Node(leaf.root, leaf.sessions), kept=self._kept)
        except ObjectMissing as error:
            raise LogContradicts(state_name(leaf.size), "it is missing") from error
        self._state_at = leaf.size
        self._changed.clear()
        self._most = max(RUN_EVENTS, leaf.sessions // RUN_SHARE)

    async def _replay(self, batch: Batch) -> None:
        """Add the leaves of a batch that no checkpoint covers yet."""
        for each in batches.leaves_of(batch):
            leaf = parse_leaf(each)
            if isinstance(leaf, EventLeaf):
                record = Record(leaf.sid, leaf.seq, leaf.hash, self.size)
                self._tips[leaf.sid] = self._changed[leaf.sid] = record
            elif isinstance(leaf, StateLeaf):
                await self._open_states(leaf)
            self._tree.append(each)
        if self._tree.root() != batch.root:
            raise LogContradicts(batch_name(batch.first), "its root is not that of its leaves: it was changed")
        await self._place.replace_all(self._tree.take_full())

    async def _log(self, partition: int, rows: Sequence[Row | Foreign], cut: str) -> None:
        """Log a page of a partition's events, each if it follows what is logged of its session."""
        unknown = {row.sid for row in rows if isinstance(row, Row) and row.sid not in self._tips}
        self._tips |= await self._states.find(unknown)
        tips, leaves, size = self._tips, self._leaves, self.size
        for row in rows:
            if isinstance(row, Foreign):
                self.report.foreign += 1
                self._passed += 1
                self.cursors[partition] = row.id
                continue
            sid = row.sid
            try:
                kind = kind_of(row)
                previous = previous_of(row, kind, tips.get(sid), cut)
            except UnknownEvent as error:
                self.report.stopped[partition] = f"stream entry {row.id}: {error}"
                break
            except (CorruptLedger, ValueError) as error:
                kind, previous = 0, None
                self._refuse(partition, row, str(error))
            else:
                if previous is None:
                    known = tips.get(sid)
                    self._refuse(partition, row, f"seq {row.seq} does not follow seq {known.seq if known else 0}")
                elif not is_linked(row, previous):
                    self._refuse(partition, row, "its hash does not match the event and the hash that is logged")
                else:
                    record = Record(sid, row.seq, row.hash, size + len(leaves))
                    tips[sid] = self._changed[sid] = record
                    leaves.append(pack_event(kind, sid, row.seq, row.hash))
                    self.report.events += 1
                    if self._refusals:
                        self._refusals.pop(sid, None)
            self.cursors[partition] = row.id
        if len(leaves) >= BATCH_LEAVES:
            await self._write_batch()

    def _refuse(self, partition: int, row: Row, what: str) -> None:
        """Pass over an event that contradicts what is logged, and name its session."""
        self.report.refused += 1
        self._passed += 1
        if row.sid not in self._refusals and len(self._refusals) < NAMED:
            self._refusals[row.sid] = Refusal(row.sid, partition, row.id, what)

    async def _write_batch(self) -> None:
        """Fix the order of what was taken, then write the tiles that it fills."""
        first, leaves, self._leaves = self.size, self._leaves, []
        for leaf in leaves:
            self._tree.append(leaf)
        batch = Batch(
            batches.FORMAT,
            first,
            len(leaves),
            self._tree.root(),
            -1 if self._newest is None else self._newest.first,
            dict(self.cursors),
            self._state_at,
            self.report.refused,
            list(self._refusals.values()),
            pack_bundle(leaves),
        )
        await batches.create(self._place, batch)
        self._newest = batch
        self._passed = 0
        self.report.batches += 1
        await self._place.replace_all(self._tree.take_full())

    async def _write_state(self) -> None:
        """Write the state tree over all leaves so far, and its root as the next one."""
        self._states = await self._states.grow(self.size, self._changed)
        self._changed = {}
        node = self._states.node
        self._state_at = self.size
        self._leaves.append(pack_state(StateLeaf(self.size, node.sessions, node.hash)))
        await self._write_batch()

    async def _publish(self, published: int) -> None:
        """Remove what the newest checkpoint makes superfluous, then give it to auditors for the one of `published`."""
        assert self._newest is not None
        await batches.settle_before(self._place, self._newest)
        await remove_partials(self._place, _filled(published, self._checkpoints.size))
        if self._states.is_alone:
            await self._states.remove_superseded()
        await self._place.objects.replace(NEWEST, str(self._newest.first).encode())
        await self._checkpoints.give(self.report.unwitnessed)


def _filled(old: int, new: int) -> list[str]:
    """List the tiles and bundles that were partial in a tree of size `old` and are full in one of `new`."""
    found = []
    for level in (BUNDLE_LEVEL, *levels(old)):
        shift = HEIGHT * max(level, 0)
        was, now = old >> shift, new >> shift
        if was % WIDTH and now // WIDTH > was // WIDTH:
            found.append(Tile(level, was // WIDTH).path)
    return found
