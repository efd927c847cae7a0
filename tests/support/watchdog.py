"""Ends what a test run leaves behind: waits for its stdin to close, then kills servers that work in the run's folder.

With `--remove` behind the folder they are asked to quit at once before they are killed, and the folder is removed.

Servers of `tests/support/stores/servers.py` die with the test process anyway, embedded ones are made to survive it.
Linux only, as it looks into /proc; elsewhere what a killed run leaves has to be ended by hand.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path


def processes_in(folder: str) -> list[int]:
    """Return the processes, other than this one, whose working directory is inside a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = (entry / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if inside and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def main() -> None:
    """Wait, then kill, a few times over: what is being started right now appears a moment later."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    folder, remove = sys.argv[1], "--remove" in sys.argv[2:]
    end(folder, polite_rounds=10 if remove else 0)
    if remove:
        shutil.rmtree(folder, ignore_errors=True)


def end(folder: str, polite_rounds: int) -> None:
    """End what works in a folder: SIGQUIT in the first rounds, then SIGKILL."""
    empty_rounds = 0
    for turn in range(50):
        found = processes_in(folder)
        for pid in found:
            try:
                os.kill(pid, signal.SIGQUIT if turn < polite_rounds else signal.SIGKILL)
            except ProcessLookupError:
                continue
        empty_rounds = 0 if found else empty_rounds + 1
        if empty_rounds == 2:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
