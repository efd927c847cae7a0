"""Check the proof of a session's history, without the service that made it: python check.py FILE --key VKEY.

For auditors: one file, Python's standard library and the `cryptography` package, nothing of the ledger's own code. What
a proof is made of is told in FORMAT.md beside it. Exits 0 if all holds, 1 if anything does not.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KINDS = (
    "", "session_created", "stream_offered", "acks_recorded", "ack_refused", "checkpoints_cleared",
    "sync_reset_requested", "checkpoints_adopted", "history_lost", "session_resumed", "reset_sent", "device_described",
    "token_rotated", "token_first_used", "session_ended",
)  # fmt: skip
NOBODY = bytes(32)
NOT_PROVED = (
    "that every request was logged",
    "anything since that entry",
    "that the device did what the events say",
    "at what time it was, except by the times of witnesses",
)
_NO_PROOF = (
    OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
PRUNED = "not proved: which entry its newest event is, for the log is pruned there; its hash is in the state"


class NotProved(Exception):
    """Something does not hold."""


def need(holds: bool, otherwise: str) -> None:
    """Stop unless something holds."""
    if not holds:
        raise NotProved(otherwise)


# What is written in one way only, so that a file that was altered is another proof, or none


class Count:
    """Stands for a number that is hashed as eight bytes."""


NOTHING: Any = type(None)
EVENT = {"seq": Count, "atUs": Count, "schema": Count, "raw": str, "hash": str}
END = {"session": str, "seq": Count, "hash": str, "entry": Count}
STATE = {"sessions": Count, "siblings": [str], "end": (NOTHING, END), "proof": str}
PROOF = {
    "format": str, "session": str, "events": [EVENT], "newest": str, "state": STATE, "previousHash": str, "place": str,
    "follows": (NOTHING, {"entry": str, "proof": str}),
}  # fmt: skip
OMITTED = {"previousHash": "", "place": "", "follows": None}
"""What a proof need not say, and what holds then."""


def shaped(value: Any, shape: Any, where: str = "the proof") -> None:
    """Stop unless a value is of a shape: a type, a list of one shape, a dict of fields, or either of two."""
    if isinstance(shape, tuple):
        shape = shape[0] if value is None else shape[1]
    if shape is Count:
        need(type(value) is int and 0 <= value < 2**63, f"{where} is no number from 0 to 2^63 - 1")
    elif isinstance(shape, list):
        need(isinstance(value, list), f"{where} is no list")
        for each in value:
            shaped(each, shape[0], where)
    elif isinstance(shape, dict):
        need(isinstance(value, dict), f"{where} is no object")
        for name, kind in shape.items():
            need(name in value, f"{where} has no {name}")
            shaped(value[name], kind, name)
    else:
        need(type(value) is shape, f"{where} is of another type")


def number(text: str) -> int:
    """Read a size or an index, in decimals."""
    need(text.isascii() and text.isdigit() and len(text) < 20, f"{text[:40]!r} is no size or index of a log")
    need(text == str(int(text)), f"{text[:40]!r} is no size or index of a log")
    return int(text)


def unhex(text: str) -> bytes:
    """Read 32 bytes in hex."""
    need(len(text) == 64 and set(text) <= set("0123456789abcdef"), f"{text[:80]!r} are not 64 lower-case hex digits")
    return bytes.fromhex(text)


def unbase64(text: str) -> bytes:
    """Read bytes in Base64."""
    content = base64.b64decode(text, validate=True)
    need(base64.b64encode(content).decode() == text, "its Base64 is not written as it should be")
    return content


def plain(text: str) -> str:
    """Give what somebody wrote without what a terminal would carry out, or take for another line."""
    return "".join(char if char.isprintable() else "?" for char in text)[:1000]


# Keys and signed notes: c2sp.org/signed-note, c2sp.org/tlog-cosignature


def parse_key(text: str) -> tuple[str, bytes, int, bytes]:
    """Read `<name>+<id>+<type and key>`: gives name, id, type, key."""
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        content = unbase64(encoded)
    except (NotProved, ValueError):
        content = b""
    wanted = sha256(name.encode() + b"\n" + content).digest()[:4]
    need(key_id == wanted.hex() and len(content) == 33 and content[0] in (1, 4), f"{text!r} is no Ed25519 key")
    return name, wanted, content[0], content[1:]


def signers(note: str, keys: list[str]) -> list[str]:
    """Tell which of these keys signed a note."""
    text, _, lines = note.rpartition("\n\n")
    text += "\n"
    need(len(note) <= 1 << 20 and lines.endswith("\n") and lines.count("\n") <= 64, "the checkpoint is no signed note")
    need(not any(char < " " and char != "\n" for char in note), "a note has no control characters")
    made_by = []
    for line in lines.removesuffix("\n").split("\n"):
        dash, signer, encoded = line.split(" ")
        made_by.append((signer, unbase64(encoded)))
        need(dash == "\u2014" and "+" not in signer and signer.split() == [signer], "a line of signatures is none")
        need(len(made_by[-1][1]) > 4, "a line of signatures is none")
    found = []
    for key in keys:
        name, key_id, kind, public = parse_key(key)
        for signer, signature in made_by:
            if signer != name or signature[:4] != key_id:
                continue
            message, made = text.encode(), signature[4:]
            if kind == 4:
                at_s, made = int.from_bytes(made[:8], "big"), made[8:]
                need(0 < at_s < 2**63, f"a cosignature of {name} is of no time")
                message = f"cosignature/v1\ntime {at_s}\n{text}".encode()
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(made, message)
            except InvalidSignature:
                raise NotProved(f"the signature of {name} does not fit the checkpoint") from None
            found.append(key)
    return found


# The Merkle tree: RFC 6962, section 2.1; its proofs as c2sp.org/tlog-proof writes them


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Make the root of a tree out of a leaf and its path (RFC 9162, section 2.1.3.2)."""
    need(0 <= index < size, f"there is no entry {index} in a log of {size}")
    node, last, root = index, size - 1, sha256(b"\0" + leaf).digest()
    for sibling in path:
        need(last > 0, "the path to the root is too long")
        if node & 1 or node == last:
            root = sha256(b"\1" + sibling + root).digest()
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = sha256(b"\1" + root + sibling).digest()
        node, last = node >> 1, last >> 1
    need(last == 0, "the path to the root is too short")
    return root


