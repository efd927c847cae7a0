"""The newest of what was read, kept once for all who follow: each has only a place in it, so none makes it grow.

Whoever is slower than what comes falls out of it, and reads on from the store, where they stood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from projections.feed.position import StreamId
from projections.feed.told import Block, Notice

RING_BYTES: Final = 32 * 1024 * 1024
_EACH_BYTES: Final = 2500
"""What an event takes beside its own bytes, with its lines in every form."""
_TIMES: Final = 8
"""How often the bytes of an event are in its lines and objects, about."""


class Ring:
    """Blocks by number; at most about so many bytes of them, and always the newest one."""

    def __init__(self, base: Iterable[StreamId], most_bytes: int = RING_BYTES) -> None:
        """`base`: where each partition stands behind which the first block begins."""
        self.base = list(base)
        """Behind which event of each partition the blocks that are kept begin."""
        self._most_bytes = most_bytes
        self._blocks: deque[tuple[Block, int]] = deque()
        self._bytes = 0
        self._end = 0

    @property
    def end(self) -> int:
        """The number of the next block."""
        return self._end

    @property
    def first(self) -> int:
        """The number of the oldest block that is kept."""
        return self._end - len(self._blocks)

    @property
    def kept_bytes(self) -> int:
        """About how many bytes it takes."""
        return self._bytes

    def add(self, block: Block) -> None:
        """Add the next block; old ones go for it."""
        size = _size(block)
        self._blocks.append((block, size))
        self._bytes += size
        self._end += 1
        while self._bytes > self._most_bytes and len(self._blocks) > 1:
            old, size = self._blocks.popleft()
            self.base[old.partition] = old.last
            self._bytes -= size

    def get(self, number: int) -> Block | None:
        """Give a block that was added; None where it is not kept any more."""
        at = number - self.first
        return self._blocks[at][0] if at >= 0 else None

    def ids(self) -> set[tuple[int, str]]:
        """List the events of all blocks, by partition and stream id."""
        return {
            (block.partition, told.entry.id)
            for block, _ in self._blocks
            for told in block.told
            if not isinstance(told, Notice)
        }


def _size(block: Block) -> int:
    return sum(
        _EACH_BYTES + (0 if isinstance(told, Notice) else _TIMES * len(told.entry.recorded.raw)) for told in block.told
    )
