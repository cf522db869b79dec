"""Decode a frame's bytes to Python values: compared with json, orjson and plain msgspec (promise 11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal

import msgspec
import orjson

from notebook_rt.model.decode import decode_json
from tests.benchmarks.harness import Result, in_turns


def frame() -> bytes:
    """A postgres_changes frame of some 850 bytes with 10 columns, as Realtime sends it."""
    types = ["int8", "float8", "float8", "float8", "int4", "int4", "bool", "text", "text"]
    names = ["id", "bid", "ask", "last", "size", "venue", "open", "symbol", "note", "updated_at"]
    record = {
        "id": 9007199254740993,
        "bid": 101.25,
        "ask": 101.375,
        "last": 101.3125,
        "size": 1200,
        "venue": 7,
        "open": True,
        "symbol": "ACME",
        "note": "checked by the desk this morning",
        "updated_at": "2024-01-02T01:04:05.678901+00:00",
    }
    columns = [
        {"name": name, "type": kind}
        for name, kind in zip(names, [*types, "timestamptz"], strict=True)
    ]
    data = {
        "table": "quotes",
        "type": "UPDATE",
        "record": record,
        "columns": columns,
        "errors": None,
        "schema": "public",
        "commit_timestamp": "2024-01-02T01:04:05.678Z",
        "old_record": {"id": 9007199254740993},
    }
    message = {
        "ref": None,
        "event": "postgres_changes",
        "payload": {"data": data, "ids": [43733053]},
        "topic": "realtime:quotes",
    }
    return json.dumps(message, separators=(",", ":")).encode()


def run(quick: bool) -> list[Result]:
    """Decode the frame many times with each library."""
    data, times = frame(), 20 if quick else 5000
    decoders: dict[str, Callable[[bytes], object]] = {
        "notebook_rt": decode_json,
        "notebook_rt exact": lambda raw: decode_json(raw, exact_numbers=True),
        "json": json.loads,
        "json Decimal": lambda raw: json.loads(raw, parse_float=Decimal),
        "orjson": orjson.loads,
        "msgspec": msgspec.json.Decoder().decode,
    }

    def repeat(decode: Callable[[bytes], object]) -> Callable[[], object]:
        return lambda: [decode(data) for _ in range(times)]

    medians = in_turns({side: repeat(d) for side, d in decoders.items()}, 1 if quick else 9)
    return [
        Result("decode", f"frame of {len(data)} bytes", side, median * 1e3 / times, "µs")
        for side, median in medians.items()
    ]
