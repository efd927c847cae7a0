"""What a database's encoding can hold, and which of its texts are none in Unicode. Pure.

PostgreSQL converts what is asked and answered, and refuses the whole statement for one character that the other side
lacks. So nothing is asked for that the database cannot hold, and a row whose text cannot be read is found by the
database itself: of `SQL_ASCII`, which takes any bytes, those that are no UTF-8; of an encoding of single bytes those
that mean nothing in it. Of the encodings of several bytes PostgreSQL holds only what is well formed, which converts but
for some unassigned codes: such a one is refused by its statement, and told.
"""

from __future__ import annotations

from functools import cache
from typing import Final

UTF8: Final = "UTF8"
ANY_BYTES: Final = "SQL_ASCII"
_SINGLE: Final = {
    **{f"LATIN{at}": f"iso8859-{part}" for at, part in enumerate((1, 2, 3, 4, 9, 10, 13, 14, 15, 16), 1)},
    **{f"ISO_8859_{part}": f"iso8859-{part}" for part in range(5, 9)},
    **{f"WIN{page}": f"cp{page}" for page in (866, 874, *range(1250, 1259))},
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
}
_SEVERAL: Final = {"EUC_JP": "euc_jp", "EUC_CN": "gb2312", "EUC_KR": "euc_kr", "EUC_JIS_2004": "euc_jis_2004"}
_HIGH: Final = r"[\u0080-\u00ff]"
_NEXT: Final = r"[\u0080-\u00bf]"
_UTF8: Final = "|".join(
    (
        r"[\u0001-\u007f]",
        rf"[\u00c2-\u00df]{_NEXT}",
        rf"\u00e0[\u00a0-\u00bf]{_NEXT}",
        rf"[\u00e1-\u00ec\u00ee\u00ef]{_NEXT}{_NEXT}",
        rf"\u00ed[\u0080-\u009f]{_NEXT}",
        rf"\u00f0[\u0090-\u00bf]{_NEXT}{_NEXT}",
        rf"[\u00f1-\u00f3]{_NEXT}{_NEXT}{_NEXT}",
        rf"\u00f4[\u0080-\u008f]{_NEXT}{_NEXT}",
    )
)
"""One character of UTF-8 (RFC 3629, section 4), each byte as PostgreSQL's patterns see it in SQL_ASCII."""


def can_hold(encoding: str, text: str) -> bool:
    """Tell whether a database in an encoding may hold a text; of an encoding that is not known here, only ASCII."""
    if text.isascii() or encoding in (UTF8, ANY_BYTES):
        return True
    codec = _SINGLE.get(encoding) or _SEVERAL.get(encoding)
    if codec is None:
        return False
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def is_whole(encoding: str) -> bool:
    """Tell whether all texts of an encoding can be read, as far as can be told of it."""
    return encoding != ANY_BYTES and not _gaps(encoding)


def in_unicode(sql: str, encoding: str) -> str:
    """Print that a text can be read; empty where all can."""
    text = f"({sql})::text"
    if encoding == ANY_BYTES:
        return f"({text} !~ '{_HIGH}' OR {text} ~ '^(?:{_UTF8})*$')"
    gaps = _gaps(encoding)
    return f"{text} !~ '[{gaps}]'" if gaps else ""


def shown(sql: str, encoding: str) -> str:
    """Print a text such that it can be read whatever it holds: bytes that mean nothing as `\\ooo`."""
    condition = in_unicode(sql, encoding)
    if not condition:
        return f"{sql}::text"
    return f"(CASE WHEN {condition} THEN {sql}::text ELSE encode(convert_to({sql}::text, '{encoding}'), 'escape') END)"


def no_control_characters(sql: str, encoding: str) -> str:
    """Print that a text holds no bar and no control character; those of Unicode's second block as the encoding has."""
    text = f"({sql})::text"
    plain = rf"{text} !~ '[|\u0001-\u001f\u007f{_second_block(encoding)}]'"
    return rf"{plain} AND {text} !~ '\u00c2[\u0080-\u009f]'" if encoding == ANY_BYTES else plain


@cache
def _gaps(encoding: str) -> str:
    """List the bytes of an encoding that mean nothing, for a pattern."""
    codec = _SINGLE.get(encoding)
    if codec is None:
        return ""
    return "".join(rf"\u{byte:04x}" for byte in range(0x80, 0x100) if not bytes([byte]).decode(codec, "ignore"))


@cache
def _second_block(encoding: str) -> str:
    """List the codes of U+0080 to U+009F in an encoding, for a pattern."""
    if encoding == UTF8:
        return r"\u0080-\u009f"
    codec = _SINGLE.get(encoding)
    if codec is None:
        return ""
    held = (chr(code).encode(codec, "ignore") for code in range(0x80, 0xA0))
    return "".join(rf"\u{byte[0]:04x}" for byte in held if byte)
