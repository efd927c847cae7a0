"""The official SDK against the running service, from a token to logout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby
from typing import Any

import pytest

from ops.demo_library import DemoLibrary
from tests.clients.sdk import Sdk, SdkError, sdk_process
from tests.support.processes.running import APP_TYPES, RunningService

Line = dict[str, Any]
LIBRARY = "lib"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with two workers and a small demo library."""
    with RunningService(tmp_path_factory.mktemp("sdk"), workers=2) as service:
        service.put(LIBRARY, DemoLibrary(user="ann", name="Ann", assets=60))
        yield service


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    """The SDK in a process of this test's own."""
    with sdk_process() as sdk:
        yield sdk


@pytest.fixture
def token(service: RunningService, sdk: Sdk, request: pytest.FixtureRequest) -> str:
    """The token of a user of this test's own; the SDK is initialised with it as the app of old presents it."""
    token = service.sign_in(f"user-of-{request.node.originalname}", LIBRARY)
    sdk.present(service.url, x_immich_user_token=token)
    return token


def stream(sdk: Sdk, *types: str, **body: Any) -> list[Line]:
    """Read a stream; every line ends with LF."""
    text = sdk("getSyncStream", {"syncStreamDto": {"types": types or APP_TYPES, **body}})
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def ack_runs(sdk: Sdk, lines: list[Line]) -> list[str]:
    """Acknowledge the last line of each run, one request each, as the app does; returns the acks."""
    acks = [list(run)[-1]["ack"] for _, run in groupby(lines, lambda line: line["type"])]
    for ack in acks:
        sdk("sendSyncAck", {"syncAckSetDto": {"acks": [ack]}})
    return acks


def types_of(lines: list[Line]) -> list[str]:
    return [line["type"] for line in lines]


def refused(sdk: Sdk, function: str, *args: Any) -> SdkError:
    """Call a function that must throw an HttpError with a JSON body; functions that expect text show it unread."""
    with pytest.raises(SdkError) as caught:
        sdk(function, *args)
    error = caught.value
    assert error.name == "HttpError", error
    assert "json" in error.content_type
    error.data = json.loads(error.data) if isinstance(error.data, str) else error.data
    return error


def test_boot_calls_of_the_app_answer_in_its_order(service: RunningService, sdk: Sdk) -> None:
    token = service.command("session", "create", "--user", "ann", "--library", LIBRARY).stdout.strip()
    sdk("init", {"baseUrl": f"{service.url}/api"})
    sdk("setHeader", "x-immich-user-token", token)
    assert sdk("pingServer") == {"res": "pong"}
    assert sdk("getServerVersion")["major"] == 3
    assert sdk("getServerFeatures")["oauth"] is False
    assert sdk("getServerConfig")["isInitialized"] is True
    me = sdk("getMyUser")
    assert (me["id"], me["isAdmin"]) == ("ann", True)
    assert sdk("getMyPreferences")["memories"]["enabled"] is True
    assert sdk("getServerVersion")["major"] == 3
    for types in (
        ["AssetExifV1", "PartnerAssetExifV1", "AlbumAssetExifCreateV1", "AlbumAssetExifUpdateV1"],
        ["AssetV1", "PartnerAssetV1", "AlbumAssetCreateV1", "AlbumAssetUpdateV1"],
    ):
        assert sdk.ask("deleteSyncAck", {"syncAckDeleteDto": {"types": types}}).status == 204
    assert sdk("validateAccessToken") == {"authStatus": True}
    assert sdk("getAuthStatus")["isElevated"] is False
    assert types_of(stream(sdk))[-1] == "SyncCompleteV1"


def test_each_way_of_presenting_a_token_is_taken(service: RunningService, sdk: Sdk, token: str) -> None:
    cookie = f"immich_access_token={token}; immich_is_authenticated=true; immich_auth_type=password"
    for headers in (
        {"x_immich_user_token": token},
        {"x_immich_session_token": token},
        {"Authorization": f"Bearer {token}"},
        {"authorization": f"bearer {token}"},
        {"Cookie": cookie},
    ):
        sdk.present(service.url, **headers)
        assert sdk("validateAccessToken") == {"authStatus": True}, headers
    sdk("forget")
    sdk("setHeader", "x-immich-user-token", token)
    assert sdk("validateAccessToken") == {"authStatus": True}
    sdk("setHeader", "x-immich-user-token", "none of ours")
    sdk("setHeader", "Authorization", f"Bearer {token}")
    assert refused(sdk, "validateAccessToken").status == 401  # the first credential decides
    sdk.present(service.url)
    error = refused(sdk, "validateAccessToken")
    assert (error.status, error.data) == (401, {"message": "Authentication required"})


