"""Credentials of sessions: only ever encrypted, only while the session lives, never an old one over a newer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import pytest

from ledger import keys
from ledger.commands import CreateSession, EndSession
from ledger.errors import CorruptLedger, InvalidInput
from ledger.log.service import Ledger
from ledger.store.interface import Arg, Script, Store
from projections.accounts.credentials import Cipher, Credentials, CredentialUnreadable
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.stores.dump import bytes_of, values_of

PARTITIONS: Final = 4
SID: Final = sid_of("first")
OLD_KEY: Final = Cipher.make_key()
NEW_KEY: Final = Cipher.make_key()
CREDENTIAL: Final = "header.payload.signature"


class Device:
    """A user with sessions and what is kept for them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ledger = Ledger(store, PARTITIONS, Clock())

    def credentials(self, *cipher_keys: str) -> Credentials:
        return Credentials(self.store, PARTITIONS, Cipher.from_keys(cipher_keys or [OLD_KEY]))

    async def sign_in(self, name: str = "first", user: str = "ann") -> str:
        await self.ledger.execute(user, sid_of(name), CreateSession(user, "photos"))
        return sid_of(name)

    async def raw(self, sid: str = SID, user: str = "ann") -> bytes:
        name = keys.credentials(keys.partition_of(user, PARTITIONS))
        ciphertext: bytes = await self.store.command("HGET", name, sid, key=name)
        return ciphertext

    async def put_raw(self, sid: str, ciphertext: bytes, user: str = "ann") -> None:
        name = keys.credentials(keys.partition_of(user, PARTITIONS))
        await self.store.command("HSET", name, sid, ciphertext, key=name)


class Between:
    """A store on which something else happens before the next script that is run."""

    def __init__(self, store: Store, happens: Any) -> None:
        self._store = store
        self._happens = happens

    async def command(self, *args: Arg, key: bytes) -> Any:
        return await self._store.command(*args, key=key)

    async def script(self, script: Script, names: Sequence[bytes], args: Sequence[Arg]) -> Any:
        happens, self._happens = self._happens, None
        if happens:
            await happens
        return await self._store.script(script, names, args)

    async def each_primary(self, *args: Arg) -> list[Any]:
        return await self._store.each_primary(*args)

    async def close(self) -> None:
        raise AssertionError("not the test's to close")


@pytest.fixture
def device(store: Store) -> Device:
    return Device(store)


def test_keys_that_are_none_are_refused_without_being_told() -> None:
    assert len(Cipher.make_key()) == 44
    assert Cipher.make_key() != Cipher.make_key()
    for texts, said in (
        ([], "there must be at least one key"),
        ([OLD_KEY, "secret"], "key 2 of 2 is not 32 bytes in URL-safe base64"),
        ([OLD_KEY[:-4]], "key 1 of 1 is not 32 bytes in URL-safe base64"),
        (["sécret"], "key 1 of 1 is not 32 bytes in URL-safe base64"),
    ):
        with pytest.raises(ValueError, match=f"^{said}$"):
            Cipher.from_keys(texts)
    assert OLD_KEY not in repr(Cipher.from_keys([OLD_KEY]))


async def test_a_credential_is_kept_encrypted_for_a_session_that_lives(device: Device) -> None:
    credentials = device.credentials()
    assert not await credentials.hold("ann", SID, CREDENTIAL)
    assert await values_of(device.store) == {}
    await device.sign_in()
    assert await credentials.read("ann", SID) is None
    assert await credentials.hold("ann", SID, CREDENTIAL)
    assert await credentials.read("ann", SID) == CREDENTIAL
    assert await credentials.hold("ann", SID, "newer")
    assert await credentials.read("ann", SID) == "newer"
    assert await credentials.read("ann", sid_of("other")) is None
    everything = b"".join(bytes_of(value) for value in (await values_of(device.store)).values())
    assert b"newer" not in everything
    assert SID.encode() not in await device.raw()


@pytest.mark.each_store
async def test_it_goes_with_its_session_and_never_comes_back(device: Device) -> None:
    credentials = device.credentials()
    await device.sign_in()
    await credentials.hold("ann", SID, CREDENTIAL)
    await device.ledger.execute("ann", SID, EndSession("logout"))
    assert await credentials.read("ann", SID) is None
    assert not await credentials.hold("ann", SID, CREDENTIAL)
    assert not await credentials.replace("ann", SID, CREDENTIAL, "newer")
    assert keys.credentials(keys.partition_of("ann", PARTITIONS)) not in await values_of(device.store)


@pytest.mark.parametrize("credential", ["", "x" * (16 * 1024 + 1), "a\nb", "\ud800", "é"])
async def test_what_is_no_credential_is_refused(device: Device, credential: str) -> None:
    await device.sign_in()
    with pytest.raises(InvalidInput):
        await device.credentials().hold("ann", SID, credential)
    assert await device.credentials().read("ann", SID) is None
    assert await device.credentials().hold("ann", SID, "x" * 16 * 1024)


