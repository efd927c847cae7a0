"""LEDGER_WITNESSES: who signs the log's checkpoints, too."""

from __future__ import annotations

import pytest

from ledger.transparency.notes import COSIGNATURE, ED25519, SignerKey
from ops.settings.proof import witnesses

W1, W2 = (str(SignerKey(f"w{n}.example", COSIGNATURE, bytes([n]) * 32).public) for n in (1, 2))


def test_witnesses_are_keys_and_addresses() -> None:
    found = witnesses(f"{W1} https://w1.example/prefix/,\n{W2} http://10.0.0.2:2285")
    assert [(each.key.name, each.url) for each in found] == [
        ("w1.example", "https://w1.example/prefix"),
        ("w2.example", "http://10.0.0.2:2285"),
    ]
    assert witnesses("") == ()


@pytest.mark.parametrize(
    "text",
    [
        W1,
        "https://w1.example",
        f"{W1} ftp://w1.example",
        f"{W1} https://user:pass@w1.example",
        f"{W1[:-4]} https://w1.example",
        f"{SignerKey('log.example', ED25519, bytes(32)).public} https://w1.example",
        ",".join(17 * [f"{W1} https://w1.example"]),
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"witness|VKEY|key|name"):
        witnesses(text)
