"""Settings: what the environment and the command line may say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidInput
from ops.durations import LONGEST_MS, format_duration, parse_duration
from ops.settings import VARIABLES, Settings, read_settings, unknown_variables, without_password

KEY = "k" * 40


def problem(environ: dict[str, str], **overrides: object) -> tuple[tuple[str | int, ...], str]:
    with pytest.raises(InvalidInput) as caught:
        read_settings(environ, **overrides)
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("1s", 1),
        ("1.5s", 1.5),
        ("15m", 900),
        ("2h", 7200),
        ("30d", 2_592_000),
        (" 10s ", 10),
        ("0s", 0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1 s", "1w", "1h30m", "1e3s", "0.5ms", "99999999d", "\u0661s", "1S"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|finer|longer"):
        parse_duration(text)


@given(st.integers(0, LONGEST_MS))
def test_durations_round_trip(duration_ms: int) -> None:
    assert parse_duration(format_duration(duration_ms / 1000)) == duration_ms / 1000


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({variable.name: "" for variable in VARIABLES.values()}) == Settings()


def test_every_setting_is_a_variable_of_its_own() -> None:
    assert set(VARIABLES) == set(Settings.__struct_fields__)
    assert len({variable.name for variable in VARIABLES.values()}) == len(VARIABLES)
    assert all(variable.name.startswith("LEDGER_") for variable in VARIABLES.values())


def test_the_environment_is_read() -> None:
    environ = {
        "LEDGER_HOST": "[::1]",
        "LEDGER_PORT": "0",
        "LEDGER_WORKERS": "4",
        "LEDGER_DATA_DIR": "/srv/ledger",
        "LEDGER_REDIS": "rediss://user:secret@db:6380/0",
        "LEDGER_DURABILITY": "FSYNC",
        "LEDGER_STALL": "2m",
        "LEDGER_GRACE": "250ms",
        "LEDGER_TOKEN_KEY": KEY,
    }
    assert read_settings(environ) == Settings(
        host="::1",
        port=0,
        workers=4,
        data_dir=Path("/srv/ledger"),
        redis_url="rediss://user:secret@db:6380/0",
        durability="fsync",
        stall_s=120,
        grace_s=0.25,
        token_key=KEY,
    )


def test_the_command_line_goes_before_the_environment() -> None:
    environ = {"LEDGER_PORT": "1", "LEDGER_HOST": "a", "LEDGER_STALL": "nonsense"}
    settings = read_settings(environ, port=2, host=None, data_dir="x", stall_s="5s")
    assert (settings.port, settings.host, settings.data_dir, settings.stall_s) == (2, "a", Path("x"), 5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LEDGER_STALL", "10"),
        ("LEDGER_STALL", "1ms"),
        ("LEDGER_GRACE", "soon"),
        ("LEDGER_PORT", "65536"),
        ("LEDGER_PORT", "²"),
        ("LEDGER_WORKERS", "0"),
        ("LEDGER_PARTITIONS", "-1"),
        ("LEDGER_HOST", "a b"),
        ("LEDGER_HOST", "1:2"),
        ("LEDGER_REDIS", "localhost:6379"),
        ("LEDGER_REDIS", "http://localhost"),
        ("LEDGER_DURABILITY", "replica"),
        ("LEDGER_SOURCE", "files"),
        ("LEDGER_LOG", "loud"),
        ("LEDGER_TOKEN_KEY", "short"),
        ("LEDGER_TOKEN_KEY_FILE", "/does/not/exist"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, text: str) -> None:
    path, message = problem({name: text})
    assert path == (name.removesuffix("_FILE"),)
    assert message


def test_a_bad_option_names_the_option() -> None:
    assert problem({}, workers="many")[0] == ("--workers",)
    assert problem({}, redis_url="x")[0] == ("--redis",)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_settings({"LEDGER_STALL": "x", "LEDGER_PORT": "y"})
    assert {path for path, _ in caught.value.problems} == {("LEDGER_STALL",), ("LEDGER_PORT",)}


def test_secrets_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "redis").write_text("redis://:secret@db\n")
    environ = {"LEDGER_TOKEN_KEY_FILE": str(tmp_path / "key"), "LEDGER_REDIS_FILE": str(tmp_path / "redis")}
    settings = read_settings(environ)
    assert (settings.token_key, settings.redis_url) == (KEY, "redis://:secret@db")
    assert "either" in problem(environ | {"LEDGER_TOKEN_KEY": KEY})[1]


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    settings = Settings(token_key=KEY, redis_url="redis://user:hunter2@db:1/0?password=hunter2&x=1")
    for shown in (repr(settings), str(settings), f"{settings!r}", str(list(settings.__rich_repr__()))):
        assert KEY not in shown
        assert "hunter2" not in shown
    assert "db:1" in repr(settings)
    (tmp_path / "key").write_text("hunter2")
    for environ in ({"LEDGER_TOKEN_KEY": "hunter2"}, {"LEDGER_REDIS": "hunter2://x"}, {"LEDGER_REDIS": "hunter2"}):
        assert "hunter2" not in str(problem(environ))
    assert "hunter2" not in str(problem({"LEDGER_TOKEN_KEY_FILE": str(tmp_path / "key")}))


def test_a_password_on_the_command_line_is_refused_and_not_repeated() -> None:
    path, message = problem({}, redis_url="redis://:hunter2@db")
    assert (path, "LEDGER_REDIS" in message, "hunter2" in message) == (("--redis",), True, False)
    assert read_settings({}, redis_url="redis://db:1").redis_url == "redis://db:1"


def test_passwords_are_masked_in_urls() -> None:
    assert without_password("redis://db:1/0") == "redis://db:1/0"
    assert without_password("redis://:p@db:1/0") == "redis://:***@db:1/0"
    assert without_password("redis://[:p") == "(unreadable)"


def test_misspelt_variables_are_found() -> None:
    environ = {
        "LEDGER_STAL": "1s",
        "LEDGER_TOKEN": "x",
        "LEDGER_STALL": "1s",
        "LEDGER_TOKEN_KEY_FILE": "x",
        "PATH": "y",
    }
    assert unknown_variables(environ) == ["LEDGER_STAL"]


def test_settings_travel_as_json() -> None:
    settings = Settings(data_dir=Path("a b"), token_key=KEY, redis_url="redis://:p@db")
    encoded = msgspec.json.encode(settings, enc_hook=str)
    assert msgspec.json.decode(encoded, type=Settings, dec_hook=lambda kind, value: kind(value)) == settings
