"""Proofs of sessions' histories that somebody altered: both checkers say the same of each, and prove nothing new."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any, Final

import msgspec
import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.store.interface import Store
from ledger.transparency.checkpoints import LogProof, parse_proof
from ledger.transparency.notes import COSIGNATURE, Note, SignerKey, VerifierKey
from ledger.transparency.session_proof import NotProved, SessionProof, check, read, words
from ops.proof import check as auditors
from projections.history.event_pages import EventPages
from projections.transparency.place import FORMAT_FOLLOWING, Closed, Identity
from projections.transparency.proving import prove
from tests.support.ledger.archives import OLD, past
from tests.support.ledger.ledgers import PARTITION, sid_of
from tests.support.ledger.logs import KEY, LEDGER, ORIGIN, log_of, place_at, run

WITNESS: Final = SignerKey("witness.example/w1", COSIGNATURE, bytes(range(1, 33)))
ALTERED: Final = 1200
OTHERS: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 1.0, 2**63, 2**64, float("nan")),
    *("", "0", "x", "0" * 64, [], [0], {}),
)
PIECES: Final[tuple[str, ...]] = (
    *"\n\t\r\0 0+_=éAa/\u2028\u2014\u0663\x0b\x1c\x85\ud800",
    *("\n\n", "extra x\n", "\u2014 a b\n", "index 0\n"),
)


@pytest.fixture
async def proofs(valkey_store: Store) -> dict[str, SessionProof]:
    """Proofs of each kind, all of one log that follows a closed one."""
    store, place = valkey_store, place_at()
    await store.command("HSET", keys.meta(), "partitions", 8, "id", LEDGER, key=keys.meta())
    closed = Closed(origin="before.example", size=9, why="lost")
    await place.begin(Identity(format=FORMAT_FOLLOWING, origin=ORIGIN, ledger=LEDGER, follows=closed))
    await past(store)
    await run(log_of(store, place))
    whole = await prove(place, EventPages(store), PARTITION, OLD, note="a note")
    nobody = await prove(place, EventPages(store), None, sid_of("nobody"))
    assert whole is not None
    assert nobody is not None
    assert whole.follows is not None

    def cosigned(text: str) -> str:
        found = parse_proof(text)
        signatures = (*found.note.signatures, WITNESS.cosign(found.note.text, 1_790_000_000))
        return str(LogProof(found.at, found.hashes, Note(found.note.text, signatures)))

    state = replace(whole.state, proof=cosigned(whole.state.proof))
    follows = replace(whole.follows, proof=cosigned(whole.follows.proof))
    return {
        "whole": whole,
        "witnessed": replace(whole, newest=cosigned(whole.newest), state=state, follows=follows),
        "pruned": replace(whole, newest=""),
        "cut": replace(whole, events=whole.events[1:], previous_hash=whole.events[0].hash),
        "gone": replace(whole, events=[], newest=""),
        "nobody": nobody,
    }


def ours(content: bytes, witnesses: tuple[VerifierKey, ...]) -> list[str] | None:
    """Tell what the package's checker says of a file; None if it is not proved."""
    try:
        proof = read(content)
        return words(proof, check(proof, [KEY.public], witnesses))
    except NotProved:
        return None


def theirs(content: bytes, witnesses: tuple[VerifierKey, ...]) -> list[str] | None:
    """Tell what the auditors' checker says, as its command does."""
    try:
        return auditors.read(content, [str(KEY.public)], list(map(str, witnesses)))
    except (auditors.NotProved, *auditors._NO_PROOF):
        return None


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 40))])
async def test_both_checkers_say_the_same_of_whatever_was_altered(proofs: dict[str, SessionProof], seed: int) -> None:
    dice, held = Random(seed), 0
    for kind, proof in proofs.items():
        witnesses = (WITNESS.public,) if kind == "witnessed" else ()
        content = msgspec.json.encode(proof)
        proved = ours(content, witnesses)
        assert proved is not None, kind
        assert proved == theirs(content, witnesses)
        for _ in range(ALTERED // len(proofs)):
            content = altered(json.loads(msgspec.json.encode(proof)), dice)
            said = ours(content, witnesses)
            assert said == theirs(content, witnesses), content
            if said is not None:  # it was the note that was altered, a part nobody knows, or what is not looked at
                held += 1
                assert claims(said) == claims(proved), content
    assert held, "some do no harm"


def claims(said: list[str]) -> list[str]:
    """Leave out what nobody signed: the note of where the log lies, and of a log that was said to be followed."""
    return [line for line in said if not line.startswith("note: ")]


def altered(proof: dict[str, Any], dice: Random) -> bytes:
    """Alter a proof at one place or two, in what it says or in the bytes of its file."""
    for _ in range(dice.choice((1, 1, 1, 2))):
        alter(proof, dice)
    content = bytearray(json.dumps(proof, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass"))
    if dice.random() < 0.1:
        at = dice.randrange(len(content))
        content[at : at + dice.randrange(2)] = bytes([dice.randrange(256)])
    return bytes(content)


def alter(proof: dict[str, Any], dice: Random) -> None:
    """Alter one value: put another one in its place, remove it, add beside it, or change its text."""
    part, step = dice.choice(list(places(proof)))
    what, value = dice.random(), part[step]
    if what < 0.15:
        part[step] = deepcopy(dice.choice(OTHERS))
    elif what < 0.25:
        del part[step]
    elif what < 0.3 and isinstance(part, dict):
        part["more"] = deepcopy(dice.choice((*OTHERS, {"a": "\ud800"})))
    elif isinstance(value, str):
        part[step] = altered_text(value, dice)
    elif isinstance(value, int) and not isinstance(value, bool):
        part[step] = dice.choice((value + 1, value - 1, float(value), bool(value), str(value), -value, value + 2**64))
    elif isinstance(value, list) and value:
        value.insert(dice.randrange(len(value)), deepcopy(dice.choice(value)))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """List where a value can be altered: what holds each part of it, and under which key or number."""
    for step in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, step
        if isinstance(value[step], dict | list):
            yield from places(value[step])


def altered_text(text: str, dice: Random) -> str:
    """Change a text at one place, or a line of it."""
    lines, at = text.split("\n"), dice.randrange(len(text) + 1)
    which = dice.randrange(len(lines))
    match dice.randrange(5):
        case 0:
            return text[:at] + dice.choice(PIECES) + text[at:]
        case 1:
            return text[:at] + text[at + 1 :]
        case 2:
            return text[:at] + dice.choice(PIECES) + text[at + 1 :]
        case 3:
            return "\n".join([*lines[:which], dice.choice(lines), *lines[which:]])
    at = dice.randrange(len(lines[which]) + 1)
    lines[which] = lines[which][:at] + dice.choice(PIECES) + lines[which][at:]
    return "\n".join(lines)