def checkpoint_in(proof: str) -> str:
    """Give the text of the checkpoint in a tlog-proof, of which nothing is checked yet."""
    return proof.partition("\n\n")[2].rpartition("\n\n")[0] + "\n"


def check_proof(text: str, leaf: bytes, keys: list[str], witnesses: list[str]) -> tuple[int, str]:
    """Check a tlog-proof of a leaf: gives the entry's index and the checkpoint's text."""
    head, _, note = text.partition("\n\n")
    magic, *lines = head.split("\n")
    if lines[:1] and lines[0].startswith("extra "):
        lines.pop(0)
    need(magic == "c2sp.org/tlog-proof@v1" and bool(lines) and lines[0].startswith("index "), "it has no tlog-proof")
    index, path = number(lines[0].removeprefix("index ")), [unbase64(line) for line in lines[1:]]
    need(len(path) < 64 and all(len(each) == 32 for each in path), "a hash of its path is none")
    checkpoint = checkpoint_in(text)
    origin, size, root = checkpoint.split("\n")[:3]
    need(bool(signers(note, [k for k in keys if parse_key(k)[0] == origin])), f"no key that was given signed {origin}")
    for witness in witnesses:
        need(bool(signers(note, [witness])), f"witness {parse_key(witness)[0]} did not sign the checkpoint")
    found = root_of(leaf, index, number(size), path)
    need(found == unbase64(root), f"entry {index} is not in the log as it is given here")
    return index, checkpoint


# The state tree: which sessions the log knows, by the bits of their ids


