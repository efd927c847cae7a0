"""`syncledger` on the PATH of a shell, at the price of a fork: a program of a few milliseconds hands each call over.

What is handed over are arguments, folder, environment and the three standard streams; a process that has everything
imported is forked for it, so it is the real command, in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import click

from ops.cli import main
from ops.command_group import syncledger
from ops.commands import COMMANDS
from tests.support.stores.servers import die_with_parent

_MAX_BYTES: Final = 1 << 20
_PROGRAM: Final = """#!{python} -IS
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({address!r})
job = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(asked, [len(job).to_bytes(4, "big")], [0, 1, 2])
asked.sendall(job)
sys.exit(int(asked.recv(16) or b"137"))
"""


class ShellCommands:
    """Puts `syncledger` into a folder for a PATH; it works within the `with` block."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "syncledger"
        self._address = folder / "commands.sock"
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes.shell_commands", str(self._address)],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.program.write_text(_PROGRAM.format(python=sys.executable, address=str(self._address)))
        self.program.chmod(0o755)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate(timeout=10)


def _work(asked: socket.socket) -> int:
    """Take a call's streams, folder and environment over, and run it; gives its exit code."""
    length, streams, _, _ = socket.recv_fds(asked, 4, 3)
    job = b""
    while len(job) < int.from_bytes(length, "big"):
        job += asked.recv(_MAX_BYTES)
    arguments, folder, environ = json.loads(job)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["syncledger", *arguments]
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _serve(address: str) -> None:
    for name in COMMANDS:  # loaded here, once, and not in each process
        syncledger.get_command(click.Context(syncledger), name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, os.WNOHANG))
    print("ready", flush=True)
    while True:
        asked, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            listener.close()
            code = _work(asked)
            sys.stdout.flush()
            sys.stderr.flush()
            asked.sendall(str(code).encode())
            os._exit(code)
        asked.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
