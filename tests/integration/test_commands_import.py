"""`syncledger import`: what it reads from."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from ops.opening.ledger import Opened
from projections.counters import Counters
from tests.support.processes.commands import Commands, commands
from tests.support.sources.samples import sample

__all__ = ["commands"]

WAITS = {"type": "AssetFaceV2", "id": "f1", "data": sample("AssetFaceV2", id="f1", assetId="a1")}

LINE = '{"type": "AlbumDeleteV1", "data": {"albumId": "a"}}\n'


def test_it_reads_a_pipe_as_it_reads_a_file(commands: Commands, tmp_path: Path) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_text(LINE)
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(LINE.replace('"a"', '"b"')), daemon=True)
    writer.start()
    assert f"{pipe}: 1 taken" in commands("import", "--library", "lib", str(pipe))
    writer.join(10)
    assert f"{file}: 1 taken" in commands("import", "--library", "lib", str(file))
    for other in (tmp_path, tmp_path / "none"):
        done = commands.run("import", "--library", "lib", str(other))
        assert (done.code, f"{other} is not a file" in done.err) == (2, True)


def test_rows_that_it_leaves_waiting_are_counted_once(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(json.dumps(WAITS))

    async def counted(found: Opened) -> int:
        counts = {(count.name, count.label_value): count.value for count in await Counters(found.store).all()}
        return counts["rows_held_back", "AssetFaceV2"]

    for _ in range(2):
        commands("import", "--library", "lib", str(file))
        assert commands.inside(counted) == 1