def test_first_sync_sends_everything_and_the_second_only_its_completion(sdk: Sdk, token: str) -> None:
    lines = stream(sdk)
    expected = Counter(entity.type for entity in DemoLibrary(user="ann", name="Ann", assets=60))
    others = [line for line in lines if line["type"] in ("AuthUserV1", "UserV1") and "user-of-" in line["data"]["id"]]
    expected.update(types_of(others))  # all who signed in to this library are its users
    assert Counter(types_of(lines)) == {**expected, "SyncCompleteV1": 1}
    runs = [entity_type for entity_type, _ in groupby(types_of(lines))]
    assert len(runs) == len(set(runs)), "each entity type comes in one run"
    assert runs[-1] == "SyncCompleteV1"
    assert runs.index("UserV1") < runs.index("AssetV2") < runs.index("AlbumV2") < runs.index("AlbumToAssetV1")
    assert runs.index("PersonV1") < runs.index("AssetFaceV2")

    acks = ack_runs(sdk, lines)
    assert {one["type"]: one["ack"] for one in sdk("getSyncAck")} == {ack.partition("|")[0]: ack for ack in acks}
    second = stream(sdk)
    assert types_of(second) == ["SyncCompleteV1"]
    assert second[0]["ack"] == lines[-1]["ack"], "nothing was written: the snapshot is the same"


def test_acks_are_listed_deleted_and_checked(sdk: Sdk, token: str) -> None:
    assert sdk("getSyncAck") == []
    lines = stream(sdk, "UsersV1", "PeopleV1")
    ack_runs(sdk, lines)
    assert {one["type"] for one in sdk("getSyncAck")} == {"UserV1", "PersonV1", "SyncCompleteV1"}

    assert sdk.ask("deleteSyncAck", {"syncAckDeleteDto": {"types": ["PersonV1"]}}).status == 204
    assert {one["type"] for one in sdk("getSyncAck")} == {"UserV1", "SyncCompleteV1"}
    again = stream(sdk, "UsersV1", "PeopleV1")
    assert set(types_of(again)) == {"PersonV1", "SyncCompleteV1"}
    assert all(line["ack"].endswith("|2") for line in again if line["type"] == "PersonV1"), "a new epoch"

    sdk("sendSyncAck", {"syncAckSetDto": {"acks": []}})
    error = refused(sdk, "sendSyncAck", {"syncAckSetDto": {"acks": [again[0]["ack"], "NoTypeV1|x"]}})
    assert (error.status, error.data) == (400, {"message": "Invalid ack type: NoTypeV1"})
    error = refused(sdk, "sendSyncAck", {"syncAckSetDto": {"acks": [again[0]["ack"]] * 1001}})
    assert (error.status, error.data["message"]) == (400, "Validation failed")
    assert "PersonV1" not in {one["type"] for one in sdk("getSyncAck")}, "nothing of a refused request is taken"
    assert sdk.ask("deleteSyncAck", {"syncAckDeleteDto": {}}).status == 204
    assert sdk("getSyncAck") == []


def test_reset_begins_new_epochs_and_sends_all_again(sdk: Sdk, token: str) -> None:
    first = stream(sdk)
    ack_runs(sdk, first)
    sid = sha256(token.encode()).hexdigest()
    updated = sdk("updateSession", {"id": sid, "sessionUpdateDto": {"isPendingSyncReset": True}})
    assert (updated["id"], updated["isPendingSyncReset"]) == (sid, True)
    assert stream(sdk) == [{"type": "SyncResetV1", "data": {}, "ack": "SyncResetV1|reset"}]
    assert types_of(stream(sdk)) == ["SyncResetV1"], "it is due until it is acknowledged"
    sdk("sendSyncAck", {"syncAckSetDto": {"acks": ["SyncResetV1|reset"]}})
    assert sdk("getSyncAck") == []
    assert [session["isPendingSyncReset"] for session in sdk("getSessions")] == [False]

    second = stream(sdk)
    assert [(line["type"], line["data"]) for line in second] == [(line["type"], line["data"]) for line in first]
    assert [line["ack"] for line in second] == [f"{line['ack']}|2" for line in first], "each type in its second epoch"
    late = next(line["ack"] for line in reversed(first) if line["type"] == "AssetV2")
    sdk("sendSyncAck", {"syncAckSetDto": {"acks": [late]}})
    assert sdk("getSyncAck") == [], "an ack of the first epoch is stale"
    ack_runs(sdk, second)
    assert types_of(stream(sdk)) == ["SyncCompleteV1"]
    assert len(stream(sdk, *APP_TYPES, reset=True)) == len(first)


