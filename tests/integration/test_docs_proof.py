"""The page on proof: its audit, from beginning to end, by the commands that it names."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from ops.opening.ledger import Opened
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "ops" / "docs" / "proof.md"


def test_the_page_s_audit_works(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands("session", "create", "--user", "ann", "--library", "lib")

    async def look(found: Opened) -> str:
        return (await found.ledger.devices("ann"))[0].sid

    place = tmp_path / "log"
    known = {"PROOF": str(place), "LEDGER_PROOF": place.as_uri(), "EMPTY": (tmp_path / "next").as_uri()}
    known["SESSION"] = commands.inside(look)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ops").symlink_to(ROOT / "ops")
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    said = []
    for block in blocks:
        if "proof close" in block:
            place.rename(tmp_path / "lost")
        said.append("".join(_run(commands, line, known) for line in block.splitlines()))
    assert said[1].count("these 1 events of session") == 2, "both checkers agree"
    assert "all agree" in said[2]
    assert (tmp_path / "witness.txt").read_text().startswith("audit.example/w1+")
    assert "is closed at 2 entries" in said[4]
    assert (tmp_path / "key-2.txt").read_text() != (tmp_path / "key.txt").read_text()


def _run(commands: Commands, line: str, known: dict[str, str]) -> str:
    """Run a line as a shell does, `syncledger` in this process; gives what it prints."""
    line = re.sub(r"\$\(cat (\S+)\)", lambda match: Path(match[1]).read_text().strip(), line)
    line = re.sub(r"\$(\w+)", lambda match: known[match[1]], line)
    words, _, file = line.partition(" #")[0].partition(">")
    name, *args = shlex.split(words)
    if name == "syncledger":
        out = commands(*args, proof=known["LEDGER_PROOF"])
    elif name == "export":
        variable, _, value = args[0].partition("=")
        known[variable] = value
        out = ""
    elif name == "cp":
        shutil.copy(*args)
        out = ""
    else:
        assert name == "python3"
        out = subprocess.run([sys.executable, *args], check=True, capture_output=True, text=True).stdout
    if file:
        Path(file.strip()).write_text(out)
    return out


def test_the_page_says_what_verify_says() -> None:
    code = "".join(path.read_text() for path in (ROOT / "projections/transparency/monitor").glob("*.py"))
    (table,) = re.findall(r"\| done to .*?\n\n", PAGE.read_text(), re.DOTALL)
    for words in re.findall(r"`([^`]+)`", table):
        for part in words.split(" … "):
            part = re.sub(r"^event N,? ?", "", part)
            assert part == "history_lost" or part in code, part
