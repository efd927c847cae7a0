"""A verifier that was written from the texts alone agrees with ours on all that a log publishes, and on all else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import keys
from ledger.store.interface import Store
from ledger.transparency import merkle
from ledger.transparency.checkpoints import LogProof, parse_checkpoint
from ledger.transparency.entries import pack_event
from ledger.transparency.notes import COSIGNATURE, Note, SignerKey, parse_note, sign
from projections.transparency.place import CHECKPOINTS
from projections.transparency.published import PublishedLog
from projections.transparency.tree import TreeReader
from tests.contract.test_notary import PARTITIONS, Writer
from tests.support.ledger import second_verifier as second
from tests.support.ledger import trees
from tests.support.ledger.logs import KEY, LEDGER, Audit, log_of, place_at, run

WITNESS = SignerKey("witness.example/w1", COSIGNATURE, bytes(range(1, 33)))
HASHES = [merkle.leaf_hash(n.to_bytes(2, "big")) for n in range(600)]


def subtree(level: int, index: int) -> bytes:
    return second.tree_hash(HASHES[index << level : (index + 1) << level])


@given(st.integers(2, 600), st.data())
def test_both_take_the_same_proofs(size: int, data: st.DataObject) -> None:
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    root, was = second.tree_hash(HASHES[:size]), second.tree_hash(HASHES[:old])
    assert trees.range_hash(0, size, subtree) == root
    path = trees.inclusion_proof(index, size, subtree)
    second.check_inclusion(HASHES[index], index, size, path, root)
    proof = trees.consistency_proof(old, size, subtree)
    second.check_consistency(old, was, size, root, proof)


WRONG = st.sampled_from(["none", "drop", "add", "change", "other root"])


@given(st.integers(2, 600), WRONG, st.data())
def test_both_refuse_the_same(size: int, wrong: str, data: st.DataObject) -> None:
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    root, was = second.tree_hash(HASHES[:size]), second.tree_hash(HASHES[:old])
    for proof, ours, theirs in (
        (
            trees.inclusion_proof(index, size, subtree),
            lambda path, to: merkle.root_by_inclusion(index, size, HASHES[index], path) == to,
            lambda path, to: second.check_inclusion(HASHES[index], index, size, path, to),
        ),
        (
            trees.consistency_proof(old, size, subtree),
            lambda path, to: merkle.check_consistency(old, was, size, to, path),
            lambda path, to: second.check_consistency(old, was, size, to, path),
        ),
    ):
        to, path = root, list(proof)
        at = data.draw(st.integers(0, max(len(path) - 1, 0)))
        if wrong == "drop":
            path = path[:at] + path[at + 1 :]
        elif wrong == "add":
            path.insert(at, bytes(32))
        elif wrong == "change" and path:
            path[at] = bytes(32)
        elif wrong == "other root":
            to = bytes(32)
        assert holds(ours, path, to) == holds(theirs, path, to)


def holds(check: Any, path: list[bytes], root: bytes) -> bool:
    try:
        return check(path, root) is not False
    except ValueError:
        return False


async def test_it_finds_a_log_good(valkey_store: Store, tmp_path: Path) -> None:
    store, place = valkey_store, place_at(tmp_path.as_uri())
    await store.command("HSET", keys.meta(), "partitions", PARTITIONS, "id", LEDGER, key=keys.meta())
    writer, heads = Writer(store), []
    for events in (1, 254, 1, 3, 500):
        await writer.act(events)
        await run(log_of(store, place))
        heads.append(second.read_head((await place.read("checkpoint")).decode()))
    published, loop = PublishedLog(place), asyncio.get_running_loop()

    def fetch(path: str) -> bytes | None:
        work = published.checkpoint() if path == "checkpoint" else published.tile(path)
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    def read() -> tuple[second.Client, list[bytes]]:
        client = second.Client(fetch, str(KEY.public))
        return client, client.entries()

    client, entries = await asyncio.to_thread(read)
    audit = await Audit.of(place)
    ours = [pack_event(leaf.kind, leaf.sid, leaf.seq, leaf.hash) for leaf in audit.events]
    assert [entry for entry in entries if entry[0] == 0] == ours
    tree = TreeReader(place, client.head.size)
    for head in heads:
        signed = (await place.read(f"{CHECKPOINTS}{head.size:020d}")).decode()
        second.check_note(signed, str(KEY.public))
        assert second.read_head(signed) == head
        proof = await tree.consistency(head.size)
        second.check_consistency(head.size, head.root, client.head.size, client.head.root, proof)
    for index in (0, 254, 255, 256, len(entries) - 1):
        text = str(LogProof(index, tuple(await tree.inclusion(index)), parse_note(client.note)))
        assert second.check_proof(text, entries[index], str(KEY.public)) == client.head
        with pytest.raises(ValueError, match="root"):
            second.check_proof(text, entries[index] + b"x", str(KEY.public))


def test_it_takes_our_signatures_and_cosignatures() -> None:
    text = f"{KEY.name}\n3\n{'A' * 43}=\n"
    note = Note(text, (*sign(text, [KEY]).signatures, WITNESS.cosign(text, 1_790_000_000)))
    assert second.check_note(str(note), str(KEY.public)) == 0
    assert second.check_note(str(note), str(WITNESS.public)) == 1_790_000_000
    assert second.read_head(str(note)) == tuple(parse_checkpoint(text))
    with pytest.raises(ValueError, match="did not sign"):
        second.check_note(str(sign(text, [KEY])), str(WITNESS.public))
