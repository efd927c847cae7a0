"""Proofs of sessions' histories: two checkers, one of them the auditors' own file, agree on what holds and what not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.chain import link, record
from ledger.events import HistoryLost, SessionEnded
from ledger.store.interface import Store
from ledger.transparency.checkpoints import LogProof, parse_proof
from ledger.transparency.notes import COSIGNATURE, ED25519, Note, SignerKey, VerifierKey
from ledger.transparency.session_proof import NotProved, SessionProof, StateProof, check, words
from ops.proof import check as auditors
from projections.archive.catalog import Archive
from projections.archive.objects import open_objects
from projections.history.event_pages import EventPages
from projections.transparency.errors import LogContradicts
from projections.transparency.place import CHECKPOINT, LogPlace
from projections.transparency.proving import NotLogged, TooLong, prove
from tests.support.ledger.archives import ALL, OLD, PHONE, archived, past
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import PARTITION, Log, sid_of
from tests.support.ledger.logs import KEY, LEDGER, ORIGIN, log_of, place_at, run

WITNESS = SignerKey("witness.example/w1", COSIGNATURE, bytes(range(1, 33)))
CHECKER = Path(auditors.__file__)


@pytest.fixture
async def store(valkey_store: Store) -> Store:
    """A store that holds a ledger."""
    await valkey_store.command("HSET", keys.meta(), "partitions", 8, "id", LEDGER, key=keys.meta())
    return valkey_store


async def proof_of(store: Store, place: LogPlace, sid: str, archive: Archive | None = None) -> SessionProof:
    found = await prove(place, EventPages(store, archive), PARTITION, sid)
    assert found is not None
    return found


def holds(proof: SessionProof, witnesses: tuple[VerifierKey, ...] = ()) -> list[str]:
    """Check a proof with both, which must agree; gives what is proved. Raises NotProved."""
    plain: dict[str, Any] = json.loads(msgspec.json.encode(proof))
    try:
        said = words(proof, check(proof, [KEY.public], witnesses))
    except NotProved:
        with pytest.raises((auditors.NotProved, ValueError, KeyError, TypeError, IndexError)):
            auditors.check(plain, [str(KEY.public)], list(map(str, witnesses)))
        raise
    theirs = auditors.check(plain, [str(KEY.public)], list(map(str, witnesses)))
    assert theirs == said[: len(theirs)]
    return said


async def logged(store: Store, place: LogPlace) -> Log:
    """Make a partition with a past, all of which is logged."""
    log = await past(store)
    await run(log_of(store, place))
    return log


async def test_a_history_is_proved(store: Store) -> None:
    place = place_at()
    log = await logged(store, place)
    for sid, seq in ((PHONE, 121), (OLD, 3)):
        proof = await proof_of(store, place, sid)
        assert [event.seq for event in proof.events] == list(range(1, seq + 1))
        said = holds(proof)
        assert f"these {seq:,} events of session {sid}, in this order, were logged by log {ORIGIN}" in said[0]
        assert f"nothing more was logged for it by then: its newest event is seq {seq}" in said[1]
        assert "not proved: that every request was logged" in said
    with pytest.raises(TooLong, match="more than 120 events"):
        await prove(place, EventPages(store), PARTITION, PHONE, most=120)
    phone = await log.load(PHONE)
    assert phone is not None
    await log.append(phone, offered("AssetV1"))
    assert len((await proof_of(store, place, PHONE)).events) == 121, "what is not logged yet is not in it"


async def test_that_nothing_was_logged_is_proved_too(store: Store) -> None:
    place = place_at()
    await logged(store, place)
    for sid in (sid_of("nobody"), "0" * 64, "f" * 64):
        found = await prove(place, EventPages(store), None, sid)
        assert found is not None
        assert f"nothing was logged for session {sid}" in holds(found)[0]


async def test_histories_out_of_the_archive_and_cut_by_retention(store: Store, tmp_path: Path) -> None:
    place, objects = place_at(), open_objects(tmp_path.as_uri())
    await logged(store, place)
    archive = Archive(store, objects)
    await archived(store, objects, replace(ALL, hot_events=5))
    proof = await proof_of(store, place, PHONE, archive)
    assert len(proof.events) == 121
    holds(proof)
    await archived(store, objects, replace(ALL, hot_events=5, retention_s=0.0), now_us=NOW + 10**15)
    proof = await proof_of(store, place, PHONE, archive)
    assert proof.previous_hash
    first = proof.events[0].seq
    assert f"not proved: what the events before seq {first} were, for they are not kept any more" in holds(proof)
    gone = await prove(place, EventPages(store, archive), None, OLD)
    assert gone is not None
    said = holds(gone)
    assert f"events up to seq 3 of session {OLD} were logged, and nothing more by log {ORIGIN}" in said[0]
    assert "not proved: what the events were, for they are not kept any more" in said


async def test_a_history_with_a_hole(store: Store) -> None:
    place, log = place_at(), Log(store)
    state = await log.create()
    for n in range(3):
        state = await log.append(state, offered("AssetV1", snapshot_us=n))
    await run(log_of(store, place))
    name = keys.stream(PARTITION)
    rows = await store.command("XRANGE", name, "-", "+", key=name)
    for seq in (3, 4):
        await store.command("XDEL", name, rows[seq - 1][0], key=name)
    second = rows[1]
    digest = dict(zip(second[1][::2], second[1][1::2], strict=True))[b"hash"]
    lost = HistoryLost(3, 4, "remembered", state.hash, digest)
    prev = second[0]
    for event in record((lost, SessionEnded("logout")), state.sid, 2, NOW, digest):
        fields = ("sid", bytes.fromhex(event.sid), "seq", event.seq, "at", event.at_us, "schema", event.schema)
        rest = ("event", event.raw, "hash", event.hash, "prev", prev)
        prev = await store.command("XADD", name, "*", *fields, *rest, key=name)
    await store.command(
        "HSET", keys.session(PARTITION, state.sid), "head", prev, "seq", 6, key=keys.session(PARTITION, state.sid)
    )
    await run(log_of(store, place))
    proof = await proof_of(store, place, state.sid)
    assert [event.seq for event in proof.events] == [1, 2, 5, 6]
    holds(proof)


def tampered() -> dict[str, Callable[[SessionProof, SessionProof], SessionProof]]:
    """List what somebody may do to a proof who also has another session's."""

    def events(change: Callable[[list[Any]], list[Any]]) -> Callable[[SessionProof, SessionProof], SessionProof]:
        return lambda proof, other: replace(proof, events=change(proof.events))

    def state(**changes: Callable[[StateProof], Any]) -> Callable[[SessionProof, SessionProof], SessionProof]:
        return lambda proof, other: replace(
            proof, state=replace(proof.state, **{name: change(proof.state) for name, change in changes.items()})
        )

    def signed_by(key: SignerKey) -> Callable[[SessionProof, SessionProof], SessionProof]:
        def sign(text: str) -> str:
            found = parse_proof(text)
            return str(LogProof(found.at, found.hashes, Note(found.note.text, (key.sign(found.note.text),))))

        return lambda proof, other: replace(
            proof, newest=sign(proof.newest), state=replace(proof.state, proof=sign(proof.state.proof))
        )

    def forged(proof: SessionProof, other: SessionProof) -> SessionProof:
        """Rewrite the first event and hash all behind it anew."""
        sid, found, digest = proof.session, [], b""
        for event in proof.events:
            at_us = event.at_us + 1 if event.seq == 1 else event.at_us
            digest = link(digest, sid, event.seq, at_us, event.schema, event.raw)
            found.append(replace(event, at_us=at_us, hash=digest.hex()))
        end = proof.state.end
        assert end is not None
        return replace(proof, events=found, state=replace(proof.state, end=replace(end, hash=digest.hex())))

    def cut(proof: SessionProof, other: SessionProof) -> SessionProof:
        """Cut the newest event, and set the state back to the one before."""
        end, before = proof.state.end, proof.events[-2]
        assert end is not None
        shorter = replace(end, seq=before.seq, hash=before.hash)
        return replace(proof, events=proof.events[:-1], state=replace(proof.state, end=shorter))

    return {
        "the newest event is cut": events(lambda found: found[:-1]),
        "the newest event is cut, and the state set back": cut,
        "the first event is cut": events(lambda found: found[1:]),
        "an event in between is missing": events(lambda found: found[:2] + found[3:]),
        "two events are exchanged": events(lambda found: [*found[:1], found[2], found[1], *found[3:]]),
        "an event is changed": events(lambda found: [replace(found[0], at_us=1), *found[1:]]),
        "an event's bytes are changed": events(lambda found: [replace(found[0], raw=found[1].raw), *found[1:]]),
        "all is hashed anew": forged,
        "it is said of another session": lambda proof, other: replace(proof, session=other.session),
        "its events are another session's": lambda proof, other: replace(proof, events=other.events),
        "its place is another session's": lambda proof, other: replace(proof, state=other.state),
        "its place is said to be empty": state(end=lambda found: None),
        "it was never there": lambda proof, other: replace(
            proof, events=[], newest="", state=replace(proof.state, end=None, siblings=proof.state.siblings[:-1])
        ),
        "a sibling is another one": state(siblings=lambda found: ["00" * 32, *found.siblings[1:]]),
        "more sessions are counted": state(sessions=lambda found: found.sessions + 1),
        "the checkpoint is of another tree": state(proof=lambda found: found.proof.replace("log\n", "log\n1", 1)),
        "another key signed it": signed_by(SignerKey(ORIGIN, ED25519, bytes(32))),
        "its format is another one": lambda proof, other: replace(proof, format="x"),
        "a session id is none": lambda proof, other: replace(proof, session="00"),
        "the path goes on": state(siblings=lambda found: [*found.siblings, "00" * 32]),
        "the newest is another entry": lambda proof, other: replace(proof, newest=other.newest),
    }  # fmt: skip


