"""A bad value affects one cell (promise 14): any JSON value for any type of column."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notebook_rt.model.decode import decode_json
from notebook_rt.model.rows import Upsert
from notebook_rt.model.types import Backend, Column, Numeric, Schema, equal, to_json
from notebook_rt.model.values import UndecodedJson
from notebook_rt.net.websocket.frames import ChangeFrame, decode_frame
from notebook_rt.store.table import Table

TYPES = [
    "int8", "float8", "numeric", "bool", "timestamptz", "timestamp", "date", "time", "bytea", "json",
    "jsonb", "text", "uuid", "mood", "hstore", "_int4", "_numeric", "_jsonb", "_text",
]  # fmt: skip


def deep(levels: int) -> str:
    return '{"a": [' * levels + "1" + "]}" * levels


HOSTILE = [
    deep(450),
    deep(1_500),
    "[" * 3_000 + "]" * 3_000,
    "1" + "0" * 5_000,
    "-" + "9" * 5_001,
    "1" + "0" * 400,
    "1e400",
    "1e-400",
    "1e999999999",
    "-1e99999999999999999999",
    '{"n": 1' + "0" * 5_000 + "}",
    '{"n": [1e400, -1e999999999]}',
    r'"\ud800"',
    r'{"a\udc00": "x\ud83dy"}',
    '"NaN"', '"sNaN"', '"-Infinity"', '"infinity"', '"0044-03-15 BC"', '"24:00:00"',
    deep(900),
    '"' + "9" * 5_000 + '"',
    '["NaN", 0.25]', "[[0.5], 1]", '["-Infinity", 1]', r'["\ud800", 1]', '["x", 0.5]',
]  # fmt: skip

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
).map(json.dumps)
texts = st.sampled_from(HOSTILE) | plain


PINNED = [
    ("hstore", deep(900)),
    ("json", "{}"),
    ("json", deep(900)),
    ("jsonb", deep(900)),
    ("_jsonb", f"[{deep(900)}]"),
    ("numeric", "1" + "0" * 5_000),
    ("numeric", '"1' + "0" * 5_000 + '"'),
    ("text", r'"\ud800"'),
    ("json", r'{"a\udc00": "x\ud83dy"}'),
    ("hstore", r'{"a\udc00": "\ud800"}'),
]
"""What once broke a table for all its readers."""


def pinned(test: Callable[..., None]) -> Callable[..., None]:
    """Every pinned value, alone in its column, in each of the forms a column may have."""
    for pg_type, value in PINNED:
        for numeric in ("float", "decimal"):
            for backend in (None, "numpy_nullable", "pyarrow"):
                test = example([value], pg_type, numeric, backend)(test)
    return test


def page(values: list[str]) -> str:
    rows = (f'{{"id": {at}, "v": {value}, "n": "x"}}' for at, value in enumerate(values))
    return f"[{', '.join(rows)}]"


def frame(value: str, pg_type: str) -> bytes:
    columns = [{"name": "id", "type": "int8"}, {"name": "v", "type": pg_type}]
    columns.append({"name": "n", "type": "text"})
    data = (
        f'{{"type": "INSERT", "columns": {json.dumps(columns)}, "commit_timestamp": null, '
        f'"errors": null, "record": {{"id": 0, "v": {value}, "n": "x"}}}}'
    )
    return (
        f'{{"topic": "realtime:t", "event": "postgres_changes", "ref": null, '
        f'"payload": {{"ids": [1], "data": {data}}}}}'
    ).encode()


def schema_of(pg_type: str, numeric: Numeric) -> Schema:
    columns = Column("id", "int8"), Column("v", pg_type), Column("n", "text")
    return Schema(columns, ("id",), numeric)


def show(table: Table) -> None:
    """All that a reader may do with it."""
    df = table.snapshot()
    # pandas before 3.1 writes no half of a surrogate pair, whoever made the frame.
    with suppress(*([] if pd.__version__ >= "3.1" else [UnicodeEncodeError])):
        repr(df), df.to_html()
    arrow = table.to_arrow()
    pa.parquet.write_table(arrow, io.BytesIO())
    arrow.to_pylist()


@pytest.mark.parametrize("pg_type", TYPES)
@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_each_hostile_value_of_each_type_harms_no_other_cell(value: str, pg_type: str) -> None:
    for numeric in ("float", "decimal"):
        holds_and_shows([value], pg_type, numeric, None)


@given(
    st.lists(texts, min_size=1, max_size=4),
    st.sampled_from(TYPES),
    st.sampled_from(["float", "decimal"]),
    st.sampled_from([None, "numpy_nullable", "pyarrow"]),
)
def test_any_json_for_any_type_is_held_and_shown_and_harms_no_other_cell(
    values: list[str], pg_type: str, numeric: Numeric, backend: Backend
) -> None:
    holds_and_shows(values, pg_type, numeric, backend)


def holds_and_shows(values: list[str], pg_type: str, numeric: Numeric, backend: Backend) -> None:
    schema = schema_of(pg_type, numeric)
    rows = decode_json(page(values), schema.exact_numbers)
    table = Table(schema, backend)
    loading = table.load()
    loading.extend(rows)
    loading.commit()
    show(table)
    assert list(table.snapshot()["n"]) == ["x"] * len(values)
    assert not list(table.differing(rows)), "a page equals itself"
    for key, row in enumerate(rows):
        typed = schema.decode(row)
        json.dumps(to_json(pg_type, typed["v"]))
        table.apply([Upsert(key, typed)])
    show(table)


@given(texts, st.sampled_from(TYPES), st.sampled_from(["float", "decimal"]))
def test_the_socket_and_rest_bring_the_same_of_it(
    value: str, pg_type: str, numeric: Numeric
) -> None:
    schema = schema_of(pg_type, numeric)
    exact = schema.exact_numbers
    (row,) = decode_json(page([value]), exact)
    change = decode_frame(frame(value, pg_type), exact)
    assert isinstance(change, ChangeFrame)
    assert change.change is not None
    by_socket = schema.decode(change.change.record or {}, "socket")
    by_rest = schema.decode(row)
    assert equal(by_socket["v"], by_rest["v"])


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("text", HOSTILE)
def test_deep_json_is_what_the_standard_library_reads(text: str, exact: bool) -> None:
    """Token by token as by the recursive decoder, where that can."""
    from notebook_rt.model.decode import _exact, _float, _leniently, _without_recursion

    hook = _exact if exact else _float
    assert decode_json(text, exact) is not None
    found = _without_recursion(text, hook)
    if len(text) < 1_000:
        assert equal(found, _leniently(text, hook))


@given(plain, st.sampled_from([None, *range(8)]), st.characters())
def test_the_slow_decoder_takes_the_same_and_refuses_the_same(
    text: str, cut: int | None, more: str
) -> None:
    from notebook_rt.model.decode import _float, _without_recursion

    broken = text if cut is None else text[:cut] + more + text[cut:]
    try:
        expected = json.loads(broken, parse_constant=int)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011  # the words of two decoders
            _without_recursion(broken, _float)
    else:
        assert equal(_without_recursion(broken, _float), expected)


@pytest.mark.parametrize(
    "text", ["[1,]", "[,1]", "[1 2]", '{"a"}', '{"a":}', '{"a":1,}', "[}", "]", ""]
)
def test_the_slow_decoder_refuses_what_is_no_json(text: str) -> None:
    from notebook_rt.model.decode import _float, _without_recursion

    with pytest.raises(ValueError, match="invalid JSON"):
        _without_recursion(text, _float)


def test_what_a_cell_cannot_hold_is_its_text() -> None:
    schema = schema_of("jsonb", "float")
    cells = [schema.decode(row)["v"] for row in decode_json(page(HOSTILE[:4]))]
    assert cells[0] == deep(450)
    assert isinstance(cells[0], UndecodedJson)
    assert cells[3] == "1" + "0" * 5_000
    number = schema_of("numeric", "float").decode({"id": 1, "v": Decimal("1" + "0" * 5_000)})
    assert number["v"] == "1" + "0" * 5_000
    with pytest.raises(ValueError, match="write it with SQL"):
        schema.coerce({"v": cells[0]})
    with pytest.raises(ValueError, match="nested at most 100"):
        schema.coerce({"v": json.loads(deep(60))})


def test_a_row_of_the_queue_file_nested_deep_is_read() -> None:
    from notebook_rt.model.stored import decode, encode
    from notebook_rt.outbox.stored import fields_of_body

    for text in HOSTILE:
        stored = encode(decode_json(text))
        again = encode(decode(stored))
        assert again == stored
    body = f'{{"values": {{"a": {deep(450)}}}}}'
    assert fields_of_body(body)["values"]["a"]
    assert decode(deep(5_000))
    with pytest.raises(msgspec.DecodeError):
        decode(b'{"a": ')


def test_a_cell_of_the_grid_shows_any_value() -> None:
    values: list[Any] = [
        schema_of("jsonb", "float").decode(row)["v"] for row in decode_json(page(HOSTILE))
    ]
    assert all(json.dumps(value, ensure_ascii=False).encode() for value in values)