def state_root(session: bytes, siblings: list[bytes], end: dict[str, Any] | None) -> bytes:
    """Make the root of the state tree out of what lies at a session's place and what lies beside the way there."""

    def bit(sid: bytes, at: int) -> int:
        return sid[at // 8] >> (7 - at % 8) & 1

    root = NOBODY
    if end is not None:
        other = unhex(end["session"])
        need(
            len(other) == 32 and all(bit(other, at) == bit(session, at) for at in range(len(siblings))), "a wrong path"
        )
        record = other + end["seq"].to_bytes(8, "big") + unhex(end["hash"]) + end["entry"].to_bytes(8, "big")
        root = sha256(b"\0" + record).digest()
    need(not siblings or root != NOBODY or siblings[-1] != NOBODY, "a path that forks at nothing")
    for at in range(len(siblings) - 1, -1, -1):
        pair = (siblings[at], root) if bit(session, at) else (root, siblings[at])
        root = sha256(b"\1" + b"".join(pair)).digest()
    return root


# The session's own chain


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Read one msgpack value of the kinds that matter here: gives it, and where the next one begins."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte, at
    if byte & 0xE0 == 0xA0:  # a short string
        return data[at : at + (byte & 0x1F)].decode(), at + (byte & 0x1F)
    if byte & 0xF0 == 0x90 or byte in (0xDC, 0xDD):  # an array
        width = {0xDC: 2, 0xDD: 4}.get(byte, 0)
        count = int.from_bytes(data[at : at + width], "big") if width else byte & 0x0F
        at += width
        values = []
        for _ in range(count):
            value, at = unpack(data, at)
            values.append(value)
        return values, at
    if byte in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[byte], at
    if 0xCC <= byte <= 0xCF:  # numbers of 1, 2, 4, 8 bytes
        width = 1 << (byte - 0xCC)
        return int.from_bytes(data[at : at + width], "big"), at + width
    if byte in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):  # bytes and strings with their length before them
        width = 1 << ((byte - 0xC4) if byte < 0xD9 else (byte - 0xD9))
        start = at + width
        end = start + int.from_bytes(data[at:start], "big")
        return (data[start:end] if byte < 0xD9 else data[start:end].decode()), end
    raise NotProved("an event of this session cannot be read")


def tag_of(raw: bytes) -> str:
    """Tell what kind of event this is: the first value of its array."""
    need(raw[:1] != b"" and raw[0] & 0xF0 == 0x90, "an event is no array")
    tag, _ = unpack(raw, 1)
    return str(tag)


def follow(session: bytes, events: list[dict[str, Any]], previous: str) -> tuple[int, bytes, str]:
    """Follow the hashes from event to event: gives seq, hash and kind of the newest one."""
    seq, digest, tag = (events[0]["seq"] - 1, unhex(previous), "") if previous else (0, b"", "")
    for event in events:
        raw = unbase64(event["raw"])
        tag = tag_of(raw)
        if tag == "history_lost":  # the store lost events, and this one says which
            lost = unpack(raw)[0]
            hole = [lost[1], lost[2], lost[5] if len(lost) > 5 else b""]
            need(hole == [seq + 1, event["seq"] - 1, digest] and lost[2] > seq, f"event {event['seq']}: another hole")
            digest = lost[4]
        else:
            need(event["seq"] == seq + 1, f"event {event['seq']} does not follow event {seq}: one of them is missing")
        seq = event["seq"]
        made = digest + session + b"%d %d %d " % (seq, event["atUs"], event["schema"]) + raw
        digest = sha256(made).digest()
        need(digest.hex() == event["hash"], f"event {seq} was changed: its hash is that of another one")
    return seq, digest, tag


