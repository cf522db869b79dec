"""A client or a row must not affect others: frames and values that cannot be sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from notebook_rt.local import LocalStack
from tests.waiting import scaled

HALF = json.dumps({"name": "\ud800"})
DEEP = "[" * 900 + "]" * 900


class Member:
    """A client of version 1 in one channel."""

    def __init__(self, ws: ClientConnection, topic: str) -> None:
        self.ws, self.topic = ws, f"realtime:{topic}"

    async def send(self, event: str, payload: str, ref: str = "2") -> None:
        await self.ws.send(
            f'{{"topic":"{self.topic}","event":"{event}","payload":{payload},"ref":"{ref}"}}'
        )

    async def hears(self, event: str, holding: str = "") -> dict[str, Any]:
        """The next frame of that event with that in its text."""
        async with asyncio.timeout(scaled(10)):
            while True:
                text = await self.ws.recv()
                assert isinstance(text, str)
                found: dict[str, Any] = json.loads(text)
                if found["event"] == event and holding in text:
                    return found


@asynccontextmanager
async def member(
    stack: LocalStack, topic: str, changes: tuple[str, ...] = ()
) -> AsyncIterator[Member]:
    url = stack.url.replace("http", "ws") + "/realtime/v1/websocket?vsn=1.0.0&apikey="
    async with connect(url + stack.anon_key, max_size=None) as ws:
        made = Member(ws, topic)
        bindings = [{"event": "*", "schema": "public", "table": name} for name in changes]
        config = {"presence": {"enabled": True}, "postgres_changes": bindings}
        await made.send("phx_join", json.dumps({"config": config}), "1")
        await made.hears("system" if changes else "presence_state")
        yield made


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("presence", f'{{"type":"presence","event":"track","payload":{HALF}}}'),
        ("presence", f'{{"type":"presence","event":"track","payload":{{"deep":{DEEP}}}}}'),
        ("broadcast", f'{{"type":"broadcast","event":"e","payload":{HALF}}}'),
        (HALF[10:16], "{}"),
    ],
    ids=["half a pair as presence", "deep presence", "half a pair as broadcast", "as an event"],
)
async def test_a_frame_that_nobody_can_be_sent_mutes_nobody(
    stack: LocalStack, event: str, payload: str
) -> None:
    async with member(stack, "hostile") as listener, member(stack, "hostile") as sender:
        await sender.send(event, payload)
        await sender.send("broadcast", '{"type":"broadcast","event":"after","payload":{}}')
        assert (await listener.hears("broadcast"))["payload"]["event"] == "after"
        async with member(stack, "hostile") as newcomer:  # is told who is there
            await sender.send("broadcast", '{"type":"broadcast","event":"last","payload":{}}')
            assert (await newcomer.hears("broadcast"))["payload"]["event"] == "last"


async def test_what_casts_the_values_of_changes_and_filters_is_no_superuser(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    stack.sql("create type who_casts as range (subtype = int4)")
    stack.sql(
        "create function cast_by(who_casts) returns json language plpgsql as "
        "$$ begin return to_json(session_user::text); end $$;"
        "create cast (who_casts as json) with function cast_by(who_casts)"
    )
    try:
        table = make_table("id int primary key, v who_casts")
        async with member(stack, "casts", (table,)) as listener:
            stack.sql(f"insert into {table} values (1, '[1,2)')")
            change = await listener.hears("postgres_changes")
        assert change["payload"]["data"]["record"] == {"id": 1, "v": "authenticator"}
        stack.sql(f"drop table {table}")
    finally:
        stack.sql("drop type who_casts cascade")


@pytest.mark.parametrize("payload", [HALF, f'{{"deep":{DEEP}}}', "{", "\udcff"])
async def test_a_broadcast_over_http_that_is_no_text_is_refused(
    stack: LocalStack, payload: str
) -> None:
    body = f'{{"messages":[{{"topic":"hostile","event":"e","payload":{payload}}}]}}'
    headers = {"apikey": stack.anon_key, "Content-Type": "application/json"}
    async with member(stack, "hostile") as listener, httpx.AsyncClient(headers=headers) as client:
        base = stack.url + "/realtime/v1/api/broadcast"
        for url, content in ((base, body), (base + "/hostile/events/e", payload)):
            answer = await client.post(url, content=content.encode(errors="surrogateescape"))
            assert answer.status_code == 400, answer.text
        good = {"messages": [{"topic": "hostile", "event": "good", "payload": {}}]}
        assert (await client.post(base, json=good)).status_code == 202
        assert (await listener.hears("broadcast"))["payload"]["event"] == "good"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json", HALF),
        ("json", json.dumps({"\ud800": 1})),
        ("json", DEEP),
        ("json", "1e999999999"),
        ("jsonb", DEEP),
        ("int2vector", "1 2 3"),
        ("oidvector", ""),
    ],
)
async def test_a_value_that_cannot_be_carried_stops_no_stream(
    stack: LocalStack, make_table: Callable[..., str], kind: str, value: str
) -> None:
    odd, other = make_table(f"id int primary key, v {kind}"), make_table("id int primary key")

    async def starts() -> int:
        headers = {"apikey": stack.service_key}
        async with httpx.AsyncClient(headers=headers) as client:
            answer = await client.post(stack.url + "/realtime/v1/local/faults", json={})
            return int(answer.json()["stream_starts"])

    before = await starts()
    async with member(stack, "odd", (odd, other)) as listener:
        stack.sql(f"insert into {odd} values (1, %s)", value)
        stack.sql(f"insert into {other} values (2)")
        first = await listener.hears("postgres_changes")
        assert first["payload"]["data"]["record"]["id"] == 1
        second = await listener.hears("postgres_changes")
        assert second["payload"]["data"]["record"] == {"id": 2}
    assert await starts() == before


async def test_what_is_said_to_be_json_and_is_not_becomes_no_other_frame(stack: LocalStack) -> None:
    """Version 1 gets a binary broadcast as a part of a JSON frame: it must end where it ends."""
    url = stack.url.replace("http", "ws") + "/realtime/v1/websocket?vsn=2.0.0&apikey="
    topic = "realtime:forged"
    async with member(stack, "forged") as listener, connect(url + stack.anon_key) as ws:
        await ws.send(json.dumps(["1", "1", topic, "phx_join", {"config": {}}]))
        while "phx_reply" not in str(await ws.recv()):
            pass
        for payload in ('{}},"event":"system","x":{"y":{}', "{"):
            head = bytes([3, 1, 1, len(topic), 1, 0, 1]) + b"12" + topic.encode() + b"e"
            await ws.send(head + payload.encode())
        await ws.send(json.dumps(["1", "3", topic, "broadcast", {"event": "after", "payload": {}}]))
        async with asyncio.timeout(scaled(10)):
            frame = json.loads(await listener.ws.recv())
            while frame["event"] != "broadcast":
                assert frame["event"] != "system", "forged"
                frame = json.loads(await listener.ws.recv())
        assert frame["payload"]["event"] == "after"
