"""The users that rows of a test refer to, where it is not about users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import Entity, entity_of
from projections.entities.lines import payload_of
from projections.entities.payloads.users import UserV1
from projections.entities.registry import row


async def let_owners_be_there(catalog: Catalog, library: str, entities: Sequence[Entity]) -> None:
    """Write the users these refer to and do not bring along, where a library has no row of them."""
    own = {entity.id for entity in entities if entity.row.form is not None and entity.row.form.table == "user"}
    users = dict.fromkeys(user for entity in entities for user in _users_of(entity) if user not in own)
    missing = [user for user in users if await catalog.entity(library, "UserV1", user) is None]
    await catalog.put(library, [entity_of(row("UserV1"), _user(user)) for user in missing])


def _users_of(entity: Entity) -> Iterable[str]:
    return (ref.partition("|")[2] for ref in entity.refs if ref.startswith("user|"))


def _user(user: str) -> UserV1:
    return UserV1(user, user, f"{user}@example.test", None, False, "2024-01-01T00:00:00.000Z")


async def living_but_owners(catalog: Catalog, library: str) -> dict[str, int]:
    """Count the living rows of each type, without the users that were only written to be there."""
    counts = await catalog.count(library)
    pages = [page async for page in catalog.pages(library, "UserV1", None, 2**52, 1000)]
    users = [payload_of(row("UserV1"), line) for page in pages for line in page.lines]
    counts["UserV1"] -= sum(user == _user(user.id) for user in users)
    return {name: count for name, count in counts.items() if count}
