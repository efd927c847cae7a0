"""`make upstream`: what of an SDK differs from the registry is found, in every way it can. No network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from projections.entities.registry import REQUEST_TYPES
from tests.clients import upstream
from tests.clients.sdk import HERE

INSTALLED = HERE / "node_modules" / "@immich" / "sdk"
ORDER = (
    "export const SYNC_TYPES_ORDER = [\n" + "".join(f"  SyncRequestType.{name},\n" for name in REQUEST_TYPES) + "];\n"
)


@pytest.fixture
def sdk(tmp_path: Path) -> Path:
    """A copy of the installed SDK, to be changed."""
    if not INSTALLED.is_dir():
        pytest.skip("the SDK is not installed: npm is missing, or `make install` was not run")
    folder = tmp_path / "sdk"
    (folder / "build").mkdir(parents=True)
    for name in ("package.json", upstream.DECLARATIONS):
        shutil.copy(INSTALLED / name, folder / name)
    return folder


def change(sdk: Path, pattern: str, to: str, version: str = "") -> None:
    """Change the declarations, in one place, and the version."""
    file = sdk / upstream.DECLARATIONS
    text, count = re.subn(pattern, to, file.read_text(), count=1, flags=re.DOTALL)
    assert count == 1, pattern
    file.write_text(text)
    if version:
        (sdk / "package.json").write_text(json.dumps({"version": version}))


def told(sdk: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    code = upstream.main(["--sdk", str(sdk), "--json", *options])
    return code, json.loads(capsys.readouterr().out)["differences"]


def test_the_registry_is_as_the_installed_sdk_says(sdk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upstream.main(["--sdk", str(INSTALLED)]) == 0
    out = capsys.readouterr().out
    assert "of a later version, and not to be proven by this SDK: AssetFaceV3, AssetFacesV3, AuthUserV2" in out
    assert out.splitlines()[-1] == "no differences from @immich/sdk 3.2.2"


@pytest.mark.parametrize(
    ("pattern", "to", "difference"),
    [
        (r'(enum SyncRequestType \{)', r'\1\n    MoodsV1 = "MoodsV1",', "request type MoodsV1: not in the registry"),
        (r'(enum SyncEntityType \{)', r'\1\n    MoodV1 = "MoodV1",', "entity type MoodV1: not in the registry"),
        (r"(type SyncStackV1 = \{)", r"\1\n    mood: string;", "StackV1.mood: not in the registry, string in the SDK"),
        (r"(type SyncStackV1 = .*?)ownerId: string;", r"\1", "StackV1.ownerId: not in the SDK, string in the registry"),
        (
            r"(type SyncAuthUserV1 = .*?)oauthId: string;", r"\1oauthId: string | null;",
            "AuthUserV1.oauthId: string in the registry, string | null in the SDK",
        ),
        (
            r"(type SyncAssetV2 = .*?)duration: number \| null;", r"\1duration?: string | null;",
            "AssetV2.duration: number | null in the registry, string | null, may be absent in the SDK",
        ),
        (
            r'(enum AlbumUserRole \{)', r'\1\n    Guest = "guest",',
            "AlbumUserV1.role: editor|owner|viewer in the registry, editor|guest|owner|viewer in the SDK",
        ),
        (r"export type SyncPersonV1 = ", "export type SyncPersonOld = ", "PersonV1: the SDK has no payload of"),
    ],
)  # fmt: skip
def test_each_kind_of_difference_is_found(
    sdk: Path, capsys: pytest.CaptureFixture[str], pattern: str, to: str, difference: str
) -> None:
    change(sdk, pattern, to)
    code, found = told(sdk, capsys)
    assert code == 1
    assert [text for text in found if text.startswith(difference)], found


def test_what_is_shared_by_variants_is_found_in_each(sdk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(sdk, r"(type SyncAssetExifV1 = .*?)iso: number \| null;", r"\1iso: number;")
    _, found = told(sdk, capsys)
    assert len(found) == 6
    assert all(text.endswith(".iso: number | null in the registry, number in the SDK") for text in found)


def test_an_sdk_of_3_3_must_have_what_is_said_of_it(sdk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(sdk, "x", "x", version="3.3.0")
    code, found = told(sdk, capsys)
    assert code == 1
    assert "AuthUsersV2: not in the SDK" in found
    change(sdk, r"(enum MemoryType \{)", r'\1\n    Birthday = "birthday",')
    assert not [text for text in told(sdk, capsys)[1] if text.startswith("MemoryV1")], "one enum for both versions"


def test_the_order_is_that_of_upstreams_source(sdk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sync.service.ts"
    file.write_text(ORDER)
    assert told(sdk, capsys, "--sync-service", str(file)) == (0, [])
    people, faces = "  SyncRequestType.PeopleV1,\n", "  SyncRequestType.AssetFacesV1,\n"
    file.write_text(ORDER.replace(people, "").replace(faces, faces + people))
    code, found = told(sdk, capsys, "--sync-service", str(file))
    assert (code, len(found)) == (1, 1)
    assert re.fullmatch(r"order, place \d+: PeopleV1 in the registry, AssetFacesV1 upstream", found[0])
    file.write_text("nothing")
    assert upstream.main(["--sdk", str(sdk), "--sync-service", str(file)]) == 2
    assert "SYNC_TYPES_ORDER" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["no folder", "no version", "another layout"])
def test_what_is_no_sdk_is_told(sdk: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    if what == "no version":
        (sdk / "package.json").write_text("{}")
    elif what == "another layout":
        (sdk / upstream.DECLARATIONS).write_text("export {};")
    assert upstream.main(["--sdk", str(sdk if what != "no folder" else sdk / "none")]) == 2
    assert capsys.readouterr().err.startswith("cannot tell: ")


def test_npm_without_a_registry_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert upstream.main([]) == 2
    assert "npm view reached no registry, or none with this package (npm error code EN" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert upstream.main([]) == 2
    assert "npm is not installed" in capsys.readouterr().err


def test_the_newest_package_is_asked_of_npm(
    sdk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an npm that gives a package of ours, as its registry would."""
    shutil.move(sdk, tmp_path / "package")
    shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, "package")
    npm = tmp_path / "npm"
    copied = f"cp '{tmp_path}/packed.tar.gz' got.tgz; echo got.tgz"
    npm.write_text(f"#!/bin/sh\nif [ $1 = view ]; then echo 3.2.2; else {copied}; fi\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert upstream.main([]) == 0
    assert "3.2.2 is the newest" in capsys.readouterr().err
