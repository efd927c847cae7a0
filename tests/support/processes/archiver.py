"""An archiver in a process of its own, to be killed or stopped at any point."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import Any

from ledger.store.interface import open_store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.settings.places import StoragePlace
from tests.support.processes.forks import Forks, serve


class Archivers(Forks):
    """Starts archivers of a partition, one at a time for each of these."""

    def __init__(self, redis_url: str, place: StoragePlace, partition: int, environ: Mapping[str, str]) -> None:
        super().__init__("tests.support.processes.archiver", environ)
        self._job = {
            "redis": redis_url,
            "place": [place.url, place.endpoint, place.path_style],
            "partition": partition,
        }

    def start(self, **options: Any) -> int:
        """Start an archiver; gives its process id."""
        return self.start_work({**self._job, "options": options})


async def _run(job: Mapping[str, Any]) -> int:
    """Archive once nobody else does; 0 when all is done, 1 when something failed, 2 when somebody else took over."""
    store = await open_store(job["redis"])
    url, endpoint, path_style = job["place"]
    objects = StoragePlace(url=url, endpoint=endpoint, path_style=path_style).open()
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
    serve(lambda job: asyncio.run(_run(job)))
