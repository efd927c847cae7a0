"""What freed memory a process with a PostgreSQL source keeps, and where it is left to the environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_FREES = """
import resource
from projections.entities.postgres.connections.freed_memory import keep_freed_memory
print(keep_freed_memory())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    for size in (1_000_000, 700_000, 900_000):
        bytes(bytearray(b"x" * size))
use()
before = faults()
for _ in range(50):
    use()
print(faults() - before)
"""


_KEEPS = """
import os
from projections.entities.postgres.connections.freed_memory import keep_freed_memory
print(keep_freed_memory())
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
held = [bytes(bytearray(b"x" * 1_000_000)) for _ in range(64)]
assert resident() - before > 60_000_000
del held
print(resident() - before)
"""


def run(program: str = _FREES, **env: str) -> tuple[bool, int]:
    """Return whether memory is kept, and what else a program tells."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", program], env=kept | env, capture_output=True, text=True, check=True)
    said, told = done.stdout.split()
    return said == "True", int(told)


def test_buffers_of_a_megabyte_are_not_given_back_and_asked_for_again() -> None:
    keeps, faults = run()  # of the 120,000 pages that are used
    assert not keeps or faults < 5_000, "where the C library can keep it"


def test_no_more_is_kept_than_so_much() -> None:
    _, kept = run(_KEEPS)
    assert kept < 8 * 1024 * 1024 + 2_000_000


@pytest.mark.parametrize("env", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=64"}])
def test_an_environment_that_says_how_memory_is_kept_is_obeyed(env: dict[str, str]) -> None:
    keeps, _ = run(**env)
    assert not keeps
