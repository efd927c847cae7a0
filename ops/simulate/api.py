"""The server as the device sees it: a URL and a token, nothing else."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal
from urllib.parse import urljoin

import httpx
import msgspec

from ops.simulate.errors import BadAnswer, BrokenStream, DeviceError, NotAdmitted, NotReachable, TryLater

Presentation = Literal["cookie", "bearer", "user-token", "session-token", "query"]
PRESENTATIONS: Final[tuple[Presentation, ...]] = ("cookie", "bearer", "user-token", "session-token", "query")
USER_AGENT: Final = "immich-android/3.2.0"
STREAM_TYPE: Final = "application/jsonlines+json"
_SLOW_BUFFER_BYTES: Final = 4096


class Server:
    """One server, one token. Every method raises a DeviceError when the answer is not the one the app expects."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        present: Presentation = "cookie",
        timeout_s: float = 300.0,
        read_bytes_per_s: float | None = None,
    ) -> None:
        """`read_bytes_per_s` reads streams no faster than that, with a small receive buffer, as a bad link would."""
        self.root = url.rstrip("/").removesuffix("/api")
        self.api = f"{self.root}/api"
        self._rate = read_bytes_per_s
        small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)] if read_bytes_per_s else []
        self._present: Presentation = present
        headers, params = _presented(token, present)
        self._client = httpx.Client(
            headers={"User-Agent": USER_AGENT, **headers},
            params=params,
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            transport=httpx.HTTPTransport(socket_options=small),
            trust_env=False,
        )

    def present(self, token: str) -> None:
        """Present this token from now on: a newer one of the same session."""
        headers, params = _presented(token, self._present)
        self._client.headers.update(headers)
        self._client.params = self._client.params.merge(params)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def discover(self) -> None:
        """Ask where the API is, as the app does with the URL a person typed; without an answer it is under /api."""
        try:
            answer = self._client.get(f"{self.root}/.well-known/immich", timeout=5.0)
            endpoint = answer.json()["api"]["endpoint"] if answer.status_code == 200 else "/api"
            self.api = urljoin(f"{self.root}/", str(endpoint)).rstrip("/")
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            self.api = f"{self.root}/api"

    def get(self, path: str, *, timeout_s: float | None = None) -> Any:
        """GET a JSON body from the API."""
        answer = self._request("GET", path, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(answer.content)
        except msgspec.DecodeError as error:
            raise BadAnswer(f"GET {path} answered no JSON: is this URL an Immich server?") from error

    def delete_acks(self, types: Sequence[str] | None = None) -> None:
        """Clear the checkpoints of these types, or all."""
        self._request("DELETE", "/sync/ack", body=None if types is None else {"types": list(types)}, expect=204)

    def ack(self, ack: str) -> None:
        """Acknowledge one run."""
        self._request("POST", "/sync/ack", body={"acks": [ack]}, expect=204)

    @contextmanager
    def stream(self, types: Sequence[str]) -> Iterator[Iterator[bytes]]:
        """Open the sync stream and yield its bytes as they arrive; leaving early drops the connection."""
        path = "/sync/stream"
        try:
            with self._client.stream(
                "POST",
                f"{self.api}{path}",
                content=msgspec.json.encode({"types": list(types)}),
                headers={"Content-Type": "application/json", "Accept": STREAM_TYPE},
            ) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refusal("POST", path, answer)
                kind = answer.headers.get("content-type", "")
                if STREAM_TYPE not in kind:
                    raise BadAnswer(f"POST {path} answered {kind or 'no content type'!r} instead of {STREAM_TYPE}")
                yield self._pieces(answer)
        except httpx.ConnectError as error:
            raise NotReachable(f"the server at {self.root} does not answer: {error}") from error
        except httpx.TimeoutException as error:
            raise BrokenStream(f"POST {path}: nothing came for too long") from error
        except httpx.HTTPError as error:
            raise BrokenStream(f"POST {path}: the stream broke: {error}") from error

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        try:
            if self._rate is None:
                yield from answer.iter_bytes()
                return
            due = time.monotonic()
            for piece in answer.iter_bytes():
                yield piece
                due += len(piece) / self._rate
                time.sleep(max(0.0, due - time.monotonic()))
        except httpx.TimeoutException as error:
            raise BrokenStream("nothing came on the stream for too long") from error
        except httpx.HTTPError as error:
            raise BrokenStream(f"the stream broke: {error}") from error

    @contextmanager
    def listing(self, library: str, api_key: str | None) -> Iterator[Iterator[bytes]]:
        """Open the catalog's NDJSON listing of a library, presented with the API key or else with the token.

        Rows that wait for a parent are left out: a device has not got them.
        """
        path = f"/ledger/libraries/{library}/entities?waiting=false"
        client, headers = self._client, {}
        if api_key is not None:
            client, headers = httpx.Client(timeout=self._client.timeout, trust_env=False), {"x-api-key": api_key}
        try:
            with client.stream("GET", f"{self.root}{path}", headers=headers) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refusal("GET", path, answer)
                yield answer.iter_bytes()
        except httpx.HTTPError as error:
            raise BrokenStream(f"GET {path}: {error}") from error
        finally:
            if client is not self._client:
                client.close()

    def _request(
        self, method: str, path: str, *, body: Any = None, expect: int = 200, timeout_s: float | None = None
    ) -> httpx.Response:
        extra: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        if body is not None:
            extra["content"] = msgspec.json.encode(body)
            extra["headers"] = {"Content-Type": "application/json"}
        try:
            answer = self._client.request(method, f"{self.api}{path}", **extra)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotReachable(f"the server at {self.root} does not answer: {error}") from error
        except httpx.TimeoutException as error:
            raise NotReachable(f"{method} {path}: no answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotReachable(f"{method} {path}: {error}") from error
        if answer.status_code != expect:
            raise _refusal(method, path, answer)
        return answer


def _presented(token: str, how: Presentation) -> tuple[dict[str, str], dict[str, str]]:
    """Return the headers and the query parameters that present a token."""
    match how:
        case "cookie":
            cookies = f"immich_access_token={token}; immich_is_authenticated=true; immich_auth_type=password"
            return {"Cookie": cookies}, {}
        case "bearer":
            return {"Authorization": f"Bearer {token}"}, {}
        case "user-token":
            return {"x-immich-user-token": token}, {}
        case "session-token":
            return {"x-immich-session-token": token}, {}
        case "query":
            return {}, {"sessionKey": token}


def _refusal(method: str, path: str, answer: httpx.Response) -> DeviceError:
    """Turn an unexpected answer into one line: the server's own message where it has one."""
    try:
        message = str(msgspec.json.decode(answer.content)["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        message = answer.text[:200].replace("\n", " ") or "no body"
    kind = {401: NotAdmitted, 403: NotAdmitted, 503: TryLater}.get(answer.status_code, BadAnswer)
    return kind(f"{method} {path} answered {answer.status_code}: {message}")
