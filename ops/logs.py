"""Log lines: one per record on stderr, as `key=value`, with secrets masked."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from datetime import UTC, datetime

from ops.settings import LogLevel

# Of these, what they do themselves is told by our own lines; trouble is still heard.
CHATTY = ("gunicorn.error", "uvicorn.error", "httpx", "httpcore", "asyncio")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_PLAIN = re.compile(r"[\w.:/@+,;%()\[\]#*-]+")
_SECRETS = (
    (re.compile(r"eyJ[\w-]{6,}\.[\w-]+(\.[\w-]*)?"), "[token]"),
    (re.compile(r"(://[^/@\s:]*:)[^@/\s]+@"), r"\1***@"),
    (re.compile(r"(?i)\b((?:api|session)?_?-?(?:key|token|password|secret)=)[^\s&\"']+"), r"\1***"),
    (re.compile(r"(?i)\b(bearer )[^\s\"']+"), r"\1***"),
)


def configure_logging(level: LogLevel) -> None:
    """Send all log records of this process to stderr, from `level` on; may be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    logging.captureWarnings(capture=True)


def masked(text: str) -> str:
    """Return `text` without the secrets that can be recognised: tokens, passwords in URLs, keys in queries."""
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