@pytest.mark.each_store
async def test_only_the_credential_it_was_made_from_is_replaced(device: Device) -> None:
    credentials = device.credentials()
    await device.sign_in()
    assert not await credentials.replace("ann", SID, CREDENTIAL, "newer")
    await credentials.hold("ann", SID, CREDENTIAL)
    assert await credentials.replace("ann", SID, CREDENTIAL, "newer")
    assert not await credentials.replace("ann", SID, CREDENTIAL, "late")
    assert await credentials.read("ann", SID) == "newer"


async def test_of_many_replacements_of_one_credential_one_is_taken(device: Device) -> None:
    credentials = device.credentials()
    await device.sign_in()
    await credentials.hold("ann", SID, CREDENTIAL)
    taken = await asyncio.gather(*(credentials.replace("ann", SID, CREDENTIAL, f"newer-{i}") for i in range(10)))
    assert sum(taken) == 1
    assert await credentials.read("ann", SID) == f"newer-{taken.index(True)}"


async def test_a_ciphertext_of_another_session_is_not_taken_for_its_own(device: Device) -> None:
    credentials = device.credentials()
    await device.sign_in()
    other = await device.sign_in("other")
    await credentials.hold("ann", other, "others")
    await device.put_raw(SID, await device.raw(other))
    with pytest.raises(CorruptLedger, match="for another session"):
        await credentials.read("ann", SID)
    with pytest.raises(CorruptLedger):
        await credentials.replace("ann", SID, "others", "newer")


async def test_without_its_key_or_changed_it_says_what_to_do(device: Device) -> None:
    await device.sign_in()
    await device.credentials(OLD_KEY).hold("ann", SID, CREDENTIAL)
    for damaged in (await device.raw(), (await device.raw())[:-3], b"", b"\xff"):
        await device.put_raw(SID, damaged)
        with pytest.raises(CredentialUnreadable, match="LEDGER_CREDENTIAL_KEY") as error:
            await device.credentials(NEW_KEY).read("ann", SID)
        assert CREDENTIAL not in str(error.value)
        assert error.value.__suppress_context__


@pytest.mark.each_store
async def test_rekeying_encrypts_all_with_the_newest_key(device: Device) -> None:
    old = device.credentials(OLD_KEY)
    sessions = [(f"u{i % 7}", await device.sign_in(f"s{i}", f"u{i % 7}")) for i in range(30)]
    for user, sid in sessions:
        await old.hold(user, sid, f"credential-{sid}")
    both = device.credentials(NEW_KEY, OLD_KEY)
    seen: list[int] = []
    assert await both.rekey(seen.append) == 30
    assert seen == sorted(seen)
    assert seen[-1] == 30
    assert await both.rekey() == 0
    new = device.credentials(NEW_KEY)
    for user, sid in sessions:
        assert await new.read(user, sid) == f"credential-{sid}"


async def test_rekeying_tells_what_it_cannot_read_once_the_rest_is_done(device: Device) -> None:
    lost = device.credentials(Cipher.make_key())
    for name in ("first", "second"):
        await lost.hold("ann", await device.sign_in(name), CREDENTIAL)
    third = await device.sign_in("third")
    await device.credentials(OLD_KEY).hold("ann", third, CREDENTIAL)
    with pytest.raises(CredentialUnreadable, match="2 stored credentials cannot"):
        await device.credentials(NEW_KEY, OLD_KEY).rekey()
    assert await device.credentials(NEW_KEY).read("ann", third) == CREDENTIAL


async def test_rekeying_loses_no_credential_that_came_meanwhile(device: Device) -> None:
    await device.sign_in()
    old = device.credentials(OLD_KEY)
    await old.hold("ann", SID, CREDENTIAL)
    cipher = Cipher.from_keys([NEW_KEY, OLD_KEY])
    racing = Credentials(Between(device.store, old.replace("ann", SID, CREDENTIAL, "newer")), PARTITIONS, cipher)
    assert await racing.rekey() == 1
    assert await device.credentials(NEW_KEY).read("ann", SID) == "newer"


async def test_a_replacement_is_not_lost_to_rekeying(device: Device) -> None:
    await device.sign_in()
    await device.credentials(OLD_KEY).hold("ann", SID, CREDENTIAL)
    rekeying = device.credentials(NEW_KEY, OLD_KEY).rekey()
    racing = Credentials(Between(device.store, rekeying), PARTITIONS, Cipher.from_keys([NEW_KEY, OLD_KEY]))
    assert await racing.replace("ann", SID, CREDENTIAL, "newer")
    assert await device.credentials(NEW_KEY).read("ann", SID) == "newer"


@pytest.mark.parametrize("rekeying", [False, True])
async def test_a_session_that_ends_meanwhile_keeps_no_credential(device: Device, rekeying: bool) -> None:
    await device.sign_in()
    await device.credentials().hold("ann", SID, CREDENTIAL)
    ending = device.ledger.execute("ann", SID, EndSession("logout"))
    racing = Credentials(Between(device.store, ending), PARTITIONS, Cipher.from_keys([NEW_KEY, OLD_KEY]))
    if rekeying:
        assert await racing.rekey() == 0
    else:
        assert not await racing.replace("ann", SID, CREDENTIAL, "newer")
    assert keys.credentials(keys.partition_of("ann", PARTITIONS)) not in await values_of(device.store)
