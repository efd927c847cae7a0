"""What a witness signed last of each log, on disk before anybody is told, and its key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from ledger.errors import LayoutError
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.notes import COSIGNATURE, BadNote, SignerKey, check_name, parse_note, parse_signer
from ops.opening.key_files import read_or_make, read_text, replace

KEY_FILE: Final = "witness-key"
STATE_FILE: Final = "witness.json"
_SEED_BYTES: Final = 32


class WitnessRefused(LayoutError):
    """This folder is not that of a witness, or not all of it; the message says what to bring back."""

    exit_code = 2


class Signed(msgspec.Struct):
    """By origin the newest checkpoint that was signed, as a note, and the first one refused that forks the log."""

    signed: dict[str, str] = {}
    forked: dict[str, str] = {}


class WitnessState:
    """The state of a witness in a folder, for one process; raises WitnessRefused, OSError.

    A witness without its state would sign a fork of what it signed before, so a key without one is refused.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        """`name`: what it is to be called, where it begins."""
        self._file = folder / STATE_FILE
        key_file = folder / KEY_FILE
        if not key_file.exists():
            if self._file.exists():
                raise WitnessRefused(f"{self._file} is there, its key is not: bring back {key_file}")
            if not name:
                raise WitnessRefused(f"there is no witness in {folder}: --name NAME begins one, like audit.example/w1")
            made = SignerKey(_name(name), COSIGNATURE, os.urandom(_SEED_BYTES))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace(self._file, msgspec.json.encode(Signed()).decode())  # first: a key without it signs nothing
            read_or_make(key_file, lambda: made.written() + "\n")
        try:
            self.key = parse_signer(read_text(key_file))
            if not self._file.exists():
                raise WitnessRefused(
                    f"{self._file} is missing, which tells what this witness signed: bring it back. If it is lost for "
                    f"good, remove {key_file} and begin another witness, with another name"
                )
            self._held = msgspec.json.decode(self._file.read_bytes(), type=Signed)
        except (BadNote, msgspec.DecodeError, ValueError) as error:
            raise WitnessRefused(f"the witness in {folder} cannot be read: {error}") from error
        if self.key.type != COSIGNATURE or name not in ("", self.key.name):
            raise WitnessRefused(f"the witness in {folder} is {self.key.name}, which keeps its name")

    def newest(self, origin: str) -> Checkpoint | None:
        """Tell the newest checkpoint that was signed of a log; None where none was."""
        text = self.read(origin)
        return parse_checkpoint(parse_note(text).text) if text else None

    def read(self, origin: str) -> str:
        """Give the newest checkpoint that was signed of a log, as a note; '' where none was."""
        return self._held.signed.get(origin, "")

    def keep(self, origin: str, note: str) -> None:
        """Have it on disk that a checkpoint is signed."""
        self._write(Signed(self._held.signed | {origin: note}, self._held.forked))

    def keep_fork(self, origin: str, note: str) -> None:
        """Keep the first checkpoint that forks a log: its signature proves who did."""
        if origin not in self._held.forked:
            self._write(Signed(self._held.signed, self._held.forked | {origin: note}))

    def _write(self, held: Signed) -> None:
        replace(self._file, msgspec.json.encode(held).decode())
        self._held = held


def _name(name: str) -> str:
    try:
        return check_name(name)
    except BadNote as error:
        raise WitnessRefused(str(error)) from error
