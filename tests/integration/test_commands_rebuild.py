"""`syncledger rebuild` and `syncledger verify --repair`, as an operator runs them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from ledger import keys
from ledger.log.store_check import open_layout
from ledger.log.stored_sessions import find_strays
from ledger.store.interface import open_store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.bench.rig import filling
from ops.settings.places import StoragePlace
from ops.verify_processes import Job, VerifyFailed, processes_for, verify_in
from projections.archive.catalog import Archive
from projections.checking.verify import verify
from tests.support.ledger.given import NOW
from tests.support.processes.running import COMMAND, RunningService
from tests.support.stores.servers import wait_until


@pytest.fixture
def ledger(tmp_path: Path, valkey_url: str) -> RunningService:
    """A ledger on a server of the test's own; the service does not run."""
    return RunningService(tmp_path / "ledger", redis_url=valkey_url)


def lose(ledger: RunningService) -> None:
    with ledger.store() as store:
        for name in store.scan_iter("{p*", count=1000):
            if not name.endswith(b":stream"):
                store.delete(name)


def test_nothing_is_to_do_where_all_is_whole(ledger: RunningService) -> None:
    ledger.sign_in()
    assert "all partitions are whole" in ledger.command("rebuild").stdout
    assert "1 as they were" in ledger.command("rebuild", "--all").stdout


def test_lost_projections_are_named_and_rebuilt(ledger: RunningService) -> None:
    ledger.sign_in_many(3)
    lose(ledger)
    found = ledger.command("verify", check=False)
    assert found.returncode == 1
    assert "is not whole: syncledger rebuild makes it so" in found.stdout
    report = json.loads(ledger.command("rebuild", "--json").stdout)
    assert (report["partitions"], report["written"], report["events"], report["broken"]) == (16, 3, 3, 0)
    ledger.verify()


def test_verify_repairs_what_differs(ledger: RunningService) -> None:
    ledger.sign_in_many(3)
    partition = keys.partition_of("ann", 16)
    with ledger.store() as store:
        sid = store.zrange(keys.activity(partition), 0, 0)[0].decode()
        store.hset(keys.session(partition, sid), "library", "other")
        store.hset(keys.devices(partition, "eve"), sid, "")
    found = ledger.command("verify", check=False)
    assert (found.returncode, "library" in found.stdout) == (1, True)
    assert "verify --repair" in found.stderr
    repaired = ledger.command("verify", "--repair")
    assert "repaired: 1 session written, 0 removed; all agree now" in repaired.stdout
    ledger.verify()
    again = json.loads(ledger.command("verify", "--repair", "--json").stdout)
    assert (again["found"]["different"], again["repaired"], again["left"]) == (0, None, None)


def test_a_damaged_session_is_named_and_the_exit_code_tells(ledger: RunningService) -> None:
    ledger.sign_in_many(2)
    name = keys.stream(keys.partition_of("ann", 16))
    with ledger.store() as store:
        rows = store.xrange(name)
        store.delete(name)
        for number, (entry_id, fields) in enumerate(rows):
            store.xadd(name, {**fields, **({b"event": b"\xc1"} if number == 0 else {})}, entry_id)
        broken = rows[0][1][b"sid"].hex()
    lose(ledger)
    done = ledger.command("rebuild", check=False)
    assert done.returncode == 1
    assert f"session {broken}" in done.stdout
    assert "1 written" in done.stdout
    repaired = ledger.command("verify", "--repair", check=False)
    assert (repaired.returncode, "differ still" in repaired.stdout, "from a backup" in repaired.stderr) == (
        1,
        True,
        True,
    )
    lose(ledger)
    done = ledger.command("history", broken, check=False)
    assert (done.returncode, "syncledger rebuild" in done.stderr) == (1, True)


def test_one_session_one_user_one_partition(ledger: RunningService) -> None:
    ledger.sign_in_many(2)
    partition = keys.partition_of("ann", 16)
    with ledger.store() as store:
        sids = [sid.decode() for sid in store.zrange(keys.activity(partition), 0, -1)]
        for options in (("--session", sids[0]), ("--user", "ann"), ("--partition", str(partition))):
            store.delete(keys.session(partition, sids[0]))
            report = json.loads(ledger.command("rebuild", "--json", *options).stdout)
            assert report["written"] == 1
            assert store.exists(keys.session(partition, sids[0]))
    ledger.verify()
    for wrong in (["--user", "ann", "--all"], ["--partition", "16"], ["--session", "x"]):
        assert ledger.command("rebuild", *wrong, check=False).returncode == 2
    assert ledger.command("rebuild", "--session", "0" * 64, check=False).returncode == 1


