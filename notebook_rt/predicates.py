"""What PostgreSQL's comparison operators say about a typed value, where this side can be certain.

``holds`` takes an operator of the filter language, a typed value of a row and the literals of the
filter, and answers with SQL's three values (True, False, None for NULL) or ``"unknowable"``: the
order of text depends on the server's collation, a regular expression may use what Python has not,
a literal such as ``'now'`` means something only over there. ``"unknowable"`` costs one read of the
row; a wrong answer would cost the truth of the table (promise 7), so every doubt goes that way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import numpy as np

from notebook_rt.store.types import decode

Truth: TypeAlias = bool | Literal["unknowable"] | None
UNKNOWABLE: Final = "unknowable"
STEPS: Final = 10_000_000
"""A pattern that may take more on a text is left to the server: some 0.1 s of the loop's time."""

_INTS: Final = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
_TEXTS: Final = frozenset({"text", "varchar", "name"})
_TIMES: Final = frozenset({"timestamptz", "timestamp", "date", "time"})
# Extension types with an equality of their own: two texts that differ may be equal.
_NOT_ENUMS: Final = frozenset(
    {"citext", "hstore", "ltree", "lquery", "cube", "seg", "isbn", "ean13", "vector", "halfvec"}
    | {"sparsevec", "geometry", "geography", "box2d", "box3d", "raster", "json", "jsonb", "xml"}
    | {"bytea", "interval", "timetz", "money", "inet", "cidr", "macaddr", "macaddr8", "bit"}
    | {"varbit", "point", "line", "lseg", "box", "path", "polygon", "circle", "tsvector"}
    | {"tsquery", "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange", "oid"}
    | {"int4multirange", "int8multirange", "nummultirange", "tsmultirange", "tstzmultirange"}
    | {"datemultirange", "pg_lsn", "record", "xid", "cid", "tid", "char", "unknown"}
)
_FLOAT: Final = re.compile(
    r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|inf(inity)?)\s*",
    re.ASCII | re.IGNORECASE,
)
_ISO: Final = {
    "timestamptz": re.compile(
        r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d(:?\d\d)?)\Z"
    ),
    "timestamp": re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?\Z"),
    "date": re.compile(r"\d{4}-\d\d-\d\d\Z"),
    "time": re.compile(r"\d\d:\d\d:\d\d(\.\d{1,6})?\Z"),
}


def holds(operator: str, value: Any, literals: tuple[str, ...], pg_type: str) -> Truth:
    """``value operator literal`` as PostgreSQL says it.

    Examples
    --------
    >>> holds("eq", 5, ("5",), "int8"), holds("neq", None, ("5",), "int8")
    (True, None)
    >>> holds("gt", "b", ("a",), "text")
    'unknowable'
    """
    if operator == "is":
        return _is(value, literals[0], pg_type)
    if operator == "isdistinct":
        # A literal that the type cannot read is an error over there, NULL or not.
        if value is None:
            return True if _sign("", literals[0], pg_type, probe=True) != UNKNOWABLE else UNKNOWABLE
        sign = _sign(value, literals[0], pg_type)
        return UNKNOWABLE if sign == UNKNOWABLE else sign != 0
    if operator == "in" and not literals:
        return False  # = ANY('{}') compares nothing, so NULL is not NULL here
    if value is None:
        return None
    if operator == "in":
        return _in(value, literals, pg_type)
    if operator in ("like", "ilike", "match", "imatch"):
        return _pattern(operator, value, literals[0], pg_type)
    return _compare(operator, value, literals[0], pg_type)


def _is(value: Any, keyword: str, pg_type: str) -> Truth:
    if keyword == "null":
        return value is None
    if pg_type != "bool":
        return UNKNOWABLE
    if keyword == "unknown":
        return value is None
    return value is not None and bool(value) is (keyword == "true")


def _in(value: Any, literals: tuple[str, ...], pg_type: str) -> Truth:
    answers = [_compare("eq", value, literal, pg_type) for literal in literals]
    if True in answers:
        return True
    return UNKNOWABLE if UNKNOWABLE in answers else False


