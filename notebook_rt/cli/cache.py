"""``notebook-rt cache``: list and delete the live tables and histories stored on this disk."""

from __future__ import annotations

import argparse
import time

from notebook_rt.disk import cache
from notebook_rt.quoting import printable

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def run(parsed: argparse.Namespace) -> int:
    """List or clear the cache, or print its path."""
    match parsed.action:
        case "path":
            print(cache.root())
        case "clear":
            print(f"{cache.in_units(cache.clear())} freed")
        case _:
            _list()
    return 0


def _list() -> None:
    found = cache.entries()
    if not found:
        print("nothing is kept")
        return
    now = time.time()
    for one in reversed(found):
        if one.refused:
            what = f"not used: {one.refused} ({one.path})"
        elif one.began is not None:
            span = f"from {_age(now - one.began)} to {_age(now - one.as_of)} ago"
            what = f"the history of {one.table}  {span}, of {one.project}"
        else:
            rows = f"{one.rows:,} row{'s' * (one.rows != 1)}"
            what = f"{one.table}  {rows}, {_age(now - one.as_of)} old, of {one.project}"
        print(printable(f"{cache.in_units(one.bytes):>9}  {what}"))
    print(f"{cache.in_units(sum(one.bytes for one in found)):>9}  in {cache.root()}")


def _age(seconds: float) -> str:
    """Format seconds in the largest fitting unit.

    >>> _age(59.0), _age(7_300.0)
    ('59 s', '2 h')
    """
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "0 s"
