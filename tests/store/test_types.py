"""Promise 11: the same value and dtype whether a row came from REST or the socket."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from notebook_rt.model.decode import decode_json
from notebook_rt.model.types import Column, Numeric, Schema, coerce, decode, equal, lossy, to_json

TRANSCRIPT = Path(__file__).parents[1] / "wire" / "05-types.jsonl"


def _recorded() -> dict[int, tuple[dict[str, Any], dict[str, str]]]:
    """The real server's records of wire_types: id to (record, column types), undecoded."""
    rows: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
    for line in TRANSCRIPT.read_text().splitlines():
        entry = json.loads(line)
        if entry.get("dir") != "recv" or '"record"' not in entry["raw"]:
            continue
        data = decode_json(entry["raw"], exact_numbers=True)["payload"]["data"]
        types = {column["name"]: column["type"] for column in data["columns"]}
        rows.setdefault(data["record"]["id"], (data["record"], types))
    return rows


RECORDED = _recorded()

# What PostgREST (``to_json``) says for the rows that the transcript inserted, where it differs.
REST_FORMS = {1: {"by": "\\xdeadbeef", "js": {"b": 1, "a": [1, 2.50, None]}}}


def _schema(types: dict[str, str], numeric: Numeric = "float") -> Schema:
    return Schema(tuple(Column(name, kind) for name, kind in types.items()), ("id",), numeric)


@pytest.mark.parametrize("numeric", ["float", "decimal"])
def test_a_recorded_row_has_the_same_typed_values_from_both_sources(numeric: Numeric) -> None:
    for row_id, (record, types) in RECORDED.items():
        schema = _schema(types, numeric)
        socket = schema.decode(record, "socket")
        rest = schema.decode({**record, **REST_FORMS.get(row_id, {})}, "rest")
        assert socket.keys() == rest.keys() == types.keys()
        assert [name for name in types if not equal(socket[name], rest[name])] == []


def test_the_recorded_values_are_what_was_inserted() -> None:
    record, types = RECORDED[1]
    row = _schema(types, "decimal").decode(record, "socket")
    assert row["i8"] == 9007199254740993
    assert row["num"] == Decimal("123456789012345678901234567890.123456789")
    assert str(row["num2"]) == "1.50"
    assert row["tstz"] == dt.datetime(2024, 1, 2, 1, 4, 5, 678901, tzinfo=dt.UTC)
    assert row["ts"] == dt.datetime(2024, 1, 2, 3, 4, 5, 678901)
    assert (row["d"], row["tm"]) == (dt.date(2024, 1, 2), dt.time(3, 4, 5, 600000))
    assert row["by"] == bytes.fromhex("deadbeef")
    assert row["o"] == 4294967295
    assert row["ia"] == [1, None, 3]
    assert row["jb"] == {"a": [1, 2.5, None], "b": 1}
    assert type(row["jb"]["a"][1]) is float
    assert row["f4"] == 1.5
    assert RECORDED[4][0]["f4"] == 10**38


@pytest.mark.parametrize(
    ("row_id", "column", "text"),
    [(7, "tstz", "infinity"), (7, "ts", "-infinity"), (8, "d", "0044-03-15 BC")],
)
def test_a_moment_that_no_datetime_holds_stays_postgresqls_text(
    row_id: int, column: str, text: str
) -> None:
    record, types = RECORDED[row_id]
    assert _schema(types).decode(record, "socket")[column] == text


def test_what_the_socket_cannot_say_is_known_to_be_lossy() -> None:
    record, types = RECORDED[1]
    names = {name for name in types if lossy(types[name], record[name])}
    assert names == {"ch", "bt"}
    record, types = RECORDED[3]  # NaN and Infinity were inserted, null arrived
    assert {"f8", "f4", "num"} <= {name for name in types if lossy(types[name], record[name])}
    assert not lossy("int8", None)


