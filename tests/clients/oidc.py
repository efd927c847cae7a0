"""A real OpenID provider in a Node process of its own (`oidc-provider`), and browsers that sign in at it.

    with oidc_process() as provider:
        redirect = provider.sign_in(authorize_url, login="ann")     # the address the user is sent back to
        provider.rotate_keys()

Any login name is a user: `<login>@example.test`, named `The User <login>`. Some are special: `no-email` and `no-name`
have none, the address of `userinfo-email` is only in the userinfo, that of `upper-email` is badly written, `with-role`
is an admin. `account` makes others special, `reset` forgets all that a test changed.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urljoin

import httpx
import pytest

from tests.support.stores.servers import die_with_parent, free_port, killed_at_end

HERE = Path(__file__).parent
MOST_STEPS = 20


class Client(NamedTuple):
    """A client the provider knows from the start."""

    client_id: str
    client_secret: str
    redirect_uri: str
    token_auth: str


NATIVE: Final = Client("immich", "immich-secret", "app.immich:///oauth-callback", "client_secret_post")
WEB: Final = Client(
    "immich-web", "web secret: 100% +/&=", "http://127.0.0.1:2283/auth/login", "client_secret_basic"
)  # fmt: skip
"""Register the redirect address of a service's own port with `provider.client(WEB.client_id, redirect_uris=[…])`."""


class SignInFailed(AssertionError):
    """The provider showed a page that leads no further."""


class Browser:
    """A user agent with its own cookies, in which `login` signs in and agrees to everything.

    As in a browser, a second sign-in asks for no password: the session at the provider goes on until `sign_out`.
    """

    def __init__(self, issuer: str, login: str) -> None:
        self.login = login
        self._issuer = issuer
        self._http = httpx.Client(trust_env=False, timeout=30)

    def sign_in(self, authorize_url: str) -> str:
        """Follow the sign-in to its end; returns the address the provider sends the user back to, errors included."""
        return self._walk(authorize_url)

    def cancel(self, authorize_url: str) -> str:
        """Leave the sign-in at its first page; returns the address the provider sends the user back to."""
        page = self._http.get(authorize_url, follow_redirects=True)
        abort = re.search(r'href="([^"]+/abort)"', page.text)
        assert abort, f"{page.status_code} at {page.url}"
        return self._walk(urljoin(str(page.url), html.unescape(abort[1])))

    def sign_out(self, logout_url: str) -> str:
        """Confirm the end of the session at the provider; returns where it sends the user then."""
        return self._walk(logout_url)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def _walk(self, url: str) -> str:
        page = self._http.get(url)
        for _ in range(MOST_STEPS):
            here = str(page.url)
            if page.is_redirect:
                there = urljoin(here, page.headers["location"])
                if not there.startswith(f"{self._issuer}/") or there.endswith("/session/end/success"):
                    return there
                page = self._http.get(there)
            else:
                page = self._submit(here, page)
        raise SignInFailed("the sign-in does not come to an end")

    def _submit(self, here: str, page: httpx.Response) -> httpx.Response:
        """Fill in the form of a page, whichever it is."""
        action = re.search(r'<form[^>]* action="([^"]+)"', page.text)
        if page.status_code != 200 or action is None:
            said = re.findall(r"<pre><strong>(\w+)</strong>: ([^<]*)</pre>", page.text)
            raise SignInFailed(f"{page.status_code} at {here.partition('?')[0]}: {said}")
        hidden = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text))
        answers = {"login": self.login, "password": "any", "logout": "yes"}
        fields = {name: html.unescape(value) for name, value in hidden.items()}
        return self._http.post(urljoin(here, html.unescape(action[1])), data={**answers, **fields})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Oidc:
    """The running provider."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.issuer = str(self._answer())

    def browser(self, login: str = "ann") -> Browser:
        """Return a new browser; its session at the provider outlasts a sign-in."""
        return Browser(self.issuer, login)

    def sign_in(self, authorize_url: str, login: str = "ann") -> str:
        """Sign in with a new browser; returns the address the provider sends the user back to."""
        with self.browser(login) as browser:
            return browser.sign_in(authorize_url)

    def rotate_keys(self, *, keep_old: bool = False) -> None:
        """Sign with new keys from now on; the old ones leave the JWKS unless they are kept."""
        self._call("rotateKeys", keep_old)

    def client(self, client_id: str, **metadata: Any) -> None:
        """Change a client, or register one; None takes something away."""
        self._call("client", client_id, metadata)

    def back_channel(self, client_id: str, url: str) -> None:
        """Have logouts told to `url`, by the provider's session; from now on ID tokens name that (`sid`)."""
        self.client(client_id, backchannel_logout_uri=url, backchannel_logout_session_required=True)

    def account(
        self, login: str, *, id_token: Mapping[str, Any] | None = None, userinfo: Mapping[str, Any] | None = None
    ) -> None:
        """Say what claims of a user are not the usual ones, in the ID token and in the userinfo; None: is missing.

        Besides the usual ones there are `immich_role`, `ledger_user` and `ledger_library`.
        """
        self._call("account", login, {"id_token": dict(id_token or {}), "userinfo": dict(userinfo or {})})

    def clock(self, ahead_s: float) -> None:
        """Set the provider's clock: two hours back, and the ID token of a code that is there already is expired.

        Sign in before: a browser drops the cookies of a log-in page that is hours behind. A code is good for 60 s.
        """
        self._call("clock", ahead_s)

    def reset(self) -> None:
        """Undo changes of clients, accounts and the clock; keys and sessions stay."""
        self._call("reset")

    def _call(self, function: str, *args: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"call": function, "args": args}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the provider's process ended with {self._process.wait(10)}"
        said = json.loads(line)
        assert "error" not in said, said
        return said["value"]


@contextmanager
def oidc_process() -> Iterator[Oidc]:
    """Run a provider on a free port; skips the test where Node or the installed package is missing."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (HERE / "node_modules" / "oidc-provider").is_dir():
        pytest.skip("oidc-provider is not installed: npm is missing, or `make install` was not run")
    process = subprocess.Popen(
        [node, str(HERE / "oidc.mjs"), str(free_port())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    with killed_at_end(process):
        yield Oidc(process)
