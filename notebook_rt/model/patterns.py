"""What PostgreSQL's LIKE and its regular expressions find in a text, at a price that is bounded.

In: a text and a pattern. Out: whether it matches; None where only the server knows: what Python would
read otherwise, and what it might try for longer than the loop can wait.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

STEPS: Final = 3_000_000
"""A pattern that may take more on a text is left to the server: some 0.1 s of the loop's time."""

# LIKE


def like(value: str, pattern: str) -> bool | None:
    """``value LIKE pattern``: what stands between two ``%`` is found from left to right, each as
    early as it can be, so that nothing is tried twice.

    >>> like("abcb", "a%b"), like("abc", "_"), like("50% off", "50\\\\%%"), like("a", "\\\\")
    (True, False, True, None)
    """
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        return None  # "LIKE pattern must not end with escape character"
    pieces = _pieces(pattern)
    if sum(len(piece) for piece in pieces if None in piece) * len(value) > STEPS:
        return None
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


def match(value: str, pattern: str, insensitive: bool = False) -> bool | None:
    """``value ~ pattern``.

    >>> match("abc", "^a.c$"), match("abc", "x|B", True), match("a", "(?=a)")
    (True, True, None)
    """
    regex = _compiled(pattern, insensitive)
    if regex is None or (regex.ascii_only and not value.isascii()):
        return None
    if regex.steps(len(value)) > STEPS:
        return None
    return regex.expression.search(value) is not None


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
