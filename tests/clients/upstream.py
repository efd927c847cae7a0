"""`make upstream`: what the newest `@immich/sdk` says of the sync, beside what the registry says.

    python -m tests.clients.upstream [--sdk FOLDER] [--sync-service FILE] [--json]

Without `--sdk` the newest package is asked of npm's registry. The SDK does not tell the order of a stream:
`--sync-service` takes upstream's `sync.service.ts`, which does. Exits 0 where nothing differs, 1 where something does,
and 2 where it cannot be told.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from msgspec.structs import fields

from ledger.entity_types import ENTITY_TYPES
from projections.entities.postgres.mapping.column_types import fields_of
from projections.entities.protocol_version import NEWEST, ProtocolVersion, read_version
from projections.entities.registry import REQUEST_TYPES, row

PACKAGE: Final = "@immich/sdk"
DECLARATIONS: Final = "build/fetch-client.d.ts"
NPM_S: Final = 120

_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_TYPE: Final = re.compile(r"^export type (Sync\w+) = (\{\}|\{.*?^\}|[^;]+);", re.DOTALL | re.MULTILINE)
_ENUM: Final = re.compile(r"^export declare enum (\w+) \{(.*?)^\}", re.DOTALL | re.MULTILINE)
_VALUE: Final = re.compile(r'= "([^"]*)"')
_FIELD: Final = re.compile(r'^ {4}"?(\w+)"?(\?)?: (.*?);$', re.DOTALL | re.MULTILINE)
_ORDER: Final = re.compile(r"SYNC_TYPES_ORDER\s*=\s*\[(.*?)\]", re.DOTALL)
_REQUEST: Final = re.compile(r"SyncRequestType\.(\w+)")
# What stands in front of an asset, a stack, or its exif, and which way it comes, changes nothing of what it is.
_VARIANT: Final = re.compile(r"(?:Partner|Album)(?=Asset(?!s)|Stack)|Create|Update|Backfill")
_KINDS: Final = {
    "id": "string", "text": "string", "time": "string", "integer": "number", "number": "number", "flag": "boolean",
    "object": "object",
}  # fmt: skip


class CannotTell(Exception):
    """The comparison cannot be made; the message says what to do."""


class Field(NamedTuple):
    """A key of a payload: `kind` as TypeScript has it; an enum's values, if it is one."""

    kind: str
    nullable: bool
    optional: bool
    values: frozenset[str] = frozenset()

    def __str__(self) -> str:
        text = "|".join(sorted(self.values)) if self.values else self.kind
        return f"{text}{' | null' if self.nullable else ''}{', may be absent' if self.optional else ''}"


class Upstream(NamedTuple):
    """What an SDK says: its version, request types, entity types, and payloads by their name there."""

    version: ProtocolVersion
    requests: frozenset[str]
    entities: frozenset[str]
    payloads: dict[str, dict[str, Field]]


def read_sdk(folder: Path) -> Upstream:
    """Read an unpacked package; raises CannotTell."""
    try:
        version = json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]
        text = _COMMENT.sub("", (folder / DECLARATIONS).read_text(encoding="utf-8"))
        found = read_version(version)
    except (OSError, ValueError, KeyError) as error:
        raise CannotTell(f"{folder} is no {PACKAGE}: {error}") from error
    enums = {name: frozenset(_VALUE.findall(body)) for name, body in _ENUM.findall(text)}
    payloads = {name: _fields(body, enums) for name, body in _TYPE.findall(text)}
    requests, entities = enums.get("SyncRequestType"), enums.get("SyncEntityType")
    if not requests or not entities or not payloads:
        raise CannotTell(f"{PACKAGE} {version} is laid out otherwise: look at {folder / DECLARATIONS}")
    return Upstream(found, requests, entities, payloads)


def differences(sdk: Upstream) -> Iterator[str]:
    """Tell in what the registry is not as an SDK says."""
    yield from (f"request type {name}: not in the registry" for name in sorted(sdk.requests - set(REQUEST_TYPES)))
    yield from (f"entity type {name}: not in the registry" for name in sorted(sdk.entities - set(ENTITY_TYPES)))
    for name in ahead_of(sdk) if sdk.version[:2] >= NEWEST[:2] else ():
        yield f"{name}: not in the SDK"
    for name in sorted(sdk.entities.intersection(ENTITY_TYPES)):
        payload = _payload_of(name, sdk)
        if payload is None:
            yield f"{name}: the SDK has no payload of a name that is known for it"
            continue
        ours, wide = _ours(name), _ours(row(name).exported_as or name)
        for key in sorted(payload.keys() | ours.keys()):
            if key not in ours:
                yield f"{name}.{key}: not in the registry, {payload[key]} in the SDK"
            elif key not in payload:
                yield f"{name}.{key}: not in the SDK, {ours[key]} in the registry"
            elif payload[key] not in (ours[key], wide[key]):  # one enum there may be that of a later version too
                yield f"{name}.{key}: {ours[key]} in the registry, {payload[key]} in the SDK"


