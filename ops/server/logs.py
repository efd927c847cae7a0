"""Log lines: one per record on stderr, as `key=value`, with secrets masked."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from datetime import UTC, datetime

from ops.settings.variables import LogLevel

# Only these are heard below WARNING. Libraries are not, also when we debug: some log requests with all that is in them.
OURS = ("syncledger", "ops", "endpoints", "projections", "ledger")
# What these do is told by our own lines; heard only when we debug.
SERVERS = ("gunicorn.error", "uvicorn.error", "asyncio")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_PLAIN = re.compile(r"[\w.:/@+,;%()\[\]#*-]+")
# What the values of parameters, cookies and fields with these names are, a log need not say.
_NAMES = r"(?:\w*(?:key|token|token_hint|password|secret|verifier)|code|state|nonce)"
# PERF: each of these is linear in the length of a text, which a stranger may have chosen.
_SECRETS = (
    (re.compile(r"eyJ[\w-]{6,}(?:\.[\w-]*){0,4}"), "[token]"),
    (re.compile(r"\bslk_[\w-]+"), "[key]"),
    (re.compile(r"(://[^/@\s:]*:)[^@/\s]+@"), r"\1***@"),
    (re.compile(rf"(?i)\b({_NAMES}=)[^\s&\"';]+"), r"\1***"),
    (re.compile(rf"(?i)([\"']{_NAMES}[\"']: ?b?[\"'])[^\"']+"), r"\1***"),
    (re.compile(r"(?i)\b(bearer |basic (?=\S*[\d=]))[^\s\"']+"), r"\1***"),
    (re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}"), "[e-mail]"),
)


def configure_logging(level: LogLevel) -> None:
    """Send all log records of this process to stderr, from `level` on; may be called again."""
    wanted = logging.getLevelNamesMapping()[level.upper()]
    at_least_warning = max(wanted, logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=at_least_warning, handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(wanted)
    for name in SERVERS:
        logging.getLogger(name).setLevel(wanted if level == "debug" else at_least_warning)
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    logging.captureWarnings(capture=True)


def masked(text: str) -> str:
    """Return `text` without what can be recognised as secret or personal.

    That is: tokens, API keys, e-mail addresses, passwords in URLs, values in queries, cookies, forms and JSON by their
    names. A last resort: nothing here may be logged in the first place.
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class LineFormatter(logging.Formatter):
    """Formats `ts=… level=… pid=… logger=… msg=…`, then what was given as `extra`, then a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        fields: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:23] + "Z",
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            "msg": record.getMessage().strip(),
        }
        fields.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return " ".join(f"{name}={_quoted(masked(str(value)))}" for name, value in fields.items())


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Tell whether a record is worth a line: a stream cut off at shutdown is no error of the application."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
