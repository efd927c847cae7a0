"""Objects in a local folder or in S3, Google or Azure storage, by URL.

Credentials come from the environment, as obstore reads them. An object appears under its name whole or not at all.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, from_url

from ledger.errors import InvalidInput
from projections.archive.errors import ArchiveUnavailable, ObjectExists, ObjectMissing

SCHEMES: Final = ("file", "s3", "gs", "az", "memory")
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
RETRIES: Final = 5
"""How often a request that failed for the storage's reasons is sent again, over about 5 s."""
_LONGEST_REASON: Final = 300
_SYNCED_EACH: Final = 64
"""How many files are written to disk one by one."""
_unfinished: Final = re.compile(r"[ -~]*[^/]#[0-9]+")  # a ledger's own names are plain


class Info(NamedTuple):
    """An object in a listing; `written_s`: when it was written, in seconds since 1970, as the storage's clock says."""

    name: str
    size: int
    written_s: float = 0.0


class Objects:
    """A place for objects; names are paths below it. All methods raise ArchiveUnavailable."""

    def __init__(self, store: Any, root: Path | None = None) -> None:
        """`root`: the folder of a local store."""
        self._store = store
        self._root = root

    async def create(self, name: str, file: IO[bytes]) -> None:
        """Write a file, which is not empty, as a new object in one piece; raises ObjectExists if there is one.

        The file is mapped, not read: what it takes in memory is the system's to give back.
        """
        file.flush()
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed when nobody holds a part of it any more
        with _translated(name):
            await obstore.put_async(self._store, name, content, mode="create")
        await self._settle(name)

    async def put(self, name: str, content: bytes) -> None:
        """Write a few bytes as a new object; raises ObjectExists if there is one."""
        with _translated(name):
            await obstore.put_async(self._store, name, content, mode="create")
        await self._settle(name)

    async def replace(self, name: str, content: bytes) -> None:
        """Write a few bytes as an object, in place of what is there: readers find one or the other."""
        await self.write(name, content)
        await self._settle(name)

    async def write(self, name: str, content: bytes) -> None:
        """Do as `replace` does, for one of many that are brought to disk together, by `settle`."""
        with _translated(name):
            await obstore.put_async(self._store, name, content, mode="overwrite")

    async def settle(self, names: Sequence[str]) -> None:
        """Have written objects on disk."""
        if self._root is not None and names:
            with _translated(names[0]):
                await asyncio.to_thread(_sync_all, self._root, [self._root / name for name in names])

    async def read(self, name: str, start: int, length: int) -> bytes:
        """Read so many bytes from `start` on; raises ObjectMissing, ArchiveUnavailable if there are fewer."""
        if length == 0:
            return b""
        with _translated(name):
            found = bytes(await obstore.get_range_async(self._store, name, start=start, length=length))
        if len(found) != length:
            raise ArchiveUnavailable(f"{name}: {length} bytes from {start} on were asked for, {len(found)} came")
        return found

    async def tail(self, name: str, length: int) -> tuple[bytes, int]:
        """Read the last bytes, at most so many, and tell the object's size; raises ObjectMissing."""
        with _translated(name):
            reply = await obstore.get_async(self._store, name, options={"range": {"suffix": length}})
            return bytes(await reply.bytes_async()), reply.meta["size"]

    async def chunks(self, name: str) -> AsyncIterator[bytes]:
        """Read an object from its beginning, some MB at a time; raises ObjectMissing."""
        with _translated(name):
            async for chunk in (await obstore.get_async(self._store, name)).stream(min_chunk_size=1024 * 1024):
                yield bytes(chunk)

    async def size(self, name: str) -> int | None:
        """Tell how many bytes an object has; None if there is none."""
        try:
            with _translated(name):
                return int((await obstore.head_async(self._store, name))["size"])
        except ObjectMissing:
            return None

    async def names(self, prefix: str = "") -> AsyncIterator[list[Info]]:
        """List the objects below a prefix that ends with a slash, some at a time, in no order."""
        with _translated(prefix):
            async for page in obstore.list(self._store, prefix or None):
                yield [Info(meta["path"], meta["size"], meta["last_modified"].timestamp()) for meta in page]

    async def delete(self, names: list[str]) -> None:
        """Remove objects; those that are not there do not matter."""
        for name in names:
            try:
                with _translated(name):
                    await obstore.delete_async(self._store, name)
            except ObjectMissing:
                continue

    def leftovers(self, folders: str) -> list[Path]:
        """List what killed writers left beside the objects in folders (`p000/`, `backups/*/`) of a local store.

        While obstore writes an object `name`, it lies in `name#1`, or the next number that is free.
        """
        root = self._root
        if root is None:
            return []
        found = root.glob(f"{folders}*#[0-9]*")
        return sorted(path for path in found if _unfinished.fullmatch(str(path.relative_to(root))))

    def leftovers_of_all(self) -> list[tuple[Path, str]]:
        """List what killed writers left anywhere in a local store, each with the name of the object it was to be."""
        root = self._root
        if root is None:
            return []
        return [(path, str(path.relative_to(root)).rpartition("#")[0]) for path in self.leftovers("**/")]

    def remove_leftover(self, path: Path, before_s: float, *, dry_run: bool = False) -> bool:
        """Remove what a killed writer left, if nobody has written to it since; tells whether it did, or would."""
        try:
            if path.stat().st_mtime >= before_s:
                return False
            if not dry_run:
                path.unlink()
        except FileNotFoundError:  # its writer ended meanwhile, or somebody else removed it
            return False
        return True

    async def _settle(self, name: str) -> None:
        """Have a local object on disk, with the folders that name it, before anybody counts on it."""
        if self._root is not None:
            await asyncio.to_thread(_sync, self._root, self._root / name)


