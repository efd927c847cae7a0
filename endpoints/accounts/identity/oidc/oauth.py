"""The OAuth 2.0 requests of the authorization code flow with PKCE, as text. Nothing is sent here."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import (
    prepare_grant_uri,
    prepare_token_request,
)
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from endpoints.accounts.identity.oidc.config import OidcConfig, TokenAuth
from endpoints.accounts.identity.oidc.discovery import Metadata


@dataclass(frozen=True, repr=False)
class TokenRequest:
    """The request that turns a code into tokens. It holds the code and the client's secret and shows neither."""

    headers: dict[str, str]
    form: str


def challenge_of(verifier: str) -> str:
    """Return the S256 code challenge of a PKCE verifier."""
    return str(create_s256_code_challenge(verifier))


def nonce_of(state: str, challenge: str) -> str:
    """Return the nonce of a sign-in: made of what the client must bring along anyway, so that none is stored."""
    return urlsafe_b64encode(sha256(f"nonce{state}{challenge}".encode()).digest()).rstrip(b"=").decode()


def authorization_url(config: OidcConfig, metadata: Metadata, redirect_uri: str, state: str, challenge: str) -> str:
    """Return the address of the sign-in page."""
    url = prepare_grant_uri(
        metadata.authorization_endpoint,
        client_id=config.client_id,
        response_type="code",
        redirect_uri=redirect_uri,
        scope=config.scope,
        state=state,
        nonce=nonce_of(state, challenge),
        code_challenge=challenge,
        code_challenge_method="S256",
        prompt=config.prompt or None,
    )
    return str(url)


def token_request(config: OidcConfig, metadata: Metadata, code: str, redirect_uri: str, verifier: str) -> TokenRequest:
    """Return the request for the tokens of a code, with the client's authentication in it."""
    method = token_auth(config, metadata)
    form = prepare_token_request("authorization_code", code=code, redirect_uri=redirect_uri, code_verifier=verifier)
    client_id, secret = config.client_id, config.client_secret or ""
    if method == "client_secret_basic":  # RFC 6749, 2.3.1: encoded as in a form before they are put together
        client_id, secret = quote_plus(client_id), quote_plus(secret)
    _, headers, form = ClientAuth(client_id, secret, method).prepare("POST", metadata.token_endpoint, {}, form)
    return TokenRequest(headers, form)


def token_auth(config: OidcConfig, metadata: Metadata) -> TokenAuth:
    """Tell how the client proves who it is: as configured, or else in the form if the provider takes that."""
    if config.token_auth is not None:
        return config.token_auth
    if not config.client_secret:
        return "none"
    # Discovery 1.0, section 3: without the list it is client_secret_basic.
    supported = metadata.token_endpoint_auth_methods_supported or ()
    return "client_secret_post" if "client_secret_post" in supported else "client_secret_basic"