@pytest.mark.parametrize(
    ("text", "value"), [("NaN", float("nan")), ("Infinity", float("inf")), ("-Infinity", -1e400)]
)
def test_rest_says_special_floats_as_text(text: str, value: float) -> None:
    assert equal(decode("float8", text), value)
    assert to_json("float8", value) == text
    assert equal(decode("numeric", text, numeric="decimal"), Decimal(text))


def test_a_typed_value_survives_the_way_to_the_server_and_back() -> None:
    for record, types in RECORDED.values():
        row = _schema(types, "decimal").decode(record, "socket")
        for name, pg_type in types.items():
            sent = json.loads(json.dumps(to_json(pg_type, row[name])))
            assert equal(decode(pg_type, sent, numeric="decimal"), row[name]), name


def test_what_a_user_passes_becomes_the_typed_value_or_is_refused() -> None:
    assert coerce("timestamptz", dt.datetime(2024, 1, 2)).tzinfo is dt.UTC
    assert coerce("timestamptz", "infinity") == "infinity"
    assert coerce("int8", 3.0) == 3
    assert coerce("_int4", (1, 2)) == [1, 2]
    assert coerce("numeric", 0.1, numeric="decimal") == Decimal("0.1")
    for pg_type, value in [("int8", "x"), ("int8", 1.5), ("int8", 2**63), ("date", "yesterday")]:
        with pytest.raises(ValueError, match="no value"):
            coerce(pg_type, value)
    with pytest.raises(ValueError, match=r"type text\[\]"):
        coerce("_text", "a")


def test_a_day_and_a_month_are_never_taken_for_each_other() -> None:
    for text in ("03.04.2024", "3/4/2024", "2024-13-01", "5 apples"):
        for pg_type in ("date", "timestamp", "timestamptz"):
            with pytest.raises(ValueError, match="write it as in 2024-12-31"):
                coerce(pg_type, text)
    for text in ("10000-01-01", "0044-03-15 BC", "0044-03-15T00:00:00+00:00 BC"):
        assert coerce("timestamptz", text) == text  # PostgreSQL's own, which no datetime can be
    assert coerce("time", "24:00:00") == "24:00:00"
    with pytest.raises(ValueError, match="write it as in 18:00:00"):
        coerce("time", "25:00")


def test_a_uuid_is_found_however_it_is_written() -> None:
    as_stored = "0b51fcf7-2a5a-4c5c-a1d1-0d0a6d3a5c11"
    for given in (
        as_stored.upper(),
        f"{{{as_stored}}}",
        as_stored.replace("-", ""),
        UUID(as_stored),
    ):
        assert coerce("uuid", given) == as_stored
    assert coerce("uuid", None) is None
    with pytest.raises(ValueError, match="'xx' is no value of the PostgreSQL type uuid"):
        coerce("uuid", "xx")


