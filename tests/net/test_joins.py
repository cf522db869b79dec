"""Places, pace and retries of channels."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import given

from notebook_rt.options import Options
from notebook_rt.sync.connection.joins import (
    BURST,
    CONFIRM_WITHIN,
    Effect,
    Evicted,
    Join,
    Joins,
    Leave,
    Priority,
)


@dataclass
class World:
    options: Options = field(default_factory=Options)
    now: float = 100.0
    joining: set[str] = field(default_factory=set)
    joined: set[str] = field(default_factory=set)
    evicted: set[str] = field(default_factory=set)
    joins: list[float] = field(default_factory=list)
    tables: str = ""
    """The topics whose changes must be confirmed."""

    def __post_init__(self) -> None:
        self.machine = Joins(self.options, lambda: 0.5)

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Join(topic):
                    assert topic not in self.joining | self.joined, "joined twice"
                    self.joining.add(topic)
                    self.evicted.discard(topic)
                    self.joins.append(self.now)
                case Leave(topic):
                    assert topic in self.joining | self.joined
                    self.joining.discard(topic)
                    self.joined.discard(topic)
                case Evicted(topic):
                    self.evicted.add(topic)
        assert len(self.joining | self.joined) <= self.options.max_channels

    def want(self, topic: str, priority: Priority = "normal") -> None:
        self.take(self.machine.want(topic, priority, self.now))

    def unwant(self, topic: str, priority: Priority = "normal") -> None:
        self.take(self.machine.unwant(topic, priority, self.now))
        self.evicted -= {topic} - set(self.machine.topics())

    def connect(self) -> None:
        self.take(self.machine.socket(True, self.now))

    def disconnect(self) -> None:
        self.joining.clear()
        self.joined.clear()
        self.take(self.machine.socket(False, self.now))

    def answer(self, ok: bool = True) -> None:
        for topic in sorted(self.joining):
            self.joining.discard(topic)
            if ok:
                self.joined.add(topic)
                unconfirmed = topic in self.tables
                self.take(self.machine.joined(topic, self.now, unconfirmed=unconfirmed))
            else:
                self.take(self.machine.failed(topic, self.now))

    def confirm(self) -> None:
        for topic in sorted(self.joined):
            self.take(self.machine.confirmed(topic))

    def lose(self, topic: str) -> None:
        self.joined.discard(topic)
        self.joining.discard(topic)
        self.take(self.machine.failed(topic, self.now))

    def settle(self, seconds: float = 120) -> None:
        until = self.now + seconds
        while self.now < until:
            self.answer()
            self.confirm()
            wake = self.machine.wake_at
            self.now = min(until, max(wake, self.now + 0.001)) if wake is not None else until
            self.take(self.machine.tick(self.now))
        self.answer()


def test_one_channel_a_topic_gone_with_the_last_subscriber() -> None:
    world = World()
    world.connect()
    world.want("a")
    world.want("a")
    world.settle()
    assert world.joined == {"a"}
    world.unwant("a")
    assert world.joined == {"a"}
    world.unwant("a")
    assert world.joined == set()
    assert world.machine.topics() == []


def test_over_the_limit_the_lowest_priority_then_the_fewest_subscribers_give_way() -> None:
    world = World(Options(max_channels=2))
    world.connect()
    world.want("low", "low")
    world.want("normal")
    world.settle()
    assert world.joined == {"low", "normal"}
    world.want("busy")
    world.want("busy")
    world.settle()
    assert world.joined == {"normal", "busy"}
    assert world.evicted == {"low"}
    world.want("high", "high")
    world.settle()
    assert world.joined == {"high", "busy"}
    world.unwant("high", "high")
    world.settle()
    assert world.joined == {"normal", "busy"}
    assert world.evicted == {"low"}


def test_a_high_priority_goes_with_who_asked_for_it() -> None:
    world = World(Options(max_channels=1))
    world.connect()
    world.want("a", "high")
    world.want("a")
    world.want("busy")
    world.want("busy")
    world.want("busy")
    world.settle()
    assert world.joined == {"a"}
    world.unwant("a", "high")
    world.settle()
    assert world.joined == {"busy"}


def test_a_hundred_joins_at_once_are_paced() -> None:
    world = World(Options(max_channels=100))
    for number in range(100):
        world.want(f"t{number}")
    world.connect()
    assert len(world.joins) <= BURST + 1
    world.settle()
    assert len(world.joined) == 100
    assert world.joins[-1] - world.joins[0] >= (100 - BURST - 2) / world.options.join_rate


def test_a_channel_closed_again_and_again_is_joined_ever_more_slowly() -> None:
    world = World()
    world.connect()
    world.want("a")
    for _ in range(20):
        world.answer()
        world.lose("a")
        while "a" not in world.joining:
            assert world.machine.wake_at is not None
            world.now = max(world.now, world.machine.wake_at)
            world.take(world.machine.tick(world.now))
    waits = [b - a for a, b in zip(world.joins, world.joins[1:], strict=False)]
    assert waits[0] < 2
    assert 30 <= waits[-1] <= 36


def test_a_table_whose_changes_are_never_confirmed_is_joined_again() -> None:
    world = World(tables="a")
    world.connect()
    world.want("a")
    world.want("b")
    world.answer()
    joined_at = world.now
    assert world.machine.wake_at == joined_at + CONFIRM_WITHIN
    world.now = world.machine.wake_at
    world.take(world.machine.tick(world.now))
    assert world.joined == {"b"}
    world.settle()
    assert world.joined == {"a", "b"}
    joins = len(world.joins)
    world.settle(1000)
    assert len(world.joins) == joins, "confirmed, it stays"


def test_refused_for_good_is_not_tried_until_asked() -> None:
    world = World()
    world.connect()
    world.want("a")
    world.joining.clear()
    world.take(world.machine.failed("a", world.now, final=True))
    world.settle(1000)
    assert world.joined == set()
    world.take(world.machine.rejoin("a", world.now))
    world.settle()
    assert world.joined == {"a"}


TOPICS = st.sampled_from("abcdef")
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), TOPICS, st.sampled_from(["high", "normal", "low"])),
        st.tuples(st.just("unwant"), TOPICS),
        st.tuples(st.just("lose"), TOPICS),
        st.tuples(st.just("wait"), st.floats(0, 60)),
        st.sampled_from([("connect",), ("disconnect",), ("answer",), ("refuse",), ("confirm",)]),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_in_the_end_every_place_is_taken_and_no_subscription_is_lost(
    actions: list[tuple[object, ...]],
) -> None:
    world = World(Options(max_channels=3), tables="ace")
    users: dict[str, list[Priority]] = {}
    for action in actions:
        match action:
            case ("want", str(topic), priority):
                users.setdefault(topic, []).append(priority)  # type: ignore[arg-type]  # one of three
                world.want(topic, users[topic][-1])
            case ("unwant", str(topic)) if users.get(topic):
                world.unwant(topic, users[topic].pop(0))
            case ("lose", str(topic)) if topic in world.joined | world.joining:
                world.lose(topic)
            case ("wait", float(seconds)):
                world.now += seconds
                world.take(world.machine.tick(world.now))
            case ("connect",):
                world.connect()
            case ("disconnect",):
                world.disconnect()
            case ("answer",):
                world.answer()
            case ("confirm",):
                world.confirm()
            case ("refuse",):
                world.answer(ok=False)
    world.connect()
    world.settle()
    wanted = {topic for topic, count in users.items() if count}
    assert set(world.machine.topics()) == wanted
    assert world.joined <= wanted
    assert len(world.joined) == min(3, len(wanted))
    assert world.evicted == wanted - world.joined