def open_objects(
    url: str, *, endpoint: str | None = None, path_style: bool = False, region: str = "", make: bool = True
) -> Objects:
    """Open the storage that a URL names: file:///…, s3://bucket/prefix, gs://bucket/…, az://container/….

    `endpoint`: the address of an S3-compatible server; plain http is taken on this machine only. `path_style`: the
    bucket is in the path, not in the host name. A folder that is not there is made, or without `make` an error. Raises
    InvalidInput.
    """
    try:
        return _open(url, endpoint, path_style, region, make)
    except (BaseError, OSError, ValueError) as error:
        raise InvalidInput([(("LEDGER_ARCHIVE",), _reason(error))]) from error


def _open(url: str, endpoint: str | None, path_style: bool, region: str, make: bool) -> Objects:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"must begin with {', '.join(f'{scheme}://' for scheme in SCHEMES[:-1])}")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.strip("/"):
            raise ValueError("a folder is named as file:///path/of/folder")
        root = Path(unquote(parts.path))
        if not make and not root.is_dir():
            raise ValueError(f"there is no folder {root}")
        try:
            return Objects(LocalStore(root, mkdir=True), root)
        except (BaseError, OSError) as error:
            raise ValueError(f"the folder {root} cannot be made: {_reason(error)}") from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("credentials and options come from the environment, not in the URL")
    client: dict[str, Any] = {"timeout": "15m", "connect_timeout": "10s"}
    config: dict[str, Any] = {}
    if endpoint is not None:
        address = urlsplit(endpoint)
        if address.scheme == "http" and address.hostname in LOOPBACK:
            client["allow_http"] = True
        elif address.scheme != "https":
            raise ValueError("the endpoint must be https, or http on this machine")
        config["endpoint"] = endpoint
    if parts.scheme == "s3":
        config["virtual_hosted_style_request"] = not path_style
        if region:
            config["region"] = region
    if parts.scheme == "memory":
        return Objects(MemoryStore())
    # Which options there are depends on the scheme: their types cannot follow.
    open_url: Any = from_url
    return Objects(open_url(url, config=config, client_options=client, retry_config={"max_retries": RETRIES}))


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Raise what object storage answers as the archive's own errors; a message has no headers and no credentials."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(f"object {name} is not in the archive", object=name) from error
    except AlreadyExistsError as error:
        raise ObjectExists(f"object {name} is there already") from error
    except (BaseError, OSError) as error:
        raise ArchiveUnavailable(f"object storage, at {name or 'its listing'}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_LONGEST_REASON]


def _sync(root: Path, path: Path) -> None:
    """Write a file and the folders above it to disk, up to the root."""
    _sync_all(root, [path])


def _sync_all(root: Path, paths: Sequence[Path]) -> None:
    """Write files and the folders above them to disk, up to the root; more than a few with all else that waits."""
    if len(paths) > _SYNCED_EACH:
        os.sync()  # PERF: a file costs a turn of the journal, all of them cost hardly more
        return
    below = len(root.parts)
    for each in dict.fromkeys(step for path in paths for step in (path, *path.parents) if len(step.parts) >= below):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
