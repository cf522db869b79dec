"""The connection's state machine: any order of events ends connected, and never with two sockets.

The laws draw the options, too: every number that `Options` accepts, odd ones among them.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import given

from notebook_rt.model.classify import ErrorClass
from notebook_rt.options import Options
from notebook_rt.sync.connection.joins import Effect as Joining
from notebook_rt.sync.connection.joins import Join, Joins
from notebook_rt.sync.connection.supervisor import (
    LAST_LOOK,
    UNKNOWN,
    Beat,
    Close,
    Event,
    Heard,
    Latency,
    Open,
    Opened,
    OpenFailed,
    RefreshToken,
    Retry,
    Silence,
    SocketClosed,
    Start,
    StateChanged,
    Stop,
    Supervisor,
    Tick,
    WakeAt,
)

NETWORK = ErrorClass("network", 1.0)
OPTIONS = Options()

seconds = st.one_of(st.sampled_from((0.01, 0.2, 1.0, 15.0, 60.0)), st.floats(0.01, 300.0))


@st.composite
def any_options(draw: Callable[..., float]) -> Options:
    """What a user may set of the connection's numbers."""
    base, interval, timeout = draw(seconds), draw(seconds), draw(seconds)
    return Options(
        backoff_base=base,
        backoff_max=base + draw(st.one_of(st.just(0.0), seconds)),
        jitter=draw(st.sampled_from((0.0, 0.2, 3.0))),
        max_retries=int(draw(st.integers(0, 12))),
        retry_anyway=draw(seconds),
        heartbeat_interval=interval,
        heartbeat_timeout=timeout,
        stale_after=interval + timeout + draw(st.one_of(st.just(0.0), seconds)),
        silence_after=draw(seconds),
        stale_check=draw(seconds),
    )


