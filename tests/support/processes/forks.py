"""Processes to be killed at any point, forked from a parent that has everything imported: that takes a millisecond.

A module of work ends with `serve(work)` when it is run; `Forks` runs it and starts its processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from tests.support.processes.fuse import Fuse, Lit
from tests.support.stores.servers import die_with_parent


class Forks:
    """Starts processes of a module's work, one at a time; what they say goes to this process's own error output."""

    def __init__(self, module: str, environ: Mapping[str, str]) -> None:
        self._module = module
        self._environ = {**os.environ, **environ}
        self._process: subprocess.Popen[str] | None = None
        self._folder = TemporaryDirectory(prefix="forks-")

    def start_work(self, job: Any, fuse: Fuse | None = None) -> int:
        """Start a process on a job (JSON); gives its process id. A `fuse` ends it from inside."""
        self._count.unlink(missing_ok=True)
        return self._ask(json.dumps([job, fuse or Fuse(), str(self._count)]))

    def wait(self) -> int:
        """Wait for the one that was started to end; gives its exit code, or what killed it as a negative number."""
        return os.waitstatus_to_exitcode(self._ask(""))

    def uses(self) -> int:
        """Tell how often the one that ended last used its stores; it must have ended by itself."""
        return int(self._count.read_text())

    @property
    def _count(self) -> Path:
        return Path(self._folder.name) / "uses"

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def _ask(self, line: str) -> int:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
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
        self._folder.cleanup()


def serve(work: Callable[[Any], int]) -> None:
    """Fork a process for each line that is read, to do the work on its job and end with the exit code."""
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            os.dup2(2, 1)  # what it says is not taken for the parent's answers
            job, fuse, count = json.loads(line)
            lit = Lit(Fuse(*fuse))
            code = work(job)
            sys.stdout.flush()
            Path(count).write_text(str(lit.uses))
            os._exit(code)
        print(pid, flush=True)
        sys.stdin.readline()  # until it is asked for, whoever has ended stays a zombie: its id is nobody else's
        print(os.waitpid(pid, 0)[1], flush=True)
