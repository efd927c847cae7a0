"""The log's checkpoints: signed by its keys, then by witnesses, and given to auditors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.merkle import EMPTY
from ledger.transparency.notes import BadNote, Note, SignerKey, parse_note, sign, verified
from projections.archive.errors import ObjectExists
from projections.transparency import batches
from projections.transparency.errors import LogContradicts, LogRefused, LogWentBack, Overtaken
from projections.transparency.place import CHECKPOINT, LogPlace, checkpoint_name
from projections.transparency.tree import TreeReader
from projections.transparency.witnesses import Witnesses


class Checkpoints:
    """The checkpoints of one log, for one run of its job."""

    def __init__(self, place: LogPlace, origin: str, keys: Sequence[SignerKey], witnesses: Witnesses | None) -> None:
        """`keys` sign, the newest first; `witnesses` sign too, if they answer."""
        self.size = 0
        """How many leaves the newest checkpoint covers; 0 without one."""
        self._place = place
        self._origin = origin
        self._keys = keys
        self._witnesses = witnesses

    async def of(self, size: int) -> Checkpoint | None:
        """Read the checkpoint of a size; None where none was signed. Raises LogRefused for one that is not ours."""
        name = checkpoint_name(size)
        content = await self._place.find(name)
        if content is None:
            return None
        try:
            signed = parse_note(content.decode())
            checkpoint = parse_checkpoint(signed.text)
            if not verified(signed, [key.public for key in self._keys]):
                key = signed.signatures[0]
                raise LogRefused(
                    f"the log at {self._place.shown} is signed with key {key.name}+{key.key_id.hex()}, none of "
                    "those here: bring back the file of the log's keys, or set LEDGER_PROOF_KEY_FILE"
                )
        except (BadNote, ValueError) as error:
            raise LogContradicts(name, str(error)) from error
        if checkpoint.origin != self._origin or checkpoint.size != size:
            raise LogContradicts(name, f"it is of {checkpoint.origin}, {checkpoint.size} leaves")
        return checkpoint

    async def ask_witnesses(self, size: int) -> None:
        """Have witnesses that were not asked yet say how far they signed, before anything else is signed.

        `size`: of the log, which may be more than is signed. Raises LogWentBack where one signed more than there is
        here, or something else; Overtaken.
        """
        if self._witnesses is None:
            return
        signed = sign(Checkpoint(self._origin, 0, EMPTY).text, self._keys)
        if self.size:
            signed = await self._read()
        try:
            await self._witnesses.check(TreeReader(self._place, self.size), signed)
        except LogWentBack:
            await self._check_newest(size)
            raise

    async def sign(self, size: int, root: bytes, note: Callable[[int], Awaitable[None]]) -> None:
        """Sign a checkpoint of the tree so far, which can be proved from now on; `note` is told the size before."""
        await note(size)
        signed = str(sign(Checkpoint(self._origin, size, root).text, self._keys)).encode()
        try:
            await self._place.objects.put(checkpoint_name(size), signed)
        except ObjectExists:
            there = await self.of(size)
            if there is None or there.root != root:
                raise LogContradicts(checkpoint_name(size), "another tree of this size was signed") from None
        self.size = size

    async def published(self) -> Note | None:
        """Read the checkpoint that auditors are given; None where there is none that can be read."""
        content = await self._place.find(CHECKPOINT)
        try:
            note = None if content is None else parse_note(content.decode())
            if note is not None:
                parse_checkpoint(note.text)
        except ValueError:
            return None
        return note

    async def give(self, unwitnessed: dict[str, str]) -> None:
        """Have witnesses sign the newest checkpoint, then give it to auditors.

        Who does not answer is named in `unwitnessed`, with why, and may sign behind the next run.
        """
        await self._give(await self._read(), unwitnessed)

    async def have_witnessed(self, published: Note, unwitnessed: dict[str, str]) -> None:
        """Have those witnesses sign the checkpoint auditors have that did not yet, and give it with what they made."""
        if self._witnesses is not None and self._witnesses.lacking(published):
            await self._give(published, unwitnessed)

    async def _give(self, signed: Note, unwitnessed: dict[str, str]) -> None:
        if self._witnesses is not None:
            tree = TreeReader(self._place, self.size)
            try:
                signed, silent = await self._witnesses.cosign(tree, signed)
            except LogWentBack:
                await self._check_newest(self.size)
                raise
            unwitnessed.update(silent)
        content = str(signed).encode()
        if content != await self._place.find(CHECKPOINT):
            await self._place.objects.replace(CHECKPOINT, content)

    async def _read(self) -> Note:
        return parse_note((await self._place.read(checkpoint_name(self.size))).decode())

    async def _check_newest(self, size: int) -> None:
        """Raise Overtaken where another job went on: what was signed behind it is no contradiction."""
        newest = await batches.newest(self._place)
        if newest is not None and newest.end > size:
            raise Overtaken(f"leaf {size} was written by another job")
