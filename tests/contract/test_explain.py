"""Why is this phone stuck? Devices in trouble, and what is said of each."""

from __future__ import annotations

import json
from typing import Final

import pytest

from ledger import keys
from ledger.acks import RESET_ACK, Ack, completion, format_ack, parse_ack
from ledger.commands import (
    AdoptCheckpoints,
    ClearCheckpoints,
    Command,
    CreateSession,
    DescribeDevice,
    EndSession,
    Origin,
    RequestReset,
    Resend,
    ResumeSession,
)
from ledger.entity_types import COMPLETE, mask_of, types_in
from ledger.errors import NoSuchSession, Refused
from ledger.events import IMMICH
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.positions import iso_from_us
from ledger.store.interface import Store
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import read_line
from projections.entities.lines import position_of
from projections.entities.source import SourceHealth
from projections.explain.answer import Explanation, explain
from projections.explain.facts import Facts, gather
from projections.history.event_pages import EventPages
from projections.history.words import readable
from projections.sent import record
from tests.support.ledger.given import ack, acks, clear, offer
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.sources.owners import let_owners_be_there
from tests.support.sources.samples import ALBUM_ID, ASSET_ID, sample

PARTITIONS: Final = 2
SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400 * SECOND_US
SID: Final = sid_of("phone")


