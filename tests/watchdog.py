"""Ends what a test run leaves behind: waits for its stdin to close, then kills servers that work in the run's folder.

Servers of `tests/servers.py` die with the test process anyway, embedded ones are made to survive it. Linux only, as it
looks into /proc; elsewhere what a killed run leaves has to be ended by hand.
"""

import os
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
    empty_rounds = 0
    for _ in range(50):
        found = processes_in(sys.argv[1])
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        empty_rounds = 0 if found else empty_rounds + 1
        if empty_rounds == 2:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
