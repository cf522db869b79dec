"""Work done beside other work, on threads that live as long as it does.

In go calls that mostly wait for numpy's or Arrow's C++, which let go of the global lock; they come
back when all are done. The threads are made for the occasion (some 100 µs): none is left over for
a forked process to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def in_parallel(elsewhere: Sequence[Callable[[], None]], here: Callable[[], None]) -> None:
    """Do each of ``elsewhere`` on a thread of its own and ``here`` on this one; wait for all.

    Raises
    ------
    Exception
        What any of them raised, the one that was done here first.
    """
    if not elsewhere:
        here()
        return
    with ThreadPoolExecutor(len(elsewhere)) as threads:
        futures = [threads.submit(work) for work in elsewhere]
        here()
    for future in futures:
        future.result()
