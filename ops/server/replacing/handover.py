"""How one parent takes the listening sockets over from another, which goes on serving until it does.

A service has a door, a socket in `serve/` of its data folder, named after its address. Whoever knocks asks for what the
service listens on, starts behind it, says that it serves, and is told to go on; from then on the one that was asked
only ends what is open. Who falls silent on either side before that changes nothing for the other.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ops.server.listening import ServiceError
from ops.server.systemd import NOTIFY_SOCKET

log = logging.getLogger("syncledger.serve")

FOLDER: Final = "serve"
ANSWER_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 2.0
"""How long the parent, which does nothing else meanwhile, waits for a message that has begun."""
MESSAGE_LIMIT_BYTES: Final = 65536
MOST_LISTENERS: Final = 64
AGAIN_S: Final = 1.0
"""How long a door that does not open is tried: one may just be taking the place of another."""
_LONGEST_PATH: Final = 100

T = TypeVar("T")


class Knock(msgspec.Struct, frozen=True):
    """What the one who comes says first."""

    pid: int
    notify: str = ""
    """Where systemd hears from it."""


class Answer(msgspec.Struct, frozen=True):
    """What the one who serves says: to the knock, and to `Serves`."""

    pid: int = 0
    refused: str = ""


class Serves(msgspec.Struct, frozen=True):
    """What the one who comes says once it is ready."""

    ready: bool


class Door:
    """Where a running service is asked to hand over."""

    def __init__(self, path: Path, listening: socket.socket) -> None:
        self._path = path
        self._listening = listening
        self._inode = path.stat().st_ino

    @classmethod
    def open(cls, data_dir: Path, listeners: Sequence[socket.socket]) -> Door | None:
        """Make the door of a service, in the place of one before it; None, with a line in the log, where none can be.

        It is of no use to others than its user: its folder is closed to them.
        """
        folder = data_dir.absolute() / FOLDER
        path = folder / _name(listeners[0])
        listening = socket.socket(socket.AF_UNIX)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            new = path.with_suffix(f".{os.getpid()}")
            new.unlink(missing_ok=True)
            with _short(new) as short:
                listening.bind(short)
            listening.listen(4)
            new.replace(path)
            return cls(path, listening)
        except OSError as error:
            listening.close()
            log.info("no `serve --replace` can take over from this service: %s: %s", path, error.strerror or error)
            return None

    def fileno(self) -> int:
        """Readable when somebody knocks."""
        return self._listening.fileno()

    def admit(self, listeners: Sequence[socket.socket], refuse: str = "") -> Successor | None:
        """Hear who knocks; give it the listening sockets and return it, or `refuse` it and return None."""
        connection, _ = self._listening.accept()
        connection.settimeout(REQUEST_TIMEOUT_S)
        try:
            knock = _receive(connection, Knock)
            why = refuse or _why_not(knock)
            if why:
                _send(connection, Answer(refused=why))
            else:
                fds = [listener.fileno() for listener in listeners]
                socket.send_fds(connection, [msgspec.json.encode(Answer(pid=os.getpid())) + b"\n"], fds)
                return Successor(connection, knock.pid)
        except EOFError:
            log.debug("somebody looked whether a service is here")
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("somebody asked to take over, and was not understood: %s", error)
        connection.close()
        return None

    def close(self, *, handed_over: bool = False) -> None:
        """Close the door, and take it away unless it is another's by now."""
        self._listening.close()
        with suppress(OSError):
            if not handed_over and self._path.stat().st_ino == self._inode:
                self._path.unlink()


