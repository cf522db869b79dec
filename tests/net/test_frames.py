"""Unknown parts from newer servers are counted and ignored; a possible change is a gap.

Any JSON goes through the client's own dispatch, between two changes that must both arrive.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notebook_rt.net.credentials import Credentials
from notebook_rt.net.websocket.socket import Socket
from notebook_rt.options import Options
from notebook_rt.sync.events import Binding
from notebook_rt.sync.usage import TICK
from tests.laws import examples
from tests.net.test_socket import CONFIG, Ears

TOPIC = "realtime:t"
CHANGES = ["postgres_changes", "INSERT", "UPDATE", "DELETE", "TRUNCATE"]
EVENTS = [
    *CHANGES,
    "broadcast",
    "phx_reply",
    "presence_state",
    "presence_diff",
    "system",
    "phx_close",
    "phx_error",
    "heartbeat",
    "snapshot",
    "",
]
WORDS = [
    "topic",
    "event",
    "payload",
    "ref",
    "join_ref",
    "data",
    "type",
    "record",
    "old_record",
    "columns",
    "errors",
    "commit_timestamp",
    "name",
    "status",
    "response",
    "reason",
    "message",
    "extension",
    "channel",
    "postgres_changes",
    "joins",
    "leaves",
    "metas",
    "presence_ref",
    "meta",
    "id",
    "ids",
    "new",
]
TEXT = st.one_of(
    st.sampled_from(
        [*WORDS, *EVENTS, "ok", "error", "accepted", TOPIC, "1", "2026-01-01T00:00:00Z"]
    ),
    st.text(max_size=6),
)
LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT
)
JSON: st.SearchStrategy[Any] = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), TEXT), inner, max_size=4),
    ),
    max_leaves=12,
)


def near(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object that has these fields as they should be, or something else, or not at all."""
    some = {name: st.one_of(value, JSON) for name, value in fields.items()}
    exact = st.fixed_dictionaries({}, optional=some)
    more = st.dictionaries(TEXT, JSON, max_size=2)
    return st.builds(lambda extra, known: {**extra, **known}, more, exact)


COLUMNS = st.just([{"name": "id", "type": "int8"}])
DATA = near(
    type=st.sampled_from(["INSERT", "UPDATE", "DELETE", "MERGE"]),
    record=st.just({"id": 1}),
    old_record=st.just({"id": 1}),
    columns=st.one_of(COLUMNS, st.lists(near(name=TEXT, type=TEXT), max_size=2)),
    commit_timestamp=st.sampled_from(["2026-01-01T00:00:00Z", "0000", "9999-12-31T23:59:59+00:00"]),
    errors=st.lists(TEXT, max_size=2),
)
METAS = near(metas=st.lists(near(presence_ref=TEXT), max_size=2))
PAYLOAD = st.one_of(
    JSON,
    near(data=DATA, ids=st.just([1])),
    near(status=TEXT, response=st.one_of(JSON, near(postgres_changes=JSON)), message=TEXT),
    near(joins=st.dictionaries(TEXT, METAS, max_size=2), leaves=st.dictionaries(TEXT, METAS)),
    near(event=TEXT, payload=JSON, type=TEXT),
)
FRAME = st.one_of(
    JSON,
    st.lists(st.one_of(st.sampled_from(EVENTS), JSON), max_size=5),
    near(
        topic=st.sampled_from([TOPIC, "phoenix", "realtime:other"]),
        event=st.sampled_from(EVENTS),
        payload=PAYLOAD,
        ref=st.sampled_from(["1", "2", None]),
    ),
    st.fixed_dictionaries(
        {
            "topic": st.just(TOPIC),
            "event": st.sampled_from(EVENTS),
            "payload": PAYLOAD,
            "ref": st.sampled_from(["1", "2", None]),
        }
    ),
)


def change(key: int) -> bytes:
    data = {
        "type": "INSERT",
        "record": {"id": key},
        "columns": [{"name": "id", "type": "int8"}],
        "commit_timestamp": "2026-01-01T00:00:00Z",
    }
    payload = {"data": data, "ids": [1]}
    frame = {"topic": TOPIC, "event": "postgres_changes", "payload": payload, "ref": None}
    return msgspec.json.encode(frame)


BINDINGS = (Binding("INSERT", "public", "t", "id=gt.3"), Binding("DELETE", "public", "t"))
TAKEN = [
    {"id": 1, "event": "INSERT", "schema": "public", "table": "t", "filter": "id=gt.3"},
    {"id": 2, "event": "DELETE", "schema": "public", "table": "t"},
]


@pytest.mark.parametrize(
    ("taken", "heard"),
    [
        (TAKEN, "joined"),
        (None, "joined"),
        (TAKEN[:1], "failed"),
        (TAKEN[::-1], "failed"),
        ([TAKEN[0] | {"filter": None}, TAKEN[1]], "failed"),
        ([], "failed"),
        ([3, 4], "failed"),
    ],
)
async def test_a_join_counts_only_if_the_server_streams_what_was_asked_for(
    taken: object, heard: str
) -> None:
    payload = {"status": "ok", "response": {"postgres_changes": taken}}
    frame = {"topic": TOPIC, "event": "phx_reply", "ref": "1", "payload": payload}
    _, [(told, *_)] = await dispatched(msgspec.json.encode(frame))
    assert told == heard


