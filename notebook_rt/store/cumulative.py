"""Lets pandas' cumulative functions work on read-only arrays.

``cumsum``, ``cumprod``, ``cummax`` and ``cummin`` of a masked array write fill values under its mask into the
array itself (``_cum_func`` in pandas 3.0 and 3.1). The arrays of a snapshot are read-only, because snapshots
share their memory (``docs/design/store.md``), so these functions would raise ``ValueError``. They get a copy
of a read-only array; other arrays are passed on unchanged. If a later pandas has no such function, nothing
is replaced, and ``tests/store/test_as_pandas.py`` shows whether that is right.
"""

from __future__ import annotations

import importlib
from functools import wraps
from typing import Any


def copy_read_only() -> None:
    """Let pandas' cumulative functions copy arrays that are read-only."""
    try:
        module: Any = importlib.import_module("pandas.core.array_algos.masked_accumulations")
        original = module._cum_func
    except (ImportError, AttributeError):
        return

    @wraps(original)
    def cumulate(func: Any, values: Any, *args: Any, **options: Any) -> Any:
        return original(func, values if values.flags.writeable else values.copy(), *args, **options)

    module._cum_func = cumulate
