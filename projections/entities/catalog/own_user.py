"""A user whom only a session tells of: rows of their own, and the names that come from their identity record.

Names and e-mail addresses are kept in the identity record and nowhere else, so these rows are stored without them. They
get them when they are read, and who was erased has none. `profileChangedAt` is when such a row was made, or made anew
because the record changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from ledger.positions import iso_from_us, us_from_iso
from projections.accounts.person import Profile, shown_email, shown_name
from projections.entities.entity import Entity, entity_of
from projections.entities.lines import as_type, payload_of
from projections.entities.payloads.users import AuthUserV1, UserV1
from projections.entities.registry import row

Profiles = Callable[[str], Awaitable[Profile | None]]

OWN_TYPES: Final = ("AuthUserV1", "UserV1")
"""The entity types that have a row of each user who signs in."""
_PRINTED_US: Final = 1000
"""To which part of a second times are printed in these rows."""
_NAMELESS: Final = b'"name":"","email":""'


def own_rows(user: str, now_us: int) -> tuple[Entity, Entity]:
    """Make the rows of a user of whom only the id is known; raises InvalidInput for an id that no row can have."""
    known: dict[str, Any] = {
        "id": user,
        "name": "",
        "email": "",
        "deleted_at": None,
        "has_profile_image": False,
        "profile_changed_at": _printed(now_us),
    }
    auth_user = AuthUserV1(
        **known,
        is_admin=False,
        oauth_id="",
        pin_code=None,
        storage_label=None,
        quota_size_in_bytes=None,
        quota_usage_in_bytes=0,
    )
    return entity_of(row("AuthUserV1"), auth_user), entity_of(row("UserV1"), UserV1(**known))


def made_anew(entity_type: str, line: bytes, now_us: int) -> Entity:
    """Make a stored row of a user anew, with a later time than it had: one that is equal would not be sent again."""
    data = payload_of(row(entity_type), line)
    at_us = max(now_us, us_from_iso(data.profile_changed_at) + _PRINTED_US)
    return entity_of(row(entity_type), replace(data, profile_changed_at=_printed(at_us)))


def _printed(at_us: int) -> str:
    return f"{iso_from_us(at_us)[:-4]}Z"


def is_nameless(line: bytes) -> bool:
    """Tell whether a stored row of a user says neither name nor e-mail address."""
    return _NAMELESS in line


async def named(entity_type: str, lines: Sequence[bytes], profiles: Profiles) -> list[bytes]:
    """Give the users among these lines who have no names those of their identity records, or else harmless ones."""
    if entity_type not in OWN_TYPES or not any(map(is_nameless, lines)):
        return list(lines)
    return [await _named(entity_type, line, profiles) if is_nameless(line) else line for line in lines]


async def _named(entity_type: str, line: bytes, profiles: Profiles) -> bytes:
    data = payload_of(row(entity_type), line)
    profile = await profiles(data.id)
    data = replace(data, name=shown_name(data.id, profile), email=shown_email(data.id, profile))
    if isinstance(data, AuthUserV1) and profile is not None:
        data = replace(data, is_admin=profile.admin)
    return as_type(line, entity_type, data)
