"""A pretended machine: processes whose clock can be off, and be set right, without that of the real one."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

_SOURCE: Final = Path(__file__).with_suffix(".c")
_NS: Final = 1_000_000_000


class Machine:
    """Processes started with its `environment` are on it, whoever's they are; skips the test without a C compiler."""

    def __init__(self) -> None:
        self._folder = Path()

    def __enter__(self) -> Self:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler is installed")
        self._folder = Path(tempfile.mkdtemp(prefix="syncledger-machine-"))
        self._folder.chmod(0o755)  # PostgreSQL runs as another user
        self.set_off(0)
        self._clock.chmod(0o666)
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(_SOURCE)], check=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        shutil.rmtree(self._folder)

    @property
    def environment(self) -> dict[str, str]:
        """What puts a process on it."""
        return {"LD_PRELOAD": str(self._library), "MACHINE_CLOCK": str(self._clock)}

    def set_off(self, seconds: float) -> None:
        """Have its clock be ahead by so many seconds, or behind."""
        with self._clock.open("r+b" if self._clock.exists() else "wb") as clock:
            clock.write(struct.pack("=q", int(seconds * _NS)))

    @property
    def off_s(self) -> float:
        """By how many seconds its clock is ahead."""
        (off,) = struct.unpack("=q", self._clock.read_bytes())
        return float(off) / _NS

    @property
    def _library(self) -> Path:
        return self._folder / "machine.so"

    @property
    def _clock(self) -> Path:
        return self._folder / "clock"