@dataclass
class World:
    """A network that is up or down, a server that answers or is silent, and a clock."""

    options: Options = OPTIONS
    late: Iterable[float] = (0.0,)
    """How much later than asked for each tick comes, again and again: a busy loop."""
    now: float = 1000.0
    wall: float = 1_700_000_000.0
    online: bool = True
    answers: bool = True
    opening: set[int] = field(default_factory=set)
    open: set[int] = field(default_factory=set)
    beats: set[str] = field(default_factory=set)
    wake: float | None = None
    tried_at: list[float] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    refreshes: int = 0
    silences: int = 0
    """Times that silence was told, or its end."""

    def __post_init__(self) -> None:
        self.machine = Supervisor(self.options, lambda: 0.5)
        self.lateness = itertools.cycle(self.late)

    def feed(self, event: Event) -> None:
        self.wake = None
        for effect in self.machine.handle(event, self.now, self.wall):
            match effect:
                case Open(socket):
                    assert not self.opening, "two sockets opening"
                    assert not self.open, "a second socket"
                    self.opening.add(socket)
                    self.tried_at.append(self.now)
                case Close(socket, _):
                    self.opening.discard(socket)
                    self.open.discard(socket)
                    self.beats.clear()
                case Beat(socket, ref):
                    assert socket in self.open, "a heartbeat into a closed socket"
                    assert not self.beats, "two heartbeats at once"
                    self.beats.add(ref)
                case StateChanged(state, _):
                    self.states.append(state)
                case WakeAt(at):
                    self.wake = at
                case RefreshToken():
                    self.refreshes += 1
                case Latency(seconds):
                    assert seconds >= 0
                case Silence():
                    self.silences += 1

    def step(self) -> None:
        """What a network does: it answers what is opening, and heartbeats; then time passes."""
        for socket in list(self.opening):
            self.opening.discard(socket)
            if self.online:
                self.open.add(socket)
                self.feed(Opened(socket))
            else:
                self.feed(OpenFailed(socket, NETWORK, "refused"))
        for ref in list(self.beats):
            if self.answers and self.online:
                self.beats.discard(ref)
                assert self.machine.socket is not None
                self.feed(Heard(self.machine.socket, ref))
        self.wait()

    def wait(self) -> None:
        """Until the tick that was asked for, or 5 s."""
        due = self.now + 5 if self.wake is None else min(self.wake, self.now + 5)
        self.pass_time(due - self.now + next(self.lateness))

    def pass_time(self, seconds: float, asleep: float = 0.0) -> None:
        self.now += max(0.0, seconds)
        self.wall += max(0.0, seconds) + asleep
        self.feed(Tick())

    def run(self, seconds: float, then: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, until ``then`` holds."""
        until = self.now + seconds
        while self.now < until and not then():
            before = self.now
            self.step()
            if self.now == before:
                self.pass_time(0.01)


def started(**world: object) -> World:
    found = World(**world)  # type: ignore[arg-type]  # only fields
    found.feed(Start())
    return found


ACTIONS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("step", "offline", "online", "mute", "answer", "frame"),
                *("user", "visible", "network", "token"),
            ]
        ),
        st.tuples(st.just("wait"), st.floats(0, 700)),
        st.tuples(st.just("sleep"), st.floats(0, 100_000)),
        st.tuples(st.just("close"), st.sampled_from([1000, 1006, 1009, 1012, None])),
        st.tuples(st.just("stale"), st.sampled_from(["opened", "failed", "closed", "heard"])),
        st.tuples(
            st.just("refuse"),
            st.sampled_from(["auth", "rate_limit", "server", "network", "unknown"]),
        ),
    ),
    max_size=40,
)


def play(world: World, actions: list[object]) -> None:
    for action in actions:
        match action:
            case "step":
                world.step()
            case "offline":
                world.online = False
            case "online":
                world.online = True
            case "mute":
                world.answers = False
            case "answer":
                world.answers = True
            case "frame":
                for socket in world.open:
                    world.feed(Heard(socket))
            case "user" | "visible" | "network" | "token":
                world.feed(Retry(action))  # type: ignore[arg-type]  # one of the four
            case ("wait", seconds):
                world.pass_time(seconds)
            case ("sleep", seconds):
                world.pass_time(0.1, asleep=seconds)
            case ("close", code):
                for socket in list(world.open):
                    world.open.discard(socket)
                    world.beats.clear()
                    world.feed(SocketClosed(socket, code))
            case ("stale", "opened"):
                world.feed(Opened(-1))
            case ("stale", "failed"):
                world.feed(OpenFailed(-1, NETWORK, "old news"))
            case ("stale", "closed"):
                world.feed(SocketClosed(-1, 1006))
            case ("stale", "heard"):
                world.feed(Heard(-1, "hb1"))
            case ("refuse", kind):
                for socket in list(world.opening):
                    world.opening.discard(socket)
                    world.feed(OpenFailed(socket, ErrorClass(kind, 5.0), "no"))


@given(any_options(), ACTIONS)
def test_any_order_of_events_ends_connected_when_the_network_is_back(
    options: Options, actions: list[object]
) -> None:
    world = started(options=options)
    play(world, actions)
    world.online = world.answers = True
    world.step()
    longest = max(options.retry_anyway, options.backoff_max * (1 + options.jitter), 5.0)
    world.run(2 * longest, then=lambda: bool(world.open))
    for _ in range(20):
        world.step()
        assert world.machine.state == "connected"
    assert world.open == {world.machine.socket}
    assert not world.opening


@given(any_options(), ACTIONS)
def test_after_stop_nothing_is_open_and_nothing_is_tried(
    options: Options, actions: list[object]
) -> None:
    world = started(options=options)
    play(world, actions)
    world.feed(Stop())
    tried = len(world.tried_at)
    world.run(1000)
    assert world.machine.state == "disconnected"
    assert not world.open
    assert not world.opening
    assert len(world.tried_at) == tried


@given(any_options(), ACTIONS)
def test_open_and_state_agree(options: Options, actions: list[object]) -> None:
    world = started(options=options)
    for action in actions:
        play(world, [action])
        assert (world.machine.state == "connected") == bool(world.open)


lateness = st.lists(st.floats(0.0, 0.1), min_size=1, max_size=5)
"""Of the ticks, as a share of ``stale_check``: the bound of the law below allows for three of them."""


@given(any_options(), ACTIONS, lateness)
def test_half_open_socket_is_noticed_within_interval_timeout_and_stale_check(
    options: Options, actions: list[object], late: list[float]
) -> None:
    """Whatever the options, whatever was before, and however late the ticks come."""
    late = [share * options.stale_check for share in late]
    world = started(options=options, late=late)
    play(world, actions)
    world.online = world.answers = True
    world.run(10_000, then=lambda: bool(world.open))
    (socket,) = world.open
    since = world.now  # nothing is heard any more; what is sent leads nowhere
    bound = options.heartbeat_interval + options.heartbeat_timeout + options.stale_check
    while socket in world.open:
        world.wait()
        assert world.now - since <= bound + 1e-6


@given(
    any_options(),
    st.lists(st.floats(0.0, 400.0), min_size=1, max_size=5),
    st.floats(0.0, 0.99),
)
def test_socket_that_answers_is_never_given_up(
    options: Options, late: list[float], share: float
) -> None:
    """However long this process is held up: the answer then lies unread in the buffer."""
    world = started(options=options, late=late)
    world.step()
    for _ in range(100):
        asked = world.now
        while world.beats and world.now < asked + share * options.heartbeat_timeout:
            world.now += share * options.heartbeat_timeout
            world.wall += share * options.heartbeat_timeout
        world.step()
        assert world.machine.state == "connected"
    assert world.states == ["connecting", "connected"]


@given(any_options(), st.floats(0.0, 0.99))
def test_frames_are_a_sign_of_life_while_a_heartbeat_waits_for_its_answer(
    options: Options, share: float
) -> None:
    """In a flood the answer comes behind the changes; without one for ever, the socket is lost."""
    world = started(options=options, answers=False)
    since = world.now
    world.step()
    (socket,) = world.open
    while socket in world.open:
        pause = max(share * options.heartbeat_timeout, options.stale_after / 300)
        world.now += pause
        world.wall += pause
        world.feed(Heard(socket))
        assert world.now - since <= options.stale_after + 2 * pause + options.stale_check + 1e-6, (
            "nothing leaves here"
        )
    assert world.now - since >= options.stale_after - 1e-6


@given(any_options(), ACTIONS, lateness)
def test_silence_is_told_as_soon_as_an_answer_is_later_than_usual(
    options: Options, actions: list[object], late: list[float]
) -> None:
    """Whatever was before: from the last frame on, the session is not told that all is well for long."""
    bound = min(options.silence_after, options.heartbeat_interval)
    late = [share * min(options.stale_check, 1.0) for share in late]
    world = started(options=options, late=late)
    play(world, actions)
    world.online = world.answers = True
    world.run(10_000, then=lambda: bool(world.open))
    for _ in range(3):
        world.step()
    if not world.open:
        return
    (socket,) = world.open
    world.answers, since, patience = False, world.machine.received_at, world.machine.patience
    bound += patience + LAST_LOOK + 4 * max(late)
    while socket in world.open and not world.machine.silent:
        world.wait()
        assert world.now - since <= bound + 5.0 * (socket not in world.open) + 1e-6
    told = world.silences
    world.feed(Tick())
    assert world.silences > told or not world.open, "its seconds are told anew"


@given(
    any_options(),
    st.floats(0.0, 1.0),
    st.lists(st.floats(0.5, 0.99), min_size=1, max_size=30),
    st.lists(st.floats(0.0, 60.0), min_size=1, max_size=5),
)
def test_a_slow_connection_is_not_silent(
    options: Options, slowest: float, shares: list[float], held_up: list[float]
) -> None:
    """Answers of any latency that do not differ by more than two times, and a process that is held up."""
    slowest *= min(UNKNOWN, options.heartbeat_timeout)
    world = started(options=options)
    (socket,) = world.opening
    world.opening, world.open = set(), {socket}
    world.feed(Opened(socket))
    for share, pause in zip(shares, itertools.cycle(held_up), strict=False):
        while not world.beats:
            world.wait()
        answered = world.machine.beat_sent + share * slowest
        while world.wake is not None and world.wake < answered:
            world.wait()
            assert not world.machine.silent
        world.now = max(world.now, answered) + pause  # the answer lies in the buffer meanwhile
        world.wall = 1_700_000_000.0 + world.now - 1000.0
        world.feed(Tick())
        assert not world.machine.silent
        world.beats.clear()
        world.feed(Heard(socket, world.machine.beat_ref))
        assert not world.machine.silent
    assert world.silences == 0


def test_an_idle_connection_is_asked_every_five_seconds_and_a_busy_one_every_25() -> None:
    world = started()
    world.step()
    world.run(60)
    assert world.machine._beats <= 1 + (world.now - 1000) / OPTIONS.silence_after
    before, since = world.machine._beats, world.now
    for _ in range(200):
        world.pass_time(0.5)
        assert world.machine.socket is not None
        world.beats.clear()
        world.feed(Heard(world.machine.socket, world.machine.beat_ref))
    assert world.machine._beats - before <= 1 + (world.now - since) / OPTIONS.heartbeat_interval


def test_silence_is_over_with_the_first_frame_and_one_late_answer_makes_no_slow_connection() -> (
    None
):
    world = started()
    for _ in range(10):
        world.step()
    world.answers = False
    while not world.machine.silent:
        world.wait()
    assert world.machine.socket is not None
    world.feed(Heard(world.machine.socket, world.machine.beat_ref))
    assert not world.machine.silent
    assert world.machine.patience == 2.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stale_after": 20.0}, r"stale_after \(20\) must be at least heartbeat_interval \+"),
        ({"heartbeat_interval": 120.0}, r"heartbeat_timeout \(120 \+ 10\).*stale_after=130"),
        ({"backoff_base": 40.0}, r"backoff_base \(40\) must not be above backoff_max \(30\)"),
        ({"poll_interval": 60.0}, r"poll_interval \(60\) .* give poll_max=60 too"),
        ({"audit_interval": 300.0}, r"audit_interval \(300\) .* give audit_max=300 too"),
        ({"audit_max": float("inf")}, r"audit_max must be a finite number, not inf"),
        ({"stale_check": float("nan")}, r"stale_check must be a finite number, not nan"),
        ({"max_retries": float("inf")}, r"max_retries must be a finite number, not inf"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=rf"Options\.{said}|Options\..*{said}"):
        Options(**wrong)  # type: ignore[arg-type]  # numbers


def test_waits_double_from_one_second_to_thirty_with_jitter_then_every_five_minutes() -> None:
    world = started(online=False)
    world.run(1200)
    waits = [b - a for a, b in zip(world.tried_at, world.tried_at[1:], strict=False)]
    jitter = 1 + OPTIONS.jitter * 0.5
    expected = [min(2.0**n, 30.0) * jitter for n in range(OPTIONS.max_retries)]
    assert [round(wait, 1) for wait in waits[:10]] == [round(wait, 1) for wait in expected]
    assert all(abs(wait - OPTIONS.retry_anyway) < 1 for wait in waits[10:])
    assert len(waits) > 11
    assert world.machine.state == "disconnected"


def test_asking_starts_from_zero() -> None:
    for cause in ("user", "visible", "network", "token"):
        world = started(online=False)
        world.run(500)
        assert world.machine.state == "disconnected"
        tried = len(world.tried_at)
        world.feed(Retry(cause))  # type: ignore[arg-type]  # one of the four
        assert world.machine.state == "reconnecting"
        assert len(world.tried_at) == tried + 1
        world.step()
        assert world.machine.retries == 1


def test_unanswered_heartbeat_reconnects_within_interval_and_timeout() -> None:
    world = started()
    world.step()
    world.run(30)
    world.answers = False
    since = world.now
    while world.machine.state == "connected":
        world.step()
    assert world.now - since <= OPTIONS.heartbeat_interval + OPTIONS.heartbeat_timeout + 1
    world.answers = True
    world.run(30)
    assert world.machine.state == "connected"


def test_a_slept_machine_reconnects_at_once() -> None:
    world = started()
    world.step()
    world.run(30)
    world.pass_time(0.5, asleep=3600)
    assert world.opening
    world.step()
    assert world.machine.state == "connected"


def test_a_process_held_up_gives_the_answer_time_to_be_read() -> None:
    """A cell kept the GIL for 40 s: the answer lies unread in the buffer, the socket is alive."""
    world = started()
    world.step()
    world.run(20)
    while not world.beats:
        world.pass_time(1)
    world.pass_time(40)
    assert world.machine.state == "connected"
    world.step()
    assert world.machine.state == "connected"


def test_a_server_that_hangs_up_at_once_is_not_hammered() -> None:
    world = started()
    for _ in range(200):
        world.step()
        play(world, [("close", 1009)])
    assert len(world.tried_at) <= OPTIONS.max_retries + 1 + (world.now - 1000) / 300


def test_a_refused_token_is_refreshed_once() -> None:
    world = started()
    play(world, [("refuse", "auth")])
    assert world.refreshes == 1
    world.feed(Retry("token"))
    play(world, [("refuse", "auth")])
    world.pass_time(20)
    play(world, [("refuse", "auth")])
    assert world.refreshes == 1


def test_told_to_wait_it_waits() -> None:
    world = started()
    play(world, [("refuse", "rate_limit")])
    world.feed(Tick())
    assert world.machine.next_try is not None
    assert world.machine.next_try - world.now >= 5.0


def test_a_day_of_flapping_leaves_nothing_behind() -> None:
    """24 simulated hours, the socket lost every minute, ten channels on it."""
    world, joins, channels = started(), Joins(OPTIONS, lambda: 0.5), set[str]()

    def carry_out(effects: list[Joining]) -> None:
        for effect in effects:
            if isinstance(effect, Join):
                assert effect.topic not in channels
                channels.add(effect.topic)
                carry_out(joins.joined(effect.topic, world.now))
            else:
                channels.discard(effect.topic)

    for number in range(10):
        carry_out(joins.want(f"t{number}", "normal", world.now))
    size = 0
    for minute in range(24 * 60):
        world.run(30)
        carry_out(joins.socket(True, world.now))
        assert len(channels) == 10
        play(world, [("close", 1006)])
        channels.clear()
        carry_out(joins.socket(False, world.now))
        world.run(30)
        world.states.clear()
        world.tried_at.clear()
        assert len(world.open) + len(world.opening) <= 1
        if minute == 10:
            size = len(pickle.dumps((vars(joins)["_topics"], vars(world.machine)["_effects"])))
    assert world.machine.state == "connected"
    assert len(pickle.dumps((vars(joins)["_topics"], vars(world.machine)["_effects"]))) <= size + 64