def _compare(operator: str, value: Any, literal: str, pg_type: str) -> Truth:
    sign = _sign(value, literal, pg_type)
    if sign == UNKNOWABLE:
        return UNKNOWABLE
    if sign == "different":  # not equal, and which is greater is the server's to say
        return {"eq": False, "neq": True}.get(operator, UNKNOWABLE)
    assert isinstance(sign, int)
    match operator:
        case "eq":
            return sign == 0
        case "neq":
            return sign != 0
        case "lt":
            return sign < 0
        case "lte":
            return sign <= 0
        case "gt":
            return sign > 0
        case _:
            return sign >= 0


_Sign: TypeAlias = int | Literal["different", "unknowable"]


def _sign(value: Any, literal: str, pg_type: str, *, probe: bool = False) -> _Sign:
    """-1, 0, 1 as ``value`` is less than, equal to, greater than the literal.

    ``probe`` asks only whether the literal can be read as ``pg_type``.
    """
    comparer = _comparer(pg_type)
    if comparer is None:
        return UNKNOWABLE
    read, order = comparer
    try:
        theirs = read(literal)
    except (ValueError, InvalidOperation, ArithmeticError):
        return UNKNOWABLE
    if probe:
        return 0
    try:
        return order(value, theirs)
    except (TypeError, ValueError, ArithmeticError):
        return UNKNOWABLE


def _comparer(
    pg_type: str,
) -> tuple[Callable[[str], Any], Callable[[Any, Any], _Sign]] | None:
    if pg_type in _INTS:
        return (lambda text: _read_int(text, _INTS[pg_type])), _three_way
    if pg_type == "numeric":
        return _read_numeric, _order_numeric
    if pg_type == "float8":
        return _read_float, _order_float
    if pg_type == "float4":
        return (lambda text: float(np.float32(_read_float(text)))), _order_float4
    if pg_type == "bool":
        return _read_bool, lambda a, b: _three_way(bool(a), b)
    if pg_type in _TEXTS:
        return str, _order_text
    if pg_type == "bpchar":
        return (lambda text: text.rstrip(" ")), lambda a, b: _order_text(a.rstrip(" "), b)
    if pg_type == "uuid":
        return (lambda text: _read_uuid(text)), lambda a, b: _three_way(str(a).lower(), b)
    if pg_type in _TIMES:
        return (lambda text: _read_time(text, pg_type)), _order_time
    if pg_type.startswith("_") or pg_type in _NOT_ENUMS:
        return None
    return str, _order_text  # an enum: its labels are equal or not; their order is the type's


def _three_way(mine: Any, theirs: Any) -> _Sign:
    return int(mine > theirs) - int(mine < theirs)


def _order_text(mine: str, theirs: str) -> _Sign:
    return 0 if mine == theirs else "different"


def _read_int(text: str, limit: int) -> int:
    if not re.fullmatch(r"\s*[+-]?\d+\s*", text, re.ASCII):
        raise ValueError(text)
    number = int(text)
    if not -limit <= number < limit:
        raise ValueError(text)
    return number


def _read_float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(text)
    number = float(text)
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError(text)  # out of range is an error in PostgreSQL
    return number


def _order_float(mine: Any, theirs: float) -> _Sign:
    """PostgreSQL's order of floats: NaN equals NaN and is greater than every number."""
    mine = float(mine)
    if math.isnan(mine) or math.isnan(theirs):
        return _three_way(math.isnan(mine), math.isnan(theirs))
    return _three_way(mine, theirs)


def _order_float4(mine: Any, theirs: float) -> _Sign:
    return _order_float(float(np.float32(mine)), theirs)


def _read_numeric(text: str) -> Decimal:
    _read_float(re.sub(r"[eE][+-]?\d+", "", text))  # the same spellings, without the range
    return Decimal(text.strip())


def _order_numeric(mine: Any, theirs: Decimal) -> _Sign:
    if isinstance(mine, float):
        # A float64 stands for all numerics that round to it: unequal floats decide, equal do not.
        sign = _order_float(mine, float(theirs))
        exact = math.isnan(mine) or math.isinf(mine)
        return sign if sign != 0 or (exact and not theirs.is_finite()) else UNKNOWABLE
    mine = Decimal(mine)
    if mine.is_nan() or theirs.is_nan():
        return _three_way(mine.is_nan(), theirs.is_nan())
    return _three_way(mine, theirs)


