"""The Compose overlay for Immich's own file: it is valid, and what it names is there.

It is read as Compose reads it; nothing is run, for that takes Docker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import pytest
import yaml

from ops.settings.durations import parse_duration
from ops.settings.settings import Settings, read_settings
from ops.settings.variables import VARIABLES, unknown_variables
from tests.support.processes.proxies import FILES, KINDS

ROOT: Final = FILES.parents[2]
DOCKERFILE: Final = ROOT / "ops" / "deploy" / "docker" / "Dockerfile"
CHECKOUT: Final = "/opt/syncledger"
ENV: Final = {
    "SYNCLEDGER": CHECKOUT, "LEDGER_DB_PASSWORD": "secret",
    "DB_DATABASE_NAME": "photos", "DB_USERNAME": "postgres", "DB_PASSWORD": "other",
}  # fmt: skip
"""What is in the operator's .env: the last line by Immich."""
IMMICH: Final[dict[str, Any]] = {
    "name": "immich",
    "services": {
        "immich-server": {
            "image": "immich-server:release", "ports": ["2283:2283"],
            "depends_on": ["redis", "database"], "restart": "always",
        },
        "immich-machine-learning": {"image": "immich-machine-learning:release"},
        "redis": {"image": "valkey:8"},
        "database": {"image": "postgres:14", "environment": {"POSTGRES_DB": "photos"}},
    },
    "volumes": {"model-cache": None},
}  # fmt: skip
"""The names in Immich's own file that matter here."""


class Loader(yaml.SafeLoader):  # type: ignore[misc] # yaml has no types
    """Reads Compose's `!override`, after which the value stands alone."""


class Override(list[Any]):
    """A list that replaces the one of the file before."""


Loader.add_constructor("!override", lambda loader, node: Override(loader.construct_sequence(node)))


def interpolated(value: Any, env: Mapping[str, str]) -> Any:
    """Fill in variables as Compose does; raises KeyError naming one that has to be set."""

    def one(match: re.Match[str]) -> str:
        name, mark, rest = match.groups()
        if env.get(name):
            return env[name]
        if mark == ":-":
            return str(rest)
        raise KeyError(f"{name} {rest or ''}")

    if isinstance(value, dict):
        return {name: interpolated(inner, env) for name, inner in value.items()}
    if isinstance(value, list):
        return type(value)(interpolated(inner, env) for inner in value)
    return re.sub(r"\$\{(\w+)(?:(:[-?])([^{}]*))?\}", one, value) if isinstance(value, str) else value


def merged(base: Any, over: Any) -> Any:
    """Merge two files as Compose does, as far as they are used here."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {name: merged(base.get(name), inner) for name, inner in over.items()}
    if isinstance(base, list) and isinstance(over, list) and not isinstance(over, Override):
        return base + over
    return over


def overlay(env: Mapping[str, str] = ENV) -> dict[str, Any]:
    text = (FILES / "compose.ledger.yml").read_text()
    read: dict[str, Any] = interpolated(yaml.load(text, Loader), env)
    return read


def project() -> dict[str, Any]:
    whole: dict[str, Any] = merged(IMMICH, overlay())
    return whole


def test_the_project_is_valid() -> None:
    compose_spec = pytest.importorskip(
        "compose_spec", reason="compose-spec is not installed: pip install -e '.[proxies]'"
    )
    read = compose_spec.PyCompose.from_json(json.dumps(project()))
    assert set(read.service_names()) == {*IMMICH["services"], "ledger", *KINDS}
    broken = project()
    broken["services"]["ledger"]["healthchek"] = {}
    with pytest.raises(ValueError, match="healthchek"):
        compose_spec.PyCompose.from_json(json.dumps(broken))


@pytest.mark.parametrize("name", ["SYNCLEDGER", "LEDGER_DB_PASSWORD"])
def test_what_has_to_be_set_is_asked_for(name: str) -> None:
    with pytest.raises(KeyError, match=f"{name} is to be the "):
        overlay({other: value for other, value in ENV.items() if other != name})


def test_the_service_gets_settings_that_it_knows() -> None:
    given = project()["services"]["ledger"]["environment"]
    assert unknown_variables(given) == []
    assert set(given) <= {variable.name for variable in VARIABLES.values()}
    image = dict(re.findall(r"(LEDGER_\w+)=(\S+)", DOCKERFILE.read_text()))
    settings = read_settings(image | given)
    assert (settings.host, settings.port) == (("0.0.0.0",), 2283)
    assert settings.postgres.url == "postgresql://ledger:secret@database:5432/photos"
    (subnet,) = project()["networks"]["edge"]["ipam"]["config"]
    assert settings.trusted_proxies == (subnet["subnet"],)
    assert parse_duration(project()["services"]["ledger"]["stop_grace_period"]) > Settings().grace_s


def test_only_a_proxy_is_published_and_only_on_a_network_without_the_database() -> None:
    services = project()["services"]
    assert {name for name, service in services.items() if service.get("ports")} == set(KINDS)
    assert services["immich-server"]["ports"] == []
    on_edge = {name for name, service in services.items() if "edge" in service.get("networks", ["default"])}
    assert on_edge == {*KINDS, "immich-server", "ledger"}
    for kind in KINDS:
        assert services[kind]["networks"] == ["edge"]
        assert services[kind]["profiles"] == [kind]


def test_all_that_is_named_is_there() -> None:
    whole = project()
    for name, service in whole["services"].items():
        for needed in service.get("depends_on", []):
            assert needed in whole["services"], f"{name} depends on {needed}"
        for network in set(service.get("networks", [])) - {"default"}:
            assert network in whole["networks"]
        for volume in service.get("volumes", []):
            source, _, _ = volume.partition(":")
            if source.startswith(CHECKOUT):
                assert (ROOT / source.removeprefix(f"{CHECKOUT}/")).is_file(), f"{name} mounts {source}"
            else:
                assert source in whole["volumes"], f"{name} mounts {source}"
    ledger = whole["services"]["ledger"]
    assert re.search(r"@(\w+):", ledger["environment"]["LEDGER_POSTGRES"])[1] in whole["services"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "files", "used"),
    [
        ("nginx", ["nginx.conf.template"], r"\$\{(PROXY_\w+)\}"),
        ("caddy", ["Caddyfile"], r"\{\$(PROXY_\w+)\}"),  # those without a default
        ("traefik", ["traefik-routes.yml"], r'env "(PROXY_\w+)"'),
    ],
)
def test_a_proxy_gets_what_its_files_use(kind: str, files: list[str], used: str) -> None:
    whole = project()
    given = whole["services"][kind]["environment"]
    for file in files:
        text = "\n".join(line for line in (FILES / file).read_text().splitlines() if "PROXY_CERT" not in line)
        text = "\n".join(line for line in text.splitlines() if "PROXY_KEY" not in line)
        assert set(re.findall(used, text)) <= set(given), file
    host, _, port = given["PROXY_LEDGER"].partition(":")
    assert port == whole["services"][host]["environment"]["LEDGER_PORT"]
    host, _, port = given["PROXY_IMMICH"].partition(":")
    assert (host, port) == ("immich-server", "2283")
    assert whole["services"][kind]["ports"] == [f"{given['PROXY_PORT']}:{given['PROXY_PORT']}"]


def test_the_image_is_built_of_what_is_there() -> None:
    build = project()["services"]["ledger"]["build"]
    assert build["context"] == CHECKOUT
    assert ROOT / build["dockerfile"] == DOCKERFILE
