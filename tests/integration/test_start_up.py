"""What a command loads before it does anything: nothing that only others need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ops.command_group import syncledger
from ops.commands import COMMANDS

SERVER = {"gunicorn", "uvicorn", "httptools", "falcon", "limits", "prometheus_client"}
CLIENTS = {"httpx", "asyncpg", "authlib", "gumnut", "ua_parser"}
SHOWN = {"rich", "pygments", "psutil"}
STORE = {"redis", "hiredis", "asyncio", "uvloop", "msgspec", "joserfc", "cryptography", "obstore", "zstandard"}
LOADED = """
import sys
from ops.cli import main
sys.argv[0] = "syncledger"
try:
    main()
finally:
    sys.stdout.flush()
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def loaded(*arguments: str) -> set[str]:
    """Run a command and tell which packages it loaded, ours left out."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--version",)])
def test_help_loads_no_command(arguments: tuple[str, ...]) -> None:
    packages = loaded(*arguments)
    assert "click" in packages
    assert packages & (SERVER | CLIENTS | SHOWN | STORE | {"projections", "endpoints"}) == set()


def test_a_command_loads_what_it_uses(valkey_url: str, tmp_path: Path) -> None:
    for arguments in (
        ("session", "create", "--user", "ann", "--library", "lib", "--user-agent", "immich-android/3.2.0"),
        ("history", "--user", "ann"),
    ):
        packages = loaded(*arguments, "--redis", valkey_url, "--data-dir", str(tmp_path))
        assert "redis" in packages
        assert packages & (SERVER | CLIENTS | SHOWN) == set(), arguments


def test_the_parent_of_a_service_loads_no_server_and_nobody_the_sdk_of_traces() -> None:
    script = "import sys; import ops.commands.serve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    modules = set(done.stdout.split())
    assert "redis" in modules
    assert modules & {"uvicorn", "gunicorn.arbiter", "falcon", "prometheus_client", "opentelemetry.sdk"} == set()


def test_what_is_told_of_a_command_is_what_it_tells_itself() -> None:
    context = click.Context(syncledger)
    for name, named in COMMANDS.items():
        command = syncledger.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert not command.hidden
        for width in (30, 45, 68, 1000):
            told = click.Command(name, help=named.help)
            assert told.get_short_help_str(width) == command.get_short_help_str(width), name


def test_an_unknown_command_is_wrong_usage() -> None:
    with pytest.raises(click.UsageError, match="No such command 'sesion'"):
        syncledger.main(["sesion"], prog_name="syncledger", standalone_mode=False)


def test_a_shell_completes_commands_and_their_options() -> None:
    for words, at, expected in (("syncledger sess", 1, "session"), ("syncledger history --forw", 2, "--forward")):
        environ = {**os.environ, "_SYNCLEDGER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        script = "import sys; sys.argv[0] = 'syncledger'; from ops.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environ)
        assert done.stdout == f"plain,{expected}\n", done.stderr
