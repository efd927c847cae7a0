"""Every block of the documentation says how it is run, or why it is not; links, commands and settings exist."""

from __future__ import annotations

import re
from typing import Final

import click
import pytest

from ops.command_group import syncledger
from ops.settings.settings import read_settings
from ops.settings.variables import unknown_variables
from tests.docs.reading import PROSE, ROOT, RUN, SETTINGS, Page, pages
from tests.support.processes.runbook import FAULTS

OTHERS: Final = ("ARCHITECTURE.md", "CHANGELOG.md")
"""Pages whose links are followed too."""
OF_OTHERS: Final = {"LEDGER_DB_PASSWORD", "LEDGER_URL"}
"""What the Compose file beside Immich and the programs of backend.md read, and the service does not."""

each_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)


@each_page
def test_each_block_is_run_or_says_why_it_is_not(page: Page) -> None:
    for block in page.blocks:
        where = f"{page.name}:{block.line}"
        assert block.language, f"{where}: say what it is: ```sh, ```env, ```text, or another language"
        if block.language in {PROSE, SETTINGS} or block.is_run:
            continue
        by = block.marked("run by")
        assert by or block.marked("not run"), (
            f"{where}: tests/docs runs only ```sh. Above it: <!-- run by tests/….py --> or <!-- not run: why -->"
        )
        for named in re.findall(r"tests/[\w/]+\.py", block.mark):
            assert (ROOT / named).exists(), f"{where}: there is no {named}"
        if by:
            assert page.path.name in (ROOT / by).read_text(encoding="utf-8"), f"{where}: {by} does not read this page"


@pytest.mark.parametrize("page", [*pages(), *(Page(ROOT / name) for name in OTHERS)], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    dead = []
    for link in page.links:
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        if not path.exists() or (anchor and anchor not in Page(path).anchors):
            dead.append(link)
    assert dead == []


def test_the_index_lists_every_page() -> None:
    index = next(page for page in pages() if page.name == "ops/docs/index.md")
    listed = {(index.path.parent / link).resolve() for link in index.links}
    missing = [page.name for page in pages() if page.path.parent == index.path.parent and page.path not in listed]
    assert set(missing) <= {index.name}


def _named(words: list[str]) -> tuple[click.Command, list[str]]:
    """Find the command that words name, and what is left of them."""
    command: click.Command = syncledger
    while isinstance(command, click.Group) and words and re.fullmatch("[a-z][a-z-]*", words[0]):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    return command, words


@each_page
def test_each_command_that_is_named_exists_with_its_options(page: Page) -> None:
    for words in page.commands():
        command, rest = _named([word.rstrip(",.:") for word in words])
        known = {option for param in command.params for option in param.opts + param.secondary_opts} | {"--help", "-h"}
        asked = {word.partition("=")[0] for word in rest if re.match("--[a-z]", word)}
        assert asked <= known, f"{page.name}: syncledger {' '.join(words)}: {asked - known}"


def test_commands_are_found_in_prose_and_blocks() -> None:
    named = [words[0] for page in pages() for words in page.commands()]
    assert {"serve", "session", "history", "verify", "restore", "immich", "set-aside"} <= set(named)
    with pytest.raises(AssertionError, match="no command stream"):
        _named(["stream", "--x"])


@each_page
def test_each_setting_that_is_named_exists(page: Page) -> None:
    told = set(re.findall(r"LEDGER_[A-Z_]*[A-Z]", page.text)) - OF_OTHERS
    assert unknown_variables(dict.fromkeys(told, "x")) == []


@each_page
def test_blocks_of_settings_can_be_read(page: Page) -> None:
    for block in page.blocks:
        if block.language != SETTINGS or block.mark:
            continue
        pairs = (line.partition("#")[0].strip().split("=", 1) for line in block.text.splitlines() if line)
        settings = {name: value for name, value in pairs if not name.endswith("_FILE")}
        assert settings, f"{page.name}:{block.line}"
        assert unknown_variables(settings) == []
        read_settings(settings)


def test_every_alert_that_is_a_fault_to_mend_has_commands_that_are_run() -> None:
    runbooks = next(page for page in pages() if page.name == "ops/docs/runbooks.md")
    for alert in FAULTS:
        assert [block.marked("run by") for block in runbooks.section(alert)], alert


def test_blocks_and_marks_are_read() -> None:
    page = Page(ROOT / "README.md")
    page.text = (
        "# A b-c: `d`\n\n<!-- shows: two words; exits: 3 -->\n```sh\none\n```\n\n1. x\n\n   <!-- not run: why -->\n"
        "   ```sh\n   two\n   ```\n\n```sh\nthree\n```\n"
    )
    one, two, three = page.blocks
    assert (one.marked("shows"), one.exits, one.is_run, one.line) == ("two words", 3, True, 4)
    assert (two.marked("not run"), two.is_run, two.text) == ("why", False, "two\n")
    assert (three.mark, three.language, three.is_run) == ("", RUN, True)
    assert page.anchors == {"a-b-c-d"}
    page.text += "## One\n\n```sh\nfour\n```\n\n### Below\n\n```sh\nfive\n```\n\n## Two\n\n```sh\nsix\n```\n"
    assert [block.text for block in page.section("One")] == ["four\n", "five\n"]
    assert [block.text for block in page.section("Two")] == ["six\n"]
