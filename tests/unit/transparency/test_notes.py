"""Signed notes, checkpoints and cosignatures: the texts' own examples, and what must be refused."""

from __future__ import annotations

from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from ledger.transparency.checkpoints import Checkpoint, LogProof, parse_checkpoint, parse_proof
from ledger.transparency.notes import (
    COSIGNATURE,
    ED25519,
    MLDSA44_COSIGNATURE,
    BadNote,
    Note,
    Signature,
    SignerKey,
    VerifierKey,
    parse_note,
    parse_signer,
    parse_verifier,
    sign,
    verified,
)

EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
"""C2SP signed-note, section Verifier keys, Example."""
BEHIND = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"  # noqa: E501
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"  # noqa: E501
)
"""C2SP tlog-cosignature, the example at its head; whose keys these are the text does not say."""
GO_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)
"""The example of golang.org/x/mod/sumdb/note, whose format of keys is ours."""
SIGNER = SignerKey("ledger.example/log", ED25519, bytes(range(32)))
WITNESS = SignerKey("witness.example/w1", COSIGNATURE, bytes(range(1, 33)))
TEXT = Checkpoint("ledger.example/log", 3, sha256(b"root").digest()).text


def test_the_example_of_signed_note() -> None:
    key = parse_verifier(EXAMPLE_KEY)
    assert str(key) == EXAMPLE_KEY
    (found,) = verified(parse_note(EXAMPLE), [key])
    assert found.key == key
    assert str(parse_note(EXAMPLE)) == EXAMPLE
    assert verified(parse_note(EXAMPLE), [SIGNER.public]) == (), "whose key is not known says nothing"


def test_the_example_of_gos_note_package() -> None:
    signer = parse_signer(GO_SECRET)
    assert str(signer.public) == GO_KEY
    assert signer.written() == GO_SECRET
    assert str(sign(GO_TEXT, [signer])) == f"{GO_TEXT}\n{GO_SIGNATURE}\n"
    assert "AYEKFALV" not in repr(signer)


def test_the_example_of_tlog_cosignature_is_read() -> None:
    note = parse_note(BEHIND)
    assert str(note) == BEHIND
    assert [each.name for each in note.signatures] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert int.from_bytes(note.signatures[1].signature[:8], "big") == 1679315147, "as the text's message says"
    checkpoint = parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size, checkpoint.text) == (
        "example.com/behind-the-sofa", 20852163, note.text,
    )  # fmt: skip


def test_a_cosignature_is_over_its_time_and_the_whole_text() -> None:
    note = Note(TEXT, (*sign(TEXT, [SIGNER]).signatures, WITNESS.cosign(TEXT, 1_790_000_000)))
    assert [each.at_s for each in verified(note, [SIGNER.public, WITNESS.public])] == [0, 1_790_000_000]
    later = note.signatures[1].signature
    moved = Signature(WITNESS.name, WITNESS.public.key_id, (1_790_000_001).to_bytes(8, "big") + later[8:])
    with pytest.raises(BadNote, match=r"witness\.example/w1"):
        verified(Note(TEXT, (moved,)), [WITNESS.public])


def test_an_ml_dsa_44_cosignature() -> None:
    secret = MLDSA44PrivateKey.from_seed_bytes(bytes(32))
    key = VerifierKey("witness.example/pq", MLDSA44_COSIGNATURE, secret.public_key().public_bytes_raw())
    assert parse_verifier(str(key)) == key
    at = (1_790_000_000).to_bytes(8, "big")
    origin = b"ledger.example/log"
    message = b"".join((
        b"subtree/v1\n\x00", bytes([len(key.name)]), key.name.encode(), at,
        bytes([len(origin)]), origin, bytes(8), (3).to_bytes(8, "big"), sha256(b"root").digest(),
    ))  # fmt: skip
    note = Note(TEXT, (Signature(key.name, key.key_id, at + secret.sign(message)),))
    (found,) = verified(note, [key])
    assert found.at_s == 1_790_000_000
    other = Checkpoint("ledger.example/log", 4, sha256(b"root").digest()).text
    with pytest.raises(BadNote):
        verified(Note(other, note.signatures), [key])


def test_a_known_key_whose_signature_does_not_fit_spoils_the_note() -> None:
    note = sign(TEXT, [SIGNER])
    with pytest.raises(BadNote, match="does not fit"):
        verified(Note(TEXT.replace("3", "4", 1), note.signatures), [SIGNER.public])


@pytest.mark.parametrize(
    "text",
    [
        "", "no signatures\n", "text\n\n", f"{TEXT}\n— name\n", f"{TEXT}\n— name AAAA\n", f"{TEXT}\n- name AAAAAAAA\n",
        f"{TEXT}\n— na+me AAAAAAAA\n", f"{TEXT}\n— name AAAAAAA*\n", f"{TEXT}\t\n— name AAAAAAAA\n",
        f"{TEXT}\n— name AAAAAAAA", TEXT + "\n" + "— name AAAAAAAA\n" * 65,
        "x" * (1 << 20) + f"{TEXT}\n— name AAAAAAAA\n",
    ],
)  # fmt: skip
def test_what_is_no_note(text: str) -> None:
    with pytest.raises(BadNote):
        parse_note(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "name+530d903a", EXAMPLE_KEY.replace("530d903a", "530d903b"), EXAMPLE_KEY[:-4],
        EXAMPLE_KEY.replace("example.com/foo", "example.com/fo"), "a b+530d903a+AAAA", "+530d903a+AAAA",
    ],
)  # fmt: skip
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(BadNote):
        parse_verifier(text)


def test_a_secret_key_that_is_none_is_not_shown() -> None:
    for text in (GO_SECRET[:-8], GO_SECRET.replace("c74f20a3", "c74f20a4"), GO_KEY):
        with pytest.raises(BadNote) as raised:
            parse_signer(text)
        assert "AYEKFALV" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "origin\n1\n", "origin\n01\nAA==\n", f"\n{TEXT}", TEXT + "\n", TEXT[:-1]])
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(BadNote):
        parse_checkpoint(text)


def test_a_proof_is_read_as_it_is_written() -> None:
    proof = LogProof(1, (sha256(b"a").digest(), sha256(b"b").digest()), sign(TEXT, [SIGNER]))
    assert str(proof).splitlines()[:2] == ["c2sp.org/tlog-proof@v1", "index 1"]
    assert parse_proof(str(proof)) == proof
    extra = str(proof).replace("index 1", "extra AAAA\nindex 1")
    assert parse_proof(extra) == proof, "which is not authenticated, so it is passed over"
    with pytest.raises(BadNote):
        parse_proof(str(proof).replace("@v1", "@v2"))
