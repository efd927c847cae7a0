"""The `syncledger` command. Importing this takes no time, so that a Ctrl-C finds `main` already there."""

from __future__ import annotations

import atexit
import gc
import os
import sys

INTERRUPTED = 130
UNREAD = 141
"""As the shell tells of a program that SIGPIPE ended."""


def main() -> None:
    """Run the command: 0 done, 1 something differs or failed, 2 wrong usage, 130 interrupted, 141 nobody reads on.

    Never a traceback.
    """
    atexit.register(gc.disable)  # PERF: Python collects once more when it ends, a twentieth of a second for nothing
    _open_standard_streams()
    try:
        from ops.command_group import run

        code = run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # `history | head`: who has read enough is told nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = UNREAD
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("interrupted\n")
        code = INTERRUPTED
    sys.exit(code)


def _open_standard_streams() -> None:
    """Open those that are closed to nowhere: a file or socket that got their number would get what is written there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
