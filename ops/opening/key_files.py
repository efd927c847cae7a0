"""Files that hold secrets: made once however many start together, replaced whole, read again when they change."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger("syncledger.keys")

LARGEST_BYTES = 1 << 20


def read_or_make(file: Path, make: Callable[[], str]) -> str:
    """Read a file that `make` fills where it is missing: whole, once, and readable by its owner only."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        draft = _draft(file, make())
        with suppress(FileExistsError):
            os.link(draft, file)
        draft.unlink()
    return read_text(file)


def replace(file: Path, text: str) -> None:
    """Put a new file in the place of another at one instant: readers find one or the other, never a part."""
    draft = _draft(file, text)
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_text(file: Path) -> str:
    """Read a file of secrets; raises OSError, and ValueError (without its text) for one that holds none."""
    with file.open("rb") as stream:
        data = stream.read(LARGEST_BYTES + 1)
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > LARGEST_BYTES:
        raise ValueError(f"{file} is not a text file with a key in it")
    return text


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else changes the keys in a folder; the kernel lifts the lock with its holder's death."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class FileSource(Generic[T]):
    """What a file holds, read again whenever the file has changed."""

    def __init__(self, file: Path, parse: Callable[[str], T]) -> None:
        """Read the file for the first time; raises OSError, and ValueError like `parse`."""
        self._file = file
        self._parse = parse
        self._seen = self._mark()
        self._value = parse(read_text(file))

    def __call__(self) -> T:
        """Return what the file holds; what it last held where it cannot be read now, which is logged once."""
        mark = self._mark()
        if mark != self._seen:
            self._seen = mark
            try:
                self._value = self._parse(read_text(self._file))
            except (OSError, ValueError) as error:
                log.error("the keys stay as they were: %s", error)
        return self._value

    def _mark(self) -> tuple[int, ...]:
        """Tell one version of the file from another; one that is missing has a mark of its own."""
        try:
            status = self._file.stat()
        except OSError as error:
            return (error.errno or 0,)
        return status.st_mtime_ns, status.st_size, status.st_ino


def _draft(file: Path, text: str) -> Path:
    """Write a file beside `file`, on disk when this returns, readable by its owner only."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        draft.unlink()
        raise
    return draft
