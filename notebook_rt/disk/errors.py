"""Reasons to treat a file as missing. The user never sees them as exceptions."""

from __future__ import annotations

from typing import Literal, TypeAlias

Refusal: TypeAlias = Literal["torn", "foreign", "newer", "unsafe"]
"""Truncated or changed; of another table, login or project; of a newer version; open to other users."""


class RefusedFileError(Exception):
    """A file that is not read; ``kind`` is the problem with it."""

    def __init__(self, kind: Refusal, why: str) -> None:
        super().__init__(why)
        self.kind: Refusal = kind
