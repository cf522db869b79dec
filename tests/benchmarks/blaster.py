"""A server that sends change frames as fast as the client reads them: ``python -m tests.benchmarks.blaster``.

It speaks as much of Supabase as a client needs to follow one table ``quotes`` of ``--rows`` rows (the
OpenAPI description, pages by key, a join with its confirmation), prints its port, and after
``POST /blast?frames=N&rate=R`` writes N UPDATE frames of some 850 bytes into every joined socket:
ready-made bytes, so that it is never the slow side. ``rate`` 0 is as fast as TCP takes them. Each
frame carries the monotonic time of its sending in ``last``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

COLUMNS = {
    "id": "bigint",
    "bid": "double precision",
    "ask": "double precision",
    "last": "double precision",
    "size": "integer",
    "venue": "integer",
    "open": "boolean",
    "symbol": "text",
    "note": "text",
    "at": "timestamp with time zone",
}
SHORT = {
    "bigint": "int8",
    "double precision": "float8",
    "integer": "int4",
    "boolean": "bool",
    "text": "text",
    "timestamp with time zone": "timestamptz",
}

READY = 20_000
"""Different frames in a flood; then the same come again."""


def row(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "bid": 101.25 + number % 100,
        "ask": 101.375,
        "last": 0.0,
        "size": 1200,
        "venue": number % 7,
        "open": True,
        "symbol": f"S{number % 500:03d}",
        "note": "checked by the desk this morning",
        "at": "2024-01-02T01:04:05.678901+00:00",
    }


def frame(topic: str, number: int, ids: list[int], sent: float) -> bytes:
    """A websocket text frame with an UPDATE of row ``number``."""
    data = {
        "table": "quotes",
        "type": "UPDATE",
        "record": {**row(number), "bid": random.random(), "last": sent},
        "columns": [{"name": name, "type": SHORT[kind]} for name, kind in COLUMNS.items()],
        "errors": None,
        "schema": "public",
        "commit_timestamp": "2030-01-02T01:04:05.678Z",
        "old_record": {"id": number},
    }
    text = json.dumps(
        {
            "ref": None,
            "event": "postgres_changes",
            "payload": {"data": data, "ids": ids},
            "topic": topic,
        },
        separators=(",", ":"),
    ).encode()
    return b"\x81\x7e" + len(text).to_bytes(2, "big") + text


class Blaster:
    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.joined: dict[tuple[web.WebSocketResponse, str], list[int]] = {}
        self.transports: dict[web.WebSocketResponse, asyncio.Transport] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def description(self, request: web.Request) -> web.Response:
        properties = {name: {"format": kind} for name, kind in COLUMNS.items()}
        properties["id"]["description"] = "This is a Primary Key.<pk/>"
        return web.json_response({"definitions": {"quotes": {"properties": properties}}})

    async def table(self, request: web.Request) -> web.Response:
        if request.path == "/rest/v1/":
            return self.description(request)
        query = request.query
        first = 0
        for value in query.getall("id", []):
            operator, _, text = value.partition(".")
            if operator in ("gt", "gte"):
                first = int(text) + (operator == "gt")
        limit = int(query.get("limit", "1000"))
        rows = [{**row(n), "xmin": "7"} for n in range(first, min(self.rows, first + limit))]
        span = f"0-{len(rows) - 1}" if rows else "*"
        total = {"Content-Range": f"{span}/{self.rows}"}
        return web.json_response(rows, headers=total)

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self.transports[ws] = transport
        async for message in ws:
            await self.answer(ws, json.loads(message.data))
        self.transports.pop(ws)
        self.joined = {key: ids for key, ids in self.joined.items() if key[0] is not ws}
        return ws

    async def answer(self, ws: web.WebSocketResponse, message: Mapping[str, Any]) -> None:
        topic, event = message["topic"], message["event"]
        response: dict[str, Any] = {}
        if event == "phx_join":
            bindings = message["payload"]["config"]["postgres_changes"]
            response["postgres_changes"] = [{**b, "id": n + 1} for n, b in enumerate(bindings)]
            self.joined[ws, topic] = list(range(1, len(bindings) + 1))
        reply = {"status": "ok", "response": response}
        base = {"topic": topic, "ref": message["ref"]}
        await ws.send_json({**base, "event": "phx_reply", "payload": reply})
        if event == "phx_join" and response["postgres_changes"]:
            system = {
                "message": "Subscribed to PostgreSQL",
                "status": "ok",
                "extension": "postgres_changes",
                "channel": topic.removeprefix("realtime:"),
            }
            await ws.send_json({"topic": topic, "ref": None, "event": "system", "payload": system})

    async def blast(self, request: web.Request) -> web.Response:
        count, rate = int(request.query["frames"]), float(request.query.get("rate", "0"))
        for (ws, topic), ids in self.joined.items():
            work = self.paced(ws, topic, ids, count, rate) if rate else None
            work = work or self.flood(ws, topic, ids, count)
            task = asyncio.create_task(work)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return web.json_response({"sockets": len(self.joined)})

    async def flood(
        self, ws: web.WebSocketResponse, topic: str, ids: list[int], count: int
    ) -> None:
        numbers = random.choices(range(1, self.rows), k=min(count, READY))
        ready = [frame(topic, number, ids, time.monotonic()) for number in numbers]
        last = frame(topic, 0, ids, -1.0)
        frames = [ready[n % len(ready)] for n in range(count - 1)] + [last]
        for start in range(0, count, 64):
            await self.write(ws, b"".join(frames[start : start + 64]))

    async def paced(
        self, ws: web.WebSocketResponse, topic: str, ids: list[int], count: int, rate: float
    ) -> None:
        began = time.monotonic()
        for number in range(count):
            wait = began + number / rate - time.monotonic()
            if wait > 0.0005:
                await asyncio.sleep(wait)
            sent = -1.0 if number == count - 1 else time.monotonic()
            await self.write(ws, frame(topic, random.randrange(1, self.rows), ids, sent))

    async def write(self, ws: web.WebSocketResponse, blob: bytes) -> None:
        transport = self.transports[ws]
        transport.write(blob)
        while transport.get_write_buffer_size() > 1_000_000:  # noqa: ASYNC110  # no event to wait for
            await asyncio.sleep(0.0005)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    blaster = Blaster(parser.parse_args().rows)
    app = web.Application()
    app.router.add_get("/realtime/v1/websocket", blaster.socket)
    app.router.add_route("*", "/rest/v1/{table:.*}", blaster.table)
    app.router.add_post("/blast", blaster.blast)

    async def serve() -> None:
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