class Successor:
    """Who is about to take over from this service."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.since_s = time.monotonic()
        self._connection = connection

    def fileno(self) -> int:
        """Readable when it says something, or is gone."""
        return self._connection.fileno()

    def serves(self) -> bool:
        """Tell whether it serves: False when it is gone."""
        try:
            return _receive(self._connection, Serves).ready
        except (OSError, msgspec.MsgspecError, EOFError):
            return False

    def answer(self, refused: str = "") -> bool:
        """Let it go on, or refuse; False when it did not hear that. It is not to be used any more."""
        try:
            _send(self._connection, Answer(pid=os.getpid(), refused=refused))
        except OSError:
            return False
        finally:
            self.close()
        return True

    def close(self) -> None:
        """Fall silent, as one does that ends: then the successor goes on by itself. May be called twice."""
        self._connection.close()


class Predecessor:
    """The service that this one is to take over from."""

    def __init__(self, connection: socket.socket, pid: int, listeners: list[socket.socket]) -> None:
        self.pid = pid
        self.listeners = listeners
        self._connection = connection

    @classmethod
    def ask(cls, data_dir: Path, port: int) -> Predecessor | None:
        """Ask the service that runs on a data folder for its listening sockets; None where none runs.

        `port` chooses where several run; 0: there is one. Raises ServiceError where it refuses, does not answer, or
        is not known.
        """
        connection = _knock(_chosen(data_dir.absolute() / FOLDER, port))
        if connection is None:
            return None
        connection.settimeout(ANSWER_TIMEOUT_S)
        listeners: list[socket.socket] = []
        try:
            _send(connection, Knock(os.getpid(), os.environ.get(NOTIFY_SOCKET, "")))
            data, fds, _, _ = socket.recv_fds(connection, MESSAGE_LIMIT_BYTES, MOST_LISTENERS)
            listeners = [socket.socket(fileno=fd) for fd in fds]
            answer = msgspec.json.decode(data, type=Answer)
            if answer.refused:
                raise ServiceError(answer.refused)
        except BaseException as error:
            for each in (connection, *listeners):
                each.close()
            if isinstance(error, (OSError, msgspec.MsgspecError)):
                raise ServiceError(
                    f"The service that runs on {data_dir} does not answer ({error}): try again, or stop and start it"
                ) from error
            raise
        return cls(connection, answer.pid, listeners)

    def take_over(self) -> None:
        """Tell it that this service is ready, and wait until it leaves new connections alone.

        One that is gone does so. Raises ServiceError where it refuses.
        """
        try:
            _send(self._connection, Serves(ready=True))
            answer = _receive(self._connection, Answer)
        except (OSError, msgspec.MsgspecError, EOFError) as error:
            log.warning("the service that was to hand over is gone: %s", str(error) or "it ended")
        else:
            if answer.refused:
                raise ServiceError(answer.refused)
        finally:
            self.close()

    def close(self) -> None:
        """Leave it as it was. May be called twice."""
        self._connection.close()


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{host}-{port}.sock"


def _chosen(folder: Path, port: int) -> Path | None:
    """Choose the door of the service on a port, or the only one; raises ServiceError where several might be meant."""
    doors = [door for door in sorted(folder.glob("*.sock")) if _answers(door)]
    of_port = [door for door in doors if door.stem.rpartition("-")[2] == str(port)]
    if len(doors) > 1 and len(of_port) != 1:
        ports = ", ".join(door.stem.rpartition("-")[2] for door in doors)
        raise ServiceError(f"Several services run on this data folder, on ports {ports}: choose one by --port")
    return next(iter(of_port or doors), None)


def _answers(door: Path) -> bool:
    """Tell whether somebody is behind a door; also of one that is just being exchanged."""
    deadline_s = time.monotonic() + AGAIN_S
    while (connection := _knock(door)) is None:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    connection.close()
    return True


def _knock(door: Path | None) -> socket.socket | None:
    if door is None:
        return None
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_TIMEOUT_S)
    try:
        with _short(door) as short:
            connection.connect(short)
    except OSError:
        connection.close()
        return None
    return connection


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name of a path that is short enough for a socket's address, for as long as the block lasts."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _why_not(knock: Knock) -> str:
    """Tell why this process may not hand over to another one; '' if it may."""
    if os.getpid() == 1:
        return "The running service is the first process of a container, which ends with it: replace the container"
    if os.environ.get(NOTIFY_SOCKET, "") != knock.notify:
        return "The running service is systemd's: systemctl reload syncledger, or systemctl restart syncledger"
    return ""


def _send(connection: socket.socket, message: msgspec.Struct) -> None:
    connection.sendall(msgspec.json.encode(message) + b"\n")


def _receive(connection: socket.socket, kind: type[T]) -> T:
    """Read one message; raises EOFError, OSError, msgspec.MsgspecError."""
    data = b""
    while not data.endswith(b"\n") and len(data) < MESSAGE_LIMIT_BYTES:
        if not select.select([connection], [], [], connection.gettimeout())[0]:
            raise TimeoutError("it says nothing")
        piece = connection.recv(4096)
        if not piece:
            raise EOFError
        data += piece
    return msgspec.json.decode(data, type=kind)