def _read_bool(text: str) -> bool:
    word = text.strip().lower()
    if (
        word == "1"
        or (word and ("true".startswith(word) or "yes".startswith(word)))
        or word == "on"
    ):
        return True
    if word == "0" or (word and ("false".startswith(word) or "no".startswith(word))):
        return False
    if word in ("of", "off"):
        return False
    raise ValueError(text)


def _read_uuid(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise ValueError(text)
    return str(UUID(text))


def _read_time(text: str, pg_type: str) -> Any:
    if not _ISO[pg_type].match(text):
        raise ValueError(text)  # a clock's words, an unknown zone, the session's date style
    return decode(pg_type, text, "rest")


def _order_time(mine: Any, theirs: Any) -> _Sign:
    if isinstance(mine, str) or isinstance(theirs, str):
        return UNKNOWABLE  # 'infinity' and dates that Python cannot hold
    if type(mine) is not type(theirs):
        return UNKNOWABLE
    return _three_way(mine, theirs)


# Patterns ---------------------------------------------------------------------------------------


def _pattern(operator: str, value: Any, pattern: str, pg_type: str) -> Truth:
    if pg_type not in _TEXTS or not isinstance(value, str):
        return UNKNOWABLE
    insensitive = operator.startswith("i")
    if insensitive and not (value.isascii() and pattern.isascii()):
        return UNKNOWABLE  # folding case is the locale's business
    if operator.endswith("like"):
        return like(value.lower(), pattern.lower()) if insensitive else like(value, pattern)
    regex = _compiled(pattern, insensitive)
    if regex is None or (regex.ascii_only and not value.isascii()):
        return UNKNOWABLE
    if regex.steps(len(value)) > STEPS:
        return UNKNOWABLE
    return regex.expression.search(value) is not None


# LIKE


def like(value: str, pattern: str) -> Truth:
    """``value LIKE pattern``: what stands between two ``%`` is found from left to right, each as
    early as it can be, so that nothing is tried twice.

    >>> like("abcb", "a%b"), like("abc", "_"), like("50% off", "50\\\\%%"), like("a", "\\\\")
    (True, False, True, 'unknowable')
    """
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        return UNKNOWABLE  # "LIKE pattern must not end with escape character"
    pieces = _pieces(pattern)
    if sum(len(piece) for piece in pieces if None in piece) * len(value) > STEPS:
        return UNKNOWABLE
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return len(first) == len(value) and _at(first, value, 0)
    at, end = len(first), len(value) - len(last)
    if at > end or not _at(first, value, 0) or not _at(last, value, end):
        return False
    for piece in pieces[1:-1]:
        at = _find(piece, value, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


_Piece: TypeAlias = tuple[str | None, ...]
"""The letters between two ``%``; None stands for ``_``."""


@lru_cache(maxsize=256)
def _pieces(pattern: str) -> tuple[_Piece, ...]:
    pieces: list[list[str | None]] = [[]]
    escaped = False
    for char in pattern:
        if escaped or char not in "%_\\":
            pieces[-1].append(char)
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "_":
            pieces[-1].append(None)
        else:
            pieces.append([])
    return tuple(tuple(piece) for piece in pieces)


def _at(piece: _Piece, value: str, at: int) -> bool:
    return all(want in (None, char) for want, char in zip(piece, value[at:], strict=False))


def _find(piece: _Piece, value: str, at: int, end: int) -> int:
    """Where in ``value[at:end]`` the piece is first; -1: nowhere."""
    if None not in piece:
        return value.find("".join(map(str, piece)), at, end)
    expression = "".join("." if char is None else re.escape(char) for char in piece)
    found = re.compile(expression, re.DOTALL).search(value, at, end)
    return found.start() if found else -1


def like_to_regex(pattern: str) -> str:
    """The POSIX regular expression that means what the LIKE ``pattern`` means.

    >>> like_to_regex("50*_%")
    '^50\\\\*..*$'
    """
    pieces = [
        "".join(
            "." if char is None else char if char.isalnum() or char in " _" else "\\" + char
            for char in piece
        )
        for piece in _pieces(pattern)
    ]
    return f"^{'.*'.join(pieces)}$"


# Regular expressions


@dataclass(frozen=True, slots=True)
class _Regex:
    expression: re.Pattern[str]
    ascii_only: bool
    """Whether it means the same for ASCII texts only."""
    anchored: bool
    choices: tuple[str | int, ...]
    """Where it may choose: ``( | )``, and how many ways a quantifier leaves; 0: no end of them."""

    def steps(self, length: int) -> int:
        """What Python may try at most, which tries every way to part a text of this length."""
        groups = [[0, 1]]  # of each: the steps of the branches before, and of this one
        for choice in self.choices:
            if choice == "(":
                groups.append([0, 1])
            elif choice == "|":
                groups[-1] = [sum(groups[-1]), 1]
            elif isinstance(choice, int):
                groups[-1][1] *= choice or length + 1
            else:
                inner = sum(groups.pop())
                groups[-1][1] *= inner
        return sum(groups[0]) * (1 if self.anchored else length + 1)


@lru_cache(maxsize=256)
def _compiled(pattern: str, insensitive: bool) -> _Regex | None:
    translated = _posix_to_python(pattern)
    if translated is None:
        return None
    expression, ascii_only, choices = translated
    # Python's \s has four control characters more than the server's, but for ASCII.
    flags = re.DOTALL | (re.IGNORECASE if insensitive else 0) | (re.ASCII if ascii_only else 0)
    anchored = expression.startswith("^") and "|" not in expression
    return _Regex(re.compile(expression, flags), ascii_only, anchored, choices)


_PIECE: Final = re.compile(
    r"""(?P<literal>[A-Za-z0-9_ \-'"!@\#%&=:;,<>/~`]|[^\x00-\x7f])
      | (?P<dot>\.)
      | (?P<escaped>\\[.*+?(){}\[\]^$|\\/\-"'!@\#%&=:;,<>~` ])
      | (?P<shorthand>\\[dswDSW])
      | (?P<bracket>\[\^?(?:[A-Za-z0-9_ .,;:@\#%&=+*/!?<>]|[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9])+\])
      | (?P<quantifier>[*+?]|\{\d{1,3}(?:,\d{0,3})?\})
      | (?P<open>\()(?!\?)
      | (?P<close>\))
      | (?P<bar>\|)
      | (?P<start>\^)
      | (?P<end>\$)""",
    re.VERBOSE,
)


def _posix_to_python(pattern: str) -> tuple[str, bool, tuple[str | int, ...]] | None:
    """Translate what both dialects read alike; None for all else.

    The flag says that the translation holds for ASCII texts only (``\\w`` and its kin ask the
    locale); the last are `_Regex`'s ``choices``. Only *whether* something matches is
    asked, so that greediness makes no difference.
    A repeated group that itself repeats or chooses is left to the server: Python tries every way
    to part the text, so that ``(a+)+$`` and forty letters would stop the loop for hours.
    """
    out: list[str] = []
    choices: list[str | int] = []
    ascii_only, at = False, 0
    ambiguous = [False]  # of each open group: does it repeat or choose?
    quantifiable = inner = False
    last = "bar"  # as if a branch had just begun
    while at < len(pattern):
        piece = _PIECE.match(pattern, at)
        if piece is None:
            return None
        kind, text = str(piece.lastgroup), piece[0]
        if kind == "quantifier":
            bounds = [int(n) for n in re.findall(r"\d+", text)]
            if not quantifiable or max(bounds, default=0) > 255 or bounds != sorted(bounds):
                return None
            if last == "close" and inner and text != "?":
                return None
            if text in ("*", "+") or text.endswith(",}"):
                choices.append(0)
            else:
                choices.append(2 if text == "?" else bounds[-1] - bounds[0] + 1)
        elif kind in ("close", "bar") and last in ("open", "bar"):
            return None  # an empty branch
        elif kind == "shorthand":
            ascii_only = True
        elif kind == "bracket" and any(a > b for a, b in re.findall(r"(\w)-(\w)", text)):
            return None
        if kind in ("open", "close", "bar"):
            choices.append(text)
        if kind == "open":
            ambiguous.append(False)
        elif kind == "close":
            inner = ambiguous.pop()
            if not ambiguous:
                return None
            ambiguous[-1] |= inner
        elif kind in ("quantifier", "bar"):
            ambiguous[-1] = True
        out.append(r"\Z" if kind == "end" else text)
        quantifiable = kind in ("literal", "dot", "escaped", "shorthand", "bracket", "close")
        last, at = kind, piece.end()
    if len(ambiguous) > 1 or (last == "bar" and pattern):
        return None
    return "".join(out), ascii_only, tuple(choices)
