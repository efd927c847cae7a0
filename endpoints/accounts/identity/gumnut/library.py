"""Which of a user's libraries at Gumnut is synced: pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, TypeGuard

from gumnut.types import LibraryResponse

_MAY_WRITE: Final = frozenset(("owner", "collaborator"))


def choose_library(libraries: Iterable[LibraryResponse], preferred: str | None) -> str | None:
    """Choose the library of a user; None if there is none.

    It is the one they chose for Immich apps, as long as they may add to it: the app cannot do without. Otherwise the
    oldest they own, however many are shared with them or made later, so that it stays the same.
    """
    mine = {library.id: library for library in libraries if library.role in _MAY_WRITE}
    if preferred is not None and preferred in mine:
        return preferred
    owned = [library for library in mine.values() if library.role == "owner"]
    return min(owned, key=lambda library: (library.created_at, library.id)).id if owned else None


def is_library(value: object) -> TypeGuard[LibraryResponse]:
    """Tell whether something received is a library as far as choosing one needs."""
    return isinstance(value, LibraryResponse) and _has(value.id, value.role, value.created_at)


def _has(library_id: object, role: object, created_at: object) -> bool:
    return (
        isinstance(library_id, str)
        and isinstance(role, str)
        and isinstance(created_at, datetime)
        and created_at.tzinfo is not None
    )