@pytest.mark.parametrize("pg_type", ["text", "int4", "bool", "timestamptz", "interval", "jsonb"])
@pytest.mark.parametrize("missing", [float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_what_pandas_knows_as_missing_is_null(pg_type: str, missing: object) -> None:
    assert coerce(pg_type, missing) is None
    assert equal(coerce("float8", float("nan")), float("nan"))
    assert coerce("_text", ["a", missing]) == ["a", None]


@pytest.mark.parametrize(
    ("pg_type", "value", "typed"),
    [
        ("interval", np.timedelta64(90, "s"), "0 days 00:01:30"),
        ("interval", np.timedelta64(90 * 10**9, "ns"), "0 days 00:01:30"),
        ("bytea", bytearray(b"ab"), b"ab"),
        ("bytea", memoryview(b"ab"), b"ab"),
        ("uuid", "{0000000000000000000000000000ABCD}", "00000000-0000-0000-0000-00000000abcd"),
        ("_int4", np.array([1, 2]), [1, 2]),
        ("_int4", [1.0, "2", np.int64(3)], [1, 2, 3]),
        ("_int4", [[1], (2,)], [[1], [2]]),
        ("_text", pd.Series(["a"]), ["a"]),
        ("_text", [1], ["1"]),
        ("timestamptz", "20240-01-02", "20240-01-02"),
        ("date", "0044-03-15 BC", "0044-03-15 BC"),
        ("time", "24:00:00", "24:00:00"),
        ("jsonb", {"n": np.int64(1), "a": np.array([1.5])}, {"n": 1, "a": [1.5]}),
        ("jsonb", {1: (Decimal("1.5"), dt.date(2024, 1, 2))}, {"1": [1.5, "2024-01-02"]}),
        ("jsonb", 2**70, 2**70),
    ],
)
def test_a_value_is_seen_as_the_server_will_have_it(
    pg_type: str, value: object, typed: object
) -> None:
    assert repr(coerce(pg_type, value)) == repr(typed)


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("pg_type", "value"),
    [
        ("timestamptz", "99 bottles"),
        ("timestamptz", "31/12/2024"),
        ("date", "2024-13-45"),
        ("time", "25:00"),
        ("uuid", "nope"),
        ("text", {"a": 1}),
        ("text", "a\0b"),
        ("text", "a\ud800"),
        ("_int4", [1, "x"]),
        ("_int4", [1.5]),
        ("_int4", "12"),
        ("jsonb", {"a": float("nan")}),
        ("jsonb", {"a": object()}),
        ("jsonb", "\ud800"),
        ("jsonb", LOOP),
    ],
)
def test_what_the_server_would_refuse_or_change_is_refused_here(
    pg_type: str, value: object
) -> None:
    with pytest.raises(ValueError, match=r"no value|cannot be written|a zero"):
        coerce(pg_type, value)


def test_long_type_names_mean_the_short_ones() -> None:
    assert decode("numeric(10,2)", 1.5, numeric="decimal") == Decimal("1.5")
    assert decode("timestamp(3) with time zone", "2024-01-01T00:00:00+00:00").tzinfo is dt.UTC
    assert decode("bytea[]", ["\\xff"]) == [b"\xff"]


def test_no_number_loses_a_digit_when_decoded() -> None:
    text = b'{"a":9007199254740993,"b":123456789012345678901234567890,"c":0.10,"d":1e400}'
    exact = decode_json(text, exact_numbers=True)
    assert exact["b"] == 123456789012345678901234567890
    assert (str(exact["c"]), exact["d"]) == ("0.10", Decimal("1e400"))
    assert decode_json(text)["a"] == 9007199254740993
    with pytest.raises(ValueError, match="NaN"):
        decode_json("[NaN]")


def test_what_the_cell_of_a_composite_or_an_hstore_shows_can_be_written_back() -> None:
    shown = decode("hstore", {"a": "1", 'b"': None, "c\\": "x"})
    assert shown == r'"a"=>"1", "b\""=>NULL, "c\\"=>"x"'
    assert decode("hstore", shown, "socket") == shown
    assert coerce("hstore", shown) == shown
    assert coerce("hstore", {"a": "1"}) == '"a"=>"1"'
    address = decode("address", {"street": "x", "no": 7})
    assert coerce("address", address) == address
    assert to_json("address", coerce("address", address)) == {"street": "x", "no": 7}
    with pytest.raises(ValueError, match="no value"):
        coerce("uuid", {"a": 1})


@pytest.mark.parametrize("value", [10**400, -(10**400), "1e400", Decimal("1e400")])
def test_a_number_that_no_float_holds_is_no_infinity(value: object) -> None:
    for pg_type in ("float8", "float4"):
        with pytest.raises(ValueError, match=f"no value of the PostgreSQL type {pg_type}"):
            coerce(pg_type, value)
    for infinity in ("Infinity", "-Infinity", Decimal("Infinity"), float("inf")):
        assert math.isinf(coerce("float8", infinity))
    assert math.isinf(coerce("numeric", value)), "shown so; every digit is written"
