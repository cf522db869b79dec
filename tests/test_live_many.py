"""Many more tables than channels: polled tables share the server, and report their age."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.net.rest import RestClient
from tests.waiting import scaled, until

TABLES = 60


def test_a_change_in_each_of_many_tables_is_soon_in_all_and_few_poll_at_once(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes 20 ms a read: fifty tables, four at once, are through in half a second."""
    fetch = RestClient.fetch
    under_way: Counter[str] = Counter()
    most = 0

    async def slow(self: RestClient, schema: str, table: str, *args: Any, **more: Any) -> Any:
        nonlocal most
        under_way[table] += 1
        most = max(most, len(+under_way))
        try:
            await asyncio.sleep(0.02)
            return await fetch(self, schema, table, *args, **more)
        finally:
            under_way[table] -= 1

    monkeypatch.setattr(RestClient, "fetch", slow)
    tables = [make_table("id int primary key, name text") for _ in range(TABLES)]
    options = nrt.Options(poll_interval=1.0, poll_max=1.0, polls_at_once=4, audit_interval=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        frames = [rt.table(name) for name in tables]
        for frame in frames:
            frame.wait(scaled(60))

        def statuses() -> Counter[str]:
            return Counter(frame.status for frame in frames)

        until(lambda: statuses() == {"live": 10, "polling": TABLES - 10}, 30, statuses)
        most = 0  # of the polls: all tables were loaded in the same moment
        loaded = {frame.name: frame.synced_at for frame in frames if frame.status == "polling"}
        until(lambda: all(f.synced_at != loaded.get(f.name) for f in frames if f.name in loaded))
        for name in tables:
            stack.sql(f"insert into {name} values (1, 'all')")
        took = until(
            lambda: all(frame.get(1) for frame in frames),
            seconds=15,
            what=lambda: sum(frame.get(1) is None for frame in frames),
        )
        print(f"a change in each of {TABLES} tables is in all after {took:.1f} s")
        assert most <= 4 + 10  # and the live ones read what they are told of once more
        polled = next(frame for frame in frames if frame.status == "polling")
        assert "as of" in polled.reason
        assert polled.reason in repr(polled)
        until(lambda: "the oldest is" in rt.health.reason, what=lambda: rt.health)
        assert (polled._feed.age or 99) < 10
