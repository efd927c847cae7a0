"""The `syncledger` command in processes of its own, to be killed at any point.

A parent that has everything imported forks one for each line it is given: starting one takes a millisecond.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from ops.cli import main
from tests.servers import die_with_parent


class CommandForks:
    """Starts commands, one at a time, in an environment; what they say goes to this process's own outputs."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {**os.environ, **environ}
        self._process: subprocess.Popen[str] | None = None

    def start(self, *args: str, **environ: str) -> int:
        """Start a command; gives its process id. `environ`: LEDGER_ settings in lower case, without that."""
        process = self._running()
        assert process.stdin is not None
        settings = {f"LEDGER_{name.upper()}": value for name, value in environ.items()}
        process.stdin.write(json.dumps([list(args), settings]) + "\n")
        process.stdin.flush()
        return int(self._answer())

    def wait(self) -> int:
        """Wait for the one that was started to end; gives its exit code, or what killed it as a negative number."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return os.waitstatus_to_exitcode(int(self._answer()))

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def _answer(self) -> str:
        process = self._running()
        assert process.stdout is not None
        return process.stdout.readline()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.command_forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environ,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._running().communicate(timeout=60)


def _main() -> None:
    for line in sys.stdin:
        args, environ = json.loads(line)
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            os.dup2(2, 1)  # what the command says is not taken for the parent's answers
            os.environ.update(environ)
            sys.argv = ["syncledger", *args]
            try:
                main()
            except SystemExit as ended:
                sys.stdout.flush()
                os._exit(ended.code if isinstance(ended.code, int) else 0)
        print(pid, flush=True)
        sys.stdin.readline()  # until it is asked for, whoever has ended stays a zombie: its id is nobody else's
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    _main()
