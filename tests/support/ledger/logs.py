"""Transparency logs for tests: a job over a store and a place, and an auditor who has only what is published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ledger import keys
from ledger.store.interface import Store
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.entries import ClosedLeaf, EventLeaf, StateLeaf, parse_leaf
from ledger.transparency.merkle import leaf_hash
from ledger.transparency.notes import ED25519, SignerKey, parse_note, verified
from ledger.transparency.state_tree import Bucket, Node, Record, bucket_of
from ledger.transparency.tiles import BUNDLE_LEVEL, WIDTH, levels, tile_of, unpack_bundle
from projections.archive.catalog import Archive
from projections.archive.objects import Objects, open_objects
from projections.transparency.job import LogOf, notarize
from projections.transparency.notary import NotaryReport, Progress
from projections.transparency.place import LogPlace
from projections.transparency.published import PublishedLog
from tests.support.ledger.given import NOW
from tests.support.ledger.states import node_of
from tests.support.ledger.trees import Frontier

ORIGIN: Final = "ledger.example/log"
LEDGER: Final = "5" * 32
KEY: Final = SignerKey(ORIGIN, ED25519, bytes(range(32)))


class Killed(Exception):
    """Stands for the end of the process."""


class FailingObjects(Objects):
    """Objects of which a write ends the job: before it is carried out, or behind it."""

    def __init__(self, objects: Objects, writes: int, *, behind: bool) -> None:
        """Let so many writes pass, and end at the next."""
        super().__init__(objects._store, objects._root)
        self._left, self._behind = writes, behind

    async def _end_at(self, write: Any) -> None:
        self._left -= 1
        if self._left < 0 and not self._behind:
            write.close()
            raise Killed
        await write
        if self._left < 0:
            raise Killed

    async def create(self, name: str, file: Any) -> None:
        await self._end_at(super().create(name, file))

    async def put(self, name: str, content: bytes) -> None:
        await self._end_at(super().put(name, content))

    async def write(self, name: str, content: bytes) -> None:
        await self._end_at(super().write(name, content))

    async def delete(self, names: list[str]) -> None:
        await self._end_at(super().delete(names))


def place_at(url: str = "memory:///") -> LogPlace:
    """Open a place, by default one in memory."""
    return LogPlace(open_objects(url), url)


def log_of(
    store: Store,
    place: LogPlace,
    *,
    ledger: str = LEDGER,
    wanted: str = "",
    signers: Sequence[SignerKey] = (KEY,),
    archive: Archive | None = None,
) -> LogOf:
    """Name the log of a store."""
    return LogOf(store, place, ledger, wanted, lambda origin, may_make: signers, archive)


async def run(of: LogOf, partitions: int = 8, on_progress: Progress = lambda _: None) -> NotaryReport:
    """Run the job to its end."""
    report = await notarize(of, partitions, ORIGIN, lambda: NOW // 1000, on_progress=on_progress)
    assert report is not None
    return report


async def forget_lease(store: Store) -> None:
    """Let the lease of a job that was killed run out."""
    await store.command("HDEL", keys.meta(), "proof_lease", "proof_leased_until_ms", key=keys.meta())


class Audit:
    """What an auditor makes of a log: its leaves, all of which the signed checkpoint proves."""

    def __init__(self, checkpoint: Checkpoint, leaves: list[bytes]) -> None:
        self.checkpoint = checkpoint
        self.leaves = [parse_leaf(leaf) for leaf in leaves]
        self.events = [leaf for leaf in self.leaves if isinstance(leaf, EventLeaf)]

    @classmethod
    async def of(cls, place: LogPlace, key: SignerKey = KEY) -> Audit:
        """Read all that is published and check it, without any of the code that writes it."""
        published = PublishedLog(place)
        text = await published.checkpoint()
        assert text is not None
        note = parse_note(text.decode())
        assert [each.key for each in verified(note, [key.public])] == [key.public]
        checkpoint = parse_checkpoint(note.text)
        leaves: list[bytes] = []
        for number in range(-(-checkpoint.size // WIDTH)):
            bundle = await published.tile(tile_of(BUNDLE_LEVEL, number, checkpoint.size).path)
            assert bundle is not None
            leaves += unpack_bundle(bundle)
        assert len(leaves) == checkpoint.size
        frontier = Frontier()
        for leaf in leaves:
            frontier.append(leaf_hash(leaf))
        assert frontier.root() == checkpoint.root
        hashes = list(map(leaf_hash, leaves))
        for level in levels(checkpoint.size):
            for number in range(-(-len(hashes) // WIDTH)):
                tile = await published.tile(tile_of(level, number, checkpoint.size).path)
                assert tile == b"".join(hashes[number * WIDTH : (number + 1) * WIDTH])
            hashes = [_root(hashes[at : at + WIDTH]) for at in range(0, len(hashes) - WIDTH + 1, WIDTH)]
        audit = cls(checkpoint, leaves)
        audit.check()
        return audit

    def check(self) -> None:
        """Check that each session is logged in order and once, and each state root over what is before it."""
        tips: dict[bytes, Record] = {}
        for at, leaf in enumerate(self.leaves):
            if isinstance(leaf, StateLeaf):
                assert leaf.size == at
                assert Node(leaf.root, leaf.sessions) == node_of(_buckets(tips))
                continue
            if isinstance(leaf, ClosedLeaf):
                assert at == 0
                continue
            known = tips.get(leaf.sid)
            assert known is None or leaf.seq > known.seq
            tips[leaf.sid] = Record(leaf.sid, leaf.seq, leaf.hash, at)
        assert isinstance(self.leaves[-1], StateLeaf)

    def of_session(self, sid: str) -> list[int]:
        """List the seqs of a session that are logged."""
        return [leaf.seq for leaf in self.events if leaf.sid.hex() == sid]


def _buckets(tips: dict[bytes, Record]) -> dict[int, Bucket]:
    found: dict[int, Bucket] = {}
    for sid, record in tips.items():
        found[bucket_of(sid)] = found.get(bucket_of(sid), Bucket()).changed({sid: record})
    return found


def _root(hashes: list[bytes]) -> bytes:
    frontier = Frontier()
    for each in hashes:
        frontier.append(each)
    return frontier.root()