class Phone:
    """A device, its library, and time that passes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.ledger = Ledger(store, PARTITIONS, self.clock)
        self.catalog = Catalog(store)
        self.assets = 0

    async def do(self, *given: Command) -> None:
        """Carry out commands, a second apart; a refusal is what the device gets."""
        for command in given:
            self.clock.now_us += SECOND_US
            try:
                await self.ledger.execute("ann", SID, command)
            except Refused:
                continue

    async def sign_in(self) -> None:
        await self.do(CreateSession("ann", "lib", device_type=plain("Pixel")))

    async def add(self, entity_type: str, count: int = 1) -> None:
        """Write rows to the library; the clock goes with it."""
        for _ in range(count):
            self.assets += 1
            entity_id = (ALBUM_ID if entity_type == "AlbumV2" else ASSET_ID)[:-4] + f"{self.assets:04}"
            line = {"type": entity_type, "data": sample(entity_type, id=entity_id)}
            entity = read_line(json.dumps(line).encode())
            await let_owners_be_there(self.catalog, "lib", [entity])
            await self.catalog.put("lib", [entity])
        self.clock.now_us = max(self.clock.now_us, await self.catalog.horizon("lib"))

    async def stream(self, *types: str) -> int:
        """Ask for a stream, as the endpoint does, and tell its snapshot."""
        snapshot_us = await self.catalog.horizon("lib")
        await self.do(offer(*types, snapshot_us=snapshot_us))
        return snapshot_us

    async def sync(self, *types: str) -> None:
        """Ask for a stream and acknowledge all of it."""
        snapshot_us = await self.stream(*types)
        for entity_type in types:
            pages = self.catalog.pages("lib", entity_type, None, snapshot_us, 1000)
            async for page in pages:
                await self.do(acks(Ack(entity_type, page.last, 1)))
        await self.do(acks(ack(COMPLETE, snapshot_us)))

    async def facts(self) -> Facts:
        """Gather what is known."""
        return await gather(self.ledger, EventPages(self.store), self.catalog, self.ledger.partition_of("ann"), SID)

    async def explained(self) -> Explanation:
        """Ask why."""
        return explain(await self.facts(), self.clock.now_us)


@pytest.fixture
async def phone(store: Store) -> Phone:
    for partition in range(PARTITIONS):
        await store.command("SET", keys.whole(partition), "1", key=keys.whole(partition))
    phone = Phone(store)
    await phone.add("AssetV2", 3)
    await phone.add("AlbumV2", 2)
    await phone.sign_in()
    return phone


def codes(found: Explanation) -> list[tuple[str, str]]:
    return [(finding.weight, finding.code) for finding in found.findings]


async def test_healthy(phone: Phone) -> None:
    await phone.sync("AssetV2", "AlbumV2")
    found = await phone.explained()
    assert codes(found) == [("note", "up_to_date")]
    assert found.summary == found.findings[0].says
    assert "has all there is" in found.summary
    assert (found.next.sends, found.next.entity_type) == ("complete", COMPLETE)
    rows = {
        figures.type: (figures.rows_ahead, figures.offers, figures.refused, figures.stale) for figures in found.types
    }
    assert rows == {"AssetV2": (0, 0, 0, 0), "AlbumV2": (0, 0, 0, 0), COMPLETE: (None, 0, 0, 0)}
    assert found.types[0].acknowledged_at is not None
    assert (found.events, found.events_looked_at) == (5, 5)
    assert not any("Only the newest" in said for said in found.known)


async def test_never_streamed(phone: Phone) -> None:
    found = await phone.explained()
    assert codes(found) == [("stops", "never_streamed")]
    assert found.findings[0].events == [1]
    assert found.next.sends == "unknown"
    assert found.types == []


async def test_streaming_but_never_acks(phone: Phone) -> None:
    await phone.stream("AssetV2", "AlbumV2")
    assert codes(await phone.explained()) == [("hinders", "never_acked")]
    await phone.add("AssetV2")
    await phone.stream("AssetV2", "AlbumV2")
    await phone.stream("AssetV2", "AlbumV2")  # leaves no event: nothing is new
    found = await phone.explained()
    assert codes(found) == [("stops", "never_acked")]
    assert "6 rows in 2 streams" in found.summary
    assert found.findings[0].events == [2, 3]
    assert (found.next.sends, found.next.entity_type) == ("rows", "AssetV2")
    assert "4 rows of AssetV2" in found.next.says
    assert any("leaves no trace" in said for said in found.known)


async def test_acks_are_refused(phone: Phone) -> None:
    snapshot_us = await phone.stream("AssetV2", "AlbumV2")
    beyond = ack("AssetV2", snapshot_us + 5)
    await phone.do(acks(beyond), acks(beyond), acks(ack("AssetV2", snapshot_us + 6)), acks(ack("StackV1", 5)))
    found = await phone.explained()
    assert ("hinders", "acks_refused") in codes(found)
    refused = next(finding for finding in found.findings if finding.code == "acks_refused")
    assert refused.events == [3, 4]
    assert "At least 2 acks of AssetV2, StackV1" in refused.says
    told = {(each.type, each.times): each.reason for each in found.ignored}
    assert set(told) == {("AssetV2", 1), ("StackV1", 1)}
    assert "beyond the newest snapshot" in told["AssetV2", 1]
    assert "no stream offered this type" in told["StackV1", 1]
    assert {figures.type: figures.refused for figures in found.types} == {
        "AssetV2": 1, "AlbumV2": 0, "StackV1": 1, COMPLETE: 0,
    }  # fmt: skip


async def test_what_was_refused_before_progress_is_over(phone: Phone) -> None:
    snapshot_us = await phone.stream("AssetV2")
    await phone.do(acks(ack("AssetV2", snapshot_us + 5)))
    await phone.sync("AssetV2")
    found = await phone.explained()
    assert codes(found) == [("note", "up_to_date")]
    assert found.ignored == []


async def test_a_device_ahead_of_the_log(phone: Phone) -> None:
    snapshot_us = await phone.stream("AssetV2")
    await phone.do(acks(ack("AssetV2", snapshot_us + 5, "x")))
    found = await phone.explained()
    assert ("note", "reset_waiting") in codes(found)
    assert any("acknowledged what the log does not know of" in finding.says for finding in found.findings)


async def test_stale_acks_after_a_reset(phone: Phone) -> None:
    await phone.sync("AssetV2")
    await phone.do(RequestReset(on=True, by=plain("ann")), clear(cause="reset_acked", reset=True))
    snapshot_us = await phone.stream("AssetV2")
    await phone.do(acks(*(ack("AssetV2", snapshot_us - n, "a") for n in (3, 2))), acks(ack("AssetV2", snapshot_us - 4)))
    found = await phone.explained()
    assert codes(found) == [("hinders", "never_acked"), ("hinders", "acks_of_older_epoch")]
    stale = found.findings[1]
    assert len(stale.events) == 1
    assert "at least 2 acks of AssetV2 counted for nothing" in stale.says
    assert [(each.type, each.times, each.reason) for each in found.ignored] == [
        ("AssetV2", 2, "from before its checkpoint was cleared")
    ]
    assert found.types[0].epoch == 2


async def test_cleared_and_not_streamed_since(phone: Phone) -> None:
    await phone.sync("AssetV2")
    await phone.do(clear())
    found = await phone.explained()
    assert codes(found)[0] == ("stops", "not_streamed_since")
    assert "(deleted)" in found.summary


async def test_stuck_at_one_type_while_others_advance(phone: Phone) -> None:
    snapshot_us = await phone.stream("AssetV2", "AlbumV2")
    pages = [page async for page in phone.catalog.pages("lib", "AssetV2", None, snapshot_us, 1000)]
    await phone.do(acks(Ack("AssetV2", pages[-1].last, 1)))
    assert ("stops", "type_stuck") not in codes(
        await phone.explained()
    )  # albums come after assets: they may be on their way
    await phone.add("AssetV2")
    snapshot_us = await phone.stream("AssetV2", "AlbumV2")
    pages = [page async for page in phone.catalog.pages("lib", "AssetV2", None, snapshot_us, 1000)]
    await phone.do(acks(Ack("AssetV2", pages[-1].last, 1)))
    found = await phone.explained()
    assert codes(found)[0] == ("stops", "type_stuck")
    assert "but not AlbumV2" in found.summary
    assert "2 rows of it were offered in 2 streams" in found.summary
    assert found.findings[0].events == [2, 4]
    figures = next(each for each in found.types if each.type == "AlbumV2")
    assert (figures.ack, figures.rows_ahead, figures.offers) == (None, 2, 2)
    assert (found.next.sends, found.next.entity_type) == ("rows", "AlbumV2")


async def test_passed_by_a_type_that_is_sent_later(phone: Phone) -> None:
    snapshot_us = await phone.stream("AssetV2", "AlbumV2")
    pages = [page async for page in phone.catalog.pages("lib", "AlbumV2", None, snapshot_us, 1000)]
    await phone.do(acks(Ack("AlbumV2", pages[-1].last, 1)), acks(ack(COMPLETE, snapshot_us)))
    found = await phone.explained()
    assert codes(found) == [("stops", "type_stuck"), ("note", "behind")]
    assert "but not AssetV2" in found.summary


async def test_no_progress_at_all(phone: Phone) -> None:
    await phone.sync("AssetV2")
    for _ in range(3):
        await phone.add("AssetV2", 2)
        await phone.stream("AssetV2")
    found = await phone.explained()
    assert codes(found) == [
        ("stops", "window_repeated"), ("stops", "no_progress"), ("hinders", "not_finishing"), ("note", "behind")
    ]  # fmt: skip
    assert "6 rows ahead were offered in 3 streams" in found.findings[1].says


async def test_the_same_place_of_a_type_again_and_again(phone: Phone) -> None:
    """Users are acknowledged each time, the assets behind them never: an asset has the checksum of another."""
    await phone.sync("UserV1", "AssetV2")
    begun = []
    for number in range(3):
        await phone.add("AssetV2")
        user = {"type": "UserV1", "data": sample("UserV1", name=f"{number}")}
        await phone.catalog.put("lib", [read_line(json.dumps(user).encode())])
        assert ("stops", "window_repeated") not in codes(await phone.explained())
        snapshot_us = await phone.stream("UserV1", "AssetV2")
        begun.append(iso_from_us(phone.clock.now_us))
        pages = [page async for page in phone.catalog.pages("lib", "UserV1", None, snapshot_us, 1000)]
        await phone.do(acks(Ack("UserV1", pages[-1].last, 1)))
    found = await phone.explained()
    assert codes(found)[0] == ("stops", "window_repeated")
    assert f"3 streams since {begun[0]} began at the same place of AssetV2 behind " in found.summary
    assert "2067 (UNIQUE) is a checksum that another asset on it has" in found.summary
    assert "syncledger session reset" in found.summary
    assert len(found.findings[0].events) == 3
    await phone.sync("UserV1", "AssetV2")
    assert codes(await phone.explained()) == [("note", "up_to_date")]


async def test_a_reset_that_nobody_answers(phone: Phone) -> None:
    await phone.sync("AssetV2")
    await phone.do(RequestReset(on=True, by=plain("bob")))
    found = await phone.explained()
    assert codes(found) == [("note", "reset_waiting")]
    assert "by bob, and has not been heard of since" in found.summary
    await phone.do(DescribeDevice(app_version=plain("3.3.0")))
    found = await phone.explained()
    assert codes(found) == [("stops", "reset_ignored")]
    assert "has not acknowledged the reset" in found.summary
    assert found.pending_reset
    assert (found.next.sends, found.next.entity_type) == ("reset", "SyncResetV1")
    assert len(found.findings[0].events) == 1


async def test_deletes_were_purged_beyond_it(phone: Phone) -> None:
    await phone.sync("AssetV2")
    line = {"type": "AssetDeleteV1", "data": {"assetId": ASSET_ID[:-4] + "0001"}}
    await phone.catalog.put("lib", [read_line(json.dumps(line).encode())])
    await phone.catalog.purge_tombstones("lib", await phone.catalog.horizon("lib") + 1)
    found = await phone.explained()
    assert codes(found)[0] == ("stops", "deletes_purged")
    assert iso_from_us(await phone.catalog.tombstone_floor("lib")) in found.summary
    assert found.next.sends == "reset"


async def test_its_source_was_exchanged(phone: Phone) -> None:
    await phone.do(offer("AssetV2", snapshot_us=await phone.catalog.horizon("lib"), origin=Origin(2)))
    found = await phone.explained()
    assert codes(found)[0] == ("stops", "source_exchanged")
    assert found.next.sends == "reset"
    assert "another source" in found.summary


async def test_idle_for_weeks(phone: Phone) -> None:
    await phone.sync("AssetV2")
    phone.clock.now_us += 21 * DAY_US
    found = await phone.explained()
    assert codes(found) == [("stops", "idle"), ("note", "up_to_date")]
    assert "for 21 days" in found.summary
    name = keys.activity(phone.ledger.partition_of("ann"))
    await phone.store.command("ZADD", name, (phone.clock.now_us - DAY_US) // 1000, SID, key=name)
    assert codes(await phone.explained()) == [("note", "up_to_date")]


async def test_behind_by_some_rows(phone: Phone) -> None:
    await phone.sync("AssetV2", "AlbumV2")
    await phone.add("AssetV2", 7)
    await phone.add("AlbumV2", 2)
    found = await phone.explained()
    assert codes(found) == [("note", "behind")]
    assert found.summary == "The device is 9 rows behind its library (AssetV2 7, AlbumV2 2)."
    assert {figures.type: figures.rows_ahead for figures in found.types} == {"AssetV2": 7, "AlbumV2": 2, COMPLETE: None}


async def test_what_the_source_sends_otherwise_than_the_device_got_it(phone: Phone) -> None:
    await phone.sync("AssetV2", "AlbumV2")
    phone.catalog.resends = (Resend(1, mask_of(["AlbumV1", "AlbumV2"])),)
    found = await phone.explained()
    assert codes(found) == [("note", "sent_again"), ("note", "behind")]
    assert "Rows of AlbumV2 are made otherwise than when it got them" in found.summary
    assert (found.next.sends, found.next.entity_type, found.next.says) == ("rows", "AlbumV2", "2 rows of AlbumV2.")
    await phone.do(offer("AssetV2", "AlbumV2", resends=phone.catalog.resends))
    assert "sent_again" not in {code for _, code in codes(await phone.explained())}


async def test_a_device_that_came_from_immich(phone: Phone) -> None:
    snapshot_us = await phone.catalog.horizon("lib")
    types = mask_of(["AssetV2", "AlbumV2", COMPLETE])
    position = ack("AssetV2", snapshot_us)
    adopt = AdoptCheckpoints((position, completion(snapshot_us, types, 1)), IMMICH, phone.clock.now_us, 5, types)
    await phone.stream("AssetV2", "AlbumV2")
    await phone.do(adopt)
    at = iso_from_us(phone.clock.now_us)
    found = await phone.explained()
    assert codes(found) == [("note", "behind"), ("note", "adopted")]
    assert f"adopted on {at} from Immich" in found.findings[-1].says
    assert found.findings[-1].events == [3]
    acks_of = {figures.type: figures.ack for figures in found.types}
    assert acks_of["AssetV2"] == f"AssetV2|{iso_from_us(snapshot_us)}||2"
    told = readable((await phone.facts()).entries[0])
    assert told.data["says"] == f"adopted on {at} from Immich"
    assert told.data["types"] == types_in(types)
    await phone.do(ClearCheckpoints(None, IMMICH))
    found = await phone.explained()
    assert "because Immich cleared its own" in found.summary
    await phone.stream("AssetV2")
    await phone.do(RequestReset(True, plain("owner")), offer("AssetV2"), acks(RESET_ACK))
    assert ("note", "adopted") not in codes(await phone.explained()), "it has started over"


async def test_gone_at_immich_and_there_again(phone: Phone) -> None:
    await phone.sync("AssetV2")
    state = await phone.ledger.load("ann", SID)
    await phone.ledger.execute("ann", SID, EndSession("gone"))
    found = await phone.explained()
    assert codes(found) == [("stops", "ended_gone")]
    assert "Immich had not had it for an hour" in found.summary
    again = CreateSession(state.user, state.library, authenticated_by="immich")
    await phone.ledger.resume(state.user, state.sid, ResumeSession("immich", again, state.epoch))
    found = await phone.explained()
    assert codes(found)[0] == ("note", "reset_waiting")
    assert "its session had ended here and was there again" in found.summary


async def test_ended_by_a_copied_token(phone: Phone) -> None:
    await phone.sync("AssetV2")
    await phone.do(EndSession("token_reused"))
    found = await phone.explained()
    assert codes(found) == [("stops", "ended_token_reused")]
    assert "somebody had copied it" in found.summary
    assert found.next.sends == "nothing"
    assert found.findings[0].events == [found.events]


async def test_expired(store: Store) -> None:
    phone = Phone(store)
    await phone.do(CreateSession("ann", "lib", expires_at_us=phone.clock.now_us + DAY_US))
    phone.clock.now_us += 2 * DAY_US
    found = await phone.explained()
    assert codes(found) == [("stops", "expired")]
    assert found.next.sends == "nothing"


async def test_only_the_newest_events_are_looked_at(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.explain.facts.LOOKED_AT", 4)
    await phone.sync("AssetV2", "AlbumV2")
    for count in range(6):
        await phone.do(DescribeDevice(app_version=plain(f"3.2.{count}")))
    found = await phone.explained()
    assert (found.events, found.events_looked_at) == (11, 4)
    assert any("newest 4 of 11" in said for said in found.known)
    assert codes(found) == [("note", "up_to_date")]
    assert [figures.type for figures in found.types] == ["AssetV2", "AlbumV2", COMPLETE]


async def test_a_damaged_history_is_told_of_with_what_can_be_read(phone: Phone) -> None:
    await phone.sync("AssetV2", "AlbumV2")
    name = keys.stream(phone.ledger.partition_of("ann"))
    entries = await phone.store.command("XRANGE", name, "-", "+", key=name)
    await phone.store.command("XDEL", name, entries[1][0], key=name)
    found = await phone.explained()
    assert codes(found)[0] == ("hinders", "damaged")
    assert f"event {entries[1][0].decode()} is missing" in found.summary
    assert "syncledger verify" in found.summary
    assert (found.events, found.events_looked_at) == (len(entries), len(entries) - 2)
    await phone.store.command("XDEL", name, entries[-1][0], key=name)
    found = await phone.explained()
    assert (codes(found)[0], found.events_looked_at) == (("hinders", "damaged"), 0)


async def test_an_unknown_session(phone: Phone) -> None:
    with pytest.raises(NoSuchSession):
        await gather(phone.ledger, EventPages(phone.store), phone.catalog, 0, "0" * 64)


async def sent(phone: Phone, how: record.How, first: str, last: str, *, why: str = "", rows: int = 3) -> None:
    """Let a stream of the phone be over."""
    phone.clock.now_us += SECOND_US
    stream = record.SentStream(
        phone.clock.now_us, SECOND_US, how, rows, 1000, first, last, phone.clock.now_us, "corr", why
    )
    assert await record.note(phone.ledger, "ann", SID, stream)


async def line(phone: Phone, number: int) -> str:
    """Tell the ack of the library's asset of this number."""
    lines = [
        position
        async for page in phone.catalog.pages("lib", "AssetV2", None, await phone.catalog.horizon("lib"), 1000)
        for position in map(position_of, page.lines)
    ]
    return format_ack(Ack("AssetV2", lines[number], 1))


