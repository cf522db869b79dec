"""PostgreSQL's LIKE, with a limited cost.

Input: a text and a pattern. Output: whether it matches; None if only the server knows, or if the match might
take longer than the loop can wait. Regular expressions are left to the server
(``docs/design/performance.md``, "Decided by measuring").
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, TypeAlias

STEPS: Final = 3_000_000
"""A pattern that may take more steps on a text is left to the server: some 0.1 s of the loop's time."""


def like(value: str, pattern: str) -> bool | None:
    """Return ``value LIKE pattern``.

    The pieces between two ``%`` are found from left to right, each as early as possible, so that nothing is
    tried twice.

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
"""The characters between two ``%``; None stands for ``_``."""


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
    """Return where in ``value[at:end]`` the piece first occurs; -1 if nowhere."""
    if None not in piece:
        return value.find("".join(map(str, piece)), at, end)
    expression = "".join("." if char is None else re.escape(char) for char in piece)
    found = re.compile(expression, re.DOTALL).search(value, at, end)
    return found.start() if found else -1


def like_to_regex(pattern: str) -> str:
    """Return the POSIX regular expression that is equivalent to the LIKE ``pattern``.

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
