"""Replay a transcript of the real server against the local stack and compare the frames.

In: the lines of a transcript (`tests/wire/*.jsonl`) and a running stack. Out: `Difference`s.
Each recorded step is done again: frames are sent, SQL is run, connections are made and closed; at
each recorded frame the player waits for the next frame of that topic and compares it. So a frame
must come on the same connection, between the same steps, in the same order within its topic, with
the same keys and values. Not compared are binding ids (but equal ones must stay equal), refs of
presence, ids of messages, commit timestamps, the order of keys in an object, and the order between
different topics of one connection, which the real server leaves to a hash table.
"""

import asyncio
import contextlib
import json
import re
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.local.wire_compare import Comparison, DifferentError, cut_like, found, parsed, topic_of
from tests.waiting import scaled

TRANSCRIPTS = Path(__file__).parent.parent / "wire"
PATIENCE = scaled(15.0)
"""Seconds to wait for a frame."""

Step = dict[str, Any]
Tokens = Callable[[str, str, str], str]
"""(role, subject, the last note) to a token."""

Hooks = dict[str, Callable[["Player"], Awaitable[None]]]


@dataclass(frozen=True)
class Difference:
    """A recorded step that did not come out the same. `line` counts from 1."""

    line: int
    what: str


def read(name: str) -> list[Step]:
    """The steps of a transcript."""
    lines = (TRANSCRIPTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@dataclass
class Client:
    """A connection of the transcript: what it received, by topic, oldest first."""

    connection: ClientConnection
    frames: dict[str, deque[str | bytes]] = field(default_factory=lambda: defaultdict(deque))
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        try:
            async for frame in self.connection:
                self.frames[topic_of(frame)].append(frame)
                self.arrived.set()
        except ConnectionClosed:
            pass
        self.arrived.set()

    async def next(
        self,
        topic: str,
        patience: float = PATIENCE,
        fits: Callable[[str | bytes], bool] = lambda frame: True,
    ) -> str | bytes | None:
        """The next frame of a topic that fits; None when it does not come."""
        deadline = time.monotonic() + patience
        frames = self.frames[topic]
        while (found := next(filter(fits, frames), None)) is None:
            self.arrived.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            try:
                await asyncio.wait_for(self.arrived.wait(), left)
            except TimeoutError:
                return None
        frames.remove(found)
        return found


class Player:
    """Plays one transcript.

    Parameters
    ----------
    url, dsn
        The stack's.
    token
        Makes the tokens that stand as `<jwt:role:subject>`.
    hooks
        What to do at steps that stand for something the recorder did beside the wire: by the
        start of a note or of a statement, or `connected <who>`, `closed <who>`.
    skip
        Line numbers that are not played.
    edits
        Texts to replace in the transcript.
    anytime
        Events whose frames may come earlier or later among those of their topic than recorded.
    """

    def __init__(
        self,
        url: str,
        dsn: str,
        token: Tokens,
        hooks: Hooks | None = None,
        skip: Collection[int] = (),
        edits: Collection[tuple[str, str]] = (),
        anytime: Collection[str] = (),
    ) -> None:
        self.url, self.dsn, self.hooks, self.skip = url, dsn, hooks or {}, skip
        self.barriers = True
        self._edits, self._anytime = edits, anytime
        self.clients: dict[str, Client] = {}
        self.differences: list[Difference] = []
        self.note = ""
        self.token = token
        self._comparison = Comparison()
        self._database: psycopg.AsyncConnection[Any] | None = None
        self._played: list[tuple[float, float]] = []
        self._refs: dict[str, dict[str, str]] = defaultdict(dict)
        self._line = 0

    async def play(self, steps: list[Step]) -> list[Difference]:
        """Every step; then nothing may be left that was not recorded."""
        for step in steps:
            for part in step.keys() & {"raw", "q"}:
                for old, new in self._edits:
                    step[part] = step[part].replace(old, new)
        begins = _transactions(steps)
        async with asyncio.timeout(scaled(110)):
            try:
                for index, step in enumerate(steps):
                    self._line = index + 1
                    self._played.append((step["t"], time.time()))
                    if self._line in self.skip:
                        continue
                    if index in begins:
                        await self.sql("begin")
                    following = steps[index + 1] if index + 1 < len(steps) else {}
                    # What comes while the recorder takes its clients down is a race.
                    closes = step.get("dir") == "closed" and step["code"] is not None
                    if closes and steps[index - 1].get("dir") != "closed":
                        self._leftovers()
                    await self._step(step, following)
            except Exception as error:
                error.add_note(f"at line {self._line} of the transcript; {self.differences}")
                raise
            finally:
                for who in list(self.clients):
                    await self.close(who)
                if self._database is not None:
                    await self._database.close()
        return self.differences

    async def _step(self, step: Step, following: Step) -> None:
        if "note" in step:
            await self._noted(step)
            return
        match step["dir"]:
            case "connect":
                await self._connect(step, following)
            case "send":
                await self._send(step)
            case "recv" | "recv-binary":
                await self._recv(step)
            case "sql":
                await self._sql(step, following)
            case "http":
                await self._http(step)
            case "closed":
                await self._closed(step)
            case "connected" | "connect-refused":
                pass  # compared at its `connect`

    def differ(self, what: str) -> None:
        self.differences.append(Difference(self._line, what))

    async def _noted(self, step: Step) -> None:
        note = step["note"]
        if note == "commit":
            await self.sql("commit")
            await self.barrier()
            return
        if "latency" not in note and note != "filter":
            self.note = note
        await self._hooked(note)

    async def _hooked(self, text: str) -> None:
        for start, hook in self.hooks.items():
            if text.startswith(start):
                await hook(self)

    # --- connections

    async def _connect(self, step: Step, following: Step) -> None:
        query = dict(parse_qsl(urlsplit(step["url"]).query, keep_blank_values=True))
        headers = {}
        if "apikey" in query:
            query["apikey"] = self._with_tokens(query["apikey"])
        elif "x-api-key" in self.note:
            headers["x-api-key"] = self._with_tokens("<jwt:anon>")
        address = self.url.replace("http", "ws") + "/realtime/v1/websocket?" + urlencode(query)
        try:
            connection = await connect(
                address,
                additional_headers=headers,
                max_size=None,
                max_queue=None,
                compression=None,
                ping_interval=None,
                open_timeout=PATIENCE,
            )
        except InvalidStatus as refused:
            body = (refused.response.body or b"").decode()
            got = (refused.response.status_code, body)
            wanted = (following.get("status"), following.get("body"))
            if got != wanted:
                self.differ(f"refused with {got}, recorded {wanted}")
            return
        except OSError as error:
            if "ConnectionRefused" not in following.get("note", ""):
                self.differ(f"no connection: {error}")
            return
        if following.get("dir") != "connected":
            self.differ(f"connected, recorded {following}")
        client = Client(connection)
        client.reader = asyncio.create_task(client.read())
        self.clients[step["who"]] = client
        await self._hooked(f"connected {step['who']}")

    async def _closed(self, step: Step) -> None:
        who, code = step["who"], step["code"]
        client = self.clients.get(who)
        if client is None:
            return
        await self._hooked(f"closed {who}")
        by_server = code in (1009, 1012) or "idle" in who or "kill" in self.note
        if by_server:
            assert client.reader is not None
            await asyncio.wait_for(client.reader, scaled(20))
            got = client.connection.close_code
            if got != code:
                self.differ(f"closed with {got}, recorded {code}")
        elif code == 1006:
            client.connection.transport.abort()
            await client.connection.wait_closed()
        await self.close(who)

    async def close(self, who: str) -> None:
        """Close a client."""
        await self.clients.pop(who).connection.close()

    def _leftovers(self) -> None:
        """What came and was not asked for was not recorded."""
        for who, client in self.clients.items():
            for topic, frames in client.frames.items():
                for frame in frames:
                    self.differ(f"{who} {topic}: not recorded: {frame[:300]!r}")
                frames.clear()

    # --- frames

    async def _send(self, step: Step) -> None:
        raw = step["raw"]
        client = self.clients[step["who"]]
        if raw.startswith("hex:"):
            await client.connection.send(bytes.fromhex(raw.removeprefix("hex:")))
            return
        raw = self._with_tokens(self._completed(step["who"], raw))
        raw = re.sub(r'"since": (\d{13})', self._since, raw)
        with contextlib.suppress(ConnectionClosed):  # too large: the recorder's failed, too
            await client.connection.send(raw)

    def _completed(self, who: str, raw: str) -> str:
        """A frame as it was sent; the recorder cut long ones."""
        try:
            message = json.loads(raw)
        except ValueError:
            cut = re.match(r"(.*?)(x{40,})\.\.\.<(\d+) bytes>$", raw)
            if cut is None:
                return str(raw)
            head, size = cut.group(1), int(cut.group(3))
            last = self._refs[who]
            ref = str(int(last["last"]) + 1)
            join_ref = last[found(r'"(realtime:[^"]*)"', head)]
            tail = f'"}}}}, "ref": "{ref}", "join_ref": "{join_ref}"}}'
            if raw.startswith("["):
                tail = '"}}]'
            last["last"] = ref
            return str(head + "x" * (size - len(head) - len(tail)) + tail)
        topic: Any
        number: Any
        if isinstance(message, list) and len(message) == 5:
            topic, event, number = message[2], message[3], message[1]
        elif isinstance(message, dict):
            topic, event, number = message.get("topic"), message.get("event"), message.get("ref")
        else:
            return str(raw)
        if isinstance(number, str) and number.isdigit():
            self._refs[who]["last"] = number
            if event == "phx_join":
                self._refs[who][str(topic)] = number
        return str(raw)

    def _with_tokens(self, text: str) -> str:
        def token(match: re.Match[str]) -> str:
            return self.token(match.group(1), match.group(3) or "", self.note)

        return re.sub(r"<jwt:([^:>]*)(:([^>]*))?>", token, text)

    def _since(self, match: re.Match[str]) -> str:
        """A recorded time as the time at which its step was played."""
        recorded = int(match.group(1)) / 1000 - 1795415987.013  # when 12-private began
        moments = [played for at, played in self._played if at <= recorded + 0.002]
        return f'"since": {int(moments[-1] * 1000)}'

    async def _recv(self, step: Step) -> None:
        wanted = bytes.fromhex(step["hex"]) if step["dir"] == "recv-binary" else step["raw"]
        client = self.clients.get(step["who"])
        if client is None:
            self.differ(f"{step['who']} is not connected")
            return
        topic = topic_of(wanted)
        if isinstance(wanted, str) and (heartbeat := re.search(r'"ref":"(hb\d+)"', wanted)):
            # The recorder sent these beside the transcript.
            ref = heartbeat.group(1)
            await client.connection.send(
                json.dumps({"topic": topic, "event": "heartbeat", "payload": {}, "ref": ref})
            )
        got = await self._next(client, topic, str(wanted))
        if got is None:
            self.differ(f"missing on {step['who']}: {wanted[:300]!r}")
            return
        try:
            self._comparison.same(parsed(wanted), parsed(cut_like(wanted, got)))
        except DifferentError as different:
            self.differ(f"{different}\n  got      {got[:700]!r}\n  recorded {wanted[:700]!r}")

    async def _next(self, client: Client, topic: str, wanted: str) -> str | bytes | None:
        marks = [f'"event":"{event}"' for event in self._anytime]
        like = [mark in wanted for mark in marks]

        def fits(frame: str | bytes) -> bool:
            return not marks or [mark in str(frame) for mark in marks] == like

        return await client.next(topic, fits=fits)

    # --- beside the wire

    async def _sql(self, step: Step, following: Step) -> None:
        await self._hooked(step["q"])
        try:
            await self.sql(step["q"])
        except psycopg.Error as error:
            recorded = following.get("err", "")
            message = error.diag.message_primary or str(error)
            if not recorded.startswith(message):
                self.differ(f"SQL failed: {message}")
            return
        if following.get("note") == "sql error":
            self.differ(f"SQL did not fail, recorded: {following['err']}")
        await self.barrier()

    async def sql(self, statement: str) -> None:
        """Run a statement on the connection that the transcript's transactions use."""
        if self._database is None:
            self._database = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        await self._database.execute(statement.encode())

    async def forget_database(self) -> None:
        """PostgreSQL was restarted."""
        if self._database is not None:
            await self._database.close()
        self._database = None

    async def barrier(self) -> None:
        """Wait until all that is committed has been streamed."""
        if (
            not self.barriers
            or self._database is None
            or self._database.info.transaction_status != 0
        ):
            return
        address = self.url.replace("http", "ws") + "/realtime/v1/websocket?vsn=2.0.0&apikey="
        key = self.token("service_role", "", "")
        async with connect(address + key, compression=None) as connection:
            await connection.send('["1","1","realtime:wire-barrier","phx_join",{"config":{}}]')
            await connection.recv()
            await self.sql("select realtime.send('{}', 'passed', 'wire-barrier', false)")
            await asyncio.wait_for(connection.recv(), PATIENCE)
        # Changes have a stream of their own.
        emit = "select pg_logical_emit_message(true, 'wire-barrier', '') - '0/0'::pg_lsn"
        emitted = await (await self._database.execute(emit)).fetchone()
        assert emitted is not None
        # Without certificates, which take 30 ms to read and are of no use on loopback.
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient(verify=False) as client:
            read_to = 0
            while read_to <= emitted[0]:
                answer = await client.post(
                    f"{self.url}/realtime/v1/local/faults", headers={"apikey": key}
                )
                read_to = answer.raise_for_status().json()["read_to"]

    async def _http(self, step: Step) -> None:
        url = urlsplit(step["url"])
        path = self._with_tokens("/realtime/v1" + url.path.replace("/socket/", "/"))
        query = self._with_tokens(url.query)
        body: bytes | None = step["req"].encode() if step["req"] else None
        kind = "application/json"
        if step["method"] == "POST" and body is None:
            body, kind = b"\x01\x02\xff", "application/octet-stream"
        headers = {"Content-Type": kind, "Connection": "close"}
        if step["status"] != 401:
            subject = '"r": 2}, "private": true' in (step["req"] or "")
            text = "<jwt:authenticated:11111111>" if subject else "<jwt:anon>"
            headers["Authorization"] = "Bearer " + self._with_tokens(text)
        async with httpx.AsyncClient() as client:
            response = await client.request(
                step["method"], f"{self.url}{path}?{query}", content=body, headers=headers
            )
        if (response.status_code, response.text) != (step["status"], step["body"]):
            self.differ(
                f"HTTP {response.status_code} {response.text!r}, "
                f"recorded {step['status']} {step['body']!r}"
            )


def _transactions(steps: list[Step]) -> set[int]:
    """Where to begin the transactions that end at a note "commit"."""
    begins = set()
    for index, step in enumerate(steps):
        if step.get("note") == "commit":
            first = index
            while steps[first - 1].get("dir") == "sql":
                first -= 1
            begins.add(first)
    return begins
