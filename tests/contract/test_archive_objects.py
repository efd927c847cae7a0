"""Object storage as the archive uses it: an object is new and whole or not there, and trouble reaches the caller."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest

from ledger.errors import InvalidInput
from ops.settings.places import StoragePlace, place_from
from projections.archive.errors import ArchiveUnavailable, ObjectExists, ObjectMissing
from projections.archive.objects import Objects, open_objects
from tests.support.stores.s3_server import ENVIRONMENT, S3Server

MB = 1024 * 1024


@pytest.fixture(params=["file", "s3", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    match request.param:
        case "file":
            return open_objects(f"file://{tmp_path / 'a' / 'b'}")
        case "memory":
            return open_objects("memory:///")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server: S3Server = request.getfixturevalue("s3")
    bucket = f"b{random.getrandbits(64):x}"
    server.make_bucket(bucket)
    return open_objects(f"s3://{bucket}/prefix", endpoint=server.endpoint, path_style=True)


async def create(objects: Objects, name: str, content: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        await objects.create(name, file)


async def listed(objects: Objects, prefix: str = "") -> list[tuple[str, int]]:
    return sorted([(info.name, info.size) async for page in objects.names(prefix) for info in page])


async def read_all(objects: Objects, name: str) -> bytes:
    return b"".join([chunk async for chunk in objects.chunks(name)])


async def test_an_object_is_created_once_and_read_in_parts(objects: Objects) -> None:
    content = random.Random(1).randbytes(7 * MB)
    await create(objects, "p001/x", content)
    assert await objects.size("p001/x") == len(content)
    assert await read_all(objects, "p001/x") == content
    assert await objects.read("p001/x", 5, 100) == content[5:105]
    assert await objects.read("p001/x", 5, 0) == b""
    assert await objects.tail("p001/x", 100) == (content[-100:], len(content))
    assert await objects.tail("p001/x", 10 * MB) == (content, len(content))
    with pytest.raises(ObjectExists):
        await create(objects, "p001/x", b"other")
    assert await read_all(objects, "p001/x") == content
    with pytest.raises(ArchiveUnavailable):
        await objects.read("p001/x", len(content) - 10, 20)


async def test_objects_are_listed_below_a_prefix_and_removed(objects: Objects) -> None:
    for name in ("p001/x", "p001/y", "p0010/z", "backups/q"):
        await create(objects, name, name.encode())
    assert await listed(objects, "p001/") == [("p001/x", 6), ("p001/y", 6)]
    assert len(await listed(objects)) == 4
    await objects.delete(["p001/x", "p001/nothing", "backups/q"])
    assert await listed(objects) == [("p001/y", 6), ("p0010/z", 7)]


async def test_what_is_not_there_is_told(objects: Objects) -> None:
    assert await objects.size("none") is None
    assert await listed(objects, "none/") == []
    for ask in (objects.read("none", 0, 1), objects.tail("none", 1), read_all(objects, "none")):
        with pytest.raises(ObjectMissing, match="none"):
            await ask


async def test_storage_that_is_gone_or_refuses_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "file").write_bytes(b"not a folder")
    folder = open_objects(f"file://{tmp_path}")
    no_bucket = open_objects("s3://nothing-here", endpoint=s3.endpoint, path_style=True)
    nobody = open_objects("s3://bucket", endpoint=S3Server(tmp_path).endpoint, path_style=True)
    for objects, name in ((folder, "file/x"), (no_bucket, "x"), (nobody, "x")):
        with pytest.raises((ArchiveUnavailable, ObjectMissing)) as caught:
            await create(objects, name, b"content")
        assert "\n" not in str(caught.value)
        assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] + " " not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "what"),
    [
        ("/srv/ledger", {}, "must begin with"),
        ("ftp://host/x", {}, "must begin with"),
        ("file://host/x", {}, "file:///path"),
        ("file:///", {}, "file:///path"),
        ("s3://key:secret@bucket", {}, "environment"),
        ("s3://bucket?region=x", {}, "environment"),
        ("s3://bucket", {"endpoint": "http://s3.example.org"}, "https"),
        ("s3://bucket", {"endpoint": "127.0.0.1:9000"}, "https"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused(url: str, options: dict[str, str], what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_objects(url, **options)  # type: ignore[arg-type]
    ((path, problem),) = caught.value.problems
    assert (path, what in problem, "secret" in problem) == (("LEDGER_ARCHIVE",), True, False)


def test_places_are_opened_without_asking_them(monkeypatch: pytest.MonkeyPatch) -> None:
    open_objects("s3://bucket/prefix", region="eu-central-1")
    open_objects("gs://bucket/prefix")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    open_objects("az://container/prefix")


def test_the_place_is_read_from_the_environment() -> None:
    assert place_from({}) is None
    assert place_from({"LEDGER_ARCHIVE": " "}) is None
    assert place_from({"LEDGER_ARCHIVE": "file:///x"}) == StoragePlace(url="file:///x")
    assert place_from(
        {
            "LEDGER_ARCHIVE": "s3://b/c",
            "LEDGER_ARCHIVE_ENDPOINT": "http://127.0.0.1:9",
            "LEDGER_ARCHIVE_PATH_STYLE": "yes",
            "LEDGER_ARCHIVE_REGION": "r",
        }
    ) == StoragePlace(url="s3://b/c", endpoint="http://127.0.0.1:9", path_style=True, region="r")
    with pytest.raises(InvalidInput):
        place_from({"LEDGER_ARCHIVE": "s3://b", "LEDGER_ARCHIVE_PATH_STYLE": "perhaps"})
