"""``run(coro)``: a coroutine to its end from sync code, in a script or in a running loop's cell."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Run ``coro`` to its end and return its result.

    Without a running loop in this thread it is ``asyncio.run``. In a notebook's cell, where one
    runs, ``nest_asyncio2`` is applied to that loop, here and nowhere else; a loop that cannot be
    nested (uvloop) is left alone, and the coroutine gets one of its own on another thread. ``await``
    is the better way where a cell allows it.

    Parameters
    ----------
    coro : coroutine
        What to run. What it raises is raised here.

    Returns
    -------
    object
        What the coroutine returns.

    Raises
    ------
    TypeError
        If it is no coroutine, such as ``frame.wait()``.

    Examples
    --------
    >>> async def double(x):
    ...     return 2 * x
    >>> run(double(21))
    42
    """
    if not asyncio.iscoroutine(coro):
        raise TypeError(f"run() takes a coroutine, such as frame.ready(), not {coro!r}")
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is None:  # not in the handler: what coro raises has nothing to do with that error
        return asyncio.run(coro)
    # It swaps asyncio's C Task for the Python one in the whole process: so only when needed.
    import nest_asyncio2  # type: ignore[import-untyped]  # it ships no types

    try:
        nest_asyncio2.apply(loop)
    except ValueError:
        with ThreadPoolExecutor(1, thread_name_prefix="notebook_rt-run") as thread:
            return thread.submit(asyncio.run, coro).result()
    return loop.run_until_complete(coro)
