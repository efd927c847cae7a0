"""Errors as clients see them."""

from __future__ import annotations

import logging
import os
from typing import Any

import falcon
import falcon.asgi
import falcon.testing
import pytest

from endpoints.accounts.identity.port import ProviderUnavailable, SignInRefused
from endpoints.figures.of_http import HttpFigures
from endpoints.http import errors
from endpoints.http.bodies import BodyTooSlow, ClientGone
from endpoints.http.limits import Limited
from endpoints.http.request import Correlation, Request
from endpoints.sync.turns import StreamsBusy
from ledger.errors import (
    AckNotOffered,
    Contended,
    CorruptLedger,
    DeletesPurged,
    InvalidAck,
    InvalidInput,
    LayoutError,
    LedgerError,
    LedgerGone,
    NoLedger,
    NoSuchSession,
    NotAllEnded,
    NothingToUpdate,
    NotReplicated,
    ParentOver,
    Rebuilding,
    SessionEnded,
    StoreFull,
    StoreReplyError,
    StoreUnavailable,
    TokenReused,
    TooManySessions,
    UnknownEvent,
    UserKeyUnreadable,
)
from projections.accounts.credentials import CredentialUnreadable
from projections.feed.seats import TooManyFollowers, TooManyOfUsers

MESSAGES: list[tuple[Exception, int, str]] = [
    (InvalidAck("Invalid ack type: X"), 400, "Invalid ack type: X"),
    (AckNotOffered("Cannot take ack"), 400, "Cannot take ack"),
    (NothingToUpdate("No fields to update"), 400, "No fields to update"),
    (NoSuchSession("Not found or no authDevice.delete access"), 400, "Not found or no authDevice.delete access"),
    (SignInRefused("code_refused"), 400, "OAuth authentication failed"),
    (SessionEnded(), 401, "Invalid user token"),
    (TokenReused(), 401, "Invalid user token"),
    (ParentOver(ended=True), 401, "Invalid user token"),
    (
        TooManySessions(1000),
        400,
        "This user has 1,000 signed-in devices, and no more may be (LEDGER_MAX_SESSIONS): sign some of them out",
    ),
    (StreamsBusy("2,000 streams wait to begin"), 503, "2,000 streams wait to begin"),
    (errors.Unauthenticated("Authentication required"), 401, "Authentication required"),
    (errors.Forbidden("Missing required permission: p"), 403, "Missing required permission: p"),
    (Limited("sign_in", 7), 429, "Too many requests; try again in 7 seconds"),
    (NotReplicated("written, but not confirmed by 2 replicas"), 503, "written, but not confirmed by 2 replicas"),
    (ProviderUnavailable("secret"), 503, "The identity provider is not available; try again later"),
    (StoreUnavailable("secret", maybe_done=True), 503, "The sync ledger's store is not available; try again later"),
    (ClientGone(), 400, "The request ended before its body was complete"),
    (BodyTooSlow("The body stopped coming"), 408, "The body stopped coming"),
    (falcon.HTTPUnsupportedMediaType(description="no"), 415, "no"),
    (falcon.HTTPNotFound(description="No such thing"), 404, "No such thing"),
    (StoreReplyError("ERR secret"), 500, errors.INTERNAL),
    (LedgerGone("The store is empty: restore it"), 503, "The store is empty: restore it"),
    *(
        (error, 503, "This service is not configured as its ledger needs; its log says what to mend")
        for error in (LayoutError("secret"), NoLedger("secret"), UserKeyUnreadable("secret"), CredentialUnreadable())
    ),
    (CorruptLedger("secret"), 500, errors.INTERNAL),
    (UnknownEvent("secret"), 500, errors.INTERNAL),
    (NotAllEnded(["a" * 64]), 500, str(NotAllEnded(["a" * 64]))),
    (falcon.HTTPInternalServerError(description="secret"), 500, errors.INTERNAL),
    (ZeroDivisionError("secret"), 500, errors.INTERNAL),
]
UNAVAILABLE = [
    StoreUnavailable("redis://secret", maybe_done=True),
    StoreFull("OOM secret"),
    Contended("busy"),
    Rebuilding(),
    DeletesPurged("gone"),
]


