"""Opening what settings name: the store, on it the ledger and what lies beside it, and the keys of both."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from ledger import keys
from ledger.clocks.steady import SteadyClock
from ledger.errors import InvalidInput, LayoutError, LedgerGone, NoLedger
from ledger.figures.of_log import LogFigures
from ledger.figures.of_store import StoreFigures
from ledger.log.formats import Formats
from ledger.log.presence import Presence
from ledger.log.replicas import Replicas, connected_replicas, promise_text
from ledger.log.service import Ledger
from ledger.log.store_check import StorePromise, open_layout, read_id, read_promise
from ledger.store.interface import Store
from ops.embedded.files import check_begun
from ops.embedded.server import embedded_server
from ops.opening.key_files import FileSource, read_or_make
from ops.opening.known_ledgers import KnownLedgers
from ops.opening.known_nodes import NotedNodes
from ops.opening.store import check_permissions, connect
from ops.settings.parsers import fernet_keys
from ops.settings.settings import Settings
from projections.accounts.api_keys import ApiKeys
from projections.accounts.credentials import Cipher, Credentials
from projections.accounts.identities import Identities
from projections.accounts.tokens import Keyring, make_key, read_keyring
from projections.accounts.user_keys import UserKeys
from projections.archive.catalog import Archive, check_given
from projections.checking.mending import Mending
from projections.entities.catalog.catalog import Catalog
from projections.history.event_pages import EventPages

CREDENTIAL_KEY_FILE = "credential-key"
TOKEN_KEY_FILE = "token-key.json"  # noqa: S105 - a file's name
SECOND_US = 1_000_000


class Opened(msgspec.Struct, frozen=True):
    """A ledger with all that lies beside it, on one store; `archive` where there is one."""

    store: Store
    ledger: Ledger
    catalog: Catalog
    api_keys: ApiKeys
    identities: Identities
    user_keys: UserKeys
    formats: Formats
    promise: StorePromise
    presence: Presence
    clock: SteadyClock
    archive: Archive | None = None
    replicas: Replicas | None = None

    @property
    def past(self) -> EventPages:
        """All that happened, in the store and in the archive."""
        return EventPages(self.store, self.archive)

    async def check_archive(self) -> None:
        """See that the archive is given, where there is one; raises ArchiveNotGiven."""
        await check_given(self.store, self.ledger.partitions, self.archive)

    async def close(self) -> None:
        """Close all connections."""
        if self.replicas is not None:
            await self.replicas.close()
        await self.store.close()


def now_us() -> int:
    """Tell the time in µs since 1970 UTC."""
    return time.time_ns() // 1000


async def open_ledger(store: Store, settings: Settings, *, begin: bool) -> tuple[int, str]:
    """Open the ledger of a store and return its partition count and id; `begin` one where nothing speaks against it.

    Raises NoLedger where there is none, or another one than was there before; LayoutError, StoreUnavailable.
    """
    known = KnownLedgers(settings)
    why_not = known.why_not_begin()  # asked first: somebody else may begin one meanwhile
    try:
        partitions = await open_layout(store, settings.partitions, now_us(), begin=begin and not why_not)
    except NoLedger as error:
        raise NoLedger(f"{error}: {why_not or 'syncledger serve begins one, or name another store'}") from None
    found = await read_id(store)
    known.check(found)
    known.note(found, make=begin and settings.token_key is None)
    return partitions, found


async def begin_on_purpose(store: Store, settings: Settings, *, anew: bool) -> str:
    """Begin a ledger in an empty store, `anew` also where one was known, and return its id; raises NoLedger."""
    known = KnownLedgers(settings)
    if await store.command("EXISTS", keys.meta(), key=keys.meta()):
        raise NoLedger(f"There is a ledger in this store already, or what is left of one: {await read_id(store)}")
    if known.newest and not anew:
        raise NoLedger(f"There is no ledger in this store: {known.why_not_begin()}")
    await open_layout(store, settings.partitions, now_us())
    found = await read_id(store)
    known.note(found, make=settings.token_key is None)
    return found


async def begin_ledger(url: str, settings: Settings) -> str:
    """Open the ledger that is to be served, or begin it, and return its id; raises what `open_ledger` does."""
    await check_permissions(url, settings)
    store = await connect(url, settings)
    try:
        return (await open_ledger(store, settings, begin=True))[1]
    finally:
        await store.close()


async def open_all(
    url: str,
    settings: Settings,
    *,
    begin: bool = False,
    serving: str = "",
    figures: tuple[StoreFigures, LogFigures] | None = None,
) -> Opened:
    """Open the ledger at a store's URL; raises NoLedger, LayoutError, StoreUnavailable.

    `begin` one where there is none. `serving`: the id of the ledger that is being served; also where it is gone, for
    then its devices must be told to try again. `figures`: where links and ledger are counted.
    """
    of_store, of_log = figures or (None, None)
    store = await connect(url, settings, of_store)
    replicas: Replicas | None = None
    try:
        clock, presence = SteadyClock(store), Presence(store, serving)
        await clock.look()
        if not serving or await _is_there(presence):
            partitions, presence.ledger_id = await open_ledger(store, settings, begin=begin)
        else:
            partitions = settings.partitions
        formats = Formats(store)
        await formats.running(clock())
        promise = await read_promise(store)
        if settings.durability == "fsync" and promise.fsync != "always":
            raise LayoutError(
                f"LEDGER_DURABILITY=fsync needs appendonly yes and appendfsync always; the server has {promise.fsync}"
            )
        if settings.durability == "replica":
            replicas = await Replicas.open(
                url,
                settings.replicas,
                wait_s=settings.replica_timeout_s,
                timeout_s=settings.reply_timeout_s,
                known=NotedNodes.of(settings),
            )
        archive = None if settings.archive is None else Archive(store, settings.archive.open())
        user_keys = open_user_keys(store, settings)
    except BaseException:
        await store.close()
        raise
    identities = Identities(store, partitions)
    grace_us = int(settings.token_grace_s * SECOND_US)
    return Opened(
        store=store,
        ledger=Ledger(
            store,
            partitions,
            clock,
            token_grace_us=grace_us,
            replicas=replicas,
            user_keys=user_keys,
            mender=Mending(store, archive),
            present=presence.check,
            most_sessions=settings.max_sessions,
            figures=of_log,
        ),
        catalog=Catalog(store, profiles=identities.profile, replicas=replicas),
        api_keys=ApiKeys(store, clock),
        identities=identities,
        user_keys=user_keys,
        formats=formats,
        promise=promise,
        presence=presence,
        clock=clock,
        archive=archive,
        replicas=replicas,
    )


async def _is_there(presence: Presence) -> bool:
    """Tell whether a ledger is there, which the log is told of."""
    try:
        await presence.check()
    except LedgerGone:
        return False
    return True


@asynccontextmanager
async def opened(settings: Settings, *, begin: bool = False) -> AsyncIterator[Opened]:
    """Open the ledger that settings name, for one command: the embedded server is joined, or started and stopped.

    A data folder or store without one is an error, unless the command is one to `begin` with: else a mistyped folder
    would be made, and found to be in order. Raises EmbeddedServerError, and what `open_all` does.
    """
    if settings.redis_url is not None:
        found = await open_all(settings.redis_url, settings, begin=begin)
        try:
            yield found
        finally:
            await found.close()
        return
    if not begin:
        check_begun(settings.data_dir)
    with embedded_server(settings.data_dir) as url:
        found = await open_all(url, settings, begin=begin)
        try:
            yield found
        finally:
            await found.close()


async def waiting_text(found: Opened, settings: Settings) -> str:
    """Say what waiting for replicas adds to what the store promises; nothing where none are waited for."""
    if found.replicas is None:
        return ""
    return f"; {promise_text(settings.replicas, await connected_replicas(found.store))}"


def keyring_source(settings: Settings) -> Callable[[], Keyring]:
    """Give the keys that sign tokens, whenever asked.

    A file, of the settings or in the data folder, where one is made on first use, is read again when it has changed, so
    keys are rotated without a restart. Raises InvalidInput for keys that cannot be read.
    """
    file = settings.token_key_file or settings.data_dir / TOKEN_KEY_FILE
    given = settings.token_key is not None
    try:
        if settings.token_key is not None and settings.token_key_file is None:
            keyring = read_keyring(settings.token_key)
            return lambda: keyring
        if not given:
            read_or_make(file, make_key)
        return FileSource(file, read_keyring)
    except ValueError as error:
        raise InvalidInput([(("LEDGER_TOKEN_KEY" if given else str(file),), str(error))]) from None


def open_user_keys(store: Store, settings: Settings) -> UserKeys:
    """Give access to the keys of users' personal texts, which raises InvalidInput for what cannot be used."""
    return UserKeys(store, settings.user_keys_place.open, lambda: credential_cipher(settings))


def open_credentials(found: Opened, settings: Settings) -> Credentials:
    """Give access to what identity providers entrust; raises InvalidInput for keys that cannot be read."""
    return Credentials(found.store, found.ledger.partitions, credential_cipher(settings))


def credential_cipher(settings: Settings) -> Cipher:
    """Take the keys of the settings, or those in the data folder, where one is made on first use."""
    if settings.credential_keys:
        return Cipher.from_keys(settings.credential_keys)
    file = settings.data_dir / CREDENTIAL_KEY_FILE
    try:
        return Cipher.from_keys(fernet_keys(read_or_make(file, Cipher.make_key)))
    except ValueError as error:
        raise InvalidInput([((str(file),), str(error))]) from None
