"""The parts of the local Realtime server, each checked against its law or against PostgreSQL."""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncGenerator
from typing import Any, Literal, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool

from notebook_rt.local import LocalStack
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.local.realtime import elixir, pgoutput, protocol
from notebook_rt.local.realtime.broadcasts import DatabaseBroadcasts
from notebook_rt.local.realtime.catalog import Catalog
from notebook_rt.local.realtime.changes import Changes
from notebook_rt.local.realtime.filters import Condition, FilterError, Judge, Question, parse
from notebook_rt.local.realtime.hub import Frame, Hub
from notebook_rt.local.realtime.limits import TICK, CallLimit, EventRate
from notebook_rt.local.realtime.presence import Presence
from notebook_rt.local.realtime.protocol import Message, UserBroadcast, Version
from notebook_rt.local.realtime.rows import commit_timestamp
from notebook_rt.local.realtime.values import PgType, encoder, parse_array
from notebook_rt.local.realtime.wal import WalStream

# --- pgoutput

values = st.none() | st.just(pgoutput.UNCHANGED) | st.text(max_size=40)
rows = st.lists(values, max_size=8)


def wire_row(row: list[Any]) -> bytes:
    out = struct.pack("!h", len(row))
    for value in row:
        if value is None:
            out += b"n"
        elif value is pgoutput.UNCHANGED:
            out += b"u"
        else:
            out += b"t" + struct.pack("!i", len(value.encode())) + value.encode()
    return out


@given(oid=st.integers(0, 2**32 - 1), new=rows, old=st.none() | rows)
def test_changes_are_read_as_they_were_written(
    oid: int, new: list[Any], old: list[Any] | None
) -> None:
    head = struct.pack("!I", oid)
    assert pgoutput.parse(b"I" + head + b"N" + wire_row(new)) == pgoutput.Insert(oid, new)
    before = b"" if old is None else b"O" + wire_row(old)
    update = pgoutput.parse(b"U" + head + before + b"N" + wire_row(new))
    assert update == pgoutput.Update(oid, old, new)
    assert pgoutput.parse(b"D" + head + b"K" + wire_row(new)) == pgoutput.Delete(oid, new)


async def test_what_a_change_of_the_schema_asks_for_is_answered_before_what_follows_it() -> None:
    """Two looks at the publication that overtake each other would tell every channel once more."""
    said: list[str] = []

    async def look(xid: int) -> None:
        said.append(f"asked of {xid}")
        await asyncio.sleep(0)
        said.append("answered")

    changes = Changes(
        catalog=Catalog(cast("AsyncConnectionPool[Any]", None)),
        callers=cast("AsyncConnectionPool[Any]", None),
        rate=EventRate(None, lambda: 0.0, TICK),
        max_record_bytes=1000,
        on_schema_change=look,
    )

    async def messages() -> AsyncGenerator[pgoutput.PgMessage, None]:
        for end in (1, 2):
            yield pgoutput.Begin(0, 0, end)
            for _ in range(3):  # statements of one transaction, for which one look is enough
                yield pgoutput.LogicalMessage("notebook_rt", b"schema changed")
            yield pgoutput.Commit(end)
            said.append(f"read to {changes.read_to}")

    await changes.run(messages())
    for end in (1, 2):
        assert said[3 * end - 3 : 3 * end] == [f"asked of {end}", "answered", f"read to {end}"]
    assert len(said) == 6


def test_a_commit_is_shown_in_milliseconds_not_rounded() -> None:
    assert commit_timestamp(848_000_000_999_999) == "2026-11-14T19:33:20.999Z"


# --- values, held against PostgreSQL

