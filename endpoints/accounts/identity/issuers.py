"""Who an issuer is: as the settings write it, as its metadata does, and as its tokens do.

The three are one text (OpenID Connect Core 1.0, section 3.1.3.7), but that people paste the address of the discovery
document, and that Microsoft's metadata for several tenants have a place where each token has its own tenant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
TENANT: Final = "{tenantid}"
_TENANT_ID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_SEVERAL: Final = "(?:common|organizations|consumers)"
"""What stands in the place of a tenant in settings that mean several. Who names one tenant gets that one's issuer."""


def discovery_address(issuer: str) -> str:
    """Tell where the metadata of an issuer are; the settings may have that address itself."""
    return issuer.removesuffix(DISCOVERY_PATH).rstrip("/") + DISCOVERY_PATH


def is_meant(issuer: str, told: str) -> bool:
    """Tell whether the issuer that metadata tell of is the one of the settings.

    Written as the discovery document's address it may end with a slash or not: which, only the metadata tell.
    """
    if issuer.endswith(DISCOVERY_PATH):
        issuer, told = issuer.removesuffix(DISCOVERY_PATH).rstrip("/"), told.removesuffix("/")
    if told.count(TENANT) != 1:
        return told == issuer
    before, _, behind = told.partition(TENANT)
    return re.fullmatch(re.escape(before) + _SEVERAL + re.escape(behind), issuer) is not None


def of_token(issuer: str, claims: Mapping[str, Any]) -> str:
    """Tell the issuer that a token must have: the one told of, with the token's own tenant where it has a place.

    A token without a tenant that could be one gets the place itself (`names_none`), and is to be refused.
    """
    tenant = claims.get("tid")
    if TENANT not in issuer or not isinstance(tenant, str) or not _TENANT_ID.fullmatch(tenant):
        return issuer
    return issuer.replace(TENANT, tenant)


def names_none(issuer: str) -> bool:
    """Tell whether there still is a place where a tenant should be."""
    return TENANT in issuer


def may_be(issuer: str, named: str) -> bool:
    """Tell whether an issuer that an answer names can be the one that was told of."""
    before, place, behind = issuer.partition(TENANT)
    if not place:
        return named == issuer
    return re.fullmatch(re.escape(before) + _TENANT_ID.pattern + re.escape(behind), named) is not None


def may_sign(key_issuer: str | None, issuer: str, token_issuer: str) -> bool:
    """Tell whether a key may sign for the issuer of a token: where tenants share a set, it says whose each key is.

    `issuer` is the one told of. A key that says nothing is the issuer's, and so is each one where there is but one.
    """
    if TENANT not in issuer or key_issuer is None or key_issuer == issuer:
        return True
    return key_issuer == token_issuer
