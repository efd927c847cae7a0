"""Identities, e-mail addresses and users: one of each to one user, whatever breaks off and whoever is at it too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import pytest

from ledger import keys
from ledger.errors import InvalidInput
from ledger.store.interface import Arg, Script, Store
from projections.accounts.identities import Identities
from projections.accounts.person import (
    EmailTaken,
    IdentityTaken,
    NotRegistered,
    Profile,
    email_digest,
    identity_digest,
    user_for,
)
from tests.support.ledger.given import NOW
from tests.support.stores.dump import values_of

PARTITIONS: Final = 4
ISSUER: Final = "https://id.example.test"
EMAIL: Final = "ann@example.test"
ANN: Final = user_for(ISSUER, "ann")
BOB: Final = user_for(ISSUER, "bob")


class Stopped(Exception):
    """The process ended here."""


class Stopping:
    """A store whose process ends before its n-th write; `replies_lost` ends it behind that write instead."""

    def __init__(self, store: Store, after: int, *, reply_lost: bool = False) -> None:
        self._store = store
        self._left = after
        self._reply_lost = reply_lost

    async def command(self, *args: Arg, key: bytes) -> Any:
        return await self._store.command(*args, key=key)

    async def script(self, script: Script, names: Sequence[bytes], args: Sequence[Arg]) -> Any:
        self._left -= 1
        if self._left == 0 and self._reply_lost:
            await self._store.script(script, names, args)
        if self._left <= 0:
            raise Stopped
        return await self._store.script(script, names, args)

    async def each_primary(self, *args: Arg) -> list[Any]:
        return await self._store.each_primary(*args)

    async def close(self) -> None:
        raise AssertionError("not the test's to close")


class Meeting(Stopping):
    """A store that is asked by somebody else just before its first write."""

    def __init__(self, store: Store, before: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store, 1000)
        self.writes = 0
        self._before = before

    async def script(self, script: Script, names: Sequence[bytes], args: Sequence[Arg]) -> Any:
        self.writes += 1
        if self.writes == 1:
            await self._before()
        return await super().script(script, names, args)


@pytest.fixture
def identities(store: Store) -> Identities:
    return Identities(store, PARTITIONS)


async def sign_in(identities: Identities, subject: str = "ann", email: str = EMAIL, **more: Any) -> Profile:
    return await identities.sign_in(ISSUER, subject, email=email, **more, now_us=NOW)


async def stored(store: Store, user: str) -> dict[str, str]:
    """Read a user's record without the tokens."""
    name = keys.identity(keys.partition_of(user, PARTITIONS), user)
    flat = [item.decode() for item in await store.command("HGETALL", name, key=name)]
    return {field: value[0] if ":" in field else value for field, value in zip(flat[::2], flat[1::2], strict=True)}


async def check_whole(store: Store, *users: str) -> None:
    """Check that records and what their users hold say the same, that there is nothing else, and nobody half done."""
    held = set()
    for user in users:
        record = await stored(store, user)
        for field, state in record.items():
            kind, _, digest = field.partition(":")
            if digest:
                assert state == "=", (field, state)
                name = keys.email(digest) if kind == "address" else keys.identity_link(digest)
                assert (await store.command("GET", name, key=name)).decode().split(" ")[0] == user
                held.add(name)
        if record:
            held.add(keys.identity(keys.partition_of(user, PARTITIONS), user))
            assert [f for f in record if f.startswith("address:")] == [f"address:{email_digest(record['email'])}"]
    assert set(await values_of(store)) == held


