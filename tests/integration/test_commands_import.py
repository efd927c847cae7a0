"""`syncledger import`: what it reads from."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]

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