def check(proof: dict[str, Any], keys: list[str], witnesses: list[str]) -> list[str]:
    """Check a proof, and say what it proves."""
    need(isinstance(proof, dict), "a proof is a JSON object")
    proof = {**OMITTED, **proof}
    shaped(proof, PROOF)
    need(proof["format"] == "syncledger/session-proof@v1", f"{proof['format']} is not read here")
    session, state, events = unhex(proof["session"]), proof["state"], proof["events"]
    root = state_root(session, [unhex(each) for each in state["siblings"]], state["end"])
    checkpoint = checkpoint_in(state["proof"])
    origin, size = checkpoint.split("\n")[:2]
    entry = number(size) - 1
    leaf = b"\1" + entry.to_bytes(8, "big") + state["sessions"].to_bytes(8, "big") + root
    index, _ = check_proof(state["proof"], leaf, keys, witnesses)
    need(index == entry, "the state is not that of the log's newest entry")
    said = f"log {origin}, entry {entry:,}"
    notes = follows(proof, checkpoint, keys, witnesses)
    known = state["end"] if state["end"] and state["end"]["session"] == proof["session"] else None
    if known is None:
        need(not events and not proof["newest"], "it has events of a session of which nothing was logged")
        return [f"proved: nothing was logged for session {proof['session']} by {said}", *notes]
    if not events:
        whose = f"of session {proof['session']} were logged, and nothing more by {said}"
        upto = f"proved: events up to seq {known['seq']:,} {whose}"
        return [upto, "not proved: what the events were, for they are not kept any more", *notes]
    seq, digest, tag = follow(session, events, proof["previousHash"])
    need(
        (seq, digest.hex()) == (known["seq"], known["hash"]),
        f"its newest event, seq {seq}, is not what was logged last",
    )
    need(tag in KINDS, f"an event of kind {tag}, which is not known here")
    leaf = b"\0" + bytes([KINDS.index(tag)]) + session + seq.to_bytes(8, "big") + digest
    if proof["newest"]:
        index, other = check_proof(proof["newest"], leaf, keys, witnesses)
        need(index == known["entry"] and other == checkpoint, "its parts are not of one log")
    return [
        f"proved: these {len(events):,} events of session {proof['session']}, in this order, were logged by {said}",
        f"proved: nothing more was logged for it by then: its newest event is seq {seq:,}",
        *([] if proof["newest"] else [PRUNED]),
        *([_older(events[0]["seq"])] if proof["previousHash"] else []),
        *notes,
    ]


def follows(proof: dict[str, Any], checkpoint: str, keys: list[str], witnesses: list[str]) -> list[str]:
    """Check what is said of a closed log that this one follows, in this log's first entry."""
    given = proof["follows"]
    if given is None:
        return []
    entry = unbase64(given["entry"])
    index, other = check_proof(given["proof"], entry, keys, witnesses)
    need(index == 0 and other == checkpoint and entry[:1] == b"\2", "what it says of another log is no first entry")
    at, texts = 9, []
    for _ in range(2):
        start = at + 2
        at = start + int.from_bytes(entry[at:start], "big")
        need(at <= len(entry), "what it says of another log is cut")
        texts.append(plain(entry[start:at].decode()))
    origin, why = texts
    size = int.from_bytes(entry[1:9], "big")
    closed = f"note: this log follows {origin}, of {size:,} entries, which was closed: {why}."
    return [f"{closed} What only that one had is not proved here"]


def _older(seq: int) -> str:
    return f"not proved: what the events before seq {seq:,} were, for they are not kept any more"


def no_json(text: str) -> None:
    """Refuse what is not of JSON though Python reads it."""
    raise NotProved(f"{text} is no JSON")


def read(content: bytes, keys: list[str], witnesses: list[str]) -> list[str]:
    """Check a proof as its file holds it, and say all that is to be said of it."""
    proof = json.loads(content.decode(), parse_constant=no_json)
    json.dumps(proof, ensure_ascii=False).encode()  # raises for an escape that stands for no character
    lines = check(proof, keys, witnesses) + [f"not proved: {each}" for each in NOT_PROVED]
    return [*lines, f"note: {plain(proof['place'])}"] if proof.get("place") else lines


def main() -> int:
    """Check a file, and say what it proves."""
    parser = argparse.ArgumentParser(description="Check the proof of a session's history.")
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--key",
        action="append",
        required=True,
        help="A key that verifies the log, from its publisher; or some, a line each.",
    )
    parser.add_argument("--witness", action="append", default=[], help="The key of a witness that must have signed.")
    given = parser.parse_args()
    try:
        lines = read(given.file.read_bytes(), "\n".join(given.key).split(), "\n".join(given.witness).split())
    except NotProved as error:
        sys.stderr.write(f"NOT PROVED: {plain(str(error))}\n")
        return 1
    except _NO_PROOF as error:
        what = plain(f"{type(error).__name__}: {str(error)[-200:]}")
        sys.stderr.write(f"NOT PROVED: this is no proof of a session's history: {what}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
