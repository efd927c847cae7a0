"""An archiver in a process of its own, to be killed or stopped at any point.

A parent that has everything imported forks one for each line it is given: starting one takes a millisecond.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ledger.log.store import open_store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions, ArchivePlace
from tests.servers import die_with_parent


class Archivers:
    """Starts archivers, one at a time for each of these."""

    def __init__(self, redis_url: str, place: ArchivePlace, partition: int, environ: Mapping[str, str]) -> None:
        self._job = {
            "redis": redis_url,
            "place": [place.url, place.endpoint, place.path_style],
            "partition": partition,
        }
        self._environ = {**os.environ, **environ}
        self._process: subprocess.Popen[str] | None = None

    def start(self, **options: Any) -> int:
        """Start an archiver; gives its process id."""
        return self._ask(json.dumps({**self._job, "options": options}))

    def wait(self) -> int:
        """Wait for the one that was started to end; gives its exit code, or what killed it as a negative number."""
        return os.waitstatus_to_exitcode(self._ask("wait"))

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
            [sys.executable, "-m", "tests.archiver"],
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
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            os._exit(asyncio.run(_run(json.loads(line))))
        print(pid, flush=True)
        sys.stdin.readline()  # until it is asked for, its id stays its own, also when it has ended
        print(os.waitpid(pid, 0)[1], flush=True)


async def _run(job: Mapping[str, Any]) -> int:
    """Archive once nobody else does; 0 when all is done, 1 when something failed, 2 when somebody else took over."""
    store = await open_store(job["redis"])
    url, endpoint, path_style = job["place"]
    objects = ArchivePlace(url=url, endpoint=endpoint, path_style=path_style).open()
    options = ArchiveOptions(**job["options"])
    for attempt in range(200):
        report = await archive(store, objects, [job["partition"]], options, time.time_ns() // 1000)
        if not report.busy or (attempt and report.read):
            break
        await asyncio.sleep(0.02)
    for failure in report.failures:
        print(failure.what, file=sys.stderr, flush=True)
    return 1 if report.failures else 2 if report.busy else 0


if __name__ == "__main__":
    _main()