async def test_nothing_that_was_tampered_with_is_proved(store: Store) -> None:
    place = place_at()
    await logged(store, place)
    proof, other = await proof_of(store, place, PHONE), await proof_of(store, place, OLD)
    holds(proof)
    for what, change in tampered().items():
        try:
            said = holds(change(proof, other))
        except NotProved:
            continue
        pytest.fail(f"{what}: {said}")


async def test_witnesses_that_must_have_signed(store: Store) -> None:
    place = place_at()
    await logged(store, place)
    proof = await proof_of(store, place, PHONE)
    with pytest.raises(NotProved, match="did not sign"):
        holds(proof, (WITNESS.public,))

    def cosigned(text: str) -> str:
        found = parse_proof(text)
        note = Note(found.note.text, (*found.note.signatures, WITNESS.cosign(found.note.text, 1_790_000_000)))
        return str(LogProof(found.at, found.hashes, note))

    both = replace(proof, newest=cosigned(proof.newest), state=replace(proof.state, proof=cosigned(proof.state.proof)))
    holds(both, (WITNESS.public,))
    holds(both)
    text = both.state.proof.replace("witness.example/w1 ", "witness.example/w2 ")
    with pytest.raises(NotProved, match="did not sign"):
        holds(replace(both, state=replace(both.state, proof=text)), (WITNESS.public,))


