"""Asking witnesses to sign a checkpoint (C2SP tlog-witness). One that does not answer holds nothing up, and is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from ledger.transparency.checkpoints import parse_checkpoint, parse_number
from ledger.transparency.notes import BadNote, Note, Signature, VerifierKey, parse_signatures, verified
from ledger.transparency.witnessing import SIZE_TYPE, Submission
from projections.transparency.errors import LogContradicts, LogWentBack
from projections.transparency.tree import TreeReader

MOST: Final = 16
"""How many witnesses a log may have."""
WITHIN_S: Final = 5.0
"""How long a witness may take."""
_CONFLICT: Final = 409
_NO_PROOF: Final = 422
_OK: Final = 200


class Witness(NamedTuple):
    """A witness: its key, and the address that `/add-checkpoint` is below."""

    key: VerifierKey
    url: str


class Refused(Exception):
    """A witness did not sign; the message says why."""


class Reply(NamedTuple):
    """What a witness answered, of bounded length."""

    status: int
    content_type: str
    text: str


Post = Callable[[str, bytes], Awaitable[Reply]]
"""Sends a body to an address; raises Refused where no answer comes, or none of bounded length."""


class Witnesses:
    """The witnesses of a log. It remembers what each signed last, and asks where it does not know."""

    def __init__(self, witnesses: Sequence[Witness], post: Post, within_s: float = WITHIN_S) -> None:
        self._post = post
        self._witnesses = tuple(witnesses)
        self._within_s = within_s
        self._sizes: dict[VerifierKey, int] = {}

    def lacking(self, note: Note) -> list[Witness]:
        """List the witnesses that did not sign a checkpoint."""
        return [witness for witness in self._witnesses if not _has_signed(note, witness.key)]

    async def check(self, tree: TreeReader, note: Note) -> None:
        """Ask those how far they signed that were not asked before; `note` is the newest checkpoint, that of `tree`.

        Who does not answer is passed over. Raises LogWentBack where one signed what is not in this log.
        """
        went_back: list[LogWentBack] = []

        async def ask(witness: Witness) -> None:
            try:
                async with asyncio.timeout(self._within_s):
                    await self._ask(witness, tree, note)
            except LogWentBack as error:
                went_back.append(error)
            except (TimeoutError, Refused, BadNote):
                pass  # told when it is asked to sign what is new

        for witness in self._witnesses:
            if (signed := self._sizes.get(witness.key, 0)) > tree.size:
                raise LogWentBack(witness.key.name, _more(signed, tree.size))
        await asyncio.gather(*(ask(each) for each in self._witnesses if each.key not in self._sizes))
        if went_back:
            raise went_back[0]

    async def cosign(self, tree: TreeReader, note: Note) -> tuple[Note, dict[str, str]]:
        """Have all sign a checkpoint of `tree` that have not; gives it with what they made, and who did not, and why.

        Takes no longer than the slowest one may. Raises LogWentBack where one signed what is not in this log.
        """
        lacking = self.lacking(note)
        if not lacking:
            return note, {}
        wrong: dict[str, str] = {}
        made: list[Signature] = []
        went_back: list[LogWentBack] = []

        async def ask(witness: Witness) -> None:
            try:
                async with asyncio.timeout(self._within_s):
                    made.extend(await self._ask(witness, tree, note))
            except TimeoutError:
                wrong[witness.key.name] = f"no answer within {self._within_s:g} s"
            except LogWentBack as error:
                went_back.append(error)
            except (Refused, BadNote) as error:
                wrong[witness.key.name] = str(error)

        await asyncio.gather(*map(ask, lacking))
        if went_back:
            raise went_back[0]
        return Note(note.text, (*note.signatures, *made)), wrong

    async def _ask(self, witness: Witness, tree: TreeReader, note: Note) -> tuple[Signature, ...]:
        """Ask one, again if it signed another size last than was thought. Raises Refused, BadNote, LogWentBack."""
        size = parse_checkpoint(note.text).size
        for is_last in (False, True):
            old = min(self._sizes.get(witness.key, 0), size)
            submission = Submission(old, await _grown_from(tree, old), note)
            status, kind, text = await self._post(f"{witness.url}/add-checkpoint", str(submission).encode())
            if status == _OK:
                self._sizes[witness.key] = size
                return _of(witness.key, note, text)
            is_size = status == _CONFLICT and kind == SIZE_TYPE
            there = parse_number(text.removesuffix("\n")) if is_size else old
            if there > size:
                raise LogWentBack(witness.key.name, _more(there, size))
            # Behind its own word on what it signed last, which is smaller or as large, only a fork is refused so;
            # of the same size 409 is what an earlier text of tlog-witness says.
            if (is_size and there == old) or (status == _NO_PROOF and old):
                raise LogWentBack(witness.key.name, f"signed another log of {old:,} entries: the log was forked")
            if not is_size or is_last:
                raise Refused(f"it refuses with {status}: {_shown(text)}")
            self._sizes[witness.key] = there
        raise AssertionError("the second answer returns or raises")


async def _grown_from(tree: TreeReader, old: int) -> tuple[bytes, ...]:
    """Prove that the log grew out of what a witness signed last; raises Refused where it is pruned there."""
    try:
        return tuple(await tree.consistency(old))
    except LogContradicts as error:
        if not await tree.is_pruned(old):
            raise
        raise Refused(
            f"it signed {old:,} entries last, and the log is pruned there, so that they are in it cannot be proved: "
            "have the witness begin anew under another name, and name its new key in LEDGER_WITNESSES"
        ) from error


def _of(key: VerifierKey, note: Note, text: str) -> tuple[Signature, ...]:
    """Take a witness's signature out of its answer; raises Refused, BadNote."""
    found = tuple(each for each in parse_signatures(text) if (each.name, each.key_id) == (key.name, key.key_id))
    if not verified(Note(note.text, found), [key]):
        raise Refused("its answer holds no signature of its key: is its key in LEDGER_WITNESSES the right one?")
    return found[:1]


def _has_signed(note: Note, key: VerifierKey) -> bool:
    """Tell whether a key signed; a spoilt signature is none."""
    try:
        return bool(verified(note, [key]))
    except BadNote:
        return False


def _more(signed: int, size: int) -> str:
    return f"signed {signed:,} entries of it, here it has {size:,}: it went back"


def _shown(text: str) -> str:
    return " ".join(text.split())[:200] or "nothing said"
