"""Which ledgers a data folder knows: a note beside the key that signs their tokens, by the address of each store.

An empty store is the beginning of a ledger or the loss of one. To take a loss for a beginning signs every device out:
so where one was known none begins by itself, nor where the key comes from elsewhere and may have been in use for long.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec

from ledger.errors import InvalidInput, NoLedger
from ops.opening.key_files import alone, read_text, replace
from ops.settings.settings import Settings, without_password

log = logging.getLogger("syncledger.known")

FILE: Final = "ledgers.json"
EMBEDDED: Final = "embedded"
_ON_PURPOSE: Final = "to begin a new one on purpose, where every device must sign in again: syncledger store begin"
_RESTORE: Final = "bring back its server or volume, or restore it with syncledger restore"


class KnownLedgers:
    """The note of one data folder, as seen from one store."""

    def __init__(self, settings: Settings) -> None:
        """Take where the folder and the store are; a note that cannot be read raises InvalidInput."""
        self._folder = settings.data_dir
        self._address = EMBEDDED if settings.redis_url is None else without_password(settings.redis_url)
        self._key_is_elsewhere = settings.token_key is not None
        self._known = self._read()

    @property
    def here(self) -> str:
        """The id of the ledger that this store held last; '' if none is known."""
        return self._known.get(self._address, "")

    @property
    def newest(self) -> str:
        """The id of a ledger that this folder knows, best this store's; '' if it knows none."""
        return self.here or next(reversed(self._known.values()), "")

    def why_not_begin(self) -> str:
        """Tell why no ledger may begin here without being asked to, and what to do; '' if it may."""
        if self.newest:
            return f"ledger {self.newest} is known in {self._folder}: {_RESTORE}, or, {_ON_PURPOSE} --anew"
        if self._key_is_elsewhere:
            return (
                "the key of LEDGER_TOKEN_KEY may have signed tokens of one that was lost: if so, "
                f"{_RESTORE}; if not, or {_ON_PURPOSE}"
            )
        return ""

    def check(self, found: str) -> None:
        """Check that a store's ledger is the one it held before; raises NoLedger."""
        if self.here not in ("", found):
            raise NoLedger(
                f"This store holds ledger {found}, and held {self.here} before: {_RESTORE}; if this is the one to use "
                f'from now on, remove "{self._address}" from {self._folder / FILE}'
            )

    def note(self, found: str, *, make: bool) -> None:
        """Note which ledger this store holds; a folder that is not there is only made for who is to `make` it."""
        if self.here == found or not (make or self._folder.exists()):
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with alone(self._folder):
                known = {name: known for name, known in self._read().items() if name != self._address}
                known[self._address] = found
                replace(self._folder / FILE, msgspec.json.format(msgspec.json.encode(known)).decode())
        except OSError as error:
            log.warning("a loss of the ledger would not be told from a beginning, it cannot be noted: %s", error)
            return
        self._known = known

    def _read(self) -> dict[str, str]:
        file: Path = self._folder / FILE
        try:
            return msgspec.json.decode(read_text(file), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (ValueError, msgspec.DecodeError):
            raise InvalidInput([((str(file),), "is no note of known ledgers: remove it")]) from None