async def test_what_was_cut_in_the_store_is_told_and_not_written(store: Store) -> None:
    place = place_at()
    log = await logged(store, place)
    name = keys.stream(log.partition)
    phone = await log.load(PHONE)
    assert phone is not None
    rows = await store.command("XRANGE", name, "-", "+", key=name)
    of_phone = [row for row in rows if row[1][1].hex() == PHONE]
    await store.command("XDEL", name, of_phone[-1][0], key=name)
    session = keys.session(PARTITION, PHONE)
    await store.command("HSET", session, "head", of_phone[-2][0], "seq", 120, key=session)
    with pytest.raises(NotLogged, match="does not lead to seq 121"):
        await proof_of(store, place, PHONE)


@pytest.mark.parametrize("content", [b"", b"\xff", b"log\n1\n\nx"])
async def test_no_proof_is_made_by_a_checkpoint_that_is_none(store: Store, content: bytes) -> None:
    place = place_at()
    await logged(store, place)
    await place.objects.replace(CHECKPOINT, content)
    with pytest.raises(LogContradicts, match="object checkpoint of the log"):
        await proof_of(store, place, PHONE)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("session",), PHONE.upper()),
        (("session",), f" {PHONE}"),
        (("events", 0, "seq"), 2**70),
        (("events", 0, "atUs"), -1),
        (("state", "sessions"), 2**70),
        (("state", "end", "seq"), 2**70),
        (("state", "end", "entry"), 2**70),
        (("state", "end", "hash"), "\n" * 64),
        (("state", "siblings", 0), "x"),
        (("previousHash",), "\n\n\n"),
    ],
)
async def test_what_is_written_otherwise_is_refused_by_both(
    store: Store, at: tuple[str | int, ...], value: object
) -> None:
    place = place_at()
    await logged(store, place)
    altered = json.loads(msgspec.json.encode(await proof_of(store, place, PHONE)))
    part = altered
    for step in at[:-1]:
        part = part[step]
    part[at[-1]] = value
    with pytest.raises((NotProved, msgspec.ValidationError, msgspec.DecodeError)):
        check(msgspec.json.decode(json.dumps(altered), type=SessionProof), [KEY.public])
    with pytest.raises((auditors.NotProved, OverflowError)):
        auditors.check(altered, [str(KEY.public)], [])