class Failing:
    """A resource that raises what the test sets."""

    error: Exception = ValueError()

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.text = "half"
        raise self.error

    async def on_get_named(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        raise self.error

    async def on_get_fine(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.text = "fine"


@pytest.fixture
def failing() -> Failing:
    return Failing()


@pytest.fixture
def client(failing: Failing) -> falcon.testing.TestClient:
    app: falcon.asgi.App[Request, falcon.asgi.Response] = falcon.asgi.App(
        request_type=Request, middleware=[Correlation(HttpFigures(()))]
    )
    errors.install(app)
    app.add_route("/fails", failing)
    app.add_route("/fails/{name}", failing, suffix="named")
    app.add_route("/fine", failing, suffix="fine")
    return falcon.testing.TestClient(app)


def get(client: falcon.testing.TestClient, path: str = "/fails", **options: Any) -> falcon.testing.Result:
    return client.simulate_get(path, **options)


@pytest.mark.parametrize(("error", "status", "message"), MESSAGES, ids=lambda value: type(value).__name__)
def test_each_error_has_its_status_and_the_message_alone(
    client: falcon.testing.TestClient, failing: Failing, error: Exception, status: int, message: str
) -> None:
    failing.error = error
    answer = get(client)
    assert (answer.status_code, answer.json) == (status, {"message": message})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("error", UNAVAILABLE, ids=lambda error: type(error).__name__)
def test_trouble_in_the_store_is_503_with_retry_after_and_never_tells_of_it(
    client: falcon.testing.TestClient, failing: Failing, error: LedgerError
) -> None:
    failing.error = error
    answer = get(client)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "secret" not in answer.text


def test_who_comes_too_often_is_told_when_to_come_again(client: falcon.testing.TestClient, failing: Failing) -> None:
    failing.error = Limited("sign_in", 7)
    assert get(client).headers["retry-after"] == "7"
    assert str(Limited("sign_in", 1)) == "Too many requests; try again in 1 second"


@pytest.mark.parametrize("error", [LayoutError("another place"), UserKeyUnreadable("of ann"), CredentialUnreadable()])
def test_what_only_an_operator_can_mend_is_told_them_in_one_line(
    client: falcon.testing.TestClient, failing: Failing, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    failing.error = error
    assert get(client).headers["retry-after"] == "30"
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("ERROR", None)
    assert str(error) in record.getMessage()


@pytest.mark.parametrize("error", [StreamsBusy("2,000 wait"), TooManyFollowers(100), TooManyOfUsers()])
def test_that_there_is_no_room_for_somebody_is_no_error(
    client: falcon.testing.TestClient, failing: Failing, caplog: pytest.LogCaptureFixture, error: LedgerError
) -> None:
    failing.error = error
    with caplog.at_level(logging.INFO):
        assert int(get(client).headers["retry-after"]) >= 1
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("INFO", None)
    assert str(error) in record.getMessage()


def test_every_class_of_the_tree_has_been_thought_of() -> None:
    known = {type(error) for error, *_ in MESSAGES} | {type(error) for error in UNAVAILABLE} | {InvalidInput}
    bases = {base for kind in known for base in kind.__mro__}

    def below(kind: type[Exception]) -> set[type[Exception]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__() if child.__module__ == "ledger.errors"))

    assert below(LedgerError) <= bases, "an error class without a line in this test"


def test_a_validation_error_names_code_path_and_message(client: falcon.testing.TestClient, failing: Failing) -> None:
    failing.error = InvalidInput([(("acks", 3), "Expected `str`, got `int`"), (("id",), "bad")])
    answer = get(client)
    assert answer.status_code == 400
    assert answer.json == {
        "message": "Validation failed",
        "errors": [
            {"code": "invalid_type", "path": ["acks", 3], "message": "Expected `str`, got `int`"},
            {"code": "custom", "path": ["id"], "message": "bad"},
        ],
    }


def test_of_many_problems_the_first_are_told(client: falcon.testing.TestClient, failing: Failing) -> None:
    failing.error = InvalidInput([(("types", n), "Invalid enum value") for n in range(200_000)])
    told = get(client).json["errors"]
    assert [problem["path"] for problem in told] == [["types", n] for n in range(errors.MAX_PROBLEMS)]


def test_an_unknown_path_and_method_are_refused_as_upstream_words_it(client: falcon.testing.TestClient) -> None:
    answer = get(client, "/nowhere", query_string="apiKey=secret")
    assert (answer.status_code, answer.json) == (404, {"message": "Cannot GET /nowhere"})
    answer = client.simulate_put("/fails")
    assert (answer.status_code, answer.json) == (405, {"message": "Cannot PUT /fails"})
    assert "GET" in answer.headers["allow"]


def test_a_failure_is_logged_with_its_correlation_id_and_without_the_query(
    client: falcon.testing.TestClient, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    failing.error = ZeroDivisionError("why")
    with caplog.at_level(logging.ERROR):
        answer = get(client, query_string="sessionKey=secret")
    assert answer.headers["x-correlation-id"] in caplog.text
    assert "ZeroDivisionError: why" in caplog.text
    assert "secret" not in caplog.text


def test_a_long_path_is_cut_in_the_log(
    client: falcon.testing.TestClient, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    failing.error = StoreFull("full")
    with caplog.at_level(logging.ERROR):
        assert get(client, "/fails/" + "x" * 5000).status_code == 503
    assert len(caplog.text) < 1000


def test_a_sane_correlation_id_is_echoed_and_others_are_replaced(client: falcon.testing.TestClient) -> None:
    echoed = get(client, "/fine", headers={"X-Correlation-ID": "abc-123"})
    assert echoed.headers["x-correlation-id"] == "abc-123"
    for bad in ("", "a b", "x" * 129, "<script>", 'a"b'):
        made = get(client, "/fine", headers={"X-Correlation-ID": bad}).headers["x-correlation-id"]
        assert made
        assert made != bad


def test_processes_that_are_forked_make_other_correlation_ids(client: falcon.testing.TestClient) -> None:
    """As workers are, also those that take the place of one that died."""
    get(client, "/fine")
    read, write = os.pipe()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                os.write(write, f"{get(client, '/fine').headers['x-correlation-id']}\n".encode())
            finally:
                os._exit(0)  # what fails is missed below, and goes on with no other test
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as told:
        made = [*told.read().split(), get(client, "/fine").headers["x-correlation-id"]]
    assert len({one.partition("-")[0] for one in made}) == len(made) == 3


def test_made_correlation_ids_differ_and_are_on_every_response(client: falcon.testing.TestClient) -> None:
    ids = {get(client, path).headers["x-correlation-id"] for path in ("/fine", "/fine", "/fails", "/nowhere")}
    assert len(ids) == 4
