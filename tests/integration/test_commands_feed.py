"""`syncledger feed`: what it prints, where it goes on, what it never prints, and that killed it misses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.commands import CreateSession, EndSession, OfferStream
from ledger.entity_types import mask_of
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.opening.ledger import Opened, opened
from ops.settings.places import StoragePlace
from projections.archive.catalog import Archive
from projections.feed.forms import FORM_NAMES, FORMS
from projections.feed.hub import FeedHub
from projections.feed.printing import Printer
from tests.support.ledger.archives import everything
from tests.support.processes.command_forks import CommandForks
from tests.support.processes.commands import Commands, commands
from tests.support.stores.servers import wait_until

__all__ = ["commands"]

AGENT = "immich-android/3.2.0-of-ann"
PARTITIONS = 8
PATIENCE_S = 60.0


def sign_in(commands: Commands, user: str = "ann") -> None:
    """Sign a device in by the command."""
    commands("session", "create", "--user", user, "--library", "lib", "--user-agent", AGENT)


def size_of(path: Path) -> int:
    """Tell how many bytes were written so far."""
    return path.stat().st_size if path.exists() else 0


def has_grown(path: Path, before: int) -> bool:
    """Tell whether more was written."""
    return size_of(path) > before


def printed(text: str) -> list[dict[str, Any]]:
    """Read lines that were printed."""
    return [json.loads(line) for line in text.splitlines()]


def test_it_prints_what_there_is_and_goes_on_from_a_position(commands: Commands) -> None:
    sign_in(commands)
    (first,) = printed(commands("feed"))
    assert (first["event"], first["user"], first["seq"]) == ("session_created", "ann", 1)
    sign_in(commands, "bob")
    (second,) = printed(commands("feed", "--from", first["position"]))
    assert second["user"] == "bob"
    assert printed(commands("feed", "--from", second["position"]))[0]["notice"] == "position"
    assert [one["user"] for one in printed(commands("feed", "--user", "ann"))] == ["ann"]
    assert [one["user"] for one in printed(commands("feed", "--session", second["session"][:8]))] == ["bob"]
    assert printed(commands("feed", "--type", "session_ended"))[0]["notice"] == "position"
    assert {one["class_uid"] for one in printed(commands("feed", "--form", "ocsf"))} == {6003}


def test_a_name_goes_on_where_it_was(commands: Commands) -> None:
    sign_in(commands)
    assert len(printed(commands("feed", "--name", "siem"))) == 1
    assert commands("feed", "--name", "siem") == ""
    sign_in(commands, "bob")
    assert [one["user"] for one in printed(commands("feed", "--name", "siem"))] == ["bob"]
    assert [one["name"] for one in printed(commands("feed", "--names"))] == ["siem"]
    commands("feed", "--name", "siem", "--forget")
    assert len(printed(commands("feed", "--name", "siem"))) == 2


def test_what_is_wrong_is_said(commands: Commands) -> None:
    sign_in(commands)
    for args, what in [
        (("--from", "nonsense"), "--from: it is no"),
        (("--name", "a b"), "name: must not hold spaces"),
        (("--forget",), "--forget goes with --name"),
        (("--name", "none", "--forget"), "is not kept"),
    ]:
        done = commands.run("feed", *args)
        assert (done.code, done.out) == (2, "")
        assert what in done.err


def test_a_partition_in_an_archive_that_is_not_given_is_named(commands: Commands, tmp_path: Path) -> None:
    place = StoragePlace(url=f"file://{tmp_path / 'archive'}")
    sign_in(commands)
    sign_in(commands, "bob")

    async def seal(found: Opened) -> None:
        partition = found.ledger.partition_of("ann")
        await archive(found.store, place.open(), [partition], ArchiveOptions(hot_events=0), found.ledger.clock())

    commands.inside(seal)
    done = commands.run("feed")
    notice, told = sorted(printed(done.out), key=lambda one: "event" in one)
    assert (done.code, notice["notice"], told["user"]) == (1, "unreadable", "bob")
    assert "LEDGER_ARCHIVE" in notice["what"]
    (rest,) = printed(commands("feed", "--from", notice.get("position") or told["position"], archive=place.url))
    assert rest["user"] == "ann"


def test_what_devices_say_is_printed_on_demand_and_of_nobody_who_was_erased(commands: Commands) -> None:
    sign_in(commands)
    for form in FORM_NAMES:
        assert "3.2.0-of-ann" not in commands("feed", "--form", form)
        assert "3.2.0-of-ann" in commands("feed", "--form", form, "--with-devices")
    commands("user", "erase", "ann", "--yes")
    for form in FORM_NAMES:
        for more in ((), ("--with-devices",)):
            told = commands("feed", "--form", form, *more)
            assert "session_ended" in told
            assert "3.2.0-of-ann" not in told


async def test_an_erasure_by_another_process_holds_at_once(commands: Commands) -> None:
    """A worker remembers keys for a minute; its feed does not."""
    await asyncio.to_thread(sign_in, commands)
    async with opened(commands.settings) as worker, opened(commands.settings) as other:
        hub = FeedHub(worker.ledger, None, worker.presence)
        printer = Printer(FORMS["own"]("id", "1"), worker.clock, worker.ledger.sealing.key_now)

        async def told() -> bytes:
            found = [batch async for batch in hub.follow(hub.start, ends=True)]
            return b"".join([line for batch in found for line in await printer.lines(batch.told)])

        assert await worker.ledger.sealing.key_of("ann") is not None
        assert b"3.2.0-of-ann" in await told()
        assert await other.user_keys.erase("ann", other.ledger.clock())
        assert await worker.ledger.sealing.key_of("ann") is not None
        assert b"3.2.0-of-ann" not in await told()


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
async def test_killed_again_and_again_it_misses_nothing(commands: Commands, tmp_path: Path, kills: int) -> None:
    """Devices act and segments are sealed all the while; what it wrote, whole lines alone, has every event."""
    dice, over = random.Random(kills), asyncio.Event()
    place = StoragePlace(url=f"file://{tmp_path / 'archive'}")
    out = tmp_path / "audit.ndjson"
    async with opened(commands.settings, begin=True) as found:
        ledger, sids = found.ledger, dict[str, str]()
        types = mask_of(["AssetV2"])

        async def act(number: int) -> None:
            user = f"user{number % 12}"
            if user not in sids:
                sids[user] = f"{number:064x}"
                await ledger.execute(user, sids[user], CreateSession(user, "lib"))
            await ledger.execute(user, sids[user], OfferStream(1_700_000_000_000_000 + number, types))
            if dice.random() < 0.02:
                await ledger.execute(user, sids.pop(user), EndSession("logout"))

        async def load() -> None:
            number = 0
            while not over.is_set():
                for _ in range(8):
                    number += 1
                    await act(number)
                if number % 40 == 0:
                    options = ArchiveOptions(hot_events=0, segment_events=20)
                    await archive(found.store, place.open(), [dice.randrange(PARTITIONS)], options, ledger.clock())
                await asyncio.sleep(0.002)

        writing = asyncio.create_task(load())
        with CommandForks(commands.environ | {"LEDGER_ARCHIVE": place.url}) as forks:
            for _ in range(kills):
                before = size_of(out)
                pid = forks.start_into(out, "feed", "--name", "audit", "--follow")
                await asyncio.to_thread(wait_until, partial(has_grown, out, before), "lines", PATIENCE_S)
                await asyncio.sleep(dice.random() * 0.3)  # it is killed anywhere
                os.kill(pid, signal.SIGKILL)
                assert await asyncio.to_thread(forks.wait) == -signal.SIGKILL
                assert not writing.done()
            over.set()
            await writing
            forks.start_into(out, "feed", "--name", "audit")
            assert await asyncio.to_thread(forks.wait) == 0
        told = set[str]()
        for line in out.read_bytes().splitlines():
            try:
                one = json.loads(line)
            except ValueError:
                continue  # cut off by a kill, so its name did not move on
            told.add(one.get("streamId", "") + str(one["partition"]))
        expected = {
            entry.id + str(partition)
            for partition in range(PARTITIONS)
            for entry in await everything(found.store, Archive(found.store, place.open()), partition)
        }
    assert len(expected) > 8 * kills
    assert expected <= told
