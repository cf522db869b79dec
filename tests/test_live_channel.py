"""Broadcast and presence through the session, together with the unmodified client."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from realtime import AsyncRealtimeClient

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from tests.proxy import Delay, Drop, Proxy
from tests.waiting import scaled, until

_numbers = itertools.count(time.monotonic_ns())


@pytest.fixture
def topic() -> str:
    return f"room:{next(_numbers)}"


@pytest.fixture
def session(stack: LocalStack) -> Iterator[Callable[..., nrt.Session]]:
    made: list[nrt.Session] = []

    def make(**options: Any) -> nrt.Session:
        made.append(nrt.connect(stack.url, stack.anon_key, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_one_sends_the_other_hears_in_order(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    heard: list[Any] = []
    everything: list[nrt.Message] = []
    listener = session().channel(topic).wait(scaled(10))
    listener.on("price", heard.append)
    listener.on("*", everything.append)
    sender = session().channel(topic).wait(scaled(10))
    for number in range(50):
        assert sender.send("price", {"n": number}) == nrt.SendResult(queued=False)
    sender.send("other", {"text": "<script>"})
    until(lambda: (len(heard), len(everything)) == (50, 51), what=lambda: len(everything))
    assert heard == [{"n": number} for number in range(50)]
    assert everything[-1].event == "other"
    assert list(listener.messages["event"].unique()) == ["price", "other"]
    listener.off("price")
    sender.send("price", {"n": 99}, ack=True)
    until(lambda: len(everything) == 52)
    assert len(heard) == 50


def test_a_private_channel_says_when_the_databases_broadcasts_reach_it(
    session: Callable[..., nrt.Session], stack: LocalStack, topic: str
) -> None:
    rt = session()
    where = f"on realtime.messages for select to anon using (realtime.topic() = '{topic}')"
    stack.sql(f'create policy "{topic}" {where}')
    try:
        channel = rt.channel(topic, private=True).wait(scaled(15))
        until(lambda: channel.replicating)
        # Where the database cannot replicate, the server closes who asked: the next join does not.
        room = channel._room
        words = "Replication connection was not established in time"
        rt._project.thread.call(room.system, {"status": "error", "message": words})
        assert "replication_ready" not in room.config()["broadcast"]
        rt._project.thread.call(rt._project.connection.registry.rejoin, topic)
        until(lambda: channel.status != "joined" or not channel.replicating)
        channel.wait(scaled(15))
        assert not channel.replicating
        assert not rt.channel(f"{topic}:public").replicating
    finally:
        stack.sql(f'drop policy "{topic}" on realtime.messages')


def test_the_unmodified_client_hears_us_and_we_hear_it(
    session: Callable[..., nrt.Session], topic: str, stack: LocalStack
) -> None:
    heard: list[Any] = []
    ours = session().channel(topic).wait(scaled(10))
    ours.on("hello", heard.append)

    async def theirs() -> Any:
        got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        client = AsyncRealtimeClient(f"{stack.url}/realtime/v1", token=stack.anon_key)
        channel = client.channel(topic)
        channel.on_broadcast("back", lambda message: got.set_result(message["payload"]))
        await channel.subscribe()
        await channel.send_broadcast("hello", {"from": "them"})
        await asyncio.to_thread(until, lambda: heard)
        await asyncio.to_thread(ours.send, "back", {"from": "us"})
        found = await asyncio.wait_for(got, scaled(10))
        await client.close()
        return found

    assert asyncio.run(theirs()) == {"from": "us"}
    assert heard == [{"from": "them"}]


def test_without_a_joined_channel_it_goes_over_rest_and_without_network_it_is_queued(
    session: Callable[..., nrt.Session], topic: str, tmp_path: Any
) -> None:
    heard: list[Any] = []
    session().channel(topic).wait(scaled(10)).on("late", heard.append)
    sender = session(queue_path=tmp_path / "queue")
    assert sender.channel(topic).send("late", {"n": 1}) == nrt.SendResult(queued=False)
    until(lambda: heard == [{"n": 1}])
    with nrt.connect("http://127.0.0.1:9", "key", queue_path=tmp_path / "other") as offline:
        result = offline.channel(topic).send("late", {"n": 2})
        assert result.queued
        assert len(offline.queue) == 1


def test_waiting_for_a_channel_ends_with_the_reason_when_nobody_answers_at_the_url() -> None:
    with nrt.connect("http://127.0.0.1:9", "key") as offline:
        with pytest.raises(errors.UnreachableError, match=r"http://127\.0\.0\.1:9"):
            offline.channel("room").wait()
        assert offline.channel("room").status == "waiting"


def test_a_broadcast_too_large_is_refused_by_name(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    channel = session().channel(topic).wait(scaled(10))
    with pytest.raises(errors.RefusedError, match="payload_size_exceeded"):
        channel.send("big", {"text": "x" * 3_100_000}, ack=True)


def test_a_broadcast_that_is_too_large_is_refused_and_not_lost(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    """The server drops it, and says so only to who asks."""
    channel = session().channel(topic).wait(scaled(10))
    with pytest.raises(errors.RefusedError, match="the free plan takes 256 KB, others 3,000 KB"):
        channel.send("big", {"text": "x" * 3_100_000})
    assert not channel.send("small", {"text": "x"}).queued


def test_a_large_broadcast_arrives_and_closes_no_socket(stack_directory: Path, topic: str) -> None:
    """As large as the pro plan allows; the free plan ends at 256 KB."""
    options = StackOptions(realtime=RealtimeOptions(max_broadcast_bytes=3_000_000))
    heard: list[Any] = []
    with (
        start(stack_directory, options=options) as pro,
        nrt.connect(pro.url, pro.anon_key) as listening,
        nrt.connect(pro.url, pro.anon_key) as sending,
    ):
        listening.channel(topic).wait(scaled(10)).on(
            "big", lambda payload: heard.append(len(payload["text"]))
        )
        sending.channel(topic).wait(scaled(10)).send("big", {"text": "x" * 2_500_000})
        until(lambda: heard == [2_500_000])
        assert listening.metrics["disconnects"] == 0


def test_a_private_channel_without_a_policy_is_refused_by_name(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    channel = session().channel(topic, private=True)
    with pytest.raises(errors.WaitTimeoutError, match=r"needs a policy on realtime\.messages"):
        channel.wait(0.01)
    with pytest.raises(errors.ChannelRefusedError, match="Unauthorized"):
        channel.wait(scaled(15))
    assert channel.status == "refused"


@pytest.mark.parametrize("ack", [False, True])
def test_nothing_is_said_to_be_sent_to_a_private_channel_that_is_refused(
    session: Callable[..., nrt.Session], topic: str, ack: bool
) -> None:
    channel = session().channel(topic, private=True)
    assert channel.status != "refused"  # the join is not answered yet
    with pytest.raises(errors.ChannelRefusedError, match="Unauthorized: You do not have"):
        channel.send("note", {"n": 1}, ack=ack)
    assert channel.status == "refused"
    with pytest.raises(errors.ChannelRefusedError, match="Unauthorized: You do not have"):
        channel.send("note", {"n": 2}, ack=ack)


def test_who_is_refused_by_a_channel_is_not_said_to_be_seen_in_it(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    channel = session().channel(topic, private=True)
    with pytest.raises(errors.ChannelRefusedError):
        channel.wait(scaled(15))
    with pytest.raises(errors.ChannelRefusedError, match="Unauthorized: You do not have"):
        channel.presence.track(name="Ada")
    channel.presence.untrack()


def test_health_names_a_channel_that_is_refused_until_it_is_let_go(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    rt = session()
    rt.channel(f"{topic}:public").wait(scaled(15))
    channel = rt.channel(topic, private=True)
    with pytest.raises(errors.ChannelRefusedError):
        channel.wait(scaled(15))
    assert (rt.health.status, rt.health.color) == ("refused", "yellow")
    assert f"channel {topic} was refused: Unauthorized" in rt.health.reason
    channel.close()
    until(lambda: rt.health.status == "healthy", what=lambda: rt.health)


def test_a_broadcast_to_a_private_channel_that_is_joining_arrives(
    session: Callable[..., nrt.Session], stack: LocalStack, topic: str
) -> None:
    for right in ("select to anon using", "insert to anon with check"):
        where = f"on realtime.messages for {right} (realtime.topic() = '{topic}')"
        stack.sql(f'create policy "{topic}:{right[:6]}" {where}')
    try:
        heard: list[Any] = []
        session().channel(topic, private=True).wait(scaled(15)).on("note", heard.append)
        sender = session().channel(topic, private=True)
        assert sender.send("note", {"n": 1}, ack=True) == nrt.SendResult(queued=False)
        assert sender.status == "joined"
        until(lambda: heard == [{"n": 1}])
    finally:
        for right in ("select", "insert"):
            stack.sql(f'drop policy "{topic}:{right}" on realtime.messages')


def test_a_broadcast_to_a_private_channel_waits_in_the_queue_where_no_join_can_be_answered(
    tmp_path: Path, topic: str
) -> None:
    with nrt.connect("http://127.0.0.1:9", "key", queue_path=tmp_path / "queue") as offline:
        channel = offline.channel(topic, private=True)
        began = time.monotonic()
        assert channel.send("late", {"n": 1}).queued
        assert time.monotonic() - began < nrt.Options().join_timeout


@pytest.mark.parametrize("ack", [False, True])
def test_a_broadcast_to_a_private_channel_whose_join_is_never_answered_is_not_said_to_be_sent(
    stack: LocalStack, tmp_path: Path, topic: str, ack: bool
) -> None:
    with Proxy(stack.url) as proxy:
        proxy.rules = [Drop(kind="reply")]
        options = nrt.Options(join_timeout=0.5)
        with nrt.connect(
            proxy.url, stack.anon_key, queue_path=tmp_path / "queue", options=options
        ) as rt:
            channel = rt.channel(topic, private=True)
            with pytest.raises(
                errors.WaitTimeoutError, match=f'"{topic}": its join was not answered'
            ):
                channel.send("note", {"n": 1}, ack=ack)
            assert not len(rt.queue)


def test_a_broadcast_that_the_server_refuses_over_rest_is_refused_by_name(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    channel = session().channel(topic)
    with pytest.raises(errors.RefusedError, match="422"):
        channel._thread.wait(channel._room._post("", {"n": 1}))


def test_a_channel_that_was_refused_is_joined_once_a_policy_lets_us_in_and_it_is_asked_for_again(
    session: Callable[..., nrt.Session], stack: LocalStack, topic: str
) -> None:
    rt = session()
    refused = rt.channel(topic, private=True)
    with pytest.raises(errors.ChannelRefusedError):
        refused.wait(scaled(15))
    where = f"on realtime.messages for select to anon using (realtime.topic() = '{topic}')"
    stack.sql(f'create policy "{topic}" {where}')
    try:
        assert rt.channel(topic, private=True).wait(scaled(15)).status == "joined"
        assert refused.status == "joined"
    finally:
        stack.sql(f'drop policy "{topic}" on realtime.messages')


def test_broadcasts_as_a_frame_by_last_value(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    prices = session().channel(topic).wait(scaled(10)).frame("price", key="symbol", limit=3)
    assert prices.df.empty
    assert prices.df.index.name == "symbol"
    assert list(prices.changes(timeout=0.1)) == []
    for _ in range(10):
        with pytest.raises(errors.WaitTimeoutError, match='nobody has sent "price"'):
            prices.wait(0.02)
    assert len(prices._feed._waiters) == 1  # who has gone is forgotten
    sender = session().channel(topic).wait(scaled(10))
    sender.send("price", {"symbol": "AAPL", "price": 150})
    assert prices.wait(scaled(5)).df.loc["AAPL", "price"] == 150
    assert str(prices.df["price"].dtype) == "int64"
    sender.send("price", {"symbol": "MSFT", "price": 300.5, "note": "up"})
    sender.send("price", {"symbol": "AAPL", "price": 151.25})
    until(lambda: len(prices.df) == 2 and prices.df.loc["AAPL", "price"] == 151.25)
    assert str(prices.df["price"].dtype) == "float64"
    assert prices._feed.snapshot() is prices._feed.snapshot()
    assert prices.df.loc["MSFT", "note"] == "up"
    assert prices.df["note"].isna().sum() == 1
    sender.send("price", {"price": 1})  # belongs to no row
    for symbol in ("A", "B", "C"):
        sender.send("price", {"symbol": symbol, "price": 1.0})
    until(lambda: list(prices.df.index) == ["A", "B", "C"], what=lambda: prices.df)
    with pytest.raises(AttributeError, match="only a table can be edited"):
        prices.edit("A", price=2)  # type: ignore[attr-defined]


def test_broadcasts_as_a_log(session: Callable[..., nrt.Session], topic: str) -> None:
    log = session().channel(topic).wait(scaled(10)).frame("tick", limit=5)
    assert list(log.df.columns) == ["at"]
    assert log.df.empty
    changes: list[int] = []
    log.on_change(lambda batch: changes.extend(c.key for c in batch if c.kind == "insert"))
    sender = session().channel(topic).wait(scaled(10))
    for number in range(8):
        sender.send("tick", {"number": number, "tags": ["a", number]})
    until(lambda: log.version and list(log.df["number"]) == [3, 4, 5, 6, 7])
    assert list(log.df.index) == [4, 5, 6, 7, 8]
    until(lambda: changes[-1:] == [8], what=lambda: changes)
    assert changes == sorted(changes)  # what came and went within one turn was never to be seen
    assert str(log.df["at"].dtype).startswith("datetime64")


def test_a_frame_of_an_event_that_never_came_is_empty_at_once(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    room = session().channel(topic)
    last, log = room.frame("price", key="symbol"), room.frame("price")
    assert (len(last), last.df.index.name, last.to_arrow().num_rows) == (0, "symbol", 0)
    assert (log.df.index.name, log.df.columns.tolist()) == ("n", ["at"])
    with pytest.raises(nrt.errors.WaitTimeoutError):
        last.wait(0.05)


def test_presence_shows_who_comes_and_goes(session: Callable[..., nrt.Session], topic: str) -> None:
    joined: list[str] = []
    left: list[str] = []
    here = session().channel(topic)
    here.presence.on_join(lambda person: joined.append(person.metas[-1]["name"]))
    here.presence.on_leave(lambda person: left.append(person.metas[-1]["name"]))
    here.presence.track(name="<b>me</b>")
    until(lambda: len(here.presence.df) == 1, what=lambda: here.presence.df)
    other = session()
    there = other.channel(topic)
    there.presence.track(name="them")
    until(lambda: len(here.presence.df) == 2, what=lambda: here.presence.df)
    df = here.presence.df
    assert df.loc[here.presence.key, "you"]
    assert set(df["name"]) == {"<b>me</b>", "them"}
    assert list(df.columns[:4]) == ["joined", "last_seen", "connections", "you"]
    there.presence.update(typing=True, joined="today")
    until(lambda: dict(here.presence.df.get("typing", {})).get(there.presence.key) is True)
    assert here.presence.df.loc[there.presence.key, "name"] == "them"
    assert here.presence.df.loc[there.presence.key, "joined_"] == "today"
    other.close()
    until(lambda: len(here.presence.df) == 1)
    until(lambda: (joined, left) == (["<b>me</b>", "them"], ["them"]), what=lambda: (joined, left))


def test_who_untracks_is_gone_for_others_and_stays_in_the_channel(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    here, there = session().channel(topic), session().channel(topic)
    here.presence.track(name="me")
    there.presence.track(name="them")
    until(lambda: len(here.presence.df) == 2, what=lambda: here.presence.df)
    there.presence.untrack()
    until(lambda: list(here.presence.df.index) == [here.presence.key])
    assert there.status == "joined"


@pytest.mark.parametrize("joined_before", [False, True])
def test_who_is_there_is_known_when_wait_returns(
    stack: LocalStack, session: Callable[..., nrt.Session], topic: str, joined_before: bool
) -> None:
    """The state comes in a message of its own, after the answer to the join."""
    there = session().channel(topic)
    there.presence.track(name="them")
    until(lambda: there.presence.people)
    with Proxy(stack.url) as proxy, nrt.connect(proxy.url, stack.anon_key) as rt:
        proxy.rules = (Delay(kind="presence", seconds=0.5),)
        room = rt.channel(topic)
        if joined_before:
            room.wait(scaled(20))
        presence = room.presence
        assert [p.metas[0]["name"] for p in room.wait(scaled(20)).presence.people] == ["them"]
        assert len(presence.df) == 1


def test_two_sessions_with_one_presence_key_are_one_person(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    rooms = [session().channel(topic, presence_key="ada") for _ in range(2)]
    for number, room in enumerate(rooms):
        room.presence.track(tab=number)
    until(lambda: [len(p.metas) for p in rooms[0].presence.people] == [2])
    assert rooms[0].presence.people[0].key == "ada"


def test_what_a_session_sends_comes_back_only_where_it_is_asked_for(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    heard: dict[bool, list[Any]] = {True: [], False: []}
    for own in (True, False):
        room = session().channel(f"{topic}:{own}", receive_own=own).wait(scaled(10))
        room.on("note", heard[own].append)
        room.send("note", {"n": 1}, ack=True)
        other = session().channel(f"{topic}:{own}").wait(scaled(10))
        other.send("note", {"n": 2}, ack=True)
        until(lambda own=own: {"n": 2} in heard[own])
    assert heard == {True: [{"n": 1}, {"n": 2}], False: [{"n": 2}]}


def test_a_private_channel_replays_what_the_database_has_kept(
    session: Callable[..., nrt.Session], stack: LocalStack, topic: str
) -> None:
    where = f"on realtime.messages for select to anon using (realtime.topic() = '{topic}')"
    stack.sql(f'create policy "{topic}" {where}')
    try:
        since = int(1000 * (time.time() - 60))
        for number in range(3):
            stack.sql(f"""select realtime.send('{{"n": {number}}}', 'news', '{topic}')""")
        settings: dict[str, Any] = {"private": True, "replay": {"since": since, "limit": 2}}
        room = session().channel(topic, **settings).wait(scaled(15))
        until(lambda: len(room.messages) == 2, what=lambda: room.messages)
        assert [message["n"] for message in room.messages["payload"]] == [1, 2]
    finally:
        stack.sql(f'drop policy "{topic}" on realtime.messages')


def test_presence_never_makes_the_server_close_the_channel(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    """A sixth call in 30 s would; a hundred updates are told as few, and the last one counts."""
    options = nrt.Options(presence_window=3.0, presence_calls=2)
    mine = session(options=options)
    channel = mine.channel(topic)
    for number in range(100):
        channel.presence.track(number=number)
        time.sleep(0.01)
    until(
        lambda: list(channel.presence.df.get("number", [])) == [99],
        what=lambda: channel.presence.df,
    )
    assert channel.status == "joined"


def test_one_channel_a_topic_counted_and_gone_with_the_last(
    session: Callable[..., nrt.Session], topic: str
) -> None:
    rt = session()
    first, second = rt.channel(topic).wait(scaled(10)), rt.channel(topic)
    assert rt.metrics["channels"] == 1
    first.close()
    assert second.status == "joined"
    with pytest.raises(errors.ClosedError):
        first.send("e", {})
    with pytest.raises(ValueError, match="other settings"):
        rt.channel(topic, private=True)
    second.close()
    until(lambda: rt.metrics["channels"] == 0)


def test_a_listener_that_raises_or_sleeps_hurts_nobody(
    session: Callable[..., nrt.Session], topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    rt = session()
    channel = rt.channel(topic).wait(scaled(10))
    heard: list[Any] = []

    def raises(payload: Any) -> None:
        raise RuntimeError("mine")

    channel.on("e", raises)
    released = threading.Event()
    channel.on("e", lambda payload: released.wait(scaled(10)))
    channel.on("e", lambda payload: heard.append(threading.current_thread().name))
    sender = session().channel(topic).wait(scaled(10))
    for _ in range(10):
        sender.send("e", {})
    until(lambda: len(heard) == 10, seconds=3)
    released.set()
    until(lambda: sum("raised" in record.message for record in caplog.records) == 1)
    assert rt.health.status == "healthy"


@pytest.mark.parametrize(
    ("token", "error"),
    [
        ("expired", errors.TokenExpiredError),
        ("eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.Z2FyYmFnZQ", errors.AuthError),
    ],
    ids=["expired", "garbage"],
)
def test_a_channel_whose_token_is_refused_says_so_and_is_joined_with_the_right_one(
    session: Callable[..., nrt.Session], stack: LocalStack, topic: str, token: str, error: Any
) -> None:
    # Only a try from zero comes so soon.
    rt = session(options=nrt.Options(backoff_base=60.0, backoff_max=60.0, jitter=0))
    rt.set_auth(stack.token("authenticated", ttl=-5) if token == "expired" else token)
    channel = rt.channel(topic)
    with pytest.raises(error, match="refuses the access token"):
        channel.wait(scaled(10))
    assert channel.status == "refused"
    with pytest.raises(error):
        channel.send("price", {"n": 1})
    rt.set_auth(stack.token("authenticated", ttl=600))
    channel.wait(scaled(10))
    assert channel.status == "joined"


def test_a_channel_whose_token_ends_says_so_unless_a_fresh_one_is_had(
    session: Callable[..., nrt.Session], stack: LocalStack, topic: str
) -> None:
    rt = session()
    rt.set_auth(stack.token("authenticated", ttl=2))
    channel = rt.channel(topic).wait(scaled(10))
    until(lambda: channel.status == "refused", what=lambda: channel.status)
    with pytest.raises(errors.TokenExpiredError):
        channel.wait(scaled(10))
    given: list[str] = []

    def fresh() -> str:
        given.append(stack.token("authenticated", ttl=2 if not given else 600))
        return given[-1]

    rt.set_auth(fresh)
    channel.wait(scaled(10))
    until(lambda: len(given) >= 2)
    until(lambda: channel.status == "joined", what=lambda: channel.status)
