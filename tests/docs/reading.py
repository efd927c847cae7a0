"""Pages of the documentation, taken apart: their blocks with the marks above them, headings, links and commands.

A mark is an HTML comment on the line above a block:

| mark | means |
|---|---|
| `not run: WHY` | nobody runs it here |
| `run by tests/FILE.py` | that test takes it out of the page |
| `shows: TEXT; exits: N` | what a block that is run must say, and how it ends (0 without a word) |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
RUN: Final = "sh"
SETTINGS: Final = "env"
PROSE: Final = "text"
_FENCED: Final = re.compile(
    r"(?:^[ ]*<!-- (?P<mark>[^\n]+?) -->\n)?^(?P<indent>[ ]*)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_COMMAND: Final = re.compile(r"(?:^|[\s/(`])syncledger ((?:\[?--(?!property)|[a-z])[^|;#<>&\n]*)")


class Block(NamedTuple):
    """A fenced block: its mark (empty without), its language, its text, and the line it begins at."""

    mark: str
    language: str
    text: str
    line: int

    def marked(self, name: str) -> str | None:
        """Give what a mark of this name says, None without it."""
        found = re.search(rf"(?:^|; ){name}:? (.+?)(?:; exits: \d+)?$", self.mark)
        return found[1] if found else None

    @property
    def exits(self) -> int:
        """How it must end."""
        found = re.search(r"exits: (\d+)$", self.mark)
        return int(found[1]) if found else 0

    @property
    def is_run(self) -> bool:
        """Tell whether it is run as it stands, in the order of its page."""
        return self.language == RUN and self.marked("not run") is None and self.marked("run by") is None


class Page:
    """One Markdown file of the repository."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        """All fenced blocks, in order; one in a list has its indentation taken away."""
        return [
            Block(
                found["mark"] or "",
                found["language"],
                re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
                self.text[: found.start("indent")].count("\n") + 1,
            )
            for found in _FENCED.finditer(self.text)
        ]

    def section(self, title: str) -> list[Block]:
        """Pick the blocks below a heading, up to the next one of its rank or of a higher one."""
        lines = self.text.splitlines()
        (begin,) = [number for number, line in enumerate(lines, 1) if re.fullmatch(f"#+ {re.escape(title)}", line)]
        rank = len(lines[begin - 1].split(" ")[0])
        ends = [n for n, line in enumerate(lines, 1) if n > begin and re.match(f"#{{1,{rank}}} ", line)]
        return [block for block in self.blocks if begin < block.line < min(ends, default=len(lines) + 1)]

    @property
    def prose(self) -> str:
        """The text without its blocks."""
        return _FENCED.sub("", self.text)

    @property
    def anchors(self) -> set[str]:
        """What `#…` may lead to, as GitHub makes it of headings."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    @property
    def links(self) -> list[str]:
        """Where its links lead, those to other sites left out."""
        found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "``", self.prose))
        return [target for target in found if "://" not in target]

    def commands(self) -> Iterator[list[str]]:
        """Yield the words behind `syncledger` wherever a command is named."""
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.prose)]
        lines = [line for block in self.blocks if block.language in {RUN, PROSE} for line in block.text.splitlines()]
        for text in (*spans, *lines):
            for found in _COMMAND.findall(text):
                yield re.sub(r"[\[\]()`'\"]", " ", found).split()


@cache
def pages() -> list[Page]:
    """Read all pages for people who run or build on this."""
    folders = (ROOT / "ops/docs", ROOT / "ops/deploy")
    return [Page(ROOT / "README.md"), *(Page(path) for folder in folders for path in sorted(folder.rglob("*.md")))]
