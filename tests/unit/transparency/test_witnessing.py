"""What witnesses are asked and answer: the examples of C2SP tlog-witness and tlog-proof, and judging in its order."""

from __future__ import annotations

import pytest

from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint, parse_proof
from ledger.transparency.merkle import EMPTY, consistency_ranges
from ledger.transparency.notes import ED25519, BadNote, SignerKey, parse_signatures, sign
from ledger.transparency.witnessing import Refusal, Submission, judge, origin_of, parse_submission

REQUEST = """old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
\u2014 example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
"""  # noqa: E501
ANSWER = """\u2014 witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrdk3DXDqI5G2HgLatVs0pWh6Up69HVOw==
\u2014 witness.example/w1 I7rEps0pvK2UqkS2gSpVUDhrhVtQV9lgF6pRrWAvjJHjyWpW7VcE3SiOlVlbQNt64vWhO+DlkL0+UfzuOBMh9ChdMkP1vi/lCAsmlw==
\u2014 witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+dhnz0854aLZgrrKbYKA7nC3HNJhm/kWl7oJlqU3rXXvpysAdyP3wQ==
"""  # noqa: E501
PROOF = """c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

\u2014 example.com/fancylog hI2DJwAAAA==
\u2014 witness1.example mJirIgAAAA==
"""
"""The text's own, but for its signatures, of which it leaves most out."""
KEY = SignerKey("ledger.example/log", ED25519, bytes(range(32)))


def test_the_example_of_a_request() -> None:
    submission = parse_submission(REQUEST)
    assert str(submission) == REQUEST
    assert (submission.old, len(submission.proof), origin_of(submission)) == (
        20852014,
        4,
        "example.com/behind-the-sofa",
    )
    assert parse_checkpoint(submission.note.text).size == 20852163
    assert len(submission.note.signatures) == 2, "a log may sign with several keys"
    with pytest.raises(Refusal) as refused:
        judge(submission, [KEY.public], None)
    assert refused.value.status == 403, "of keys that are not known"
    assert len(consistency_ranges(20852014, 20852163)) != 4, "its hashes only show what they look like"


def test_the_example_of_an_answer() -> None:
    found = parse_signatures(ANSWER)
    assert [(each.name, each.key_id.hex()) for each in found] == [
        ("witness.example/w1", "08ca7ee8"),
        ("witness.example/w1", "23bac4a6"),
        ("witness.example/w2", "016ba2f1"),
    ]
    assert [len(each.signature) for each in found] == [72, 72, 72], "a time of 8 bytes and an Ed25519 signature"
    assert "".join(f"{each.line}\n" for each in found) == ANSWER


def test_the_example_of_tlog_proof() -> None:
    proof = parse_proof(PROOF)
    checkpoint = parse_checkpoint(proof.note.text)
    assert (proof.at, len(proof.hashes), checkpoint.origin, checkpoint.size) == (
        73894,
        5,
        "example.com/fancylog",
        109482,
    )
    assert str(proof) == "".join(line for line in PROOF.splitlines(keepends=True) if not line.startswith("extra"))
    for wrong in ("index 073894", "index -1", "index", "index 73894 "):
        with pytest.raises(BadNote):
            parse_proof(PROOF.replace("index 73894", wrong))


def of(size: int, root: bytes, old: int = 0, proof: tuple[bytes, ...] = ()) -> Submission:
    return Submission(old, proof, sign(Checkpoint(KEY.name, size, root).text, [KEY]))


@pytest.mark.parametrize(
    ("submission", "known", "status"),
    [
        (of(0, bytes(32)), None, 422),  # a tree of no entries has the hash of nothing
        (of(3, bytes(32), 0, (bytes(32),)), None, 422),  # from nothing nothing is to be proved
        (of(3, bytes(32), 4), None, 400),
        (of(3, bytes(32), 0), Checkpoint(KEY.name, 2, bytes(32)), 409),
        (of(2, b"x" * 32, 2), Checkpoint(KEY.name, 2, bytes(32)), 422),
        (of(2, b"x" * 32, 0), Checkpoint(KEY.name, 2, bytes(32)), 409),
        (of(3, bytes(32), 2), Checkpoint(KEY.name, 2, bytes(32)), 422),
    ],
)
def test_what_is_refused_as_the_text_says(submission: Submission, known: Checkpoint | None, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        judge(submission, [KEY.public], known)
    assert refused.value.status == status
    assert (refused.value.size is None) == (status != 409)


def test_what_is_signed() -> None:
    assert judge(of(0, EMPTY), [KEY.public], None).size == 0
    assert judge(of(3, bytes(32)), [KEY.public], None).size == 3
    assert judge(of(3, bytes(32), 3), [KEY.public], Checkpoint(KEY.name, 3, bytes(32))).size == 3