async def test_a_phone_that_breaks_off_at_one_place_is_told_with_its_line(phone: Phone) -> None:
    await phone.stream("AssetV2", "AlbumV2")
    first, last = await line(phone, 0), await line(phone, 2)
    for _ in range(2):
        await sent(phone, "gone", first, last)
    assert "streams_repeat" not in [code for _, code in codes(await phone.explained())]
    await sent(phone, "completed", first, last)
    found = await phone.explained()
    assert codes(found)[0] == ("stops", "streams_repeat")
    assert f"began with AssetV2 {first.split('|')[2]}, up to AssetV2 {last.split('|')[2]} each time" in found.summary
    assert "(2 left by the device, 1 sent to the end)" in found.summary
    assert [told.how for told in found.streams] == ["completed", "gone", "gone"]
    assert found.streams[0].last == last
    await phone.do(acks(parse_ack(first)))
    assert "streams_repeat" not in [code for _, code in codes(await phone.explained())], "it goes on now"


async def test_a_phone_that_stalls_and_one_that_leaves_are_told(phone: Phone) -> None:
    await phone.stream("AssetV2", "AlbumV2")
    first, last = await line(phone, 0), await line(phone, 1)
    await sent(phone, "stalled", first, last)
    found = {finding.code: finding for finding in (await phone.explained()).findings}
    assert f"The newest got up to AssetV2 {last.split('|')[2]}." in found["stream_stalled"].says
    for number in range(3):
        await sent(phone, "gone", await line(phone, number), last)
    found = {finding.code: finding for finding in (await phone.explained()).findings}
    assert "left its last 4 streams" in found["streams_left"].says
    await sent(phone, "completed", last, last)
    assert {"streams_left", "stream_stalled"}.isdisjoint(code for _, code in codes(await phone.explained()))


