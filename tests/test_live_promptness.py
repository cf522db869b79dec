"""How soon other clients' writes are in ``df``, right after the first data (promise 5, 3.6)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from tests.waiting import scaled, until


def test_the_first_writes_after_wait_are_seen_as_soon_as_all_others(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    """Some 15 ms on an idle machine; it was 2 s for what followed an insert."""
    writes = {
        "update of what was loaded": ("update {} set name = 'x' where id = 1", 1, "x"),
        "insert": ("insert into {} values (2, 'a', 1)", 2, "a"),
        "update": ("update {} set name = 'b' where id = 2", 2, "b"),
        "delete": ("delete from {} where id = 2", 2, None),
    }
    took: dict[str, list[float]] = {kind: [] for kind in writes}

    def shows(frame: nrt.LiveFrame, key: int, name: str | None) -> bool:
        row = frame.get(key)
        return (row and row["name"]) == name

    with nrt.connect(stack.url, stack.anon_key) as rt:
        for _ in range(5):
            table = make_table()
            stack.sql(f"insert into {table} values (1, 'there', 0)")
            frame = rt.table(table).wait(scaled(10))
            for kind, (statement, key, name) in writes.items():
                stack.sql(statement.format(table))
                committed = time.monotonic()
                until(lambda: shows(frame, key, name))  # noqa: B023  # called at once
                took[kind].append(time.monotonic() - committed)
    medians = {kind: round(1000 * statistics.median(each)) for kind, each in took.items()}
    print(f"milliseconds from commit to df, right after wait(): {medians}")
    assert max(medians.values()) < 250, medians
