"""The append-only files of the embedded server: what is wrong with them, and mending it.

The server itself takes a command that was cut off at the very end. It refuses zeros and rubbish behind the last one, as
a file system leaves them after a power loss, and a list of files (the manifest) that it cannot read. And where the list
is missing it begins anew, over the files that are there. What is mended here is cut at the last whole command (a
transaction counts as one), and what is cut stays in a file beside it.

The files are listed as in `file NAME seq N type T`; T is b for the base, i for what was appended since, h for what a
rewrite has made obsolete.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ops.embedded.files import EmbeddedServerError
from ops.opening.key_files import replace

FOLDER: Final = "appendonlydir"
MANIFEST: Final = "appendonly.aof.manifest"
SESSIONS_TOLD: Final = 20
"""How many sessions of a loss are named."""
_PROGRESS_BYTES: Final = 64 * 1024**2
_LISTED: Final = re.compile(r'file "?([^\s"/]+)"? seq (\d+) type ([bih])(?: .*)?')
_NAMED: Final = re.compile(r"appendonly\.aof\.(\d+)\.(base|incr)\.(rdb|aof)")
_BEGINS: Final = re.compile(rb"\*\d{1,7}\r\n\$\d{1,9}\r\n")
_count: Final = re.compile(rb"\*([1-9]\d{0,6})\r\n").match
_length: Final = re.compile(rb"\$(\d{1,9})\r\n").match
_STREAM: Final = re.compile(rb"\{p\d+\}:stream")

Progress = Callable[[int], None]


class Listed(NamedTuple):
    """A file of the manifest."""

    name: str
    seq: int
    kind: str


class Cut(msgspec.Struct):
    """A file that is cut at a byte, or put aside whole (0) because one before it is cut."""

    name: str
    at: int
    bytes: int


class Damage(msgspec.Struct):
    """What is wrong with the append-only files, and what mending them loses.

    `no_manifest`: the list of files is missing or cannot be read, and is made anew. `commands`: how many can still be
    read in what is cut; `events`: those of them that are events, of `sessions`, of which some are named.
    """

    no_manifest: bool = False
    cuts: list[Cut] = []
    bytes: int = 0
    commands: int = 0
    events: int = 0
    sessions: int = 0
    named: list[str] = []

    def __bool__(self) -> bool:
        """Tell whether anything is wrong."""
        return self.no_manifest or bool(self.cuts)


def lost_manifest(folder: Path) -> bool:
    """Tell whether there are append-only files without a list of them: the server would begin anew over them."""
    files = folder / FOLDER
    return files.is_dir() and not (files / MANIFEST).exists() and any(_NAMED.fullmatch(f.name) for f in files.iterdir())


def find_damage(folder: Path, on_progress: Progress = lambda _: None) -> Damage:
    """Read the append-only files of a server's folder; nothing is written.

    Raises EmbeddedServerError for what cannot be mended.
    """
    files, damage = folder / FOLDER, Damage()
    listed = _read_manifest(files)
    if listed is None:
        damage.no_manifest = (folder / FOLDER).is_dir() and any(files.iterdir())
        listed = _from_names(files) if damage.no_manifest else []
    lost, done = _Lost(), 0
    for each in listed:
        path = files / each.name
        if not path.exists():
            raise EmbeddedServerError(f"{path} is missing: restore the ledger from a backup (syncledger restore)")
        size = path.stat().st_size
        at = 0 if damage.cuts else _whole_until(path, lambda more: on_progress(done + more))  # noqa: B023
        done += size
        if at < size or damage.cuts:
            damage.cuts.append(Cut(each.name, at, size - at))
            damage.bytes += size - at
            lost.read(path, at)
    damage.commands, damage.events, damage.sessions = lost.commands, lost.events, len(lost.sids)
    damage.named = sorted(lost.sids)[:SESSIONS_TOLD]
    return damage


def mend(folder: Path, damage: Damage, stamp: str) -> list[Path]:
    """Cut what is damaged, and tell the files that hold what was cut, named by `stamp`. No server may run."""
    files, kept = folder / FOLDER, list[Path]()
    listed = _read_manifest(files)
    if listed is None:
        listed = _from_names(files)
        old = files / MANIFEST
        if old.exists():
            kept.append(old.rename(old.with_name(f"{MANIFEST}.cut-{stamp}")))
    aside = {cut.name for cut in damage.cuts if not cut.at}
    if damage.no_manifest or aside:
        rest = [each for each in listed if each.name not in aside]
        replace(files / MANIFEST, "".join(f"file {name} seq {seq} type {kind}\n" for name, seq, kind in rest))
    for cut in damage.cuts:
        path, beside = files / cut.name, files / f"{cut.name}.cut-{stamp}"
        if cut.at:
            _cut(path, cut.at, beside)
        else:
            path.rename(beside)
        kept.append(beside)
    _sync(files)
    return kept


def _cut(path: Path, at: int, beside: Path) -> None:
    """Copy what is behind a byte into a file beside, on disk, before the file is cut there."""
    with path.open("rb") as source, os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as to:
        source.seek(at)
        while piece := source.read(1 << 20):
            to.write(piece)
        to.flush()
        os.fsync(to.fileno())
    with path.open("r+b") as file:
        file.truncate(at)
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_manifest(files: Path) -> list[Listed] | None:
    """Read which files count, in their order; None where the list is missing or cannot be read."""
    try:
        lines = (files / MANIFEST).read_text("ascii").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    matches = [_LISTED.fullmatch(line) for line in lines if line and not line.startswith("#")]
    if not matches or None in matches:
        return None
    listed = [Listed(match[1], int(match[2]), match[3]) for match in matches if match is not None]
    listed = [each for each in listed if each.kind != "h"]
    return sorted(listed, key=lambda each: (each.kind != "b", each.seq))


def _from_names(files: Path) -> list[Listed]:
    """Tell from their names which files count; raises EmbeddedServerError where that cannot be told."""
    found = [match for match in map(_NAMED.fullmatch, (file.name for file in files.iterdir())) if match]
    listed = [Listed(match[0], int(match[1]), "b" if match[2] == "base" else "i") for match in found]
    if sum(each.kind == "b" for each in listed) > 1:
        raise EmbeddedServerError(
            f"{files / MANIFEST} is lost, and a rewrite was under way: which files count cannot be told. Restore the "
            "ledger from a backup (syncledger restore)"
        )
    return sorted(listed, key=lambda each: (each.kind != "b", each.seq))


def _whole_until(path: Path, on_progress: Progress) -> int:
    """Tell up to which byte a file holds whole commands and transactions; a snapshot is the server's to check."""
    size = path.stat().st_size
    if path.suffix == ".rdb" or size == 0:
        return size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:5] == b"REDIS" or data[:6] == b"VALKEY":
            return size
        good, in_transaction, told = 0, False, 0
        for _, end, name in _commands(data, 0):
            in_transaction = name == b"MULTI" or (in_transaction and name != b"EXEC")
            if not in_transaction:
                good = end
            if end - told > _PROGRESS_BYTES:
                told = end
                on_progress(end)
        return good