def test_sessions_are_made_listed_locked_and_ended(service: RunningService, sdk: Sdk, token: str) -> None:
    made = sdk.ask("createSession", {"sessionCreateDto": {"deviceType": "Tablet", "deviceOS": "iOS"}})
    assert made.status == 201
    child = made.value
    assert (child["deviceType"], child["deviceOS"], child["current"]) == ("Tablet", "iOS", False)
    listed = sdk("getSessions")
    assert {session["id"]: session["current"] for session in listed} == {
        sha256(token.encode()).hexdigest(): True, child["id"]: False,
    }  # fmt: skip
    assert sdk.ask("lockSession", {"id": child["id"]}).status == 204

    sdk.present(service.url, x_immich_user_token=child["token"])
    assert sdk("validateAccessToken") == {"authStatus": True}
    assert types_of(stream(sdk, "UsersV1"))[-1] == "SyncCompleteV1"
    sdk.present(service.url, x_immich_user_token=token)
    assert sdk.ask("deleteSession", {"id": child["id"]}).status == 204
    error = refused(sdk, "deleteSession", {"id": child["id"]})
    assert (error.status, error.data) == (400, {"message": "Not found or no authDevice.delete access"})
    assert refused(sdk, "updateSession", {"id": child["id"], "sessionUpdateDto": {}}).status == 400
    assert refused(sdk, "lockSession", {"id": child["id"]}).status == 400
    assert len(sdk("getSessions")) == 1

    other = sdk("createSession", {"sessionCreateDto": {}})
    assert sdk.ask("deleteAllSessions").status == 204
    assert len(sdk("getSessions")) == 1
    for dead in (child["token"], other["token"]):
        sdk.present(service.url, x_immich_user_token=dead)
        assert refused(sdk, "validateAccessToken").status == 401


def test_after_logout_every_call_is_401(service: RunningService, sdk: Sdk, token: str) -> None:
    lines = stream(sdk, "UsersV1")
    child = sdk("createSession", {"sessionCreateDto": {}})
    assert sdk("logout") == {"successful": True, "redirectUri": "/auth/login?autoLaunch=0"}
    sid = sha256(token.encode()).hexdigest()
    for presented in (token, child["token"]):
        sdk.present(service.url, x_immich_user_token=presented)
        calls: tuple[tuple[Any, ...], ...] = (
            ("logout",), ("validateAccessToken",), ("getAuthStatus",), ("getMyUser",), ("getMyPreferences",),
            ("getSessions",), ("createSession", {"sessionCreateDto": {}}), ("deleteAllSessions",),
            ("deleteSession", {"id": sid}), ("lockSession", {"id": sid}),
            ("updateSession", {"id": sid, "sessionUpdateDto": {"isPendingSyncReset": True}}),
            ("getSyncStream", {"syncStreamDto": {"types": APP_TYPES}}),
            ("getSyncStream", {"syncStreamDto": {"types": [], "reset": True}}),
            ("sendSyncAck", {"syncAckSetDto": {"acks": [lines[-1]["ack"]]}}),
            ("sendSyncAck", {"syncAckSetDto": {"acks": []}}),
            ("sendSyncAck", {"syncAckSetDto": {"acks": ["SyncResetV1|reset"]}}),
            ("getSyncAck",), ("deleteSyncAck", {"syncAckDeleteDto": {}}),
        )  # fmt: skip
        for call in calls:
            error = refused(sdk, *call)
            assert (error.status, error.data) == (401, {"message": "Invalid user token"}), call


def test_an_api_key_gets_no_sync(service: RunningService, sdk: Sdk) -> None:
    sdk("forget")
    sdk("init", {"baseUrl": f"{service.url}/api", "apiKey": service.entities_key})
    calls: tuple[tuple[Any, ...], ...] = (
        ("getSyncStream", {"syncStreamDto": {"types": APP_TYPES}}),
        ("sendSyncAck", {"syncAckSetDto": {"acks": []}}),
        ("getSyncAck",),
        ("deleteSyncAck", {"syncAckDeleteDto": {}}),
    )
    for call in calls:
        error = refused(sdk, *call)
        assert (error.status, error.data) == (403, {"message": "Sync endpoints cannot be used with API keys"})
    sdk("setApiKey", "none of ours")
    error = refused(sdk, "getSyncAck")
    assert (error.status, error.data) == (401, {"message": "Invalid API key"})


def test_wrong_requests_are_400_in_json(sdk: Sdk, token: str) -> None:
    error = refused(sdk, "getSyncStream", {"syncStreamDto": {"types": ["AssetsV2", "NoTypeV1"]}})
    assert (error.status, error.data["message"]) == (400, "Validation failed")
    assert error.data["errors"][0]["path"] == ["types", 1]
    assert refused(sdk, "getSyncStream", {"syncStreamDto": {}}).status == 400
    assert refused(sdk, "deleteSession", {"id": "not an id"}).status == 400
    assert refused(sdk, "getServerStatistics").status == 404
