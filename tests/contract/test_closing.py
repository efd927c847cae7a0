"""A log that went back behind what a witness signed: refused with nothing signed, closed, and followed by another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.store.interface import Store
from ledger.transparency.checkpoints import parse_checkpoint
from ledger.transparency.entries import ClosedLeaf
from ledger.transparency.notes import ED25519, SignerKey, parse_note
from ledger.transparency.session_proof import NotProved, check, words
from ops.proof import check as auditors
from ops.witness.client import post
from ops.witness.state import WitnessState
from projections.history.event_pages import EventPages
from projections.transparency.closing import close, closed_by, noted_log
from projections.transparency.errors import LogRefused
from projections.transparency.job import LogOf
from projections.transparency.monitor.monitor import monitor
from projections.transparency.noted import read_noted
from projections.transparency.place import CHECKPOINT, LogPlace
from projections.transparency.proving import prove
from projections.transparency.witnesses import Witness, Witnesses
from tests.contract.test_notary import files_of
from tests.contract.test_witness import NAME, serving
from tests.support.ledger.given import offered
from tests.support.ledger.ledgers import PARTITION, Log
from tests.support.ledger.logs import (
    KEY,
    LEDGER,
    ORIGIN,
    Audit,
    FailingObjects,
    Killed,
    forget_lease,
    log_of,
    place_at,
    run,
)  # fmt: skip

BEHIND = "ledger.example/log-2"
BEHIND_KEY = SignerKey(BEHIND, ED25519, bytes(range(1, 33)))
WHY = "the disk of the log was lost"


class Lost(NamedTuple):
    """A log that a witness knows further than its place, which was put back to a copy; `signed`: what that signed."""

    log: Log
    of: LogOf
    folder: Path
    signed: str


def put_back(files: dict[Path, bytes], folder: Path) -> None:
    """Give a folder the files that it had."""
    for path in files_of(folder):
        path.unlink()
    for path, content in files.items():
        path.write_bytes(content)


@pytest.fixture
async def lost(valkey_store: Store, tmp_path: Path) -> AsyncIterator[Lost]:
    """Store and place went back together, as a machine does that is set back."""
    store, folder = valkey_store, tmp_path / "log"
    await store.command("HSET", keys.meta(), "partitions", 8, "id", LEDGER, key=keys.meta())
    log, state = Log(store), WitnessState(tmp_path / "w", NAME)
    ann = await log.create("ann")
    async with serving(state) as url:
        witness = [Witness(state.key.public, url)]
        of = log_of(store, place_at(folder.as_uri()))._replace(witnesses=Witnesses(witness, post))
        await run(of)
        copy = files_of(folder)
        ann = await log.append(ann, offered("AssetV1"))
        await run(of)
        signed = state.read(ORIGIN)
        put_back(copy, folder)
        await store.command("HSET", keys.meta(), "proof_size", 2, key=keys.meta())
        await log.create("ben")
        yield Lost(log, of._replace(witnesses=Witnesses(witness, post)), folder, signed)


def empty(lost: Lost, tmp_path: Path) -> LogOf:
    """Where the log behind it is to be."""
    place = place_at((tmp_path / "next").as_uri())
    return log_of(lost.of.store, place, signers=[BEHIND_KEY])


async def test_nothing_is_signed_behind_what_a_witness_knows(lost: Lost) -> None:
    before = files_of(lost.folder)
    for _ in range(2):
        with pytest.raises(LogRefused, match=r"signed 4 entries of it, here it has 2: it went back.*proof close"):
            await run(lost.of)
        assert files_of(lost.folder) == before, "nothing was written"
    assert "nothing is logged: witness" in (await read_noted(lost.of.store)).wrong
    # The same where nothing at all is left of it, and the ledger forgot that it had a log.
    put_back({}, lost.folder)
    await lost.of.store.command("HDEL", keys.meta(), "proof_origin", "proof_size", key=keys.meta())
    with pytest.raises(LogRefused, match=r"signed 4 entries of it, here it has 0"):
        await run(lost.of._replace(wanted=ORIGIN))


async def test_a_witness_that_saw_another_job_go_on_is_no_reason(lost: Lost, tmp_path: Path) -> None:
    """Two jobs: the one that is late asks behind the other one that it is not behind the log."""
    store, place = lost.of.store, place_at((tmp_path / "log2").as_uri())
    state = WitnessState(tmp_path / "w2", NAME)
    await store.command("HDEL", keys.meta(), "proof_origin", "proof_size", key=keys.meta())
    async with serving(state) as url:
        fast, slow = (Witnesses([Witness(state.key.public, url)], post) for _ in range(2))
        of = log_of(store, place)
        await run(of._replace(witnesses=slow))

        class Late(Witnesses):
            """Is overtaken before it asks."""

            async def cosign(self, *args: object) -> object:  # type: ignore[override]
                await lost.log.create("carl")
                await forget_lease(store)
                await run(of._replace(witnesses=fast))
                return await slow.cosign(*args)  # type: ignore[arg-type]

        await lost.log.create("dan")
        report = await run(of._replace(witnesses=Late([], post)))
        assert report.unwitnessed == {}
        audit = await Audit.of(place)
        assert len(audit.events) == 5
        newest = state.newest(ORIGIN)
        assert newest is not None
        assert newest.size == audit.checkpoint.size


async def test_a_log_is_closed_and_another_one_follows(lost: Lost, tmp_path: Path) -> None:
    store, of = lost.of.store, empty(lost, tmp_path)
    with pytest.raises(LogRefused, match=r"there is no log in .*set LEDGER_PROOF.*proof close"):
        await run(of)
    origin, size = await noted_log(of)
    closed = closed_by(lost.signed, WHY, [KEY.public], origin, size)
    assert (closed.origin, closed.size) == (ORIGIN, 4)
    taken: list[str] = []
    assert (await close(of, closed, BEHIND, taken.append)).follows == closed
    assert taken == [BEHIND]
    report = await run(of)
    audit = await Audit.of(of.place, BEHIND_KEY)
    assert audit.leaves[0] == ClosedLeaf(ORIGIN, 4, WHY, lost.signed)
    assert (report.size, len(audit.events), audit.checkpoint.origin) == (5, 3, BEHIND)
    noted = await read_noted(store)
    assert (noted.origin, noted.size, noted.wrong) == (BEHIND, 5, "")
    with pytest.raises(LogRefused, match=f"this ledger's is {BEHIND}"):
        await run(lost.of)
    await lost.log.create("carl")
    assert (await run(of)).events == 1, "it goes on as any log does"
    verified = await monitor(of, [BEHIND_KEY.public], 8)
    assert verified is not None
    assert (verified.compared, verified.differences, verified.follows, verified.follows_size) == (True, [], ORIGIN, 4)
    since = await monitor(of, [KEY.public, BEHIND_KEY.public], 8, since=lost.signed.encode())
    assert since is not None
    (finding,) = since.differences
    assert f"one of log {ORIGIN}, of 4 entries, which was closed at 4: {WHY}" in finding.what


async def test_closing_is_completed_wherever_it_broke_off(lost: Lost, tmp_path: Path) -> None:
    of, store = empty(lost, tmp_path), lost.of.store
    closed = closed_by(lost.signed, WHY, [KEY.public], *await noted_log(of))

    def stop(_: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        await close(of, closed, BEHIND, stop)
    with pytest.raises(LogRefused, match=r"interrupted before .* took its place: run syncledger proof close again"):
        await run(of)
    for writes in range(8):
        failing = LogPlace(FailingObjects(of.place.objects, writes, behind=bool(writes % 2)), "failing")
        again = closed_by(lost.signed, "another word for it", [KEY.public], *await noted_log(of))
        assert (await close(of, again, "another.example", lambda _: None)).origin == BEHIND
        try:
            await run(of._replace(place=failing))
        except Killed:
            await forget_lease(store)
    await run(of)
    audit = await Audit.of(of.place, BEHIND_KEY)
    assert audit.leaves[0] == ClosedLeaf(ORIGIN, 4, WHY, lost.signed), "as it was begun"
    assert sum(isinstance(leaf, ClosedLeaf) for leaf in audit.leaves) == 1
    assert len(audit.events) == 3


async def test_what_is_no_reason_to_close_is_refused(lost: Lost, tmp_path: Path) -> None:
    of = empty(lost, tmp_path)
    origin, size = await noted_log(of)
    for checkpoint, why, key, said in (
        (lost.signed, " ", KEY, "say why"),
        (lost.signed, "x" * 501, KEY, "say why"),
        (lost.signed, "two\nlines", KEY, "say why"),
        ("nonsense", WHY, KEY, "is none"),
        (lost.signed, WHY, BEHIND_KEY, "no key that is known"),
        (lost.signed, WHY, SignerKey(ORIGIN, ED25519, bytes(32)), "no key that is known"),
        (lost.signed + "\u2014 x " + "A" * 70_000 + "\n", WHY, KEY, "longer than"),
    ):
        with pytest.raises(LogRefused, match=said):
            closed_by(checkpoint, why, [key.public], origin, size)
    with pytest.raises(LogRefused, match=f"this ledger's is {BEHIND}"):
        closed_by(lost.signed, WHY, [KEY.public], BEHIND, 9)
    with pytest.raises(LogRefused, match="none to close"):
        closed_by("", WHY, [], "", 0)
    assert closed_by("", WHY, [], origin, 9).size == 9, "nobody has a checkpoint any more"
    closed = closed_by(lost.signed, WHY, [KEY.public], origin, size)
    with pytest.raises(LogRefused, match="stays as it is, for auditors"):
        await close(lost.of, closed, BEHIND, lambda _: None)
    with pytest.raises(LogRefused, match="a name of its own"):
        await close(of._replace(wanted=ORIGIN), closed, BEHIND, lambda _: None)
    assert files_of(tmp_path / "next") == {}


async def test_proofs_tell_which_log_theirs_follows(lost: Lost, tmp_path: Path) -> None:
    of = empty(lost, tmp_path)
    await close(of, closed_by(lost.signed, WHY, [KEY.public], *await noted_log(of)), BEHIND, lambda _: None)
    await run(of)
    proof = await prove(of.place, EventPages(lost.of.store), PARTITION, (await lost.log.create("dan")).sid)
    assert proof is not None
    assert proof.follows is not None
    keys_of = [BEHIND_KEY.public]
    verdict = check(proof, keys_of)
    assert verdict.follows is not None
    assert parse_checkpoint(parse_note(verdict.follows.checkpoint).text).size == 4
    (said,) = [line for line in words(proof, verdict) if line.startswith("note: ")]
    assert said == (
        f"note: this log follows {ORIGIN}, of 4 entries, which was closed: {WHY}. What only that one had is not "
        "proved here"
    )
    assert said in auditors.check(json.loads(msgspec.json.encode(proof)), [str(BEHIND_KEY.public)], [])
    lie = bytearray(proof.follows.entry)
    lie[len(ORIGIN) + 20] ^= 1
    for wrong in (
        replace(proof.follows, entry=bytes(lie)),
        replace(proof.follows, entry=lost.signed.encode()),
        replace(proof.follows, proof=proof.state.proof),
    ):
        forged = replace(proof, follows=wrong)
        with pytest.raises(NotProved):
            check(forged, keys_of)
        with pytest.raises(auditors.NotProved):
            auditors.check(json.loads(msgspec.json.encode(forged)), [str(BEHIND_KEY.public)], [])


async def test_what_the_place_says_of_it_is_held_to_the_first_entry(lost: Lost, tmp_path: Path) -> None:
    of = empty(lost, tmp_path)
    await close(of, closed_by(lost.signed, WHY, [KEY.public], *await noted_log(of)), BEHIND, lambda _: None)
    await run(of)
    file = tmp_path / "next" / "log.json"
    file.write_bytes(file.read_bytes().replace(b"lost", b"sold"))
    report = await monitor(of, [BEHIND_KEY.public], 8)
    assert report is not None
    assert [finding.object for finding in report.differences] == ["log.json"]
    assert report.closed_why == WHY
    assert (lost.folder / CHECKPOINT).exists(), "what is left of the closed one stays"