def _commands(data: mmap.mmap, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield where each command begins and ends, and its name in capitals; ends at what is no command."""
    while at < len(data):
        if data[at : at + 1] == b"#":  # when it was written
            end = data.find(b"\n", at, at + 1024)
            if end < 0:
                return
            at = end + 1
            continue
        found = _arguments(data, at)
        if not found:
            return
        end = found[-1][1] + 2
        yield at, end, data[slice(*found[0])].upper()
        at = end


def _arguments(data: mmap.mmap, at: int) -> list[tuple[int, int]]:
    """Tell where each argument of the command at a byte begins and ends; none if there is no whole command."""
    found, header = list[tuple[int, int]](), _count(data, at)
    if header is None:
        return found
    end = header.end() - 2
    for _ in range(int(header[1])):  # PERF: a match is a third of what finding and slicing take
        length = _length(data, end + 2)
        if length is None:
            return []
        begin = length.end()
        end = begin + int(length[1])
        if data[end : end + 2] != b"\r\n":
            return []
        found.append((begin, end))
    return found


class _Lost:
    """What can still be read in what is cut: commands, events, and the sessions of those."""

    def __init__(self) -> None:
        self.commands = 0
        self.events = 0
        self.sids: set[str] = set()

    def read(self, path: Path, at: int) -> None:
        """Look for commands behind a byte, also behind what is no command."""
        if path.suffix == ".rdb" or at >= path.stat().st_size:
            return
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            while match := _BEGINS.search(data, at):
                at = match.end()
                for begin, end, name in _commands(data, match.start()):
                    at = end
                    if name not in (b"MULTI", b"EXEC", b"SELECT"):
                        self._count([data[slice(*place)] for place in _arguments(data, begin)])

    def _count(self, arguments: list[bytes]) -> None:
        self.commands += 1
        if arguments[0].upper() != b"XADD" or not _STREAM.fullmatch(arguments[1]):
            return
        self.events += 1
        fields = arguments[3:]
        if b"sid" in fields[::2]:
            self.sids.add(fields[2 * fields[::2].index(b"sid") + 1].hex())
