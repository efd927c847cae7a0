"""The operator's page for running beside Immich names what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "ops" / "docs" / "beside-immich.md"
TESTS: Final = "tests/faults/test_immich_server.py"
OF_THE_MODEL: Final = "test_the_model_of_immichs_server_syncs_what_is_in_order"


def test_each_line_of_what_is_kept_from_happening_is_a_test() -> None:
    text = PAGE.read_text()
    assert f"`{TESTS}`" in text
    (table,) = re.findall(r"\| on the database .*?\n\n", text, re.DOTALL)
    told = [re.findall(r"`(test_\w+)`", line) for line in table.splitlines()[2:] if line]
    assert all(len(names) == 1 for names in told), told
    there = {node.name for node in ast.parse((ROOT / TESTS).read_text()).body if isinstance(node, ast.FunctionDef)}
    tests = {name for name in there if name.startswith("test_")} - {OF_THE_MODEL}
    assert sorted(name for names in told for name in names) == sorted(tests)


def test_what_it_refers_to_is_there() -> None:
    text = PAGE.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGE.parent / target).exists(), target
    for named in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / named).exists(), named
