"""The user whom an e-mail address belongs to."""

from __future__ import annotations

from ledger import keys
from ledger.errors import InvalidInput
from ledger.store.interface import Store
from projections.accounts.identity_records import holder
from projections.accounts.person import clean_email, email_digest


async def user_of_email(store: Store, email: str) -> str | None:
    """Tell whose address this is, as the identity records have it; None if it is nobody's.

    Raises InvalidInput for what is none, without repeating it.
    """
    try:
        digest = email_digest(clean_email(email))
    except InvalidInput as error:
        raise InvalidInput([(("email",), what) for _, what in error.problems]) from error
    return await holder(store, keys.email(digest))
