"""The transcripts of the real server, replayed against the local stack.

Every transcript that says how the server answers (`tests/wire/`, numbers 01–12, 16, 17) is played
step by step, and every frame is compared; `wire_player` says how. `DEVIATIONS` lists each recorded
step that is not played or compared, and why; nothing else may differ.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from tests.local import wire_player
from tests.local.wire_compare import Comparison, DifferentError, parsed
from tests.local.wire_player import TRANSCRIPTS, Player
from tests.waiting import scaled

DEVIATIONS: dict[str, dict[int, str]] = {
    "08-tokens": {
        29: "the stack is one project: no tenant is unknown, a foreign Host is refused before",
    },
    "11-presence-v2": {
        108: "a race: after its own phx_close a client still got its own leave (in v1 it did not)",
    },
    "17-lifecycle": {
        **dict.fromkeys(
            (48, 60, 72, 83, 95, 108),
            "a row committed just before the join: the real server polls and delivers it late, "
            "here it was streamed before the join",
        ),
        127: "the stack's PostgreSQL goes with its server: nothing is written while it is down",
    },
    "17b-pg-restart-and-publication-change": {
        232: "its clean-up: dropping a published table tells the channel, and it left 7 ms later",
        233: "the recorder's clean-up: it was gone before the changes came",
    },
}

EDITS: dict[str, list[tuple[str, str]]] = {
    # The PostgreSQL of the wheel is built without libxml: the column stays empty.
    "05-types": [(",x,o,c,nm)", ",o,c,nm)"), (",'<a>1</a>'", ""), ('"<a>1</a>"', "null")],
}

BEFORE: dict[str, list[str]] = {
    # What was in the tables when the recording began.
    "02-join-invalid": ["insert into wire_nogrant values (1, 'x')"],
    "17-lifecycle": ["insert into wire_t select g, 'x' from generate_series(1000, 1003) g"],
}

RECORDED: dict[str, Any] = {
    "confirm_again_delay": None,
    "events_per_second": None,
    "presence_per_second": None,
    "max_broadcast_bytes": 3_000_000,
}
"""A server of one's own, as recorded, where a hosted project on the free plan differs."""
QUICK = RealtimeOptions(
    connect_error_delay=0.02,
    join_error_delay=0.02,
    rebind_delay=0.1,
    publication_delay=0.1,
    restart_delay=0.1,
    **RECORDED,
)
LIMITS = RealtimeOptions(
    connect_error_delay=0.02,
    join_error_delay=0.02,
    idle_timeout=2.0,
    **(RECORDED | {"events_per_second": 100.0}),
)


def _start(directory: Path, realtime: RealtimeOptions) -> LocalStack:
    stack = start(directory, options=StackOptions(default_grants=True, realtime=realtime))
    stack.sql((TRANSCRIPTS / "schema.sql").read_text(encoding="utf-8"))
    return stack