TEXTS: dict[str, list[str]] = {
    "numeric": ["1.000", "-0.5", "123456789012345678901234567890.5", "0", "1e-20"],
    "int8": ["9007199254740993", "-1"],
    "float8": ["0.1", "1e+300", "1e-07", "-1.5e-10", "100"],
    "bool": ["t", "f"],
    "timestamptz": ["2024-01-02 01:04:05.678901+00", "infinity", "0044-03-15 12:00:00+00 BC"],
    "timestamp": ["2024-01-02 03:04:05.5", "-infinity", "0044-03-15 00:00:00 BC"],
    "text": ["", 'quote " back \\ tab \t', "\x01\x1f ü 😀 \x7f"],
    "json": ['{"b": 1e2, "aa": [1.50, null], "b": 2}', '"x"', "[1, {}]", "1E-2", "-0"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "interval": ["1 year 2 mons 3 days 04:05:06.7"],
    "int4[]": ["{1,NULL,3}", "{}", "{{1,2},{3,4}}", "[0:1]={5,6}"],
    "text[]": ['{a,"b,c",NULL,"NULL","q\\"x","",ü}'],
    "float8[]": ["{NaN,1e+300,-Infinity}"],
    "timestamptz[]": ['{"2024-01-02 03:04:05+00",infinity}'],
    "jsonb[]": ['{"{\\"a\\": 1.50}",NULL}'],
    "bytea[]": ['{"\\\\xdead"}'],
    "int4range": ["[1,10)", "empty"],
    "int2vector": ["1 2 3", ""],
    "oidvector": ["25"],
}


def pg_type(name: str) -> PgType:
    if name.endswith("[]"):
        return PgType(0, "_" + name[:-2], "b", name, element=pg_type(name[:-2]))
    if name.endswith("vector"):
        return PgType(0, name, "b", name, element=pg_type(name.removesuffix("vector")))
    return PgType(0, name, "b", name)


@pytest.mark.parametrize("name", TEXTS)
def test_json_is_what_postgresql_makes_of_it(name: str, stack: LocalStack) -> None:
    encode = encoder(pg_type(name))
    assert encode is not None
    for text in TEXTS[name]:
        rows = stack.sql(f"select to_jsonb(%s::{name})::text", text)
        assert encode(text) == rows[0][0], text


@given(st.recursive(st.none() | st.text(max_size=5), lambda s: st.lists(s, max_size=3)))
def test_array_text_is_read_back(value: Any) -> None:
    def text(item: Any) -> str:
        if isinstance(item, list):
            return "{" + ",".join(map(text, item)) + "}"
        if item is None:
            return "NULL"
        return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'

    assert parse_array(text([value])) == [value]


# --- filters, held against PostgreSQL

LITERALS: dict[str, list[str]] = {
    "int4": ["5", "-1", "0"],
    "numeric": ["1.0", "1", "NaN", "1e2", "Infinity"],
    "text": ["", "a", "B", "ü", "a%", "NULL"],
    "bool": ["true", "f"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC999C0B4EF8BB6D6BB9BD380A11"],
    "date": ["2024-01-02", "2024-10-01"],
    "timestamptz": ["2024-01-02 00:00:00+00", "2024-01-02 01:00:00+01"],
}
SQL = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
SQL |= {"isdistinct": "is distinct from"}


@pytest.mark.parametrize("kind", LITERALS)
async def test_comparisons_are_postgresqls(kind: str, stack: LocalStack) -> None:
    async with AsyncConnectionPool(stack.dsn, kwargs={"autocommit": True}, min_size=1) as pool:
        judge = Judge(pool)
        for operator, symbol in SQL.items():
            for left in [*LITERALS[kind], None]:
                for right in LITERALS[kind]:
                    stored = stack.sql(f"select %s::{kind}::text", left)[0][0]
                    if stored in ("true", "false"):
                        stored = stored[0]  # as it stands in the log
                    for negated in (False, True):
                        condition = Condition("c", operator, right, negated)
                        answer = judge.passes(pg_type(kind), condition, stored)
                        if isinstance(answer, Question):
                            await judge.ask([answer])
                            answer = judge.passes(pg_type(kind), condition, stored)
                        (expected,) = stack.sql(
                            f"select %s::{kind} {symbol} %s::{kind}", left, right
                        )[0]
                        if negated and expected is not None:
                            expected = not expected
                        assert answer is bool(expected), (left, condition)


def test_the_filter_language_is_read() -> None:
    text = 'n=not.in.(1,"a,b",NULL),s=eq."x,y",t=match.^(a|b)$,u=eq.,v=is.null'
    assert parse(text) == (
        Condition("n", "in", '{1,"a,b","NULL"}', True),
        Condition("s", "eq", "x,y", False),
        Condition("t", "match", "^(a|b)$", False),
        Condition("u", "eq", "", False),
        Condition("v", "is", "null", False),
    )


@given(st.text(alphabet='abn=.,()"\\ eqint', max_size=30))
def test_no_filter_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(FilterError):
        for condition in parse(text):
            if condition.operator == "in":
                parse_array(condition.value)


# --- frames

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=4), s, max_size=3),
)


