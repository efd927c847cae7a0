"""A device: it starts as the app does, streams, stores run after run and acknowledges each before the next."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ops.simulate.api import Presentation, Server
from ops.simulate.copy import Copy
from ops.simulate.errors import BadAnswer
from ops.simulate.parse import Run, parse_runs
from ops.simulate.repeats import Repeats, placeholders_of
from ops.simulate.tables import TYPES_V2, UNBOUND

HELD_LINES: Final = 5000
_ONCE_PER_INSTALL: Final = (
    ("AssetExifV1", "PartnerAssetExifV1", "AlbumAssetExifCreateV1", "AlbumAssetExifUpdateV1"),
    ("AssetV1", "PartnerAssetV1", "AlbumAssetCreateV1", "AlbumAssetUpdateV1"),
)


class SyncResult(msgspec.Struct):
    """What one sync did, and what it has done so far while it runs.

    `complete`: the last stream ended with SyncCompleteV1. The app takes a clean end without it for success too;
    here it is told apart. `duplicates` counts lines that the device already had, by their acks. `unterminated`:
    a last line without LF, which the app loses. `placeholders` counts lines sent ahead to make room for others.
    """

    lines: int = 0
    bytes: int = 0
    acks: int = 0
    by_type: dict[str, int] = {}
    reset: bool = False
    complete: bool = False
    duplicates: int = 0
    placeholders: int = 0
    unterminated: bool = False
    seconds: float = 0.0


class Device:
    """One install of the app on one file; `sync` may be called again and again, also after a failure or a crash."""

    def __init__(
        self,
        url: str,
        token: str,
        db_path: Path | str,
        *,
        types: Sequence[str] = TYPES_V2,
        present: Presentation = "cookie",
        timeout_s: float = 300.0,
        read_bytes_per_s: float | None = None,
        kill_after_lines: int | None = None,
    ) -> None:
        """`kill_after_lines` ends this process with SIGKILL once that many lines of a sync are stored."""
        self.types = tuple(types)
        self.server = Server(url, token, present=present, timeout_s=timeout_s, read_bytes_per_s=read_bytes_per_s)
        self.copy = Copy(Path(db_path), {UNBOUND[name] for name in types if name in UNBOUND})
        self._kill_after_lines = kill_after_lines
        self._booted = False
        self._sign_in(token)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the copy."""
        self.server.close()
        self.copy.close()

    def _sign_in(self, token: str) -> None:
        """Forget what another session acknowledged: this token's session may have to send all of it again."""
        fingerprint = hashlib.sha256(token.encode()).hexdigest()
        if self.copy.noted("token_sha256") != fingerprint:
            self.copy.forget_acks()
            self.copy.note("token_sha256", fingerprint)

    def boot(self) -> None:
        """Do what the app does between its start and its first stream; raises a DeviceError."""
        server = self.server
        server.discover()
        if server.get("/server/ping", timeout_s=5.0) != {"res": "pong"}:
            raise BadAnswer("GET /server/ping did not answer pong: is this URL an Immich server?")
        for path in ("/server/version", "/server/features", "/server/config"):
            server.get(path)
        server.get("/users/me", timeout_s=7.0)
        server.get("/users/me/preferences", timeout_s=7.0)
        version = server.get("/server/version")
        if not isinstance(version, dict) or not isinstance(version.get("major"), int):
            raise BadAnswer("GET /server/version names no major version: the app does not sync")
        for number, types in enumerate(_ONCE_PER_INSTALL):
            if self.copy.noted(f"cleared_{number}") is None:
                server.delete_acks(types)
                self.copy.forget_acks(types)
                self.copy.note(f"cleared_{number}", "done")
        self._booted = True

    def start_over(self) -> None:
        """Empty the copy and clear all that the session acknowledged; the app has no such button."""
        self.server.delete_acks()
        self.copy.wipe()

    @property
    def lacks_what_was_acked(self) -> bool:
        """Tell whether this copy never synced although its session has acknowledged lines, into another copy."""
        return not self.copy.confirmed() and not self.copy.counts() and bool(self.server.get("/sync/ack"))

    def sync(self, progress: Callable[[SyncResult], None] | None = None) -> SyncResult:
        """Sync once; raises a DeviceError, after which all that was acknowledged stands.

        `progress` is called after each run with what was done so far.
        """
        if not self._booted:
            self.boot()
        result = SyncResult()
        started = time.monotonic()

        def tell() -> None:
            result.seconds = time.monotonic() - started
            if progress is not None:
                progress(result)

        if self._stream(result, tell):
            self._stream(result, tell)
        tell()
        return result

    def _stream(self, result: SyncResult, tell: Callable[[], None]) -> bool:
        """Read one stream to its end; True if the server asked to start over."""
        result.complete = False
        repeats = Repeats(self.copy.confirmed())
        reset = False
        held, lines, first = bytearray(), 0, 1
        with self.server.stream(self.types) as pieces:
            for piece in pieces:
                held += piece
                lines += piece.count(b"\n")
                result.bytes += len(piece)
                if lines >= HELD_LINES:
                    end = held.rindex(b"\n") + 1
                    block = bytes(held[:end])
                    del held[:end]
                    reset = self._process(parse_runs(block, first), repeats, result, tell) or reset
                    first, lines = first + lines, 0
            if lines:
                end = held.rindex(b"\n") + 1
                reset = self._process(parse_runs(bytes(held[:end]), first), repeats, result, tell) or reset
                del held[:end]
        result.unterminated = bool(held)
        return reset

    def _process(self, runs: list[Run], repeats: Repeats, result: SyncResult, tell: Callable[[], None]) -> bool:
        """Store and acknowledge the runs of one held block, one after the other; True if one was a reset."""
        reset = False
        for run in runs:
            result.duplicates += repeats.count(run)
            result.placeholders += len(placeholders_of(run))
            if run.type == "SyncResetV1":
                self.copy.wipe()
                repeats.forget()
                reset = result.reset = True
            self.copy.apply(run, die_after=self._die_after(result.lines, len(run.acks)))
            result.lines += len(run.acks)
            result.by_type[run.type] = result.by_type.get(run.type, 0) + len(run.acks)
            self.server.ack(run.acks[-1])
            result.acks += 1
            if run.type != "SyncResetV1":
                self.copy.confirm(run.type, run.acks[-1])
            result.complete = run.type == "SyncCompleteV1"
            tell()
        return reset

    def _die_after(self, done: int, lines: int) -> int | None:
        """How many lines of the next run may still be stored, None if all and then some."""
        if self._kill_after_lines is None or not done < self._kill_after_lines <= done + lines:
            return None
        return self._kill_after_lines - done
