"""The device against a scripted server: runs, acks, resets, crashes, and what the app's parser and database refuse."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.demo_library import DemoLibrary
from ops.simulate import device as device_module
from ops.simulate.api import PRESENTATIONS, Presentation
from ops.simulate.check import CheckResult, check
from ops.simulate.device import Device
from ops.simulate.errors import (
    BadAnswer,
    BrokenStream,
    NotAdmitted,
    NotReachable,
    RefusedRow,
    TryLater,
    UnreadableLine,
    UnusableCopy,
)
from ops.simulate.parse import SHAPES, Run
from ops.simulate.repeats import Repeats, placeholders_of
from ops.simulate.tables import TYPES_V1, TYPES_V2, TYPES_V3
from tests.support.processes.scripted_server import JSON, Broken, ScriptedServer, line

AT = "2025-01-20T10:30:45.123Z"
COMPLETE = line("SyncCompleteV1", {}, "SyncCompleteV1|1")
BOOT = [
    "GET /.well-known/immich",
    "GET /api/server/ping",
    "GET /api/server/version",
    "GET /api/server/features",
    "GET /api/server/config",
    "GET /api/users/me",
    "GET /api/users/me/preferences",
    "GET /api/server/version",
]


def user(user_id: str) -> JSON:
    return {"id": user_id, "name": "N", "email": "n@example.test", "deletedAt": None, "hasProfileImage": False,
            "profileChangedAt": AT}  # fmt: skip


def asset(asset_id: str, owner: str = "u", **changes: Any) -> JSON:
    plain = dict.fromkeys(("thumbhash", "duration", "fileCreatedAt", "fileModifiedAt", "createdAt", "localDateTime",
                           "deletedAt", "livePhotoVideoId", "stackId", "libraryId", "width", "height"))  # fmt: skip
    return {**plain, "id": asset_id, "ownerId": owner, "originalFileName": "a.jpg", "checksum": f"c-{asset_id}",
            "type": "IMAGE", "visibility": "timeline", "isFavorite": False, "isEdited": False, **changes}  # fmt: skip


def face(face_id: str, asset_id: str, person_id: str | None) -> JSON:
    box = dict.fromkeys(("imageWidth", "imageHeight", "boundingBoxX1", "boundingBoxY1", "boundingBoxX2",
                         "boundingBoxY2"), 1)  # fmt: skip
    return {"id": face_id, "assetId": asset_id, "personId": person_id, **box, "sourceType": "exif"}


def album(album_id: str, thumbnail: str | None = None) -> JSON:
    return {"id": album_id, "name": "A", "description": "", "createdAt": AT, "updatedAt": AT,
            "thumbnailAssetId": thumbnail, "isActivityEnabled": True, "order": "asc"}  # fmt: skip


def demo_rows(assets: int) -> list[tuple[str, JSON]]:
    return [(entity.type, entity.data) for entity in DemoLibrary(user="u", name="U", assets=assets)]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer([("UserV1", user("u")), ("AssetV2", asset("a1")), ("AssetV2", asset("a2"))]).running() as it:
        yield it


@pytest.fixture
def open_device(server: ScriptedServer, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    opened: list[Device] = []

    def open_one(name: str = "device.db", token: str = "T", **options: Any) -> Device:
        opened.append(Device(server.url, token, tmp_path / name, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def ids(device: Device, table: str) -> list[str]:
    return [row[0] for row in device.copy.db.execute(f'SELECT id FROM "{table}" ORDER BY id')]


# Booting


def test_boots_like_the_app_and_clears_old_checkpoints_once_per_install(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    device = open_device()
    assert device.sync().complete
    device.close()
    assert server.paths()[:10] == [*BOOT, "DELETE /api/sync/ack", "DELETE /api/sync/ack"]
    cleared = [seen.body["types"] for seen in server.seen if seen.method == "DELETE"]
    assert [len(types) for types in cleared] == [4, 4]
    assert cleared[0][0], cleared[1][0] == ("AssetExifV1", "AssetV1")
    stream = next(seen for seen in server.seen if seen.path.endswith("/stream"))
    assert stream.body == {"types": list(TYPES_V2)}
    assert len(set(TYPES_V2)) == 22
    assert stream.headers["accept"] == "application/jsonlines+json"
    server.seen.clear()
    assert open_device().sync().complete
    assert server.paths()[:9] == [*BOOT, "POST /api/sync/stream"]


def test_an_older_app_asks_for_the_older_types(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    open_device(types=TYPES_V1).sync()
    stream = next(seen for seen in server.seen if seen.path.endswith("/stream"))
    assert stream.body == {"types": list(TYPES_V1)}
    assert {"AssetsV1", "AssetFacesV1", "AlbumsV1"} <= set(TYPES_V1)


@pytest.mark.parametrize(
    ("present", "header", "value"),
    [
        ("cookie", "cookie", "immich_access_token=T; immich_is_authenticated=true; immich_auth_type=password"),
        ("bearer", "authorization", "Bearer T"),
        ("user-token", "x-immich-user-token", "T"),
        ("session-token", "x-immich-session-token", "T"),
        ("query", "query", "sessionKey=T"),
    ],
)
def test_presents_the_token_everywhere(
    present: Presentation, header: str, value: str, server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    open_device(present=present).sync()
    assert len(server.seen) > 10
    for seen in server.seen:
        assert seen.headers[header] == value
        assert seen.headers["user-agent"] == "immich-android/3.2.0"


def test_all_presentations_are_tested() -> None:
    marks = test_presents_the_token_everywhere.pytestmark
    assert {case[0] for case in marks[0].args[1]} == set(PRESENTATIONS)


@pytest.mark.parametrize("path", ["users/me", "users/me/preferences", "sync/stream", "sync/ack"])
def test_a_refused_token_is_told_apart(path: str, server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    method = "POST" if path.startswith("sync") else "GET"
    server.answers[f"{method} /api/{path}"] = (401, {"message": "Invalid user token"})
    with pytest.raises(NotAdmitted, match=f"{method} /{path} answered 401: Invalid user token"):
        open_device().sync()


def test_a_server_that_is_not_there(open_device: Callable[..., Device]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    device = open_device()
    device.server.root = f"http://127.0.0.1:{port}"
    with pytest.raises(NotReachable, match=rf"the server at http://127.0.0.1:{port} does not answer"):
        device.sync()


def test_a_captive_portal_is_no_server(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    server.answers["GET /api/server/ping"] = (200, b"<html>Sign in to the WiFi</html>")
    with pytest.raises(BadAnswer, match="no JSON"):
        open_device().sync()


def test_a_failing_clear_stops_the_sync_and_is_tried_again(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    server.answers["DELETE /api/sync/ack"] = (500, {"message": "Internal server error"})
    device = open_device()
    with pytest.raises(BadAnswer, match="answered 500: Internal server error"):
        device.sync()
    assert "POST /api/sync/stream" not in server.paths()
    server.answers.clear()
    assert device.sync().complete


# Runs and acks


def test_each_run_is_acked_by_its_last_line_before_the_next(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    server.scripts = [[
        line("UserV1", user("u"), "UserV1|1"),
        line("AssetV2", asset("a1"), "AssetV2|1"),
        line("AssetV2", asset("a2"), "AssetV2|2"),
        line("SyncAckV1", {}, "PartnerAssetBackfillV2|1|complete"),
        line("AssetDeleteV1", {"assetId": "a1"}, "AssetDeleteV1|3"),
        line("AssetV2", asset("a3"), "AssetV2|4"),
        COMPLETE,
    ]]  # fmt: skip
    device = open_device()
    at_ack: list[list[str]] = []

    def look(_: str) -> None:
        other = sqlite3.connect(device.copy.path)
        at_ack.append([row[0] for row in other.execute("SELECT id FROM asset ORDER BY id")])
        other.close()

    server.on_ack = look
    result = device.sync()
    assert server.acks == ["UserV1|1", "AssetV2|2", "PartnerAssetBackfillV2|1|complete", "AssetDeleteV1|3",
                           "AssetV2|4", "SyncCompleteV1|1"]  # fmt: skip
    assert at_ack == [[], ["a1", "a2"], ["a1", "a2"], ["a2"], ["a2", "a3"], ["a2", "a3"]]
    assert (result.lines, result.acks, result.complete, result.reset) == (7, 6, True, False)
    assert result.by_type == {"UserV1": 1, "AssetV2": 3, "SyncAckV1": 1, "AssetDeleteV1": 1, "SyncCompleteV1": 1}


def test_lines_are_processed_when_5000_are_held_while_the_stream_is_open(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    acked_when: list[int] = []

    def script() -> Iterator[bytes]:
        yield line("UserV1", user("u"), "UserV1|1")
        for number in range(1, 12_000):
            yield line("AssetV2", asset(f"a{number}"), f"AssetV2|{number:09d}|x")
            if number in (4000, 4999, 11_999):
                expected, within_s = {4000: (1, 0.5), 4999: (2, 30.0), 11_999: (3, 30.0)}[number]
                until_s = time.monotonic() + within_s
                while len(server.acks) < expected and time.monotonic() < until_s:
                    time.sleep(0.01)
                acked_when.append(len(server.acks))
        yield COMPLETE

    server.scripts = [script()]
    result = open_device().sync()
    assert acked_when[0] == 0, "nothing is processed before 5,000 lines are held"
    assert acked_when[1] == 2, "and then all that is held"
    assert acked_when[2] >= 3
    assert result.lines == 12_001
    assert result.acks == len(server.acks)


def test_lines_may_be_cut_anywhere(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    whole = b"".join(line("UserV1", user(f"ü{n}"), f"UserV1|{n}") for n in range(3)) + COMPLETE
    server.scripts = [[whole[at : at + 7] for at in range(0, len(whole), 7)]]
    device = open_device()
    assert device.sync().lines == 4
    assert ids(device, "user") == ["ü0", "ü1", "ü2"]


def test_a_failed_ack_drops_the_stream_and_the_rest_comes_again(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    device = open_device()

    def refuse(_: str) -> None:
        server.answers["POST /api/sync/ack"] = (503, {"message": "try again"})

    server.on_ack = refuse
    with pytest.raises(TryLater, match="answered 503: try again"):
        device.sync()
    assert server.acks == ["UserV1|000000001|1"]
    server.answers.clear()
    server.on_ack = lambda _: None
    result = device.sync()
    assert result.by_type == {"AssetV2": 2, "SyncCompleteV1": 1}
    assert result.duplicates == 0


def test_a_second_sync_gets_only_the_end(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    device = open_device()
    assert device.sync().lines == 4
    again = device.sync()
    assert (again.lines, again.acks, again.complete, again.duplicates) == (1, 1, True, 0)


def test_lines_that_come_twice_are_counted(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    first, second = (line("AssetV2", asset(f"a{n}"), f"AssetV2|2025-01-20T10:30:45.00000{n}Z|a{n}") for n in (1, 2))
    server.scripts = [
        [line("UserV1", user("u"), "UserV1|1"), first, first, second, COMPLETE],
        [second, COMPLETE],
        [line("AssetV2", asset("a2"), "AssetV2|2025-01-20T10:30:45.000002Z|a2|2"), COMPLETE],
    ]
    device = open_device()
    assert device.sync().duplicates == 1
    assert device.sync().duplicates == 1, "and so are lines that were acknowledged in an earlier sync"
    assert device.sync().duplicates == 0, "but a new epoch sends everything again"


def test_another_session_may_send_everything_again(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    device = open_device()
    device.sync()
    device.close()
    server.checkpoints.clear()
    assert open_device(token="another").sync().duplicates == 0


# The end of a stream


def test_a_clean_end_without_complete_is_told_apart(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    server.scripts = [[line("UserV1", user("u"), "UserV1|1")]]
    result = open_device().sync()
    assert not result.complete
    assert server.acks == ["UserV1|1"]


def test_an_empty_stream_is_not_complete(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    server.scripts = [[]]
    result = open_device().sync()
    assert (result.lines, result.complete) == (0, False)


def test_a_last_line_without_lf_is_lost(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    server.scripts = [[line("UserV1", user("u"), "UserV1|1"), COMPLETE.rstrip(b"\n")]]
    result = open_device().sync()
    assert (result.lines, result.complete, result.unterminated) == (1, False, True)


def test_a_broken_connection_is_a_failure(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    def breaking() -> Iterator[bytes]:
        yield line("UserV1", user("u"), "UserV1|1")
        for number in range(6000):
            yield line("AssetV2", asset(f"a{number:04d}"), f"AssetV2|{number:09d}|x")
        raise Broken

    server.scripts = [breaking()]
    device = open_device()
    with pytest.raises(BrokenStream, match="the stream broke"):
        device.sync()
    assert server.acks[0] == "UserV1|1"
    assert len(server.acks) == 2, "what was held when it broke is not processed"
    assert len(ids(device, "asset")) >= 4999
    assert device.sync().complete


def test_a_hung_stream_is_given_up(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    def hanging() -> Iterator[bytes]:
        yield line("UserV1", user("u"), "UserV1|1")
        time.sleep(2)

    server.scripts = [hanging()]
    with pytest.raises(BrokenStream, match="nothing came on the stream for too long"):
        open_device(timeout_s=0.3).sync()


# Starting over


def test_a_reset_wipes_acks_and_streams_once_more(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    device = open_device()
    device.sync()
    server.rows = [("UserV1", user("u")), ("AssetV2", asset("a9"))]
    server.pending_reset = True
    server.acks.clear()
    server.seen.clear()
    result = device.sync()
    assert server.acks == ["SyncResetV1|reset", "UserV1|000000001|1", "AssetV2|000000002|2", "SyncCompleteV1|now"]
    assert server.paths().count("POST /api/sync/stream") == 2
    assert (result.reset, result.complete, result.duplicates) == (True, True, 0)
    assert ids(device, "asset") == ["a9"]


def test_a_server_that_resets_again_stops_the_device(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    server.scripts = [[line("SyncResetV1", {}, "SyncResetV1|reset")] for _ in range(3)]
    result = open_device().sync()
    assert (result.reset, result.complete) == (True, False)
    assert len(server.scripts) == 1


# What the app's database refuses


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("AssetV2", asset("a", owner="nobody"))], "AssetV2 a: FOREIGN KEY"),
        ([("AssetV2", asset("a")), ("AssetV2", asset("b", checksum="c-a"))], "line 3 .*AssetV2 b: UNIQUE"),
        ([("AssetV2", asset("a", libraryId="l")), ("AssetV2", asset("b", libraryId="l", checksum="c-a"))], "UNIQUE"),
        ([("AssetFaceV1", face("f", "missing", None))], "AssetFaceV1 f: FOREIGN KEY"),
        ([("AssetV2", asset("a")), ("AssetFaceV1", face("f", "a", "missing"))], "AssetFaceV1 f: FOREIGN KEY"),
        ([("AlbumV2", album("al", thumbnail="missing"))], "AlbumV2 al: FOREIGN KEY"),
        ([("AlbumToAssetV1", {"albumId": "al", "assetId": "a"})], "FOREIGN KEY"),
        ([("AlbumV2", album("al")), ("AlbumUserV1", {"albumId": "al", "userId": "no", "role": "editor"})], "FOREIGN"),
        ([("MemoryToAssetV1", {"memoryId": "m", "assetId": "a"})], "FOREIGN KEY"),
        ([("PartnerV1", {"sharedById": "u", "sharedWithId": "no", "inTimeline": True})], "FOREIGN KEY"),
    ],
)
def test_a_row_that_breaks_a_rule_stops_the_sync(
    rows: list[tuple[str, JSON]], message: str, server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    server.rows = [("UserV1", user("u")), *rows]
    device = open_device()
    with pytest.raises(RefusedRow, match=message):
        device.sync()
    refused = rows[-1][0]
    assert not [ack for ack in server.acks if ack.startswith(refused)], "nothing of its run is acked"


def test_the_same_checksum_may_be_in_two_libraries_or_with_two_owners(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    server.rows = [
        ("UserV1", user("u")), ("UserV1", user("v")), ("AssetV2", asset("a", checksum="c")),
        ("AssetV2", asset("b", checksum="c", libraryId="l1")), ("AssetV2", asset("c", checksum="c", libraryId="l2")),
        ("PartnerAssetV2", asset("d", checksum="c", owner="v")),
    ]  # fmt: skip
    device = open_device()
    assert device.sync().complete
    assert ids(device, "asset") == ["a", "b", "c", "d"]


def test_deletes_take_their_children_or_clear_references(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    person = {"id": "p", "ownerId": "u", "name": "P", "createdAt": AT, "updatedAt": AT, "birthDate": None,
              "isHidden": False, "isFavorite": False, "color": None, "faceAssetId": None}  # fmt: skip
    server.rows = [
        ("UserV1", user("u")), ("AssetV2", asset("a")), ("AssetV2", asset("b")), ("AlbumV2", album("al", "a")),
        ("AlbumUserV1", {"albumId": "al", "userId": "u", "role": "owner"}),
        ("AlbumToAssetV1", {"albumId": "al", "assetId": "a"}), ("AlbumToAssetV1", {"albumId": "al", "assetId": "b"}),
        ("AssetMetadataV1", {"assetId": "a", "key": "k", "value": {"b": 1, "a": 2}}),
        ("PersonV1", person), ("AssetFaceV1", face("f", "b", "p")), ("AssetFaceV1", face("g", "a", "p")),
    ]  # fmt: skip
    device = open_device()
    device.sync()
    db = device.copy.db
    assert db.execute("SELECT value FROM asset_metadata").fetchall() == [('{"a":2,"b":1}',)]
    server.scripts = [[line("AssetDeleteV1", {"assetId": "a"}, "AssetDeleteV1|1"),
                       line("PersonDeleteV1", {"personId": "p"}, "PersonDeleteV1|1"), COMPLETE]]  # fmt: skip
    device.sync()
    assert device.copy.counts() == {"user": 1, "asset": 1, "album": 1, "album_user": 1, "album_asset": 1, "face": 1}
    assert db.execute("SELECT thumbnailAssetId FROM album").fetchall() == [(None,)]
    assert db.execute("SELECT id, personId FROM face").fetchall() == [("f", None)]
    server.scripts = [[line("AlbumUserDeleteV1", {"albumId": "al", "userId": "u"}, "AlbumUserDeleteV1|1"),
                       line("UserDeleteV1", {"userId": "u"}, "UserDeleteV1|1"), COMPLETE]]  # fmt: skip
    device.sync()
    assert device.copy.counts() == {"album": 1}


def test_an_update_keeps_the_children(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    server.rows = [("UserV1", user("u")), ("AssetV2", asset("a")), ("AssetFaceV1", face("f", "a", None)),
                   ("AssetV2", asset("a", isFavorite=True))]  # fmt: skip
    device = open_device()
    device.sync()
    assert ids(device, "face") == ["f"]
    assert device.copy.db.execute("SELECT isFavorite FROM asset").fetchall() == [(1,)]


def test_older_forms_fill_the_same_tables(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    server.rows = [("UserV1", user("u")), ("AssetV1", asset("a", duration="0:10:00.12399")),
                   ("AlbumV1", {**album("al"), "ownerId": "u"}), ("AssetFaceV1", face("f", "a", None))]  # fmt: skip
    device = open_device(types=TYPES_V1)
    device.sync()
    db = device.copy.db
    assert db.execute("SELECT duration FROM asset").fetchall() == [(600_123,)]
    assert db.execute("SELECT * FROM album_user").fetchall() == [("al", "u", "owner")]
    assert db.execute("SELECT isVisible, deletedAt FROM face").fetchall() == [(1, None)]


# What the app's parser refuses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 1920.0}, r"line 2 of the stream, AssetV2: Expected `int \| null`, got `float` - at `\$.width`"),
        ({"isFavorite": None}, r"Expected `bool`, got `null` - at `\$.isFavorite`"),
        ({"type": "GIF"}, r"Invalid enum value 'GIF' - at `\$.type`"),
        ({"checksum": 5}, r"Expected `str`, got `int`"),
        ({"width": 2**63}, "<= "),
        ({"fileCreatedAt": "yesterday"}, "Invalid RFC3339"),
        ({"fileCreatedAt": "2025-01-20T10:30:45"}, "timezone"),
        ({"duration": "0:10:00.00000"}, r"`\$.duration`"),
    ],
)
def test_data_that_does_not_fit_stops_the_sync(
    changes: JSON, message: str, server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    server.rows = [("UserV1", user("u")), ("AssetV2", asset("a", **changes))]
    device = open_device()
    with pytest.raises(UnreadableLine, match=message):
        device.sync()
    assert server.acks == [], "nothing of the lines held with it is stored or acked"
    assert device.copy.counts() == {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (line("AssetV9", {}, "AssetV9|1"), "line 2 of the stream: the app knows no type 'AssetV9'"),
        (b"\n", "line 2 of the stream is blank"),
        (b"<html>\n", "line 2 of the stream: JSON is malformed"),
        (b'{"type":"UserV1","data":{}}\n', "missing required field `ack`"),
        (line("UserDeleteV1", {}, "UserDeleteV1|1"), "missing required field `userId`"),
    ],
)
def test_a_line_that_is_none_stops_the_sync(
    raw: bytes, message: str, server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    server.scripts = [[line("UserV1", user("u"), "UserV1|1"), raw, COMPLETE]]
    with pytest.raises(UnreadableLine, match=message):
        open_device().sync()
    assert server.acks == []


# Crashes


@pytest.mark.parametrize(
    "killed_at",
    [(1, 3, 10, 33), pytest.param((1, 2, 3, 4, 9, 10, 14, 30, 33), marks=pytest.mark.soak)],
    ids=["short", "long"],
)
def test_a_device_killed_at_any_line_resumes(
    server: ScriptedServer, tmp_path: Path, killed_at: tuple[int, ...]
) -> None:
    rows = demo_rows(20)
    server.rows = rows
    path = tmp_path / "device.db"
    for lines in killed_at:
        killed = run_command(server, "--db", str(path), "--kill-after-lines", str(lines))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert killed.stdout == b""
    finished = run_command(server, "--db", str(path), "--json")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)["sync"]
    assert (result["complete"], result["duplicates"]) == (True, 0)
    with Device(server.url, "T", path) as device:
        listed = [json.dumps({"type": kind, "data": data}).encode() + b"\n" for kind, data in rows]
        server.listing = listed
        assert check(device.copy, device.server, "lib", TYPES_V2).equal


def test_dying_after_the_last_line_of_a_run_leaves_it_stored_but_not_acked(
    server: ScriptedServer, tmp_path: Path
) -> None:
    path = tmp_path / "device.db"
    assert run_command(server, "--db", str(path), "--kill-after-lines", "3").returncode == -signal.SIGKILL
    assert server.acks == ["UserV1|000000001|1"]
    with Device(server.url, "T", path) as device:
        assert ids(device, "asset") == ["a1", "a2"]


def test_dying_inside_a_run_leaves_nothing_of_it(server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    assert run_command(server, "--db", str(path), "--kill-after-lines", "2").returncode == -signal.SIGKILL
    assert server.acks == ["UserV1|000000001|1"]
    with Device(server.url, "T", path) as device:
        assert ids(device, "asset") == []


def test_a_file_that_is_no_copy_is_left_alone(open_device: Callable[..., Device], tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("my diary, which is certainly not a database" * 100)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE diary (day)")
    other.close()
    for name in ("text.db", "other.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(UnusableCopy, match=name):
            open_device(name)
        assert (tmp_path / name).read_bytes() == before


# Comparing with the catalog


def test_check_names_every_difference(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    rows = demo_rows(60)
    server.rows = rows
    device = open_device()
    device.sync()

    def compare(listed: list[tuple[str, JSON]]) -> CheckResult:
        server.listing = [json.dumps({"type": kind, "id": "x", "data": data}).encode() + b"\n" for kind, data in listed]
        return check(device.copy, device.server, "lib", TYPES_V2)

    same = compare(rows)
    assert same.equal
    assert same.compared == len(rows)

    first = next(data for kind, data in rows if kind == "AssetV2")
    face_row = next(data for kind, data in rows if kind == "AssetFaceV2")
    changed = [(kind, {**data, "isFavorite": not data["isFavorite"]} if data is first else data) for kind, data in rows]
    changed = [(kind, data) for kind, data in changed if data is not face_row]
    changed.append(("AssetV2", {**first, "id": "new", "checksum": "new"}))
    found = compare(changed)
    assert (found.missing, found.extra, found.different, found.dangling) == (1, 1, 1, 0)
    assert {str(one) for one in found.differences} == {
        f"different: asset {first['id']} (isFavorite)",
        "missing: asset new",
        f"extra: face {face_row['id']}",
    }

    orphan = ("AssetMetadataV1", {"assetId": "nowhere", "key": "k", "value": {}})
    dangling = compare([*rows, orphan])
    assert (dangling.missing, dangling.dangling) == (1, 1)


def test_check_takes_any_form_of_a_row_and_older_versions(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    server.rows = [("UserV1", user("u")), ("AssetV2", asset("a", duration=1500))]
    device = open_device()
    device.sync()
    other = asset("a", duration=1500, isFavorite=True)
    for listed in (
        (("AlbumAssetCreateV2", other), ("AssetV2", asset("a", duration=1500))),
        (("AssetV1", asset("a", duration="0:00:01.50000")),),
    ):
        server.listing = [json.dumps({"type": kind, "data": data}).encode() + b"\n"
                          for kind, data in (("UserV1", user("u")), *listed)]  # fmt: skip
        assert check(device.copy, device.server, "lib", TYPES_V2).equal


def test_an_unreadable_listing_fails_the_check_and_leaves_the_copy_usable(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    device = open_device()
    device.sync()
    server.listing = [line("UserV1", user("u"), ""), line("UserV1", {**user("v"), "name": None}, "")]
    for _ in range(2):
        with pytest.raises(UnreadableLine, match="line 2 of the catalog, UserV1: Expected `str`, got `null`"):
            check(device.copy, device.server, "lib", TYPES_V2)
    assert device.sync().complete


def test_check_presents_the_api_key_alone(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    device = open_device()
    check(device.copy, device.server, "lib", TYPES_V2, api_key="K")
    seen = server.seen[-1]
    assert seen.path == "/ledger/libraries/lib/entities"
    assert seen.headers["x-api-key"] == "K"
    assert "cookie" not in seen.headers


# The command


def run_command(server: ScriptedServer, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", "from ops.commands.devices.simulate import simulate; simulate()", "--url", server.url,
         *arguments],
        env={**os.environ, "LEDGER_TOKEN": "T", **environment}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_command_prints_a_result_and_its_exit_code_tells(server: ScriptedServer, tmp_path: Path) -> None:
    path = str(tmp_path / "device.db")
    rows = [("UserV1", user("u")), ("AssetV2", asset("a1")), ("AssetV2", asset("a2"))]
    server.listing = [json.dumps({"type": kind, "data": data}).encode() + b"\n" for kind, data in rows]
    done = run_command(server, "--db", path, "--check", "--library", "lib", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["rows"] == {"user": 1, "asset": 2}
    assert printed["check"]["compared"] == 3
    server.listing = []
    assert run_command(server, "--db", path, "--check", "--library", "lib").returncode == 1
    server.scripts = [[]]
    assert run_command(server, "--db", path).returncode == 4


def test_a_library_that_cannot_be_compared_with_is_told_behind_the_sync(server: ScriptedServer, tmp_path: Path) -> None:
    server.answers["GET /ledger/libraries/lib/entities"] = (409, {"message": "That is not kept here"})
    done = run_command(server, "--db", str(tmp_path / "d.db"), "--check", "--library", "lib", "--json")
    assert done.returncode == 3
    assert (json.loads(done.stdout)["rows"], json.loads(done.stdout)["check"]) == ({"user": 1, "asset": 2}, None)
    assert b"it synced, but the copy could not be compared: " in done.stderr
    assert b"That is not kept here" in done.stderr


def test_a_second_copy_of_a_session_is_told_and_may_start_over(server: ScriptedServer, tmp_path: Path) -> None:
    first = run_command(server, "--db", str(tmp_path / "first.db"))
    assert (first.returncode, first.stderr) == (0, b"")
    second = str(tmp_path / "second.db")
    told = run_command(server, "--db", second, "--json")
    assert b"has synced into another copy" in told.stderr
    assert json.loads(told.stdout)["rows"] == {}
    fresh = run_command(server, "--db", second, "--fresh", "--json")
    assert (fresh.returncode, fresh.stderr) == (0, b"")
    assert json.loads(fresh.stdout)["rows"] == {"user": 1, "asset": 2}
    assert json.loads(fresh.stdout)["sync"]["duplicates"] == 0


def test_the_command_fails_in_one_line_without_the_token(server: ScriptedServer, tmp_path: Path) -> None:
    server.answers["GET /api/users/me"] = (401, {"message": "Invalid user token"})
    failed = run_command(server, "--db", str(tmp_path / "device.db"), "--present", "query", LEDGER_TOKEN="SECRET")
    assert failed.returncode == 3
    assert failed.stderr == b"Error: GET /users/me answered 401: Invalid user token\n"
    nowhere = run_command(server, "--url", "http://127.0.0.1:1", "--db", str(tmp_path / "d.db"), LEDGER_TOKEN="SECRET")
    assert nowhere.returncode == 3
    assert b"http://127.0.0.1:1 does not answer" in nowhere.stderr
    assert nowhere.stderr.count(b"\n") == 1
    assert b"SECRET" not in nowhere.stderr + failed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--types", "AssetsV2,Nope"), b"no such request type: Nope"),
        (("--read-rate", "fast"), b"'fast' is not a rate"),
        (("--check",), b"--check needs --library"),
    ],
)
def test_the_command_refuses_wrong_arguments(
    arguments: tuple[str, ...], message: bytes, server: ScriptedServer
) -> None:
    refused = run_command(server, *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert server.seen == []


def test_an_interrupted_command_resumes(server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "device.db"

    def slow() -> Iterator[bytes]:
        yield line("UserV1", user("u"), "UserV1|000000001|1")
        for number in range(5000):
            yield line("AssetV2", asset(f"a{number}"), f"AssetV2|{number:09d}|1")
        for _ in range(100):
            time.sleep(0.1)
            yield line("AssetV2", asset("b"), "AssetV2|000009999|1")

    server.scripts = [slow()]
    process = subprocess.Popen(
        [sys.executable, "-c", "from ops.commands.devices.simulate import simulate; simulate()", "--url", server.url,
         "--db", str(path)],
        env={**os.environ, "LEDGER_TOKEN": "T"}, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        deadline = time.monotonic() + 30
        while len(server.acks) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted" in stderr
    assert b"Traceback" not in stderr
    with Device(server.url, "T", path) as device:
        assert len(ids(device, "asset")) >= 4999
        server.rows = [("UserV1", user("u"))]
        assert device.sync().complete


def test_a_slow_reader_really_reads_slowly(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    server.rows = [("UserV1", {**user(f"u{n}"), "name": "x" * 900}) for n in range(60)]
    started = time.monotonic()
    result = open_device(read_bytes_per_s=50_000.0).sync()
    assert result.bytes > 60_000
    assert time.monotonic() - started >= result.bytes / 50_000 * 0.8


def test_the_server_of_a_slow_reader_is_held_back(server: ScriptedServer, open_device: Callable[..., Device]) -> None:
    written = 0

    def endless() -> Iterator[bytes]:
        nonlocal written
        for number in range(40_000):
            piece = line("UserV1", {**user(f"u{number}"), "name": "x" * 900}, f"UserV1|{number:09d}|1")
            written += len(piece)
            yield piece

    server.scripts = [endless()]
    device = open_device(read_bytes_per_s=8_000.0)
    device.boot()
    read = 0
    with device.server.stream(("UsersV1",)) as pieces:
        for piece in pieces:
            read += len(piece)
            if read > 16_000:
                break
    assert written < 8_000_000, "the server could not write the whole stream into buffers"


def test_held_lines_are_those_of_the_app() -> None:
    assert device_module.HELD_LINES == 5000


def test_a_placeholder_counts_as_no_repeat_and_whatever_else_comes_again_does() -> None:
    def run(*lines: tuple[str, str]) -> Run:
        columns = SHAPES["AssetV2"].columns
        rows = [tuple(checksum if name == "checksum" else None for name in columns) for _, checksum in lines]
        return Run("AssetV2", rows, [f"AssetV2|{place}" for place, _ in lines], 1)

    first, second = "2024-01-01T00:00:00.000001Z|a", "2024-01-01T00:00:00.000002Z|b"
    moved = run((first, "placeholder:b"), (first, "placeholder:c"), (second, "one"))
    assert (Repeats({"AssetV2": f"AssetV2|{first}"}).count(moved), placeholders_of(moved)) == (0, {0, 1})
    assert Repeats({"AssetV2": f"AssetV2|{first}"}).count(run((first, "one"), (second, "two"))) == 1
    assert Repeats({}).count(run((second, "placeholder:b"), (second, "one"))) == 1  # one ahead of nothing has a place


# Apps of 3.3


def memory(memory_id: str, kind: str) -> JSON:
    return {"id": memory_id, "ownerId": "u", "type": kind, "data": {}, "createdAt": AT, "updatedAt": AT,
            "deletedAt": None, "isSaved": False, "memoryAt": AT, "seenAt": None, "showAt": None,
            "hideAt": None}  # fmt: skip


def auth_user(oauth_id: str | None) -> JSON:
    return {**user("u"), "isAdmin": False, "oauthId": oauth_id, "pinCode": None, "storageLabel": None,
            "quotaSizeInBytes": None, "quotaUsageInBytes": 0}  # fmt: skip


def test_an_app_of_3_3_keeps_faces_of_assets_that_it_has_not(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    data = {**face("f", "nowhere", "nobody"), "isVisible": True, "deletedAt": None}
    server.rows = [("UserV1", user("u")), ("AssetFaceV3", data)]
    device = open_device("newer.db", types=TYPES_V3)
    device.sync()
    assert ids(device, "face") == ["f"]
    server.rows = [("UserV1", user("u")), ("AssetFaceV2", data)]
    with pytest.raises(RefusedRow, match="AssetFaceV2 f: FOREIGN KEY"):
        open_device("older.db", types=TYPES_V2).sync()


def test_check_compares_what_an_app_of_each_version_is_shown(
    server: ScriptedServer, open_device: Callable[..., Device]
) -> None:
    both = [("UserV1", user("u")), ("AssetV2", asset("a"))]
    links = [{"memoryId": name, "assetId": "a"} for name in ("years", "birthday")]
    years, birthday = memory("years", "on_this_day"), memory("birthday", "birthday")
    listed = [
        *both, ("AuthUserV1", auth_user("")), ("MemoryV1", years), ("MemoryV2", birthday),
        *(("MemoryToAssetV1", link) for link in links),
    ]  # fmt: skip
    server.listing = [json.dumps({"type": kind, "id": "x", "data": data}).encode() + b"\n" for kind, data in listed]
    sent = {
        TYPES_V2: [("AuthUserV1", auth_user("")), ("MemoryV1", years), ("MemoryToAssetV1", links[0])],
        TYPES_V3: [
            ("AuthUserV2", auth_user(None)), ("MemoryV2", years), ("MemoryV2", birthday),
            *(("MemoryToAssetV2", link) for link in links),
        ],
    }  # fmt: skip
    for types, rows in sent.items():
        server.checkpoints.clear()  # each is a session of its own
        server.rows = [*both, *rows]
        device = open_device(f"{types is TYPES_V3}.db", types=types)
        device.sync()
        assert ids(device, "memory") == (["birthday", "years"] if types is TYPES_V3 else ["years"])
        assert check(device.copy, device.server, "lib", types).equal
    server.listing = [line for line in server.listing if b'"assetId": "a"' not in line]
    assert check(device.copy, device.server, "lib", TYPES_V3).extra == 2