@pytest.mark.each_store
async def test_an_identity_gets_one_user_for_good(store: Store, identities: Identities) -> None:
    first = await sign_in(identities, name="Ann")
    assert first == Profile(ANN, ANN, EMAIL, "Ann", admin=False)
    assert await sign_in(identities) == first
    assert await identities.profile(ANN) == first
    assert await identities.user_of(ISSUER, "ann") == ANN
    assert await stored(store, ANN) == {
        "since_ms": str(NOW // 1000),
        "seen_ms": str(NOW // 1000),
        "library": ANN,
        "name": "Ann",
        "email": EMAIL,
        f"link:{identity_digest(ISSUER, 'ann')}": "=",
        f"address:{email_digest(EMAIL)}": "=",
    }
    await check_whole(store, ANN)


async def test_who_signs_in_again_as_before_is_one_write(store: Store, identities: Identities) -> None:
    first = await sign_in(identities, name="Ann")
    met = Meeting(store, identities_are_left_alone)
    again = Identities(met, PARTITIONS)
    assert await sign_in(again, name="Ann") == first
    assert met.writes == 1
    renamed = await again.sign_in_telling(
        ISSUER, "ann", email=EMAIL, name="Anna", user=None, library=None, admin=None, register=True, now_us=NOW + 10**6
    )
    assert (renamed.profile.name, renamed.is_new) == ("Anna", True)
    assert (await stored(store, ANN))["seen_ms"] == str(NOW // 1000 + 1000)
    await check_whole(store, ANN)


async def identities_are_left_alone() -> None:
    """Do nothing meanwhile."""


@pytest.mark.each_store
@pytest.mark.parametrize("what", ["erased", "erased and back", "unlinked", "given another address"])
async def test_a_sign_in_begins_again_behind_who_changed_its_user(
    store: Store, identities: Identities, what: str
) -> None:
    first = await sign_in(identities, name="Ann")

    async def meanwhile() -> None:
        match what:
            case "erased":
                await identities.erase(ANN)
            case "erased and back":
                await identities.erase(ANN)
                await sign_in(identities, name="Ann")
            case "unlinked":
                await identities.unlink(ANN)
            case _:
                await sign_in(identities, email="new@example.test")

    assert await sign_in(Identities(Meeting(store, meanwhile), PARTITIONS), name="Ann") == first
    assert await identities.user_of(ISSUER, "ann") == ANN
    await check_whole(store, ANN)


async def test_users_and_libraries_come_from_claims_where_there_are_some(identities: Identities) -> None:
    named = await sign_in(identities, user="ann", library="family", admin=True)
    assert named == Profile("ann", "family", EMAIL, "", admin=True)
    assert await sign_in(identities) == named
    assert await sign_in(identities, user="other", library="photos", admin=False) == Profile(
        "ann", "photos", EMAIL, "", admin=False
    )


async def test_claims_that_keys_cannot_carry_are_refused(store: Store, identities: Identities) -> None:
    for more in ({"user": "a b"}, {"library": "{p1}"}, {"email": "a b@c"}, {"email": " "}, {"email": "x" * 255}):
        with pytest.raises(InvalidInput) as refused:
            await sign_in(identities, **more)
        assert [path for path, _ in refused.value.problems] == [tuple(more)]
        assert not any(value in str(refused.value.problems) for value in more.values() if value.strip())
    for subject in ("", "x" * 256, "a\0b", "\ud800"):
        with pytest.raises(InvalidInput):
            await sign_in(identities, subject)
    assert await values_of(store) == {}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Ærøskøbing  Lærke\u00a0Ø\n", "Ærøskøbing Lærke Ø"),
        ("山田 太郎", "山田 太郎"),
        ("Ann 👩\u200d👩\u200d👧", "Ann 👩\u200d👩\u200d👧"),
        ("\u202eevil\x1b[31m\0", "evil[31m"),
        ("x" * 100_000, "x" * 200),
        ("\ud800\t", ""),
        (None, ""),
    ],
)
async def test_names_are_any_printable_text_within_bounds(identities: Identities, given: str | None, kept: str) -> None:
    assert (await sign_in(identities, name=given)).name == kept
    if kept:
        assert (await sign_in(identities, name=" ")).name == kept


async def test_an_unknown_identity_is_not_registered_unless_that_is_allowed(
    store: Store, identities: Identities
) -> None:
    with pytest.raises(NotRegistered, match=r"^OAuth authentication failed$"):
        await sign_in(identities, register=False)
    assert await values_of(store) == {}
    await sign_in(identities)
    assert (await sign_in(identities, register=False)).user == ANN


async def test_an_address_is_one_users_however_it_is_written(store: Store, identities: Identities) -> None:
    await sign_in(identities, email=" Ann@Example.TEST ")
    with pytest.raises(EmailTaken, match=r"^OAuth authentication failed$"):
        await sign_in(identities, "bob")
    assert await identities.profile(BOB) is None
    assert await identities.user_of(ISSUER, "bob") is None
    await check_whole(store, ANN)


@pytest.mark.each_store
async def test_a_new_address_replaces_the_old_one_which_is_then_free(store: Store, identities: Identities) -> None:
    await sign_in(identities)
    assert (await sign_in(identities, email="new@example.test")).email == "new@example.test"
    assert (await sign_in(identities, "bob")).email == EMAIL
    await check_whole(store, ANN, BOB)


async def test_a_new_address_that_is_another_users_changes_nothing(store: Store, identities: Identities) -> None:
    await sign_in(identities)
    await sign_in(identities, "bob", "bob@example.test")
    assert await sign_in(identities, "bob", EMAIL, name="Bob") == Profile(
        BOB, BOB, "bob@example.test", "Bob", admin=False
    )
    assert (await sign_in(identities)).email == EMAIL
    await check_whole(store, ANN, BOB)


async def test_an_old_address_that_became_another_users_is_not_taken_from_them(
    store: Store, identities: Identities
) -> None:
    await sign_in(identities)
    name = keys.email(email_digest(EMAIL))
    await store.command("SET", name, f"{BOB} token", key=name)
    await sign_in(identities, email="new@example.test")
    assert await store.command("GET", name, key=name) == f"{BOB} token".encode()


@pytest.mark.each_store
async def test_identities_are_given_to_a_user_and_taken_back(store: Store, identities: Identities) -> None:
    linked = await identities.link("ann", "photos", ISSUER, "work", email="work@example.test", now_us=NOW)
    assert linked == Profile("ann", "photos", "work@example.test", "", admin=False)
    assert await identities.link("ann", "photos", ISSUER, "home", email=EMAIL, name="Ann", now_us=NOW) == Profile(
        "ann", "photos", EMAIL, "Ann", admin=False
    )
    assert {(await sign_in(identities, subject)).user for subject in ("work", "home")} == {"ann"}
    await check_whole(store, "ann")
    await identities.unlink("ann")
    await check_whole(store, "ann")
    assert await identities.user_of(ISSUER, "work") is None
    assert (await identities.profile("ann")) == Profile("ann", "photos", EMAIL, "Ann", admin=False)
    with pytest.raises(EmailTaken):
        await sign_in(identities, "home")
    assert (await sign_in(identities, "work", "work@example.test")).user == user_for(ISSUER, "work")
    await check_whole(store, "ann", user_for(ISSUER, "work"))


async def test_nobody_gets_an_identity_or_an_address_of_another(store: Store, identities: Identities) -> None:
    await sign_in(identities)
    with pytest.raises(IdentityTaken):
        await identities.link("bob", "photos", ISSUER, "ann", email="bob@example.test", now_us=NOW)
    with pytest.raises(EmailTaken):
        await identities.link("bob", "photos", ISSUER, "bob", email=EMAIL, now_us=NOW)
    await check_whole(store, ANN)


@pytest.mark.each_store
async def test_what_is_known_of_a_user_can_be_erased(store: Store, identities: Identities) -> None:
    await sign_in(identities, name="Ann")
    await identities.link(ANN, ANN, ISSUER, "work", email="work@example.test", now_us=NOW)
    assert await identities.erase(ANN)
    assert await values_of(store) == {}
    assert not await identities.erase(ANN)
    assert (await sign_in(identities, "bob")).user == BOB


async def _change_address(identities: Identities) -> None:
    await sign_in(identities, email="new@example.test")


async def _erase(identities: Identities) -> None:
    await identities.erase(ANN)


async def _unlink(identities: Identities) -> None:
    await identities.unlink(ANN)


async def _link(identities: Identities) -> None:
    await identities.link(ANN, "photos", ISSUER, "work", email="work@example.test", now_us=NOW)


async def _keep_address(identities: Identities) -> None:
    await sign_in(identities, email="bob@example.test", name="Ann B.")


async def _register(identities: Identities) -> None:
    await sign_in(identities, "new", "new@example.test")


@pytest.mark.parametrize("reply_lost", [False, True])
@pytest.mark.parametrize("change", [_register, _change_address, _keep_address, _link, _unlink, _erase])
async def test_what_broke_off_anywhere_is_completed_by_doing_it_again(
    store: Store, change: Callable[[Identities], Awaitable[None]], reply_lost: bool
) -> None:
    users = ANN, BOB, user_for(ISSUER, "new")
    outcomes, stops = [], 0
    for step in range(1, 20):
        for name in await values_of(store):
            await store.command("DEL", name, key=name)
        whole = Identities(store, PARTITIONS)
        await sign_in(whole)
        await sign_in(whole, "bob", "bob@example.test")
        try:
            await change(Identities(Stopping(store, step, reply_lost=reply_lost), PARTITIONS))
        except Stopped:
            stops += 1
            await change(whole)
        await check_whole(store, *users)
        outcomes.append([await stored(store, user) for user in users])
    assert 3 <= stops < 15
    assert all(outcome == outcomes[-1] for outcome in outcomes)


@pytest.mark.parametrize("reply_lost", [False, True])
@pytest.mark.parametrize("change", [_register, _change_address, _unlink, _erase])
async def test_whatever_broke_off_the_user_can_sign_in(
    store: Store, change: Callable[[Identities], Awaitable[None]], reply_lost: bool
) -> None:
    for step in range(1, 10):
        whole = Identities(store, PARTITIONS)
        first = await sign_in(whole)
        with suppress(Stopped):
            await change(Identities(Stopping(store, step, reply_lost=reply_lost), PARTITIONS))
        assert await sign_in(whole) == first
        await sign_in(whole, "new", "new@example.test")
        await check_whole(store, ANN, user_for(ISSUER, "new"))
        await whole.erase(ANN)
        await whole.erase(user_for(ISSUER, "new"))


@pytest.mark.parametrize("reply_lost", [False, True])
async def test_a_half_registered_user_can_be_erased(store: Store, reply_lost: bool) -> None:
    for step in range(1, 5):
        with pytest.raises(Stopped):
            await sign_in(Identities(Stopping(store, step, reply_lost=reply_lost), PARTITIONS))
        erased = await Identities(store, PARTITIONS).erase(ANN)
        assert erased == (step > 1 or reply_lost)
        assert await values_of(store) == {}


async def test_an_identity_that_comes_twice_at_once_gets_one_user(real_store: Store) -> None:
    for attempt in range(20):
        subject = f"s{attempt}"
        workers = [Identities(real_store, PARTITIONS) for _ in range(4)]
        profiles = await asyncio.gather(*(sign_in(worker, subject) for worker in workers))
        assert {profile.user for profile in profiles} == {user_for(ISSUER, subject)}
        await check_whole(real_store, profiles[0].user)
        await workers[0].erase(profiles[0].user)


async def test_an_identity_whose_claims_change_under_it_still_gets_one_user(real_store: Store) -> None:
    for attempt in range(20):
        users = [f"named-{attempt}-{i}" for i in range(4)]
        results = await asyncio.gather(
            *(sign_in(Identities(real_store, PARTITIONS), email=f"{user}@example.test", user=user) for user in users),
            return_exceptions=True,
        )
        profiles = [result for result in results if isinstance(result, Profile)]
        assert all(isinstance(result, Profile | EmailTaken) for result in results)
        assert len({profile.user for profile in profiles}) == 1
        await check_whole(real_store, *users)
        await Identities(real_store, PARTITIONS).erase(profiles[0].user)


async def test_of_two_identities_with_one_address_exactly_one_is_registered(real_store: Store) -> None:
    for attempt in range(20):
        subjects = [f"s{attempt}-{i}" for i in range(4)]
        results = await asyncio.gather(
            *(sign_in(Identities(real_store, PARTITIONS), subject) for subject in subjects), return_exceptions=True
        )
        profiles = [result for result in results if isinstance(result, Profile)]
        assert len(profiles) == 1
        assert sum(isinstance(result, EmailTaken) for result in results) == 3
        await check_whole(real_store, profiles[0].user, *(user_for(ISSUER, subject) for subject in subjects))
        await Identities(real_store, PARTITIONS).erase(profiles[0].user)


@pytest.mark.each_store
async def test_users_who_do_everything_at_once_end_up_whole(real_store: Store) -> None:
    """Whoever signs in with whatever address, links, is unlinked and erased, at once: nothing is left half done."""
    choose = random.Random(3)
    users = [user_for(ISSUER, f"s{i}") for i in range(3)]
    addresses = [f"a{i}@example.test" for i in range(4)]

    async def one() -> None:
        identities = Identities(real_store, PARTITIONS)
        user, subject, address = choose.choice(users), f"s{choose.randrange(3)}", choose.choice(addresses)
        match choose.randrange(8):
            case 0:
                await identities.erase(user)
            case 1:
                await identities.unlink(user)
            case 2:
                await identities.link(user, user, ISSUER, subject, email=address, now_us=NOW)
            case _:
                await sign_in(identities, subject, address)

    for _ in range(60):
        results = await asyncio.gather(*(one() for _ in range(6)), return_exceptions=True)
        errors = [result for result in results if result is not None]
        assert not [error for error in errors if not isinstance(error, EmailTaken | IdentityTaken)]
        await check_whole(real_store, *users)
