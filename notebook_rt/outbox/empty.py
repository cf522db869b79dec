"""The queue of who has written nothing: looked at like any other, and no file is made for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from notebook_rt.edits.decisions import Record
from notebook_rt.edits.ops import Op
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.sessions import Session


class _EmptyOutbox(Outbox):
    """An empty queue."""

    def __init__(self) -> None:
        self.path = Path("(no file)")

    def subscribe(self, fn: Callable[[], object]) -> Callable[[], None]:
        return lambda: None

    def __len__(self) -> int:
        return 0

    def get(self, op: str) -> Op | None:
        return None

    def ops(
        self, *, schema: str | None = None, target: str | None = None, state: Any = None
    ) -> list[Op]:
        return []

    def sessions(self) -> dict[str, Session]:
        return {}

    def counts(self) -> dict[str, int]:
        return {"waiting": 0, "failed": 0, "asking": 0}

    def retry(self, op: str | None = None) -> int:
        return 0

    def hurry(self) -> None:
        pass

    def discard(self, op: str) -> list[Op]:
        return []

    def next_at(self) -> float | None:
        return None

    def conflicts(
        self, schema: str | None = None, target: str | None = None, *, only_open: bool = False
    ) -> list[Record]:
        return []


EMPTY = _EmptyOutbox()
