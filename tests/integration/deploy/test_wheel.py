"""The wheel: all that the packages need at run time is in it, and nothing that is not theirs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from tests.support.processes.proxies import FILES

ROOT: Final = FILES.parents[2]
PACKAGES: Final = ("ledger", "projections", "endpoints", "ops")
NOT_PACKAGED: Final = ("ops/deploy/", "ops/docs/", "ops/proof/FORMAT.md")


def test_all_that_is_needed_is_in_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import setuptools.build_meta as b; print(b.build_wheel('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=120, check=True
    )
    with zipfile.ZipFile(source / "dist" / done.stdout.splitlines()[-1]) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    there = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    wanted = {name for name in there if "__pycache__" not in name and not name.startswith(NOT_PACKAGED)}
    assert packed == wanted
