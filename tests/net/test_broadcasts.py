"""A frame of broadcasts survives any messages of other clients."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.signal import Signal
from notebook_rt.net.loop import shared
from notebook_rt.options import Options
from notebook_rt.runtime.broadcasts import BroadcastFeed
from notebook_rt.runtime.room import Message, Room
from notebook_rt.sync.connection.metrics import Metrics

NAMES = st.sampled_from(["k", "v", "n", "at", "value", "", "__proto__"]) | st.text(max_size=2)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)
TURNS = st.lists(st.lists(JSON | st.dictionaries(NAMES, JSON), min_size=1, max_size=3), max_size=5)


def feed(key: tuple[str, ...] | None, limit: int) -> BroadcastFeed:
    services = SimpleNamespace(
        thread=shared(), options=Options(), metrics=Metrics(), lock=threading.RLock()
    )
    room = SimpleNamespace(services=services, listeners=Signal(), topic="room")
    return BroadcastFeed(cast(Room, room), "e", key, limit)


def receive(one: BroadcastFeed, turns: list[list[Any]]) -> None:
    for turn in turns:
        one._new = [Message("e", payload, 1.7e9, {}) for payload in turn]
        one._apply()


@given(TURNS, st.integers(1, 4))
def test_a_log_has_the_latest_messages_whatever_they_are(
    turns: list[list[Any]], limit: int
) -> None:
    one = feed(None, limit)
    receive(one, turns)
    messages = [payload for turn in turns for payload in turn]
    found = one.snapshot()
    assert found is not None
    assert list(found.index) == list(range(1, len(messages) + 1))[-limit:]
    if messages and not isinstance(messages[-1], dict):
        assert "value" in found


@given(TURNS, st.sampled_from([("k",), ("k", "v")]), st.integers(1, 4))
def test_a_frame_by_key_has_the_last_of_each_key(
    turns: list[list[Any]], key: tuple[str, ...], limit: int
) -> None:
    one = feed(key, limit)
    receive(one, turns)
    last: dict[Any, None] = {}
    for payload in (payload for turn in turns for payload in turn):
        values = [payload.get(name) if isinstance(payload, dict) else None for name in key]
        if all(isinstance(value, str | int | float) for value in values):
            last.pop(tuple(values), None)
            last[tuple(values)] = None
    found = one.snapshot()
    assert found is not None
    assert len(found) == min(len(last), limit)


def test_a_payloads_own_number_and_time_are_columns_beside_the_logs() -> None:
    one = feed(None, 10)
    receive(one, [[{"n": 7, "at": "noon"}, {"n": 7, "at": "noon"}]])
    found = one.snapshot()
    assert found is not None
    assert list(found.index) == [1, 2]
    assert list(found["n_"]) == [7, 7]
    assert list(found["at_"]) == ["noon", "noon"]