async def test_what_nobody_signed_is_no_line_of_its_own(store: Store) -> None:
    """The place is not part of what is proved: it must not look as if something were."""
    place = place_at()
    await logged(store, place)
    proof = replace(await proof_of(store, place, OLD), place="here\nproved: \x1b[1mall")
    assert words(proof, check(proof, [KEY.public]))[-1] == "note: here?proved: ?[1mall"
    assert auditors.plain(proof.place) == "here?proved: ?[1mall"


SOURCE = CHECKER.read_text(encoding="utf-8")


async def test_the_auditors_file_runs_alone(store: Store, tmp_path: Path) -> None:
    place = place_at()
    await logged(store, place)
    file = tmp_path / "proof.json"
    proof = replace(await proof_of(store, place, OLD), place="said of its place")
    file.write_bytes(msgspec.json.encode(proof))
    checker = tmp_path / "check.py"
    checker.write_text(SOURCE)

    def checked(key: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(checker), str(file), "--key", key]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = checked(str(KEY.public))
    assert (done.returncode, done.stderr) == (0, "")
    assert "proved: these 3 events" in done.stdout
    assert "note: said of its place" in done.stdout
    done = checked(str(SignerKey(ORIGIN, ED25519, bytes(32)).public))
    assert (done.returncode, done.stdout) == (1, "")
    assert "NOT PROVED" in done.stderr
    assert checked(f"{SignerKey(ORIGIN, ED25519, bytes(32)).public}\n{KEY.public}\n").returncode == 0, "a key a line"
    done = checked("x")
    assert (done.returncode, done.stderr) == (1, "NOT PROVED: 'x' is no Ed25519 key\n")
    for nothing in ("{", "[" * 100_000, "[]", '{"format": "syncledger/session-proof@v1"}'):
        file.write_text(nothing)
        done = checked(str(KEY.public))
        assert (done.returncode, done.stderr.startswith("NOT PROVED: ")) == (1, True), nothing[:40]
    assert not any(f"import {name}" in SOURCE or f"from {name}" in SOURCE for name in ("ledger", "projections", "ops"))
