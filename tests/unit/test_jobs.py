"""Background jobs: whatever goes wrong in one, it is told, counted, and tried again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ledger.errors import LedgerError
from ops.jobs import Job, again_and_again
from projections.counters import Counters
from tests.support.stores.fake_store import FakeStore


@pytest.mark.parametrize("error", [TypeError("int(None)"), LedgerError("no"), KeyError("x"), RecursionError()])
async def test_a_job_that_fails_is_told_counted_and_tried_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    counters, runs, done = Counters(FakeStore()), [], asyncio.Event()

    async def job() -> None:
        runs.append(1)
        if len(runs) == 3:
            done.set()
        raise error

    task = asyncio.create_task(again_and_again(Job("expire", 0.001, job), counters))
    with caplog.at_level(logging.ERROR):
        await asyncio.wait_for(done.wait(), 5)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    failed = {(one.name, one.label_value): one.value for one in await counters.all()}
    assert failed["job_failed", "expire"] >= 2
    told = [record for record in caplog.records if "'expire' failed" in record.message]
    assert told
    assert all(record.exc_info and record.exc_info[1] is error for record in told)


async def test_a_job_that_waits_is_first_done_now() -> None:
    ran = asyncio.Event()

    async def job() -> None:
        ran.set()

    task = asyncio.create_task(again_and_again(Job("version", 3600.0, job, now=True), Counters(FakeStore())))
    await asyncio.wait_for(ran.wait(), 5)
    task.cancel()
