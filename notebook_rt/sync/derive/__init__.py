"""Operators over live tables: pure incremental machines over batches of row changes.

Each is imported on first use, since most sessions derive nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notebook_rt.sync.derive.concat import Concat
    from notebook_rt.sync.derive.distinct import Distinct
    from notebook_rt.sync.derive.groupby import Aggregate, GroupBy
    from notebook_rt.sync.derive.join import Join, Keying
    from notebook_rt.sync.derive.ordering import Ordering
    from notebook_rt.sync.derive.rolling import Rolling
    from notebook_rt.sync.derive.select import Select
    from notebook_rt.sync.derive.sort import Sort
    from notebook_rt.sync.derive.top import Top
    from notebook_rt.sync.derive.where import Where

__all__ = [
    "Aggregate",
    "Concat",
    "Distinct",
    "GroupBy",
    "Join",
    "Keying",
    "Ordering",
    "Rolling",
    "Select",
    "Sort",
    "Top",
    "Where",
]
_ELSEWHERE = {"Aggregate": "groupby", "Keying": "join"}
"""Import the others from the module with their name."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'notebook_rt.sync.derive' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, name.lower())}"), name)
