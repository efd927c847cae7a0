"""Log lines: one per record on stderr, as `key=value` or as JSON, with secrets masked.

What somebody else chose, in a request or at a provider, may stand in any of them. So each is one line whatever is in
it, of a bounded length, and without characters that a terminal or a reader of logs would obey.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

from ops.settings.variables import LogFormat, LogLevel

# Only these are heard below WARNING. Libraries are not, also when we debug: some log requests with all that is in them.
OURS = ("syncledger", "ops", "endpoints", "projections", "ledger")
# What these do is told by our own lines; heard only when we debug.
SERVERS = ("gunicorn.error", "uvicorn.error", "asyncio")
MAX_CHARS: Final = 4096
"""Of one value; what is longer is cut in its middle, and says by how much."""
MAX_TRACEBACK_CHARS: Final = 16_384
_MOST_READ: Final = 65_536
"""How much of a value is looked at for secrets."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_PLAIN = re.compile(r"[\w.:/@+,;%()\[\]#*-]+")
# Behind JSON's own escapes: C1 controls, line separators, marks that turn the direction of a text, halves of a pair.
_OBEYED = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
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


def configure_logging(level: LogLevel, form: LogFormat = "logfmt") -> None:
    """Send all log records of this process to stderr, from `level` on; may be called again."""
    wanted = logging.getLevelNamesMapping()[level.upper()]
    at_least_warning = max(wanted, logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else LineFormatter())
    logging.basicConfig(level=at_least_warning, handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(wanted)
    for name in SERVERS:
        logging.getLogger(name).setLevel(wanted if level == "debug" else at_least_warning)
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    logging.captureWarnings(capture=True)


def log_crashes() -> None:
    """Have what ends this process or one of its threads logged too, where Python prints it over many lines."""

    def crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        logging.getLogger("syncledger").critical("the process crashed", exc_info=(kind, error, trace))

    def in_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_value is not None and told.exc_type is not SystemExit:
            name = told.thread.name if told.thread else "?"
            error = (told.exc_type, told.exc_value, told.exc_traceback)
            logging.getLogger("syncledger").error("the thread %s crashed", name, exc_info=error)

    def unraisable(told: sys.UnraisableHookArgs) -> None:
        if told.exc_value is not None:
            error = (told.exc_type, told.exc_value, told.exc_traceback)
            logging.getLogger("syncledger").error("%s", told.err_msg or "ignored", exc_info=error)

    sys.excepthook, threading.excepthook, sys.unraisablehook = crashed, in_thread, unraisable


def masked(text: str) -> str:
    """Return `text` without what can be recognised as secret or personal.

    That is: tokens, API keys, e-mail addresses, passwords in URLs, values in queries, cookies, forms and JSON by their
    names. A last resort: nothing here may be logged in the first place.
    """
    if _holds_nothing(text):
        return text
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _holds_nothing(text: str) -> bool:
    """Tell whether none of the patterns can match.  PERF: so it is with most values, at a tenth of the time."""
    if "=" in text or "@" in text or "://" in text or "':" in text or '":' in text:
        return False
    low = text.lower()
    return not ("eyj" in low or "slk_" in low or "bearer " in low or "basic " in low)


class LineFormatter(logging.Formatter):
    """Formats `ts=… level=… pid=… logger=… msg=…`, then what was given as `extra`, then a traceback."""

    message: str = "msg"
    _second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        return " ".join(f"{name}={_quoted(str(value))}" for name, value in self.fields(record).items())

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """List what the line has: numbers and truths as they are, all else as text that may be shown."""
        fields: dict[str, object] = {
            "ts": self._time(record.created),
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            self.message: _shown(_message_of(record)),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD:
                kind = type(value)
                if kind is str:
                    value = _shown(value)
                elif not (kind is int or kind is bool or (kind is float and math.isfinite(value))):
                    value = _shown(str(value))
                fields.setdefault(name, value)
        if record.exc_info:
            fields["error"] = _shown(self.formatException(record.exc_info), MAX_TRACEBACK_CHARS)
        return fields

    def _time(self, at_s: float) -> str:
        second, text = self._second
        if second != int(at_s):  # PERF: most lines are of the same second as the last one
            text = datetime.fromtimestamp(int(at_s), UTC).isoformat()[:19]
            self._second = int(at_s), text
        return f"{text}.{int(at_s * 1000) % 1000:03d}Z"


class JsonFormatter(LineFormatter):
    """Formats `{"ts", "level", "pid", "logger", "message"}`, then what was given as `extra`, then a traceback."""

    message = "message"

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, in ASCII: whatever the terminal's encoding, it is JSON."""
        return json.dumps(self.fields(record)).replace("\x7f", "\\u007f")


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage().strip()
    except Exception as error:  # noqa: BLE001 - of whoever wrote the line; its values may be anything, and are left out
        return f"{record.msg} [cannot be filled in: {type(error).__name__}]"


def _shown(text: str, most: int = MAX_CHARS) -> str:
    """Return what may be shown of a text; its end too, where a traceback tells what happened."""
    if len(text) > _MOST_READ:  # parted where a word ends, so that no half of a secret stays
        begin, end = text[: _MOST_READ // 2].rpartition(" ")[0], text[-_MOST_READ // 2 :].partition(" ")[2]
        text = f"{begin} …{len(text) - len(begin) - len(end)} characters… {end}"
    text = masked(text)
    if len(text) <= most:
        return text
    kept = most // 2
    return f"{text[:kept]} …{len(text) - 2 * kept} characters… {text[-kept:]}"


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Tell whether a record is worth a line: a stream cut off at shutdown is no error of the application."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
