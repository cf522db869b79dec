"""Why a file is as if it were not there. Nothing of it reaches the user as an exception."""

from __future__ import annotations

from typing import Literal, TypeAlias

Refusal: TypeAlias = Literal["torn", "foreign", "newer", "unsafe"]
"""Cut off or changed; of another table, login or project; of a newer version; not this user's alone."""


class RefusedFileError(Exception):
    """A file that is not read; ``kind`` is what is wrong with it."""

    def __init__(self, kind: Refusal, why: str) -> None:
        super().__init__(why)
        self.kind: Refusal = kind
