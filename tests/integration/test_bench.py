"""The benchmarks run, against the real service; what they measure is not looked at here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import psutil
import pytest

from ops.bench.postgres import beside, server, streams
from ops.bench.rig.results import BENCHMARKS, as_json
from ops.bench.rig.scale import QUICK
from tests.support.stores.postgres_server import postgres_binaries

BENCH = [sys.executable, "-c", "from ops.cli import main; main()", "bench", "--quick", "--rounds", "1"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that others may go through: PostgreSQL does not run as root, and pytest's are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


ON_POSTGRES = ("postgres", "beside")


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.Popen(
        [*BENCH, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize(
    ("only", "comparisons", "bounds", "units"),
    [
        (("history",), 0, 3, {"µs"}),
        pytest.param(("reads",), 4, 0, set(), marks=pytest.mark.soak),
        pytest.param(
            [name for name in BENCHMARKS if name not in ON_POSTGRES],
            23 - (postgres_binaries() is None), 52,
            {"MiB", "KiB", "bytes", "events", "streams", "µs", "ms", "%", "times", ""},
            marks=pytest.mark.soak,
        ),
    ],
    ids=["one", "reads", "all"],
)  # fmt: skip
def test_a_quick_run_measures_everything_and_leaves_nothing(
    open_folder: Path, only: Sequence[str], comparisons: int, bounds: int, units: set[str]
) -> None:
    bench = start(open_folder, "--json", "--only", ",".join(only))
    out, err = bench.communicate(timeout=400)
    assert bench.returncode == 0, err
    results = msgspec.json.decode(out)["results"]
    compared = [row for row in results if row["kind"] == "comparison"]
    bounded = [row for row in results if row["kind"] == "bound"]
    assert (len(compared), len(bounded)) == (comparisons, bounds)
    assert all(min(row["floor"] + row["ours"]) > 0 for row in compared)
    assert {row["unit"] for row in bounded} == units
    assert [row["value"] for row in results if row["unit"] == "events"] == [0] * ("sizes" in only)
    assert "round 1/1" in err
    assert list(open_folder.glob("syncledger-bench-*")) == []


@pytest.mark.soak
@pytest.mark.skipif(postgres_binaries() is None, reason="PostgreSQL 15 or later is not installed")
@pytest.mark.parametrize(("name", "comparisons", "bounds"), [("postgres", 3, 3), ("beside", 1, 2)])
def test_a_quick_run_on_postgres_leaves_no_server(open_folder: Path, name: str, comparisons: int, bounds: int) -> None:
    bench = start(open_folder, "--json", "--only", name)
    started: set[psutil.Process] = set()
    while bench.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            started |= set(psutil.Process(bench.pid).children(recursive=True))
        time.sleep(0.1)
    out, err = bench.communicate(timeout=10)
    assert bench.returncode == 0, err
    results = msgspec.json.decode(out)["results"]
    assert [row["kind"] for row in results] == ["comparison"] * comparisons + ["bound"] * bounds
    assert all(min(row["floor"] + row["ours"]) > 0 for row in results[:comparisons])
    assert results[-1]["value"] > 0
    assert name == "beside" or 1 <= results[-1]["value"] <= 8
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert list(open_folder.glob("syncledger-bench-*")) == []


def test_a_benchmark_whose_server_is_missing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "OLDEST", 99)
    said: list[str] = []
    assert streams.run(1, QUICK, said.append) == beside.run(1, QUICK, said.append) == []
    assert said == ["skipped: PostgreSQL 99 or later is not installed"] * 2


@pytest.mark.soak
def test_ctrl_c_stops_everything_it_started(tmp_path: Path) -> None:
    bench = start(tmp_path, "--only", "acks")
    started: set[psutil.Process] = set()
    deadline = time.monotonic() + 60
    while not any("ops.bench.children.loadgen" in _command(process) for process in started):
        assert bench.poll() is None, bench.communicate()
        assert time.monotonic() < deadline
        started |= set(psutil.Process(bench.pid).children(recursive=True))
        time.sleep(0.05)
    bench.send_signal(signal.SIGINT)
    _, err = bench.communicate(timeout=60)
    assert bench.returncode == 130, err
    assert "Traceback" not in err
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert list(tmp_path.glob("syncledger-bench-*")) == []


def test_a_benchmark_that_does_not_exist_is_named(tmp_path: Path) -> None:
    bench = start(tmp_path, "--only", "acks,speed")
    _, err = bench.communicate(timeout=30)
    assert bench.returncode == 2
    assert "speed" in err


def test_a_quick_run_is_not_compared_with_a_full_one(tmp_path: Path) -> None:
    full = tmp_path / "full.json"
    full.write_bytes(as_json([], quick=False))
    bench = start(tmp_path, "--only", "history", "--compare", str(full))
    _, err = bench.communicate(timeout=30)
    assert bench.returncode == 2
    assert "--quick" in err


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
