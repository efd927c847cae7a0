"""Opening the transparency log that settings name, and the keys that sign it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import uuid4

from msgspec import structs

from endpoints.readiness import ProofReadiness
from ledger.errors import InvalidInput
from ledger.log.store_check import read_id
from ledger.positions import iso_from_us
from ledger.transparency.notes import ED25519, BadNote, SignerKey, parse_signer
from ops.opening.key_files import alone, read_or_make, read_text
from ops.opening.ledger import SECOND_US, Opened
from ops.settings.settings import Settings
from ops.witness.client import post
from projections.census.record import Kept
from projections.transparency.errors import LogRefused
from projections.transparency.job import LogOf
from projections.transparency.noted import read_noted
from projections.transparency.place import LogPlace
from projections.transparency.states import KeptStates
from projections.transparency.witnesses import Witnesses

KEY_FILE: Final = "proof-key"
TRIES_NOTE: Final = "the log lies beside the store and proves nothing against whoever holds this disk: set LEDGER_PROOF"
_SEED_BYTES: Final = 32
_OF_CLOSED: Final = ".closed-"
"""Stands before the start of the SHA-256 of a closed log's origin, in the name of the file that keeps its keys."""
_LATE_RUNS: Final = 3
_LATE_S: Final = 60.0
"""The log is behind once so many runs, and as much time for one, have passed without one."""


def make_key(origin: str) -> SignerKey:
    """Make a new key that signs in the name of an origin."""
    return SignerKey(origin, ED25519, os.urandom(_SEED_BYTES))


def new_origin() -> str:
    """Name a log that nobody named."""
    return f"syncledger/{uuid4().hex}"


async def log_of(found: Opened, settings: Settings) -> LogOf | None:
    """Give what the ledger's log is written with; None where there is none. Raises InvalidInput for its place."""
    place = open_place(settings)
    if place is None:
        return None
    ledger_id = await read_id(found.store)
    witnesses = Witnesses(settings.proof.witnesses, post)
    keys, kept = signers(settings), KeptStates()
    return LogOf(found.store, place, ledger_id, settings.proof.origin, keys, found.archive, witnesses, kept)


def open_place(settings: Settings) -> LogPlace | None:
    """Open where the log lies; None where there is none. Raises InvalidInput."""
    place = settings.proof_place
    return None if place is None else LogPlace(place.open(), place.url)


def place_noted(settings: Settings, url: str) -> LogPlace | None:
    """Open where the log was written last, as it is noted; None where nothing is there, or it cannot be opened."""
    place = settings.proof_place
    if place is None:
        return None
    try:
        return LogPlace(structs.replace(place, url=url).open(make=False), url)
    except InvalidInput:
        return None


def signers(settings: Settings) -> Callable[[str, bool], Sequence[SignerKey]]:
    """Give how the keys of an origin's log are found: in the settings, or in the data folder, where one may be made.

    What is given raises InvalidInput for keys that cannot be read or are another log's, LogRefused where there is none.
    """
    file = settings.data_dir / KEY_FILE

    def find(origin: str, may_make: bool) -> Sequence[SignerKey]:
        if settings.proof.key is not None:
            return read_keys("LEDGER_PROOF_KEY", settings.proof.key, origin)
        if not may_make and not file.exists():
            raise LogRefused(
                f"log {origin} is signed already, and its key is not in {file}: copy that file from where the log "
                "began, or set LEDGER_PROOF_KEY_FILE to it"
            )
        try:
            text = read_or_make(file, lambda: make_key(origin).written() + "\n")
        except ValueError as error:
            raise InvalidInput([((str(file),), str(error))]) from None
        return read_keys(str(file), text, origin)

    return find


def read_keys(where: str, text: str, origin: str) -> list[SignerKey]:
    """Read the secret keys of an origin's log, newest first; raises InvalidInput."""
    try:
        keys = [parse_signer(line) for line in text.split()]
    except BadNote as error:
        raise InvalidInput([((where,), str(error))]) from None
    for key in keys:
        if key.name != origin or key.type != ED25519:
            raise InvalidInput([((where,), f"is a key of {key.name}, the log is {origin}")])
    return keys


async def proof_readiness(found: Opened, settings: Settings) -> ProofReadiness:
    """Tell how the log is; raises StoreUnavailable."""
    noted = await read_noted(found.store)
    if settings.proof_place is None:
        text = "there is no transparency log: set LEDGER_PROOF to a place that nobody who holds the store can change"
        return ProofReadiness(not noted.origin, text, noted.origin, noted.size)
    parts = []
    late_s = found.ledger.clock() // SECOND_US - noted.at_ms // 1000
    is_late = late_s > _LATE_RUNS * settings.proof.interval_s + _LATE_S
    if not noted.at_ms:
        parts.append("nothing is logged yet")
    elif is_late:
        parts.append(
            f"behind since {iso_from_us(noted.at_ms * 1000)}, and archive and retention wait for it: syncledger "
            "notarize tells why"
        )
    if noted.wrong:
        parts.append(noted.wrong)
    if settings.proof_tries:
        parts.append(TRIES_NOTE)
    unlogged, behind_s = await Kept(found.store).of_log()
    if unlogged and is_late:
        parts.append(f"events not logged yet: at least {unlogged:,}, the oldest for {behind_s:,.0f} s")
    ok = not noted.wrong and not (noted.at_ms and is_late)
    return ProofReadiness(ok, "; ".join(parts) or "up to date", noted.origin, noted.size, unlogged, behind_s)


def keys_in(folder: Path, *, every: bool = False) -> str | None:
    """Read the file of a log's keys as it is, with `every` those of closed logs, too; None without one.

    Raises ValueError for one that holds none.
    """
    files = [folder / KEY_FILE, *(sorted(folder.glob(f"{KEY_FILE}{_OF_CLOSED}*")) if every else ())]
    texts = [read_text(file) for file in files if file.exists()]
    return "\n".join(texts) or None


def read_any_keys(text: str) -> list[SignerKey]:
    """Read secret keys of logs, whichever they are; raises InvalidInput."""
    try:
        return [parse_signer(line) for line in text.split()]
    except BadNote as error:
        raise InvalidInput([((KEY_FILE,), str(error))]) from None


def take_key(settings: Settings, origin: str) -> None:
    """Have the log of an origin signed with a new key of the data folder; that of a closed log is kept beside it.

    Raises LogRefused where the keys are set, and are those of the closed log; InvalidInput for what is none.
    """
    if settings.proof.key is not None:
        if any(key.name != origin for key in read_any_keys(settings.proof.key)):
            raise LogRefused(
                f"LEDGER_PROOF_KEY is the key of the closed log, the one behind it is {origin}: leave it out, and a "
                "key is made in the data folder, or set both it and LEDGER_PROOF_ORIGIN to new ones"
            )
        return
    with alone(settings.data_dir):
        file = settings.data_dir / KEY_FILE
        if file.exists() and all(key.name != origin for key in read_any_keys(read_text(file))):
            name = sha256(read_any_keys(read_text(file))[0].name.encode()).hexdigest()[:16]
            file.rename(file.with_name(f"{KEY_FILE}{_OF_CLOSED}{name}"))
        read_or_make(file, lambda: make_key(origin).written() + "\n")
