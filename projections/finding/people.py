"""The user whom an e-mail address belongs to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ledger import keys
from ledger.errors import InvalidInput
from ledger.store.interface import Store
from projections.accounts.identity_records import holder
from projections.accounts.person import clean_email, email_digest

Elsewhere = Callable[[str], Awaitable[str | None]]
"""Tells whose address, in the form it is compared in, this is at another service; raises Unavailable."""


async def user_of_email(store: Store, email: str, elsewhere: Elsewhere | None = None) -> str | None:
    """Tell whose address this is, as the identity records have it, or `elsewhere`; None if it is nobody's.

    Raises InvalidInput for what is none, without repeating it.
    """
    try:
        address = clean_email(email)
    except InvalidInput as error:
        raise InvalidInput([(("email",), what) for _, what in error.problems]) from error
    user = await holder(store, keys.email(email_digest(address)))
    return user if user is not None or elsewhere is None else await elsewhere(address)
