"""SQL as a mapping holds it: pieces of text with one placeholder, `:library`.

A mapping is written by who operates the database and is trusted. What is checked here is that a piece stays one piece
where statements are composed of it, and that nothing in it waits for a value nobody gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

LIBRARY: Final = "library"

# What a colon, a dollar or a parenthesis means nothing in: literals, quoted names, dollar quotes.
_TOKEN: Final = re.compile(
    r"""
      (?P<escape>[eE]'(?:[^'\\]|''|\\.)*')
    | (?P<literal>'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*")
    | (?P<dollar>\$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?(tag)(?P=tag))\$)
    | (?P<comment>--|/\*)
    | (?P<parameter>\$\d+)
    | (?P<cast>::|:=)
    | (?P<placeholder>:[A-Za-z_]\w*)
    | (?P<word>[A-Za-z_][\w$]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSED_BY: Final = {"(": ")", "[": "]"}


def problem_of(sql: str) -> str | None:
    """Tell what keeps a piece of SQL from being used in a statement; None if nothing does."""
    if not sql.strip():
        return "must not be empty"
    open_ones: list[str] = []
    for kind, text in _tokens(sql):
        if kind == "comment":
            return "must not hold a comment"
        if kind == "parameter":
            return f"must not hold the parameter {text}; :library is the only placeholder"
        if kind == "placeholder" and text != f":{LIBRARY}":
            return f"must not hold the placeholder {text}; :library is the only one"
        if kind != "other":
            continue
        if text in "'\"":
            return "holds a quote that is not closed"
        if text in _CLOSED_BY:
            open_ones.append(_CLOSED_BY[text])
        elif text in ")]" and (not open_ones or open_ones.pop() != text):
            return f"holds a {text} that was not opened"
        elif text == ";":
            return "must be a part of one statement, without ;"
    return f"lacks a {open_ones[-1]}" if open_ones else None


def with_library(sql: str, parameter: str) -> str:
    """Put a parameter in the place of `:library`."""
    return "".join(parameter if kind == "placeholder" else text for kind, text in _tokens(sql))


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    for found in _TOKEN.finditer(sql):
        kind = found.lastgroup
        # `tag` is a group inside of `dollar`, and closed before it.
        yield ("dollar" if kind == "tag" else kind or "other"), found[0]
