"""The commands of the documentation run as they stand, a page's in order, against a service with a library in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ops.commands.demo import LIBRARY, USER
from ops.demo_library import DemoLibrary
from ops.opening.ledger import Opened
from projections.entities.catalog.ingest import ingest
from tests.docs.reading import Block, Page, pages
from tests.support.processes.running import RunningService
from tests.support.processes.shell_commands import ShellCommands

PHOTOS: Final = 30
TIMEOUT_S: Final = 240
_BLOCK: Final = """__failed=0; trap '__failed=$?' ERR
{{
{text}
}} > {out} 2> {err}
trap - ERR; echo $__failed > {code}
"""


class Shell(NamedTuple):
    """A folder as somebody has it who reads the pages: a service that runs on `./var`, its command on the PATH."""

    service: RunningService
    commands: ShellCommands

    @property
    def environment(self) -> dict[str, str]:
        """What the page's commands see."""
        home = self.service.folder / "home"
        home.mkdir(exist_ok=True)
        (home / ".curlrc").write_text('fail-with-body\nshow-error\nnoproxy = "*"\nmax-time = 60\n')
        path = os.pathsep.join((str(self.commands.program.parent), os.environ["PATH"]))
        return self.service.environment | {"PATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8"}

    def run(self, page: Page) -> list[str]:
        """Run a page's blocks in one shell; gives what was not as the page says."""
        blocks = [block for block in page.blocks if block.is_run]
        folder = self.service.folder / page.path.stem
        shutil.rmtree(folder, ignore_errors=True)
        (folder / ".venv/bin").mkdir(parents=True)
        (folder / ".venv/bin/syncledger").symlink_to(self.commands.program)
        (folder / "var").symlink_to(self.service.data_dir)
        script = ["set -E -o pipefail\n"]
        for number, block in enumerate(blocks):
            names = {name: f"{folder}/{number}.{name}" for name in ("out", "err", "code")}
            script.append(_BLOCK.format(text=self._filled(block.text, folder), **names))
        subprocess.run(
            ["bash", "-s"],
            input="".join(script),
            text=True,
            cwd=folder,
            env=self.environment,
            timeout=TIMEOUT_S,
            check=True,
        )
        return [
            problem
            for number, block in enumerate(blocks)
            for problem in self._wrong(f"{page.name}:{block.line}", block, folder / str(number))
        ]

    def _filled(self, text: str, folder: Path) -> str:
        """Put what is there in the place of what pages say for it."""
        token = self.service.sign_in("ann", LIBRARY)
        text = text.replace("TOKEN=…", f"TOKEN={self.service.sign_in(USER, LIBRARY)}")
        text = re.sub(r"(?<!\$)\bSESSION\b", sha256(token.encode()).hexdigest(), text)
        text = re.sub(r"\b2283\b", str(self.service.port), text)
        return re.sub(r"file:///(srv|mnt)\b", f"file://{folder}/\\1", text)

    @staticmethod
    def _wrong(where: str, block: Block, said: Path) -> Iterator[str]:
        out, err = (said.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
        code = int(said.with_suffix(".code").read_text())
        if code != block.exits:
            yield f"{where} ended with {code}, not {block.exits}:\n{out[-1000:]}\n{err[-2000:]}"
        if (shows := block.marked("shows")) is not None and shows not in out + err:
            yield f"{where} shows no {shows!r}:\n{out[-2000:]}\n{err[-1000:]}"
        if "…" in block.text.replace("TOKEN=…", ""):
            yield f"{where} has a … that nothing is known for"


async def _fill(found: Opened) -> None:
    """Have what pages speak of: a demo library, and people with addresses."""

    async def lines() -> AsyncIterator[bytes]:
        yield b"".join(DemoLibrary(user=USER, name="Demo", assets=PHOTOS).lines())

    report = await ingest(found.catalog, LIBRARY, lines())
    assert not report.refused
    for name in ("ann", "dan"):
        await found.identities.sign_in(
            "https://id.example.org", name, email=f"{name}@example.org", user=name, now_us=found.ledger.clock()
        )


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with RunningService(tmp_path / "ledger") as service, ShellCommands(tmp_path / "bin") as commands:
        service.inside(_fill)
        service.sign_in_many(1, "dan", LIBRARY)
        yield Shell(service, commands)


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("curl") is None, reason="bash or curl is not there")
def test_the_commands_of_all_pages_run(shell: Shell) -> None:
    ran = {page.name for page in pages() if any(block.is_run for block in page.blocks)}
    assert {"README.md", "ops/docs/operations.md", "ops/docs/backup.md", "ops/docs/api.md"} <= ran
    wrong = [problem for page in pages() if page.name in ran for problem in shell.run(page)]
    assert not wrong, "\n\n".join(wrong)
    assert shell.service.faults() == []
    shell.service.verify()
