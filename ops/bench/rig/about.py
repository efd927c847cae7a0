"""Of what a benchmark's figures are: the machine and the commit, without which none can be compared."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

_ROOT: Final = Path(__file__).parents[3]
_GIT_S: Final = 10.0


class About(msgspec.Struct, frozen=True):
    """The machine (its processor, cores, memory in MiB, system), Python, our version and the commit.

    `commit` is empty where this is not a checkout, and ends in `+` where files differ from it.
    """

    processor: str
    cores: int
    memory_mib: int
    system: str
    python: str
    version: str
    commit: str


_MACHINE: Final = ("processor", "cores", "memory_mib", "system", "python")


def of_another_machine(before: About, now: About) -> list[str]:
    """Name what differs of the machines of two runs; nothing if they are the same."""
    return [name for name in _MACHINE if getattr(before, name) != getattr(now, name)]


def about() -> About:
    """Look at this machine and checkout."""
    return About(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        version=metadata.version("syncledger"),
        commit=_commit(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # only Linux has it
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return commit + "+" if commit and changed else commit


def _git(*args: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    try:
        done = subprocess.run(
            (git, "-C", str(_ROOT), *args), capture_output=True, text=True, timeout=_GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
