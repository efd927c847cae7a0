"""The commands of ops/docs/runbooks.md, taken out of the page and run in a shell as somebody does who was woken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.docs.reading import ROOT, Page
from tests.support.processes.running import RunningService
from tests.support.processes.shell_commands import ShellCommands

TIMEOUT_S: Final = 120
FAULTS: Final = (
    *("LedgerDown", "LedgerStoreDown", "LedgerDiskFull", "LedgerEviction", "LedgerSourceDown", "LedgerLongTransaction"),
    *("LedgerHorizonHeld", "LedgerWorkerKilled", "LedgerArchiveFailing", "LedgerBackupFailing", "LedgerClockStep"),
    *("LedgerPartitionNotWhole", "LedgerCertificateExpired", "LedgerSignInBroken"),
)
"""The alerts whose faults tests/faults/test_game_day.py causes."""


class Runbook:
    """Runs blocks where a service runs, with its settings and `syncledger` on the PATH."""

    def __init__(self, service: RunningService, commands: ShellCommands, **variables: str) -> None:
        """`variables` are what the page says that somebody knows beside the settings, like `DATABASE`."""
        self._page = Page(ROOT / "ops/docs/runbooks.md")
        self._folder = service.folder
        home = service.folder / "home"
        home.mkdir(exist_ok=True)
        (home / ".curlrc").write_text('fail-with-body\nshow-error\nnoproxy = "*"\nmax-time = 60\n')
        path = os.pathsep.join((str(commands.program.parent), os.environ["PATH"], str(Path(sys.executable).parent)))
        self._environment = {**service.environment, "PATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8", **variables}
        self._port = service.port

    def run(
        self,
        title: str,
        number: int = 0,
        *,
        instead: Mapping[str, str] | None = None,
        on: Mapping[str, str] | None = None,
        exits: int = 0,
    ) -> str:
        """Run one block below a heading, with what is there `instead` of what the page says; give what it said.

        `on` are variables of the machine where that is to be done. Raises AssertionError where it exits otherwise.
        """
        text = self._page.section(title)[number].text
        for what, there in {r"\b2283\b": str(self._port), **(instead or {})}.items():
            text, count = re.subn(what, lambda _: there, text)  # noqa: B023
            assert count or what == r"\b2283\b", f"{title} says nothing of {what}:\n{text}"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-e", "-c", text],
            cwd=self._folder,
            env={**self._environment, **(on or {}), "PATH": self._environment["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == exits, f"{title}: {done.returncode}\n{text}\n{done.stdout}"
        return done.stdout