async def dispatched(*frames: bytes) -> tuple[Socket, list[tuple[Any, ...]]]:
    """The socket that took these frames, and what its listeners heard."""
    ears = Ears()
    socket = Socket("http://127.0.0.1:9", Credentials("k"), Options(), ears)
    channel = socket.open_channel("t", CONFIG, ears)
    await channel.subscribe_to(BINDINGS)  # it cannot leave, but would take an answer to "1"
    for frame in frames:
        socket._dispatch(frame)
    heard = []
    while not ears.heard.empty():
        heard.append(ears.heard.get_nowait())
    return socket, heard


def perhaps_a_change(frame: Any) -> bool:
    """Whether the frame names an event that tells of changes, of this protocol or of 2.0.0."""
    events = (
        frame
        if isinstance(frame, list)
        else [frame.get("event")]
        if isinstance(frame, dict)
        else []
    )
    return any(isinstance(event, str) and event in CHANGES for event in events)


@settings(max_examples=examples(400))
@given(FRAME)
@example(
    {"topic": TOPIC, "event": "phx_reply", "ref": "1", "payload": {"status": "ok", "response": 3}}
)
@example(
    {
        "topic": TOPIC,
        "event": "postgres_changes",
        "payload": {"data": {"type": "INSERT", "record": []}},
    }
)
def test_any_json_is_taken_and_opens_a_gap_only_if_it_could_have_been_a_change(frame: Any) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]  # a handler that keeps
    logger = logging.getLogger("notebook_rt")
    logger.addHandler(handler)
    try:
        raw = msgspec.json.encode(frame)
        _, heard = asyncio.run(dispatched(change(1), raw, change(2)))
    finally:
        logger.removeHandler(handler)
    assert not records
    changes = [event[1] for event in heard if event[0] == "change"]
    assert [c.record["id"] for c in (changes[0], changes[-1])] == [1, 2]
    gaps = [event for event in heard if event[0] == "unreadable" or event == ("change", None)]
    if not perhaps_a_change(frame):
        assert not gaps
        assert len(changes) == 2
    elif (
        isinstance(frame, list)
        or frame.get("topic") == TOPIC
        or not isinstance(frame.get("topic"), str)
    ):
        assert gaps or len(changes) == 3
    for taken in changes:
        if taken is not None:
            assert isinstance(taken.record, dict | None)
            assert all(isinstance(c.name, str) for c in taken.columns)


@pytest.mark.parametrize(
    ("frame", "unknown"),
    [
        ({"topic": TOPIC, "event": "snapshot", "payload": {}}, 1),
        ({"topic": TOPIC, "event": "broadcast", "payload": {}, "shard": 3, "trace": "x"}, 2),
        ({"topic": TOPIC, "event": "system", "payload": {"status": "draining", "message": ""}}, 1),
        ({"topic": TOPIC, "event": "system", "payload": {"status": "ok", "code": 7}}, 1),
        ({"topic": TOPIC, "event": "phx_reply", "ref": "1", "payload": {"status": "accepted"}}, 1),
        ({"topic": "phoenix", "event": "goaway", "payload": {}}, 1),
        (["1", "1", TOPIC, "broadcast", {}], 1),
        ({"topic": TOPIC, "event": "broadcast", "payload": {"event": "new", "meta": {"a": 1}}}, 0),
        ({"topic": "realtime:left", "event": "broadcast", "payload": {}}, 0),
    ],
)
async def test_what_a_newer_server_says_is_counted_and_told_to_nobody(
    frame: Any, unknown: int, caplog: pytest.LogCaptureFixture
) -> None:
    socket, heard = await dispatched(msgspec.json.encode(frame))
    assert socket.traffic.unknown == unknown
    assert not [event for event in heard if event[0] not in ("broadcast", "system")]
    assert not caplog.records


async def test_a_join_whose_answer_has_an_unknown_status_is_answered_by_the_next() -> None:
    answers = [
        {
            "topic": TOPIC,
            "event": "phx_reply",
            "ref": "1",
            "payload": {"status": status, "response": {}},
        }
        for status in ("accepted", "ok")
    ]
    _, heard = await dispatched(*map(msgspec.json.encode, answers))
    assert heard == [("joined",)]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("frame", [b"[" * 100_000, b'{"topic":', b"\xff\x00", b""])
async def test_what_is_no_json_is_a_gap_only_if_it_names_changes(
    frame: bytes, marked: bool
) -> None:
    raw = b'["postgres_changes",' + frame if marked else frame
    socket, heard = await dispatched(change(1), raw, change(2))
    assert [event[0] for event in heard] == ["change", *["unreadable"] * marked, "change"]
    assert socket.traffic.unknown == 1


async def test_what_counts_toward_a_plan_is_changes_broadcasts_and_presence() -> None:
    events = ["broadcast", "presence_diff", "presence_state", "system", "phx_reply", "snapshot"]
    others = [{"topic": TOPIC, "event": event, "payload": {}} for event in events]
    frames = [change(1), *map(msgspec.json.encode, others)]
    socket, _ = await dispatched(*frames)
    hour = socket.usage.hour(socket.traffic.last_frame_at)
    assert hour.messages == 4
    assert hour.presence_peak == 2 / TICK
    assert hour.bytes_in == sum(map(len, frames)) == socket.traffic.bytes_received