def ahead_of(sdk: Upstream) -> list[str]:
    """Name the types of the registry that an SDK does not have."""
    return sorted({*REQUEST_TYPES, *ENTITY_TYPES} - sdk.requests - sdk.entities)


def order_differences(sync_service: str) -> Iterator[str]:
    """Tell where a stream has another order than upstream's source says; raises CannotTell."""
    found = _ORDER.search(sync_service)
    if found is None:
        raise CannotTell(
            "there is no SYNC_TYPES_ORDER in the file: give upstream's server/src/services/sync.service.ts"
        )
    theirs = [name for name in _REQUEST.findall(found[1]) if name in REQUEST_TYPES]
    ours = [name for name in REQUEST_TYPES if name in theirs]
    for at, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if our != their:
            yield f"order, place {at + 1}: {our} in the registry, {their} upstream"
            return


def newest_sdk(folder: Path) -> Path:
    """Get the newest package from npm's registry into a folder; raises CannotTell."""
    if shutil.which("npm") is None:
        raise CannotTell("npm is not installed: install it, or name an unpacked package with --sdk")
    version = _npm(folder, "view", PACKAGE, "version").strip()
    print(f"{PACKAGE} {version} is the newest", file=sys.stderr)
    packed = _npm(folder, "pack", "--silent", f"{PACKAGE}@{version}").split()
    with tarfile.open(folder / packed[-1]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make upstream", description="Compare the registry with @immich/sdk.")
    parser.add_argument("--sdk", type=Path, metavar="FOLDER", help="an unpacked package instead of the newest")
    parser.add_argument("--sync-service", type=Path, metavar="FILE", help="upstream's sync.service.ts, for the order")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            sdk = read_sdk(options.sdk or newest_sdk(Path(folder)))
        found = list(differences(sdk))
        if options.sync_service is not None:
            found += order_differences(options.sync_service.read_text(encoding="utf-8"))
    except (CannotTell, OSError) as error:
        print(f"cannot tell: {error}", file=sys.stderr)
        return 2
    ahead = [] if sdk.version[:2] >= NEWEST[:2] else ahead_of(sdk)
    if options.json:
        print(json.dumps({"sdk": str(sdk.version), "differences": found, "ahead": ahead}))
        return 1 if found else 0
    for difference in found:
        print(difference)
    if ahead:
        print(f"of a later version, and not to be proven by this SDK: {', '.join(ahead)}")
    print(f"{len(found) or 'no'} difference{'s' * (len(found) != 1)} from {PACKAGE} {sdk.version}")
    return 1 if found else 0


def _npm(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["npm", *arguments], cwd=folder, capture_output=True, text=True, timeout=NPM_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotTell(f"npm {arguments[0]} did not end within {NPM_S} s: is its registry to be reached?") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = said[0] if said else "no reason"
        raise CannotTell(
            f"npm {arguments[0]} reached no registry, or none with this package ({why}): "
            "name an unpacked package with --sdk"
        )
    return done.stdout


def _fields(body: str, enums: dict[str, frozenset[str]]) -> dict[str, Field]:
    found = {}
    for name, optional, written in _FIELD.findall(body):
        parts = [part.strip().strip("()") for part in written.split("|")] if "{" not in written else [written]
        kinds = [part for part in parts if part != "null"]
        values = enums.get(kinds[0], frozenset()) if len(kinds) == 1 else frozenset()
        kind = "object" if "{" in written else "string" if values else " | ".join(kinds)
        found[name] = Field(kind, "null" in parts, bool(optional), values)
    return found


def _ours(entity_type: str) -> dict[str, Field]:
    required = {field.encode_name: field.required for field in fields(row(entity_type).payload)}
    return {
        field.name: Field(_KINDS[field.kind], field.nullable, not required[field.name], field.values)
        for field in fields_of(entity_type)
    }


def _payload_of(entity_type: str, sdk: Upstream) -> dict[str, Field] | None:
    if entity_type in ("SyncAckV1", "SyncResetV1", "SyncCompleteV1"):
        return sdk.payloads.get(entity_type)
    plain = _VARIANT.sub("", entity_type)
    names: list[Any] = [entity_type, plain, plain.replace("MemoryToAsset", "MemoryAsset")]
    return next((sdk.payloads[f"Sync{name}"] for name in names if f"Sync{name}" in sdk.payloads), None)


if __name__ == "__main__":
    sys.exit(main())
