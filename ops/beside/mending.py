"""The lines that mend a proxy, of the configurations in ops/deploy/immich."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

KINDS: Final = ("nginx", "caddy", "traefik")
Lines = Mapping[str, tuple[str, ...]]

SYNC: Final[Lines] = {
    "nginx": (r'location ~* "^[/\x5c]api[/\x5c]sync([/\x5c?#]|$)" {', "    proxy_pass http://$sync;", "}"),
    "caddy": (
        r"path_regexp `(?i)^[/\\](api[/\\]sync|ledger|console)([/\\?#]|$)`",
        "reverse_proxy {$PROXY_LEDGER:ledger:2283} {",
    ),
    "traefik": (
        r"rule: PathRegexp(`(?i)^(/|\\|%2f|%5c)api(/|\\|%2f|%5c)sync(/|\\|%2f|%5c|%3f|%23|$)`)",
        "service: ledger",
    ),
}
OURS: Final[Lines] = {
    "nginx": (r'location ~* "^[/\x5c](ledger|console)([/\x5c?#]|$)" {', "    proxy_pass http://ledger;", "}"),
    "caddy": SYNC["caddy"],
    "traefik": (r"rule: PathRegexp(`(?i)^(/|\\|%2f|%5c)(ledger|console)(/|\\|%2f|%5c|%3f|%23|$)`)", "service: ledger"),
}
ALL_ELSE: Final[Lines] = {
    "nginx": ("location / {", "    proxy_pass http://immich;", "}"),
    "caddy": ("handle {", "    reverse_proxy {$PROXY_IMMICH:immich-server:2283} {"),
    "traefik": ("rule: PathPrefix(`/`)", "service: immich", "priority: 2"),
}
UNBUFFERED: Final[Lines] = {
    "nginx": ("proxy_buffering off;", "proxy_request_buffering off;", "gzip off;"),
    "caddy": ("# without response_buffers, encode and any cache in front of:", *SYNC["caddy"][1:]),
    "traefik": ("# without the middlewares buffering and compress:", *SYNC["traefik"]),
}
PATIENT: Final[Lines] = {
    "nginx": ("proxy_read_timeout  15m;", "proxy_send_timeout  15m;", "send_timeout        15m;"),
    "caddy": ("write_idle 15m", "# and no read_timeout, write_timeout or response_header_timeout in transport http"),
    "traefik": ("# no writeTimeout in entryPoints.….transport.respondingTimeouts, and no responseHeaderTimeout",),
}
NO_FALLBACK: Final[Lines] = {
    "nginx": (
        "# in this location no error_page and no proxy_intercept_errors, in upstream ledger no server … backup:",
        *SYNC["nginx"],
    ),
    "caddy": ("# without handle_errors, handle_response, and a second address in:", *SYNC["caddy"][1:]),
    "traefik": ("# no failover or weighted service, and no middleware errors, in its place:", *SYNC["traefik"]),
}
SOCKET: Final[Lines] = {
    "nginx": (
        "map $http_upgrade $hop_to_immich {",
        "set $hop     $hop_to_immich;",
        "set $upgrade    $http_upgrade;",
        "proxy_set_header Connection        $hop;",
        "proxy_set_header Upgrade           $upgrade;",
    ),
    "caddy": ALL_ELSE["caddy"],
    "traefik": ALL_ELSE["traefik"],
}
CLIENT: Final[Lines] = {
    "nginx": ("proxy_set_header X-Forwarded-For   $remote_addr;", "proxy_set_header X-Forwarded-Proto $scheme;"),
    "caddy": ("# no header_up X-Forwarded-…, and trusted_proxies only with the proxies in front of it",),
    "traefik": (
        "# no forwardedHeaders.insecure, and forwardedHeaders.trustedIPs only with the proxies in front of it",
    ),
}


def kind_of(server: str, via: str) -> str:
    """Tell which proxy answers, by the headers Server and Via; '' if they do not tell."""
    for kind in ("nginx", "caddy"):
        if kind in server.lower() or kind in via.lower():
            return kind
    return ""


def told(lines: Lines, kind: str) -> tuple[str, ...]:
    """Write out lines for one proxy, or where it is not known for each."""
    if kind in lines:
        return lines[kind]
    return tuple(line for each in KINDS for line in (f"# {each}", *lines[each]))