@pytest.fixture(scope="module")
def quick(
    ready_made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    with _start(ready_made(tmp_path_factory.mktemp("wire")), QUICK) as stack:
        yield stack


def tokens(secret: str) -> wire_player.Tokens:
    """Tokens as the recorder made them: what is wrong with one, the note before it says."""

    def token(role: str, subject: str, note: str) -> str:
        ttl = 3600.0
        if "expiring in 4 s" in note:
            ttl = 3.0 if "then wait" in note else 4.0
        elif note in ("expired apikey", "access_token push: expired"):
            ttl = -5.0
        elif note == "join: expired":
            ttl = -16.0
        claims: dict[str, Any] = {"role": role, "exp": int(time.time() + ttl)}
        if note == "no role claim" or note == "join: no role":
            del claims["role"]
        if note == "no exp claim":
            del claims["exp"]
        if subject:
            claims["sub"] = "-".join(subject[0] * size for size in (8, 4, 4, 4, 12))
        wrong = note in ("wrong signature", "join: wrong signature", "access_token push: wrong sig")
        wrong = wrong and not subject  # the other token of that note is a good one
        return jwt.encode(claims, "x" * 40 if wrong else secret, algorithm="HS256")

    return token


async def play(name: str, stack: LocalStack, **more: Any) -> None:
    """Play a transcript; fails with every step that differs."""
    player = Player(
        stack.url,
        stack.dsn,
        tokens(stack._secrets.jwt_secret),
        skip=DEVIATIONS.get(name, {}),
        edits=EDITS.get(name, ()),
        **more,
    )
    for statement in BEFORE.get(name, []):
        await player.sql(statement)
    await player.sql("select 1")  # connects: what made the tables is to have been streamed, too
    await player.barrier()
    differences = await player.play(wire_player.read(name))
    assert not differences, "\n".join(f"line {d.line}: {d.what}" for d in differences)


@pytest.mark.parametrize(
    "changed",
    [
        '{"ref":null,"payload":{"ids":[7],"n": 1.50},"topic":"realtime:t"}',
        '{"ref":null,"payload":{"ids":[7],"n": 1.5,"more":null},"topic":"realtime:t"}',
        '{"ref":null,"payload":{"ids":[7]},"topic":"realtime:t"}',
        '{"ref":"1","payload":{"ids":[7],"n": 1.5},"topic":"realtime:t"}',
        '{"ref":null,"payload":{"ids":[7,7],"n": 1.5},"topic":"realtime:t"}',
        '{"ref":null,"payload":{"ids":[7],"n": "1.5"},"topic":"realtime:t"}',
    ],
)
def test_the_comparison_sees_what_differs(changed: str) -> None:
    recorded = '{"ref":null,"payload":{"ids":[7],"n": 1.5},"topic":"realtime:t"}'
    reordered = '{"topic":"realtime:t","payload":{"n": 1.5,"ids":[7]},"ref":null}'
    Comparison().same(parsed(recorded), parsed(reordered))
    with pytest.raises(DifferentError):
        Comparison().same(parsed(recorded), parsed(changed))


@pytest.mark.parametrize(
    "name",
    [
        "01-join-events-v1",
        "01-join-events-v2",
        "02-join-invalid",
        "03-filters",
        "04-select",
        "05-types",
        "06-big",
        "07-rls",
        "08-tokens",
        "09-duplicate-join",
        "10-broadcast-v1",
        "10-broadcast-v2",
        "11-presence-v1",
        "11-presence-v2",
        "12-private",
    ],
)
async def test_transcript_plays_the_same(name: str, quick: LocalStack) -> None:
    await play(name, quick)


async def test_limits_are_the_real_ones(stack_directory: Path) -> None:
    async def join_the_first_99(player: Player) -> None:
        client = player.clients["c"]
        if player.note.startswith("101 channels"):
            for index in range(99):
                join = {"topic": f"realtime:c{index}", "event": "phx_join", "payload": {}}
                payload = {"config": {"postgres_changes": []}}
                ref = str(index + 1)
                await client.connection.send(json.dumps({**join, "payload": payload, "ref": ref}))
                assert '"status":"ok"' in str(await client.next(f"realtime:c{index}"))

    async def flood(player: Player) -> None:
        """Broadcasts, until the channel is closed for it."""
        client = player.clients["a"]
        message = '{"topic":"realtime:flood","event":"broadcast","payload":{},"ref":"2"}'
        frames = client.frames["realtime:flood"]
        for _ in range(300):
            for _ in range(20):  # together: one by one, a busy machine stays below the rate
                await client.connection.send(message)
            await asyncio.sleep(0.05)
            if any("Too many messages per second" in str(frame) for frame in frames):
                break
        else:
            player.differ("the flood was not stopped")
        await asyncio.sleep(0.2)
        frames.clear()

    with _start(stack_directory, LIMITS) as stack:
        hooks = {"connected c": join_the_first_99, "flood result": flood}
        await play("16-limits", stack, hooks=hooks)


async def faults(stack: LocalStack, **wanted: bool) -> dict[str, Any]:
    """Ask the stack to break something."""
    async with httpx.AsyncClient(headers={"apikey": stack.service_key}) as client:
        answer = await client.post(f"{stack.url}/realtime/v1/local/faults", json=wanted)
        return dict(answer.raise_for_status().json())


@pytest.mark.slow
async def test_disconnects_and_restarts_are_the_real_ones(stack_directory: Path) -> None:
    stack = _start(stack_directory, QUICK)

    async def disconnect(_: Player) -> None:
        await faults(stack, disconnect=True)

    async def stop(player: Player) -> None:
        await player.forget_database()
        await asyncio.to_thread(stack.stop)

    async def kill(player: Player) -> None:
        await player.forget_database()
        os.kill(stack.pid, signal.SIGKILL)

    async def start_again(player: Player) -> None:
        nonlocal stack
        await asyncio.to_thread(stack.stop)
        stack = await asyncio.to_thread(
            start, stack_directory, options=StackOptions(realtime=QUICK)
        )
        player.url, player.dsn = stack.url, stack.dsn
        player.token = tokens(stack._secrets.jwt_secret)  # new after a crash

    async def restart_postgres(player: Player) -> None:
        await player.forget_database()
        await asyncio.to_thread(stack.restart_postgres)

    try:
        hooks: wire_player.Hooks = {
            "C: server-side disconnect": disconnect,
            "closed c4": stop,
            "restart took": start_again,
            "closed c5": kill,
            "subs after restart": start_again,
            "pg restarted": restart_postgres,
        }
        await play("17-lifecycle", stack, hooks=hooks)
    finally:
        stack.stop()


@pytest.mark.slow
async def test_what_a_restarted_postgres_loses_is_lost_silently(
    stack_directory: Path,
) -> None:
    # Longer than PostgreSQL takes to start: the stream is to come back after what is lost was written.
    resting = RealtimeOptions(restart_delay=5.0, publication_delay=0.3, **RECORDED)
    with _start(stack_directory, resting) as stack:

        async def restart_postgres(player: Player) -> None:
            await player.forget_database()
            await asyncio.to_thread(stack.restart_postgres)
            player.barriers = False

        async def await_stream(player: Player) -> None:
            async with asyncio.timeout(scaled(30)):
                while not (await faults(stack))["streaming"]:  # noqa: ASYNC110 - it is elsewhere
                    await asyncio.sleep(0.05)
            player.barriers = True

        hooks: wire_player.Hooks = {
            "pg restarted": restart_postgres,
            "insert into wire_t values (1104,": await_stream,
        }
        name = "17b-pg-restart-and-publication-change"
        # The second system message comes within 60 s of the change, whatever is sent meanwhile.
        await play(name, stack, hooks=hooks, anytime=["system"])