async def test_streams_that_this_service_broke_off_are_told_with_the_reason(phone: Phone) -> None:
    await phone.stream("AssetV2", "AlbumV2")
    for _ in range(3):
        await sent(phone, "refused", "", "", why="PostgreSQL does not answer", rows=0)
    found = {finding.code: finding for finding in (await phone.explained()).findings}
    assert "Its last 3 streams were not sent to the end" in found["streams_failed"].says
    assert "3 answered 503" in found["streams_failed"].says
    assert "PostgreSQL does not answer" in found["streams_failed"].says


async def test_whoever_has_all_since_is_not_told_to_be_stuck(phone: Phone) -> None:
    await phone.stream("AssetV2", "AlbumV2")
    await sent(phone, "stalled", await line(phone, 0), await line(phone, 1))
    assert "stream_stalled" in [code for _, code in codes(await phone.explained())]
    await phone.sync("AssetV2", "AlbumV2")
    assert codes(await phone.explained())[0] == ("note", "up_to_date")
    await sent(phone, "refused", "", "", why="PostgreSQL does not answer", rows=0)
    assert codes(await phone.explained())[0] == ("note", "up_to_date"), "what it asked for since found nothing"
    await phone.add("AssetV2")
    assert "streams_failed" in [code for _, code in codes(await phone.explained())]


