"""A grid's model on a table in memory, with one view that reads like the browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from notebook_rt.model.types import Column
from notebook_rt.widgets.columns import NULL
from notebook_rt.widgets.gridmodel import GridModel
from tests.widgets.memory import MemoryFrame

FIELDS = [
    Column("id", "int8", nullable=False),
    Column("price", "float8"),
    Column("name", "text"),
    Column("at", "timestamptz"),
]


def table(n: int, first: int = 1) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "price": np.arange(n, dtype=float),
            "name": pd.array([f"name {i}" for i in range(n)], dtype="str"),
            "at": pd.Timestamp("2026-01-01T00:00Z") + pd.to_timedelta(np.arange(n), unit="s"),
        },
        index=pd.Index(np.arange(first, first + n), name="id"),
    )


def values(column: Mapping[str, Any], buffer: bytes) -> list[Any]:
    """A column of a message, read as the browser does."""
    at, size = column["values"]
    flags = np.frombuffer(buffer, np.uint8, column["flags"][1], column["flags"][0])
    if column["kind"] != "text":
        numbers = np.frombuffer(buffer, np.float64, size // 8, at).tolist()
        return [None if f & NULL else v for v, f in zip(numbers, flags, strict=True)]
    ends = np.frombuffer(buffer, np.int32, column["ends"][1] // 4, column["ends"][0])
    starts = [0, *ends][: len(ends)]
    texts = [buffer[at + a : at + b].decode() for a, b in zip(starts, ends, strict=True)]
    return [None if f & NULL else t for t, f in zip(texts, flags, strict=True)]


def rids(message: Any) -> list[int]:
    at, size = message.content["rids"]
    return np.frombuffer(message.buffers[0], np.int32, size // 4, at).tolist()


class Bench:
    """A model over a frame in memory, with one view."""

    def __init__(self, df: pd.DataFrame, fields: Any = FIELDS, **options: Any) -> None:
        self.source = MemoryFrame(df, fields)
        self.woken = 0
        self.model = GridModel(self.source, act=lambda fn: fn(), changed=self._wake, **options)
        self.whole = self.model.whole("v")[0]

    def _wake(self) -> None:
        self.woken += 1

    def say(self, **word: Any) -> list[Any]:
        self.model.received("v", word)
        return list(self.model.update())

    def set(self, df: pd.DataFrame) -> list[Any]:
        self.source.set(df)
        return list(self.model.update())

    def shown(self, message: Any, column: int) -> list[Any]:
        return values(message.content["cols"][column], message.buffers[0])
