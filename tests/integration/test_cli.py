"""The command as a process: what a Ctrl-C or a closed stream at its very start does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.processes.running import COMMAND, RunningService

CTRL_C = """
import sys
from pathlib import Path

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
from ops.cli import main
main()
"""


def test_a_ctrl_c_while_it_is_loaded_ends_it_without_a_traceback() -> None:
    for module in ("click", "ops.commands", "projections.entities.registry"):
        code = [sys.executable, "-c", CTRL_C.format(name=module), "verify"]
        done = subprocess.run(code, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n"), module


def test_it_runs_with_any_standard_stream_closed(valkey_url: str, tmp_path: Path) -> None:
    ledger = RunningService(tmp_path, redis_url=valkey_url)
    ledger.command("store", "begin")
    ledger.command("key", "create", "--scope", "audit.read")
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        code = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "key", "list"]
        done = subprocess.run(code, capture_output=True, text=True, timeout=60, check=False, env=ledger.environment)
        assert (done.returncode, done.stderr) == (0, ""), closed
        assert (done.stdout == "") == (">&-" in closed.split()), closed


def test_a_mistyped_data_folder_is_named_and_not_made(tmp_path: Path) -> None:
    missing, sid = tmp_path / "vra", "0" * 64
    for command in (
        ("verify",), ("rebuild",), ("expire",), ("history", sid), ("state", sid), ("explain", sid),
        ("session", "list", "--user", "ann"), ("session", "end", sid), ("user", "show", "ann"), ("key", "list"),
        ("backup", "--to", f"file://{tmp_path}/backups"),
    ):  # fmt: skip
        done = RunningService(tmp_path).command(*command, "--data-dir", str(missing), check=False)
        assert (done.returncode, done.stdout) == (1, ""), command
        assert str(missing) in done.stderr, command
        assert not missing.exists(), command