def test_ctrl_c_leaves_a_rebuild_that_goes_on(ledger: RunningService) -> None:
    ledger.sign_in()
    assert ledger.settings.redis_url is not None
    with ledger.store() as store:
        store.flushall()
    ledger.command("store", "begin", "--anew")
    filling.fill(ledger.settings.redis_url, 16, 50, 40_000)
    ledger.sign_in("zoe")
    lose(ledger)
    process = subprocess.Popen(
        [*COMMAND, "rebuild"], cwd=ledger.folder, env=ledger.environment, stderr=subprocess.PIPE, text=True
    )
    with ledger.store() as store:
        whole = [keys.whole(partition) for partition in range(16)]
        wait_until(lambda: any(mark == b"1" for mark in store.mget(whole)) or process.poll() is not None, "a start")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (130, "interrupted")
    report = json.loads(ledger.command("rebuild", "--json").stdout)
    assert 0 < report["partitions"] < 16
    ledger.verify()


def test_a_terminal_is_shown_how_many_events_of_a_session_are_read(ledger: RunningService) -> None:
    assert ledger.settings.redis_url is not None
    ledger.sign_in()
    filling.fill(ledger.settings.redis_url, 16, 1, 300)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as terminal:
        process = subprocess.Popen(
            [*COMMAND, "rebuild", "--session", filling.sid(0)],
            cwd=ledger.folder,
            stdout=theirs,
            stderr=theirs,
            env=ledger.environment | {"TERM": "xterm", "COLUMNS": "99"},
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while more := os.read(terminal.fileno(), 65536):
                shown += more
        assert process.wait(timeout=60) == 0
    told = shown.decode()
    assert "looking for its events" in told  # nothing else leads to it
    assert "300/300" in told
    assert "300 events of 1 living" in told


async def test_several_processes_find_what_one_does(ledger: RunningService) -> None:
    assert ledger.settings.redis_url is not None
    url = ledger.settings.redis_url
    store = await open_store(url)
    await open_layout(store, 16, 1)
    filling.fill(url, 16, 40, 2_000)
    which = list(range(16))
    assert await processes_for(store, which) == 1, "not worth it"
    strays = await find_strays(store, 16)
    alone = await verify(store, 16, strays=strays)
    told: list[int] = []
    together = await verify_in(3, Job(url, 5.0, 16, which, strays), lambda said: told.append(said.events))
    assert (together.events, together.partitions, together.different) == (2_000, 16, 40)
    assert together.differing_partitions == alone.differing_partitions
    assert sorted(map(str, together.differences)) == sorted(map(str, alone.differences))
    await store.close()
    with pytest.raises(VerifyFailed):
        await verify_in(2, Job("redis://127.0.0.1:1", 0.2, 16, which, strays), lambda said: None)


async def test_several_processes_find_in_segments_what_one_does(ledger: RunningService, tmp_path: Path) -> None:
    assert ledger.settings.redis_url is not None
    url = ledger.settings.redis_url
    store = await open_store(url)
    await open_layout(store, 16, 1)
    filling.fill(url, 16, 40, 2_000)
    which = list(range(16))
    place = StoragePlace(url=f"file://{tmp_path / 'archive'}")
    sealing = ArchiveOptions(hot_events=0, segment_events=20)
    assert (await archive(store, place.open(), which, sealing, NOW)).events == 2_000
    sealed = Archive(store, place.open())
    (damaged, *_) = await sealed.segments(3)
    damage(tmp_path / "archive" / str(damaged))
    assert await processes_for(store, which, sealed) == 1, "not worth it"
    strays = await find_strays(store, 16)
    alone = await verify(store, 16, strays=strays, archive=sealed)
    assert str(damaged) in {difference.segment for difference in alone.differences}
    told: list[int] = []
    job = Job(url, 5.0, 16, which, strays, place)
    together = await verify_in(3, job, lambda said: told.append(said.events))
    assert (together.partitions, together.segments) == (16, alone.segments)
    assert together.archived == alone.archived < 2_000
    assert sorted(map(str, together.differences)) == sorted(map(str, alone.differences))
    await store.close()


def damage(file: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
