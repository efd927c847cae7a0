"""What a witness is asked, and what it answers (C2SP tlog-witness): a log only grows, as far as it has seen."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint, parse_hash, parse_number
from ledger.transparency.merkle import EMPTY, check_consistency
from ledger.transparency.notes import BadNote, Note, VerifierKey, parse_note, verified

MAX_BYTES: Final = 256 * 1024
"""Of a submission: 63 hashes, and a checkpoint with all the signatures that one may have."""
MAX_PROOF: Final = 63
SIZE_TYPE: Final = "text/x.tlog.size"
_OLD: Final = "old "


class Submission(NamedTuple):
    """A checkpoint that a witness is to sign, and the proof that it grew from the one of size `old`."""

    old: int
    proof: tuple[bytes, ...]
    note: Note

    def __str__(self) -> str:
        hashes = "".join(f"{b64encode(each).decode()}\n" for each in self.proof)
        return f"{_OLD}{self.old}\n{hashes}\n{self.note}"


class Refusal(Exception):
    """A submission that is not signed; `status` is HTTP's, `size` what the witness signed last, where that is told.

    `is_fork`: the log itself signed what contradicts what it signed before.
    """

    def __init__(self, status: int, what: str, size: int | None = None, *, is_fork: bool = False) -> None:
        super().__init__(what)
        self.status = status
        self.size = size
        self.is_fork = is_fork


def parse_submission(text: str) -> Submission:
    """Read a submission; raises BadNote."""
    head, separator, note = text.partition("\n\n")
    first, *hashes = head.split("\n")
    if not separator or not first.startswith(_OLD) or len(hashes) > MAX_PROOF:
        raise BadNote(f"a submission is `old SIZE`, at most {MAX_PROOF} hashes, an empty line and a checkpoint")
    return Submission(parse_number(first.removeprefix(_OLD)), tuple(map(parse_hash, hashes)), parse_note(note))


def origin_of(submission: Submission) -> str:
    """Tell which log a submission is of; raises BadNote."""
    return parse_checkpoint(submission.note.text).origin


def judge(submission: Submission, keys: Sequence[VerifierKey], known: Checkpoint | None) -> Checkpoint:
    """Tell the checkpoint to sign, of a log with these keys of which `known` was signed last; raises Refusal, BadNote.

    In the order of C2SP tlog-witness: 404, 403, 400, 409, 422.
    """
    checkpoint = parse_checkpoint(submission.note.text)
    if not keys:
        raise Refusal(404, f"log {checkpoint.origin} is none that is watched here")
    try:
        signed = verified(submission.note, keys)
    except BadNote as error:
        raise Refusal(403, str(error)) from error
    if not signed:
        raise Refusal(403, "no key that is known of this log signed the checkpoint")
    if submission.old > checkpoint.size:
        raise Refusal(400, f"the old size, {submission.old}, is above the checkpoint's, {checkpoint.size}")
    size, root = (0, EMPTY) if known is None else (known.size, known.root)
    if submission.old != size:
        raise Refusal(409, f"the last checkpoint signed here has size {size}", size)
    if checkpoint.size == size and checkpoint.root != root:
        raise Refusal(422, f"another tree of size {size} was signed here: the log was forked", is_fork=True)
    try:
        check_consistency(size, root, checkpoint.size, checkpoint.root, submission.proof)
    except ValueError as error:
        raise Refusal(422, f"the log did not grow from size {size}: {error}", is_fork=True) from error
    return checkpoint
