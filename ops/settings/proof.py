"""Settings of the transparency log."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ledger.transparency.notes import ED25519, BadNote, check_name, parse_signer, parse_verifier
from ops.settings.identity import shown
from ops.settings.places import StoragePlace
from projections.transparency.witnesses import MOST, Witness

OFF = "off"
FOLDER = "proof"


class ProofSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log is, what it is called, and who reads it."""

    place: StoragePlace | None = None
    """Where it lies, as far as LEDGER_PROOF says; its URL is `off` where there is to be none."""
    origin: str = ""
    """What it is called; '' for what it was called at its beginning, at random."""
    interval_s: float = 60.0
    """How often what happened since is logged."""
    key: str | None = None
    """Secret keys that sign it, newest first, a line each; None: made at its beginning and kept in the data folder."""
    witnesses: tuple[Witness, ...] = ()
    """Who else signs each checkpoint."""
    retention_s: float | None = None
    """How long entries are kept, by whom `syncledger proof prune` runs; None: for ever."""
    open: bool = False
    """Whether it is read without a key; its leaves tell when which session was active."""

    def __repr__(self) -> str:
        """Show everything but the keys."""
        return shown(self, key="hidden" if self.key else None)


def place_of(
    given: StoragePlace | None, archive: StoragePlace | None, data_dir: Path, *, embedded: bool
) -> StoragePlace | None:
    """Tell where the log is: what is given, else below the archive, else in the data folder with the `embedded` store.

    None where there is none: a store that is elsewhere, and nobody said where a log would be safe from who holds it.
    """
    if given is not None:
        return None if given.url == OFF else given
    if archive is not None:
        return archive.below(FOLDER)
    return StoragePlace(url=(data_dir.absolute() / FOLDER).as_uri(), variable="LEDGER_PROOF") if embedded else None


def origin(text: str) -> str:
    """Read a log's name."""
    return _checked(check_name, text.strip())


def keys(text: str) -> str:
    """Read secret keys of a log; no message shows them."""
    for line in text.split():
        _checked(parse_signer, line)
    if not text.split():
        raise ValueError("a secret key is expected, as syncledger proof rotate makes them")
    return text


def witnesses(text: str) -> tuple[Witness, ...]:
    """Read witnesses: for each its key, a space and its address, with commas or lines between them."""
    found = []
    for item in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        key, _, url = item.partition(" ")
        address = urlsplit(url.strip())
        if address.scheme not in ("http", "https") or not address.hostname or address.query or address.username:
            raise ValueError(f"VKEY URL is expected for each witness, with http:// or https://, not {item[:120]!r}")
        _checked(parse_verifier, key)
        witness = parse_verifier(key)
        if witness.type == ED25519:
            raise ValueError(f"the key of {witness.name} is one of a log, not of a witness, which signs with times")
        found.append(Witness(witness, url.strip().rstrip("/")))
    if len(found) > MOST:
        raise ValueError(f"at most {MOST} witnesses are asked, not {len(found)}")
    return tuple(found)


def _checked(read: object, text: str) -> str:
    assert callable(read)
    try:
        read(text)
    except BadNote as error:
        raise ValueError(str(error)) from None
    return text
