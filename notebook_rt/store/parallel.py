"""Work done in parallel, on threads that end with it.

It runs calls that mostly wait for C++ code of numpy or Arrow, which releases the global lock, and returns
when all are done. The threads are created for each call (some 100 µs): none is left over for a forked
process to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def in_parallel(elsewhere: Sequence[Callable[[], None]], here: Callable[[], None]) -> None:
    """Run each of ``elsewhere`` on its own thread and ``here`` on this one; wait for all.

    Raises
    ------
    Exception
        What any of them raised, that of ``here`` first.
    """
    if not elsewhere:
        here()
        return
    with ThreadPoolExecutor(len(elsewhere)) as threads:
        futures = [threads.submit(work) for work in elsewhere]
        here()
    for future in futures:
        future.result()