@given(ref=st.none() | st.text(max_size=5) | st.integers(), payload=json_values)
def test_a_frame_is_read_as_it_was_written(ref: Any, payload: Any) -> None:
    for vsn in protocol.VERSIONS:
        text = protocol.frame(vsn, "realtime:t", "e", protocol.dumps(payload), None, ref)
        message = protocol.decode_text(vsn, text)
        assert message is not None
        assert (message.ref, message.topic, message.event) == (ref, "realtime:t", "e")
        assert message.json() == payload


json_texts = st.recursive(
    st.sampled_from(["1", '"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', "1e99999999", "null"])
    | st.text(max_size=5).map(json.dumps),
    lambda s: (
        st.lists(s, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
        | st.tuples(st.sampled_from(["a", "\\udc00", "\\n"]), s).map(
            lambda p: f'{{"{p[0]}":{p[1]}}}'
        )
    ),
) | st.integers(1, 2000).map(lambda depth: "[" * depth + "]" * depth)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b"\0")
@example(b"\3")
def test_no_frame_breaks_the_reader(data: bytes) -> None:
    assert isinstance(protocol.decode_binary(data), Message | None)
    for vsn in protocol.VERSIONS:
        assert isinstance(protocol.decode_text(vsn, data.decode(errors="replace")), Message | None)
    with contextlib.suppress(ValueError):
        protocol.loads(data)


@given(json_texts, json_texts)
def test_what_is_read_of_a_frame_can_be_written_again(payload: str, ref: str) -> None:
    for vsn, text in (
        ("1.0.0", f'{{"topic":"t","event":"e","payload":{payload},"ref":{ref}}}'),
        ("2.0.0", f'[null,{ref},"t","e",{payload}]'),
    ):
        message = protocol.decode_text(vsn, text)
        if message is not None:
            again = protocol.dumps(message.json())
            protocol.frame(vsn, message.topic, message.event, again, None, message.ref).encode()
            if isinstance(message.payload, str):
                message.payload.encode()


@given(
    st.binary(max_size=60)
    | st.tuples(st.sampled_from(b"IUDBCRTMYO"), st.binary(max_size=60)).map(
        lambda parts: bytes(parts[:1]) + parts[1]
    )
)
@example(b"")
def test_no_bytes_break_the_reader_of_the_log(data: bytes) -> None:
    with contextlib.suppress(pgoutput.MalformedError):
        pgoutput.parse(data)


@given(json_texts)
@example("1e999999999")
def test_json_of_any_shape_can_be_sent(text: str) -> None:
    encode = encoder(pg_type("json"))
    assert encode is not None
    encode(text).encode()


def test_a_payload_is_relayed_digit_for_digit() -> None:
    text = '["1","2","realtime:t","broadcast",{"n":12345678901234567890.10}]'
    message = protocol.decode_text("2.0.0", text)
    assert message is not None
    assert message.payload == '{"n":12345678901234567890.10}'


def test_a_binary_broadcast_has_no_form_in_version_1() -> None:
    raw = UserBroadcast("e", b"\xff", False)
    assert protocol.user_broadcast("1.0.0", "realtime:t", raw) is None
    sent = protocol.user_broadcast("2.0.0", "realtime:t", raw)
    assert sent == b"\x04\x0a\x01\x00\x00realtime:te\xff"


@pytest.mark.parametrize("text", ["not json", '{"a":1}', "[1,2]", "", "[]", "null", '"x"'])
def test_what_is_no_message_is_ignored(text: str) -> None:
    assert protocol.decode_text("1.0.0", text) is None
    assert protocol.decode_text("2.0.0", text) is None


