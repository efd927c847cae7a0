"""Verifying a large ledger in several processes: one core folds 100,000 events a second, and most have more cores.

Run as a module it is one of these processes: a job on stdin, on stdout lines of how far it is, the last one whole.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import uvloop

from ledger import keys
from ledger.errors import LedgerError
from ledger.log.stored_sessions import Strays
from ledger.store.interface import Store, open_store
from ops.opening.known_nodes import NotedNodes
from ops.settings.places import StoragePlace
from projections.archive.catalog import Archive
from projections.archive.format import parse_name
from projections.bounded_tasks import each
from projections.checking.verify import Report, verify

WORTH_EVENTS: Final = 300_000
"""From how many events on it is worth starting processes, which takes most of a second."""
MAX_PROCESSES: Final = 16
_LINE_BYTES: Final = 64 * 1024 * 1024
_EVERY_EVENTS: Final = 20_000
_EVENT_BYTES: Final = 50
"""About what an archived event takes."""


class Job(msgspec.Struct):
    """Which partitions to verify, on which server; `archive`: where their older events are."""

    url: str
    timeout_s: float
    partitions: int
    which: list[int]
    strays: Strays
    archive: StoragePlace | None = None
    known: NotedNodes | None = None


class Said(msgspec.Struct):
    """How far a process is: at its end its report, or why it failed."""

    partitions: int = 0
    events: int = 0
    report: Report | None = None
    error: str = ""


class VerifyFailed(LedgerError):
    """One of the processes that verify ended without a report."""


async def processes_for(store: Store, which: Sequence[int], archive: Archive | None = None) -> int:
    """Tell how many processes are worth starting: one for a small ledger, else one for each core."""
    names = map(keys.stream, which)
    events = sum(await asyncio.gather(*(store.command("XLEN", name, key=name) for name in names)))
    if archive is not None and events < WORTH_EVENTS:
        events += await _archived_events(archive, set(which))
    return 1 if events < WORTH_EVENTS else min(os.cpu_count() or 1, len(which), MAX_PROCESSES)


async def _archived_events(archive: Archive, which: set[int]) -> int:
    """Tell by the sizes of segments about how many events they have, counting no further than is worth it."""
    size = 0
    async for page in archive.objects.names():
        size += sum(info.size for info in page if (name := parse_name(info.name)) and name.partition in which)
        if size // _EVENT_BYTES >= WORTH_EVENTS:
            break
    return size // _EVENT_BYTES


async def verify_in(processes: int, job: Job, on_progress: Callable[[Said], None]) -> Report:
    """Share a job's partitions out to processes and put their reports together; raises VerifyFailed."""
    newest = [Said() for _ in range(processes)]

    def progress(number: int, said: Said) -> None:
        newest[number] = said
        on_progress(Said(sum(one.partitions for one in newest), sum(one.events for one in newest)))

    total = Report()

    async def one(number: int) -> None:
        total.add(await _one(number, msgspec.structs.replace(job, which=job.which[number::processes]), progress))

    await each(range(processes), one, processes)  # the first that fails ends the others
    return total


async def _one(number: int, job: Job, progress: Callable[[int, Said], None]) -> Report:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.verify_processes",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C reaches us alone, and we end it
        limit=_LINE_BYTES,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
        async for line in process.stdout:
            said = msgspec.json.decode(line, type=Said)
            if said.error:
                raise VerifyFailed(said.error)
            if said.report is not None:
                return said.report
            progress(number, said)
        raise VerifyFailed("a process that verified was ended")
    finally:
        if process.returncode is None:
            process.kill()
        await process.stdout.read()  # to its end, so that the pipe is closed with it
        await process.wait()  # else its end is told to a loop that may be closed by then


async def _verify(job: Job) -> Report:
    told = 0

    def tell(report: Report) -> None:
        nonlocal told
        events = report.events + report.archived
        if events >= told + _EVERY_EVENTS:
            told = events
            _say(Said(report.partitions, events))

    store = await open_store(job.url, timeout_s=job.timeout_s, known=job.known)
    try:
        archive = None if job.archive is None else Archive(store, job.archive.open())
        return await verify(store, job.partitions, only=job.which, strays=job.strays, archive=archive, on_progress=tell)
    finally:
        await store.close()


def _say(said: Said) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def collect_rarely() -> None:
    """Have Python look for garbage less often, for the rest of this process.

    PERF: folding leaves no cycles, and looking through the folds for some takes a fifth of the time.
    """
    gc.set_threshold(50_000, 20, 100)


def _main() -> None:
    collect_rarely()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        _say(Said(report=uvloop.run(_verify(job))))
    except LedgerError as error:
        _say(Said(error=error.told))


if __name__ == "__main__":
    _main()