async def test_a_stream_without_an_event_shows_that_the_phone_was_there(phone: Phone) -> None:
    await phone.sync("AssetV2", "AlbumV2")
    phone.clock.now_us += 8 * DAY_US
    assert ("stops", "idle") in codes(await phone.explained())
    await sent(phone, "completed", await line(phone, 0), await line(phone, 0))
    assert ("stops", "idle") not in codes(await phone.explained())


async def test_a_library_that_exists_nowhere_is_told(store: Store) -> None:
    for partition in range(PARTITIONS):
        await store.command("SET", keys.whole(partition), "1", key=keys.whole(partition))
    phone = Phone(store)
    await phone.sign_in()
    assert ("hinders", "library_unknown") in codes(await phone.explained())
    await phone.catalog.of_session("ann", SID).provision("lib", await phone.catalog.horizon("lib"))
    found = await phone.explained()
    assert ("hinders", "library_unknown") in codes(found), "its own user's row is no sign of a library"
    assert "nothing of library lib" in next(f.says for f in found.findings if f.code == "library_unknown")
    await phone.add("AssetV2")
    assert "library_unknown" not in [code for _, code in codes(await phone.explained())]


@pytest.mark.parametrize(
    ("lags_s", "holder", "weight"),
    [
        (12, "process 7", "note"),
        (70, "process 7", "hinders"),
        (12, "", None),
        (70, "", "hinders"),
        (1, "process 7", None),
    ],
)
async def test_a_horizon_held_for_seconds_is_told_with_who_holds_it(
    phone: Phone, lags_s: int, holder: str, weight: str | None
) -> None:
    facts = await phone.facts()
    health = SourceHealth("postgres", ok=True, text="PostgreSQL answers", holder=holder)
    library = facts.library._replace(health=health, lags_us=lags_s * SECOND_US)
    found = explain(facts._replace(library=library), phone.clock.now_us)
    says = [finding.says for finding in found.findings if finding.code == "source_lags"]
    assert [each for each, code in codes(found) if code == "source_lags"] == ([weight] if weight else [])
    assert not holder or all(f"held back by {holder}" in each for each in says)
