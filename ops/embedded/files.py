"""Where the embedded server keeps its files, and the locks that say who starts, runs and uses it.

Each lock is a `flock`, which the kernel lifts with its holder's death:

- `server.lock`, held by the server process itself through an inherited descriptor: while it is held, no second
  server can start on the append-only file, whatever became of the socket or of the process that started it.
- `start.lock`, held for as long as somebody starts or stops the server.
- `users.lock`, held shared by every process that uses the server; who gets it alone is the last one out.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ledger.errors import Unavailable

FOLDER = "valkey"
SHORT_FOLDERS = Path("/tmp")  # noqa: S108 - each folder in it is made and checked to be ours alone
LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux and 104 on macOS, with the final zero


class EmbeddedServerError(Unavailable):
    """The embedded server cannot be used; the message says what to do."""


class Files(NamedTuple):
    """The files of one embedded server, all in one folder but for a socket whose path would be too long."""

    folder: Path
    socket: Path

    @property
    def log(self) -> Path:
        """What the server itself logs."""
        return self.folder / "valkey.log"

    @property
    def server_lock(self) -> Path:
        """Held by the server process."""
        return self.folder / "server.lock"

    @property
    def start_lock(self) -> Path:
        """Held by whoever starts or stops the server."""
        return self.folder / "start.lock"

    @property
    def users_lock(self) -> Path:
        """Held shared by every user of the server."""
        return self.folder / "users.lock"


def check_begun(data_dir: Path) -> None:
    """Check that there is a server's folder in `data_dir`; raises EmbeddedServerError, and makes nothing."""
    try:
        (data_dir / FOLDER).stat()
    except FileNotFoundError:
        raise EmbeddedServerError(
            f"There is no ledger in {data_dir}: name its folder with --data-dir or LEDGER_DATA_DIR; "
            "syncledger serve begins a new one"
        ) from None
    except OSError as error:
        raise EmbeddedServerError(f"Cannot use the data folder {data_dir}: {describe(error)}") from error


def prepare_files(data_dir: Path) -> Files:
    """Make the folder of the embedded server in `data_dir` (0700) and return where its files are.

    The same folder gives the same files to every process of the machine. Raises EmbeddedServerError when the folder
    is another user's or cannot be written.
    """
    folder = data_dir.absolute() / FOLDER
    try:
        if not data_dir.exists():
            data_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder = folder.resolve()
        status = folder.stat()
    except OSError as error:
        raise EmbeddedServerError(f"Cannot use the data folder {data_dir}: {describe(error)}") from error
    if status.st_uid != os.geteuid():
        raise EmbeddedServerError(
            f"The data folder {data_dir} belongs to {_user_name(status.st_uid)}: "
            "run as that user or name another --data-dir"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)
    path = folder / "valkey.sock"
    return Files(
        folder, path if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH else _short_folder(folder) / "valkey.sock"
    )


def _short_folder(folder: Path) -> Path:
    """Return a folder of our own with a short path that follows from `folder` alone, made with 0700.

    Whoever uses `folder` must come to the same one, whatever TMPDIR says to each.
    """
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = SHORT_FOLDERS / f"syncledger-{os.geteuid()}-{digest}"
    try:
        short.mkdir(mode=0o700, exist_ok=True)
        status = short.lstat()
    except OSError as error:
        raise EmbeddedServerError(f"Cannot make a folder for the server's socket: {describe(error)}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise EmbeddedServerError(f"{short} is not a folder of ours alone: remove it or name a shorter --data-dir")
    return short


def remove_short_folder(files: Files) -> None:
    """Remove the folder that was made for the socket alone, if there is one. The start lock is held, no server runs."""
    if files.socket.parent != files.folder:
        files.socket.unlink(missing_ok=True)
        with suppress(OSError):  # somebody put something into it: it stays
            files.socket.parent.rmdir()


def describe(error: OSError) -> str:
    """Say what the system refused, with the file, without Python's numbers."""
    return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


class Lock:
    """A `flock` on a file that is made when needed and never removed; closing it gives it up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def fileno(self) -> int:
        """The descriptor that carries the lock; a process that inherits it holds the lock too."""
        return self._fd

    def try_exclusive(self) -> bool:
        """Take the lock alone (a shared one is given up for it) unless somebody else holds it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def shared(self) -> None:
        """Take the lock together with others, waiting for one who has it alone."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def close(self) -> None:
        """Close the descriptor; the lock goes on only in a process that inherited it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
