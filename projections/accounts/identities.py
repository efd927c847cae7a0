"""Signing identities in: which user an identity is, and that user's record.

An identity and an e-mail address belong to one user each. The user of an unknown identity follows from it, so two
sign-ins of it at once, or one after a crash, get the same.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from ledger import keys
from ledger.errors import Contended
from ledger.store.interface import Store
from projections.accounts import person
from projections.accounts.identity_records import (
    Fields,
    Held,
    Record,
    address_field,
    held_as,
    holder,
    link_field,
    taken,
)
from projections.accounts.person import EmailTaken, IdentityTaken, NotRegistered, Profile

ATTEMPTS: Final = 16
"""How often a sign-in begins again behind others that change the same user, before it gives up."""


class _Person(NamedTuple):
    """Who signs in, checked and brought into form; what is None or empty is not known."""

    identity: str
    email: str
    name: str
    admin: bool | None
    library: str | None

    def __repr__(self) -> str:
        """Show nothing personal."""
        return f"_Person(identity={self.identity!r})"


class SignedIn(NamedTuple):
    """Who signed in, and whether anything of them is new."""

    profile: Profile
    is_new: bool


class Identities:
    """The users of a ledger as people. All methods raise StoreUnavailable when the store is away.

    Whatever broke off in the middle is completed by the same call made again.
    """

    def __init__(self, store: Store, partitions: int) -> None:
        self._store = store
        self._partitions = partitions

    async def sign_in(
        self,
        issuer: str,
        subject: str,
        *,
        email: str,
        name: str | None = None,
        user: str | None = None,
        library: str | None = None,
        admin: bool | None = None,
        register: bool = True,
        now_us: int,
    ) -> Profile:
        """Find or make the user of an identity, and note what is new of them.

        `user` is who an unknown identity becomes, otherwise it gets a user of its own; `library`, `name` and `admin`
        are kept as they are where not given. If the address is another user's, an unknown identity is refused and a
        known one keeps the address it has. Raises NotRegistered, EmailTaken, InvalidInput; Contended behind many.
        """
        told = await self.sign_in_telling(
            issuer,
            subject,
            email=email,
            name=name,
            user=user,
            library=library,
            admin=admin,
            register=register,
            now_us=now_us,
        )
        return told.profile

    async def sign_in_telling(
        self,
        issuer: str,
        subject: str,
        *,
        email: str,
        name: str | None,
        user: str | None,
        library: str | None,
        admin: bool | None,
        register: bool,
        now_us: int,
    ) -> SignedIn:
        """Sign an identity in as `sign_in` does, and tell whether anything of its user is new."""
        who = _person(issuer, subject, email, name, admin, library)
        wanted = keys.check_name("user", user) if user is not None else person.user_for(issuer, subject)
        for _ in range(ATTEMPTS):
            held = await held_as(self._store, keys.identity_link(who.identity))
            if held is None and not register:
                raise NotRegistered
            before, profile = None, None
            if held is not None:
                before, profile = await self._join_again(held, who, now_us)
            if profile is None:
                owner = wanted if held is None else held.user
                profile = await self._join(owner, who, known=held is not None, now_us=now_us)
            if profile is not None:
                return SignedIn(profile, is_new=profile != before)
        raise Contended("Too many sign-ins of this user at once; try again")

    async def link(
        self, user: str, library: str, issuer: str, subject: str, *, email: str, name: str | None = None, now_us: int
    ) -> Profile:
        """Give an identity to a user who is signed in; raises IdentityTaken, EmailTaken, InvalidInput, Contended."""
        who = _person(issuer, subject, email, name, None, library)
        keys.check_name("user", user)
        for _ in range(ATTEMPTS):
            owner = await holder(self._store, keys.identity_link(who.identity))
            if owner not in (None, user):
                raise IdentityTaken
            profile = await self._join(user, who, known=False, now_us=now_us)
            if profile is not None:
                return profile
        raise Contended("Too many sign-ins of this user at once; try again")

    async def unlink(self, user: str) -> None:
        """Take all identities from a user, who keeps the rest of the record."""
        await self._record(user).clear("links")

    async def profile(self, user: str) -> Profile | None:
        """Tell who a user is; None for one that never signed in with an identity."""
        fields = await self._record(user).read()
        return _profile(user, fields) if "email" in fields else None

    async def since_us(self, user: str) -> int | None:
        """Tell since when a user has been known; None for one that is not."""
        since_ms = (await self._record(user).read()).get("since_ms")
        return None if since_ms is None else int(since_ms) * 1000

    async def user_of(self, issuer: str, subject: str) -> str | None:
        """Tell which user an identity is."""
        return await holder(self._store, keys.identity_link(person.identity_digest(issuer, subject)))

    async def erase(self, user: str) -> bool:
        """Remove all that is known of a user: record, identities and e-mail address; False if nothing was."""
        return await self._record(user).clear("all")

    async def _join_again(self, held: Held, who: _Person, now_us: int) -> tuple[Profile | None, Profile | None]:
        """Complete the record of a user who has this identity and this address already; tells who that was and is.

        None for who they are where that is not so: then `_join` takes both. PERF: almost every sign-in is by somebody
        who has both. Nothing is taken then, so nothing need be noted before it: the record names the same tokens.
        """
        record, email = self._record(held.user), person.email_digest(who.email)
        fields, address = await asyncio.gather(record.read(), held_as(self._store, keys.email(email)))
        before = _profile(held.user, fields) if "email" in fields else None
        if before is None or address is None or address.user != held.user:
            return before, None
        if fields.get(link_field(who.identity)) != taken(held.token) or fields.get(address_field(email)) != taken(
            address.token
        ):
            return before, None
        committed = await record.commit(
            (link_field(who.identity), held.token),
            (address_field(email), address.token),
            _fields(who) | {"email": who.email},
            who.library or held.user,
            now_us,
        )
        if committed is None:
            return before, None
        await record.let_go(committed.leaving)
        return before, _profile(held.user, committed.fields)

    async def _join(self, user: str, who: _Person, *, known: bool, now_us: int) -> Profile | None:
        """Take identity and address for a user and complete the record; None to begin again."""
        record = self._record(user)
        address = address_field(person.email_digest(who.email))
        intent = await record.intend(link_field(who.identity), address)
        has_address = await record.take(intent.address)
        if not has_address and not (known and intent.has_email):
            await record.withdraw(intent.link, intent.address)
            raise EmailTaken
        committed = None
        if await record.take(intent.link):
            fields = _fields(who) | ({"email": who.email} if has_address else {})
            under = intent.address if has_address else None
            committed = await record.commit(intent.link, under, fields, who.library or user, now_us)
        if committed is None or not has_address:
            await record.withdraw(intent.link, intent.address)
        if committed is None:
            return None
        await record.let_go(committed.leaving)
        return _profile(user, committed.fields)

    def _record(self, user: str) -> Record:
        return Record(self._store, keys.partition_of(user, self._partitions), user)


def _person(
    issuer: str, subject: str, email: str, name: str | None, admin: bool | None, library: str | None
) -> _Person:
    if library is not None:
        keys.check_name("library", library)
    digest = person.identity_digest(issuer, subject)
    return _Person(digest, person.clean_email(email), person.clean_name(name), admin, library)


def _fields(who: _Person) -> Fields:
    """Tell what of a record a sign-in sets."""
    fields = {"name": who.name} if who.name else {}
    if who.admin is not None:
        fields["admin"] = "1" if who.admin else "0"
    if who.library is not None:
        fields["library"] = who.library
    return fields


def _profile(user: str, fields: Fields) -> Profile:
    return Profile(user, fields["library"], fields["email"], fields.get("name", ""), fields.get("admin") == "1")
