"""`make run` on a port and a folder of one's own, and on a port that is taken."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stores.servers import die_with_parent, free_port, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder, with a space in its name, of which nothing is installed."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def make(checkout: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"PORT", "DATA", "MAKEFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        ["make", "run", f"PYTHON={sys.executable}", *arguments],
        cwd=checkout,
        env={**{name: value for name, value in kept.items() if not name.startswith("LEDGER_")}, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("by", ["argument", "environment", "setting"])
def test_a_port_that_is_taken_is_told_before_anything_is_installed(checkout: Path, taken: int, by: str) -> None:
    arguments = [f"PORT={taken}"] if by == "argument" else []
    environ = {"environment": {"PORT": str(taken)}, "setting": {"LEDGER_PORT": str(taken)}}.get(by, {})
    done = make(checkout, *arguments, **environ)
    assert done.returncode != 0
    assert f"Port {taken} is in use" in done.stderr
    assert f"make run PORT={taken + 1}" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("data", "environ"),
    [("", {}), ("/srv/demo", {}), ("with a space/it's", {}), ("$(touch made)`touch made`", {"LEDGER_HOST": "::1"})],
)
def test_port_and_folder_come_to_the_command_as_they_are(checkout: Path, data: str, environ: dict[str, str]) -> None:
    """The command is one that tells what it was given."""
    command = checkout / ".venv" / "bin" / "syncledger"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    command.chmod(0o755)
    (checkout / ".venv" / "served").touch()
    port = free_port()
    given = [f"DATA={data.replace('$', '$$')}"] if data else []
    done = make(checkout, f"PORT={port}", *given, **environ)
    assert done.returncode == 0, done.stderr
    expected = ["demo", "--port", str(port), *(["--data-dir", data] if data else [])]
    assert done.stdout.splitlines()[-1] == str(expected)
    assert not (checkout / "made").exists()


def test_without_port_and_folder_the_settings_hold(checkout: Path) -> None:
    command = checkout / ".venv" / "bin" / "syncledger"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\necho "$#: $*"\n')
    command.chmod(0o755)
    (checkout / ".venv" / "served").touch()
    done = make(checkout, LEDGER_PORT=str(free_port()))
    assert done.stdout.splitlines()[-1] == "1: demo"


def test_what_was_installed_for_tests_serves_too(checkout: Path) -> None:
    command = checkout / ".venv" / "bin" / "syncledger"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\necho serves\n")
    command.chmod(0o755)
    (checkout / ".venv" / "installed").touch()
    assert make(checkout, LEDGER_PORT=str(free_port())).stdout.splitlines()[-1] == "serves"
    assert not (checkout / ".venv" / "served").exists()


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_a_service_tells_of_a_taken_port_before_it_makes_anything(tmp_path: Path, taken: int, command: str) -> None:
    data = tmp_path / "some data"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ops.cli import main; main()",
            command,
            "--port",
            str(taken),
            "--data-dir",
            str(data),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"error: Cannot listen on 127.0.0.1 port {taken}: Address already in use; choose another --port\n"
    )
    assert not data.exists()


def test_what_the_demo_prints_works_as_it_is(tmp_path: Path) -> None:
    """On a port and in a folder that are not the default ones: the command for another link to the console."""
    port, data = free_port(), tmp_path / "some data"
    syncledger = (sys.executable, "-c", "from ops.cli import main; main()")
    options = ("--assets", "1", "--port", str(port), "--data-dir", str(data))
    with (tmp_path / "said").open("wb") as said:
        demo = subprocess.Popen([*syncledger, "demo", *options], stdout=said, stderr=said, preexec_fn=die_with_parent)
    try:
        wait_until(lambda: "Stop with Ctrl-C" in (tmp_path / "said").read_text(), "the demo")
        told = (tmp_path / "said").read_text()
        (line,) = (line for line in told.splitlines() if " console link " in line)
        program, *arguments = shlex.split(line)
        done = subprocess.run([*syncledger, *arguments], capture_output=True, text=True, timeout=60, check=True)
    finally:
        demo.send_signal(signal.SIGINT)
        code = demo.wait(30)
    assert program == ".venv/bin/syncledger"
    assert done.stdout.startswith(f"http://127.0.0.1:{port}/console/link#")
    assert code in (0, -signal.SIGINT, 130)
