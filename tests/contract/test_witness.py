"""Witnesses: what one signs and what it refuses, and a log that has some, of which one is away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
import uvicorn

from ledger import keys
from ledger.store.interface import Store
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.merkle import leaf_hash, node_hash
from ledger.transparency.notes import (
    ED25519,
    Note,
    SignerKey,
    VerifierKey,
    parse_note,
    parse_signatures,
    sign,
    verified,
)
from ledger.transparency.session_proof import NotProved, check
from ledger.transparency.witnessing import MAX_BYTES, SIZE_TYPE, Submission, parse_submission
from ops.witness.client import post
from ops.witness.server import build
from ops.witness.state import KEY_FILE, STATE_FILE, WitnessRefused, WitnessState
from projections.history.event_pages import EventPages
from projections.transparency.errors import LogRefused
from projections.transparency.job import told
from projections.transparency.noted import read_noted
from projections.transparency.place import CHECKPOINT
from projections.transparency.proving import prove
from projections.transparency.witnesses import Witness, Witnesses
from tests.support.ledger.given import offered
from tests.support.ledger.ledgers import PARTITION, Log
from tests.support.ledger.logs import KEY, LEDGER, ORIGIN, log_of, place_at, run
from tests.support.ledger.trees import Frontier, consistency_proof

AT_S = 1_700_000_000
NAME = "audit.example/w1"


def subtree(fork: int = 10**9) -> object:
    """Give the hashes of a log whose leaf n is n, but for those from `fork` on."""

    def hashed(level: int, index: int) -> bytes:
        if level:
            return node_hash(hashed(level - 1, 2 * index), hashed(level - 1, 2 * index + 1))
        return leaf_hash(b"%d" % index if index < fork else b"other %d" % index)

    return hashed


def submission(old: int, size: int, *, fork: int = 10**9, proved: int | None = None, key: SignerKey = KEY) -> str:
    """Make a submission of a log; `proved`: the old size that the proof is for."""
    hashed = subtree(fork)
    frontier = Frontier()
    for at in range(size):
        frontier.append(hashed(0, at))  # type: ignore[operator]
    start = min(old, size) if proved is None else proved
    proof = consistency_proof(start, size, hashed)  # type: ignore[arg-type]
    return str(Submission(old, tuple(proof), sign(Checkpoint(key.name, size, frontier.root()).text, [key])))


@asynccontextmanager
async def serving(state: WitnessState, *, rate: str = "10000/minute") -> AsyncIterator[str]:
    """Serve a witness of the log on a free port; gives its address."""
    held = socket.create_server(("127.0.0.1", 0))
    app = build(state, {ORIGIN: [KEY.public]}, now_s=lambda: AT_S, rate=rate)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve([held]))
    try:
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        held.close()


@pytest.fixture
async def store(valkey_store: Store) -> Store:
    """A store that holds a ledger with an event."""
    await valkey_store.command("HSET", keys.meta(), "partitions", 8, "id", LEDGER, key=keys.meta())
    await Log(valkey_store).create("ann")
    return valkey_store


async def test_it_signs_what_grew_and_refuses_all_else(tmp_path: Path) -> None:
    state = WitnessState(tmp_path, NAME)
    async with serving(state) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:

        async def ask(text: str) -> tuple[int, str, str]:
            reply = await client.post("/add-checkpoint", content=text.encode())
            return reply.status_code, reply.headers["content-type"], reply.text

        status, _, text = await ask(submission(0, 5))
        (signed,) = verified(
            Note(parse_submission(submission(0, 5)).note.text, parse_signatures(text)), [state.key.public]
        )
        assert (status, signed.at_s) == (200, AT_S)
        assert (await ask(submission(5, 5)))[0] == 200, "the same one again"
        assert (await ask(submission(5, 9)))[0] == 200
        for text, status in (
            (submission(0, 12), 409),
            (submission(5, 12), 409),
            (submission(12, 12), 409),
            (submission(9, 7), 400),
            (submission(9, 9, fork=3), 422),
            (submission(9, 12, fork=3), 422),
            (submission(9, 12, proved=5), 422),
            (submission(9, 12, key=SignerKey("x.example", ED25519, bytes(32))), 404),
            (submission(9, 12, key=SignerKey(ORIGIN, ED25519, bytes(32))), 403),
            (submission(9, 12).replace("\n12\n", "\n13\n"), 403),
            ("nothing", 400),
            ("old 01\n\n", 400),
            (submission(9, 12).replace("old 9\n", "old 9\n" + "A" * 43 + "=\n" * 1), 422),
            ("old 9\n" + 64 * ("A" * 43 + "=\n") + submission(9, 12).partition("\n")[2], 400),
            ("x" * (MAX_BYTES + 1), 413),
        ):
            found = await ask(text)
            assert found[0] == status, (found, text[:200])
            if status == 409:
                assert found[1:] == (SIZE_TYPE, "9\n")
        assert (await ask(submission(9, 12)))[0] == 200, "it goes on all the same"
        served = await client.get(f"/{sha256(ORIGIN.encode()).hexdigest()}/checkpoint")
        assert served.status_code == 200
        note = parse_note(served.text)
        assert parse_checkpoint(note.text).size == 12
        assert [each.key for each in verified(note, [KEY.public, state.key.public])] == [KEY.public, state.key.public]
        assert len(note.signatures) == 2, "and of nobody who was only named"
        assert (await client.get(f"/{sha256(b'another').hexdigest()}/checkpoint")).status_code == 404
    assert (await client_of(WitnessState(tmp_path), submission(9, 14)))[0] == 409, "it remembers when it begins again"


async def client_of(state: WitnessState, text: str) -> tuple[int, str]:
    async with serving(state) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        reply = await client.post("/add-checkpoint", content=text.encode())
        return reply.status_code, reply.text


async def test_what_it_signed_is_on_disk_and_never_lost_in_silence(tmp_path: Path) -> None:
    first = WitnessState(tmp_path / "w", NAME)
    assert (await client_of(first, submission(0, 5)))[0] == 200
    assert (await client_of(first, submission(5, 8, fork=2)))[0] == 422
    assert parse_note(first._held.forked[ORIGIN]), "who forked the log is proved by their signature"
    again = WitnessState(tmp_path / "w")
    assert again.newest(ORIGIN) == first.newest(ORIGIN)
    assert again.key == first.key
    assert (tmp_path / "w" / KEY_FILE).stat().st_mode & 0o077 == 0
    with pytest.raises(WitnessRefused, match="keeps its name"):
        WitnessState(tmp_path / "w", "another")
    (tmp_path / "w" / STATE_FILE).unlink()
    with pytest.raises(WitnessRefused, match="bring it back"):
        WitnessState(tmp_path / "w")
    with pytest.raises(WitnessRefused, match="--name"):
        WitnessState(tmp_path / "empty")


async def test_who_asks_too_often_waits(tmp_path: Path) -> None:
    async with serving(WitnessState(tmp_path, NAME), rate="2/minute") as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            found = [(await client.post("/add-checkpoint", content=b"x")).status_code for _ in range(3)]
    assert found == [400, 400, 429]


async def test_racing_submissions_never_go_back(tmp_path: Path) -> None:
    state = WitnessState(tmp_path, NAME)
    async with serving(state) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        await client.post("/add-checkpoint", content=submission(0, 2).encode())
        replies = await asyncio.gather(
            *(client.post("/add-checkpoint", content=submission(2, size).encode()) for size in range(3, 20))
        )
    assert sorted(reply.status_code for reply in replies) == [200] + 16 * [409]
    newest = state.newest(ORIGIN)
    assert newest is not None
    assert {reply.text for reply in replies if reply.status_code == 409} == {f"{newest.size}\n"}


async def test_a_log_has_its_checkpoints_signed_and_waits_for_nobody(store: Store, tmp_path: Path) -> None:
    place, state = place_at((tmp_path / "log").as_uri()), WitnessState(tmp_path / "w", NAME)
    closed = socket.create_server(("127.0.0.1", 0))
    away = Witness(VerifierKey("away.example", 4, bytes(32)), f"http://127.0.0.1:{closed.getsockname()[1]}")
    async with serving(state) as url:
        here = Witness(state.key.public, url)
        of = log_of(store, place)._replace(witnesses=Witnesses([here, away], post, within_s=0.3))
        report = await run(of)
        assert list(report.unwitnessed) == ["away.example"]
        assert "witness away.example did not sign" in told(report)
        assert "away.example" in (await read_noted(store)).wrong
        assert await witnessed(tmp_path, state)
        log = Log(store)
        ann = await log.load((await log.create("ben")).sid)
        assert ann is not None
        await log.append(ann, offered("AssetV1"))
        await run(of)
        await run(log_of(store, place)._replace(witnesses=Witnesses([here], post)))  # one that asks how far it signed
        assert await witnessed(tmp_path, state)
        proof = await prove(place, EventPages(store), PARTITION, ann.sid)
        assert proof is not None
        assert [each.key for each in check(proof, [KEY.public], [state.key.public]).signed][1:] == [state.key.public]
        with pytest.raises(NotProved, match=r"away\.example did not sign"):
            check(proof, [KEY.public], [away.key])
    closed.close()


async def witnessed(tmp_path: Path, state: WitnessState) -> bool:
    note = parse_note((tmp_path / "log" / CHECKPOINT).read_text())
    newest = state.newest(ORIGIN)
    return len(verified(note, [KEY.public, state.key.public])) == 2 and newest == parse_checkpoint(note.text)


async def test_a_witness_that_comes_back_signs_though_nothing_is_new(store: Store, tmp_path: Path) -> None:
    place, state = place_at((tmp_path / "log").as_uri()), WitnessState(tmp_path / "w", NAME)
    await run(log_of(store, place))
    async with serving(state) as url:
        of = log_of(store, place)._replace(witnesses=Witnesses([Witness(state.key.public, url)], post))
        assert (await run(of)).unwitnessed == {}
        assert await witnessed(tmp_path, state)
        # A log that forked, or whose place was set back, finds nobody who signs.
        for path in (tmp_path / "log").rglob("*"):
            if path.is_file():
                path.unlink()
        await store.command("HDEL", keys.meta(), "proof_origin", "proof_size", key=keys.meta())
        await Log(store).create("mallory")
        with pytest.raises(LogRefused, match=r"signed 2 entries of it, here it has 0: it went back"):
            await run(of)
        assert not (tmp_path / "log" / CHECKPOINT).exists(), "nothing was signed"


@pytest.mark.parametrize("more", [0, 3])
async def test_a_log_that_was_forked_behind_its_witness_is_refused(store: Store, tmp_path: Path, more: int) -> None:
    place, state = place_at((tmp_path / "log").as_uri()), WitnessState(tmp_path / "w", NAME)
    async with serving(state) as url:
        witness = [Witness(state.key.public, url)]
        await run(log_of(store, place_at())._replace(witnesses=Witnesses(witness, post)))
        await Log(store, 5).create("mallory")
        await store.command("DEL", keys.stream(PARTITION), key=keys.stream(PARTITION))
        await store.command("HDEL", keys.meta(), "proof_origin", "proof_size", key=keys.meta())
        for n in range(more):
            await Log(store, 5).create(f"m{n}")
        await run(log_of(store, place))
        forked = log_of(store, place)._replace(witnesses=Witnesses(witness, post))
        await Log(store, 5).create("another")
        before = (tmp_path / "log" / CHECKPOINT).read_text()
        with pytest.raises(LogRefused, match=r"signed another log of 2 entries: the log was forked"):
            await run(forked)
        assert (tmp_path / "log" / CHECKPOINT).read_text() == before, "nothing more was signed"
        assert "the log was forked" in (await read_noted(store)).wrong
