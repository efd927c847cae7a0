"""The command as a process: what a Ctrl-C or a closed stream at its very start does."""

from __future__ import annotations

import subprocess
import sys

from tests.running import COMMAND

CTRL_C = """
import sys

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


def test_it_runs_with_any_standard_stream_closed(valkey_url: str) -> None:
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        code = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "key", "list", "--redis", valkey_url]
        done = subprocess.run(code, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), closed
        assert (done.stdout == "") == (">&-" in closed.split()), closed