def test_terms_are_printed_as_elixir_prints_them() -> None:
    assert elixir.inspect({"b": None, "a": "x"}) == '%{"a" => "x", "b" => nil}'
    assert elixir.inspect([("n", "eq", "1", False)]) == '[{"n", "eq", "1", false}]'


# --- limits, presence


def test_a_burst_passes_and_what_follows_does_not() -> None:
    now = 0.0
    rate = EventRate(100, lambda: now)
    assert all(rate.admit() for _ in range(3_000))
    now = TICK + 0.1
    assert not rate.admit()
    now = 200.0  # the window has gone by
    assert rate.admit()


class Listener:
    """A member of a topic that counts what it gets."""

    vsn: Version = "2.0.0"
    key = ("t", True)
    presence_key = ""
    presence_enabled = False

    def __init__(self) -> None:
        self.frames = 0
        self.failed: list[str] = []

    def push(self, event: str, payload: str, with_join_ref: bool = True) -> None: ...

    def send(self, frame_: Frame) -> None:
        self.frames += 1

    def rebind(self, delay: float) -> None: ...

    def fail(self, message: str) -> None:
        self.failed.append(message)


@given(
    members=st.integers(0, 4),
    every=st.sampled_from([0.05, 0.11, 0.3]),
    over_rate=st.sampled_from(["silent", "closed"]),
)
def test_a_message_of_the_database_counts_once_and_once_for_each_member(
    members: int, every: float, over_rate: Literal["silent", "closed"]
) -> None:
    """Within 20 a second none is lost; over it some are, or are the last of their channels."""
    now = 0.0
    options = RealtimeOptions(over_rate=over_rate)
    hub = Hub(lambda count: None)
    joined = [Listener() for _ in range(members)]
    for member in joined:
        hub.join(member)
    stream = WalStream("", [], 0.0, None)
    broadcasts = DatabaseBroadcasts(options, hub, EventRate(20, lambda: now), stream)

    async def log() -> AsyncGenerator[pgoutput.PgMessage, None]:
        nonlocal now
        columns = ("topic", "extension", "payload", "event", "private", "id")
        yield pgoutput.Relation(1, "realtime", "messages_2026_11_29", "d", columns, ())
        for _ in range(300):
            now += every
            yield pgoutput.Insert(1, ["t", "broadcast", "{}", "e", "t", "1"])

    async def read() -> None:
        broadcasts.warm_up()
        await broadcasts.run(log())

    asyncio.run(read())
    within = (1 + members) / every <= 19 or not members
    for member in joined:
        assert (member.frames == 300) is (within or over_rate == "closed")
        assert bool(member.failed) is (not within and over_rate == "closed")


def test_presence_that_is_delivered_counts_toward_the_rate_as_a_call_does() -> None:
    """One call in a room of fifty is fifty presence messages more (``realtime``'s own counting)."""
    now = 0.0
    rate = EventRate(20, lambda: now)
    for _ in range(3):
        assert rate.admit()
        rate.count(50)
    now = TICK + 0.1
    assert not rate.admit()


def test_the_sixth_call_in_the_window_is_refused() -> None:
    now = 0.0
    limit = CallLimit(5, 30.0, lambda: now)
    assert [limit.admit() for _ in range(6)] == [True] * 5 + [False]
    now = 30.0
    assert limit.admit()


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 2))))
def test_presence_diffs_add_up_to_the_state(calls: list[tuple[int, int | None]]) -> None:
    presence = Presence()
    seen: dict[str, dict[str, Any]] = {}
    for number, (member, payload) in enumerate(calls):
        key = f"key {member % 2}"
        if payload is None:
            diff = presence.untrack(member)
        else:
            diff = presence.track(member, key, {"n": payload}, f"ref {number}")
        if diff is None:
            continue
        for side, add in (("leaves", False), ("joins", True)):
            for name, entry in diff[side].items():
                for meta in entry["metas"]:
                    if add:
                        seen.setdefault(name, {})[meta["phx_ref"]] = meta
                    else:
                        del seen[name][meta["phx_ref"]]
    expected = {
        name: {meta["phx_ref"]: meta for meta in entry["metas"]}
        for name, entry in presence.state().items()
    }
    assert {name: metas for name, metas in seen.items() if metas} == expected
    json.dumps(presence.state())
