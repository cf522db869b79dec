"""A session manages itself: login, health, places, lazy tables, a busy kernel."""

from __future__ import annotations

import gc
import itertools
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import notebook_rt as nrt
from notebook_rt import errors, local
from notebook_rt.local import LocalStack, start
from notebook_rt.runtime.host import Run
from notebook_rt.session import connected
from tests.proxy import Answer, Cut, Delay, Proxy
from tests.waiting import scaled, throughout, until

_numbers = itertools.count(time.monotonic_ns())
SWIFT = nrt.Options(
    backoff_base=0.1, backoff_max=0.5, poll_interval=0.3, poll_max=0.5, audit_interval=0
)


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key, options=SWIFT) as session:
        yield session


# Who we are -------------------------------------------------------------------------------------


@pytest.fixture
def user(stack: LocalStack) -> dict[str, str]:
    credentials = {"email": f"u{next(_numbers)}@example.com", "password": "correct horse"}
    answer = httpx.post(
        f"{stack.url}/auth/v1/signup", json=credentials, headers={"apikey": stack.anon_key}
    )
    answer.raise_for_status()
    return credentials


def started(code: str, word: str) -> subprocess.Popen[str]:
    """A script with this code, from the moment on in which it has printed ``word``."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"
    return process


def test_signing_in_shows_the_rows_of_the_user_and_signing_out_hides_them(
    stack: LocalStack, make_table: Callable[..., str], user: dict[str, str]
) -> None:
    table = make_table("id bigint primary key, owner uuid default auth.uid(), name text")
    stack.sql(f"alter table {table} enable row level security")
    stack.sql(f"create policy own on {table} using (owner = auth.uid())")
    with nrt.connect(stack.url, stack.anon_key, options=SWIFT) as rt:
        frame = rt.table(table)
        assert len(frame.df) == 0
        assert rt.user is None
        me = rt.sign_in(**user)
        assert rt.user == me
        # A cell's last line is written into the notebook: who, and not what else the server knows.
        assert repr(me) == f"<User {user['email']}, id {me['id']}; dict(rt.user) has everything>"
        assert "identities" in dict(me)
        stack.sql(f"insert into {table} values (1, '{me['id']}', 'mine'), (2, null, 'nobodys')")
        until(lambda: list(frame.df.index) == [1], what=lambda: frame)
        stack.sql(f"insert into {table} values (3, '{me['id']}', 'mine too')")
        until(lambda: list(frame.df.index) == [1, 3], what=lambda: frame)
        rt.sign_out()
        assert rt.user is None
        until(lambda: len(frame.df) == 0, what=lambda: frame)
        rt.sign_out()  # nobody is signed in: nothing happens


def test_signing_in_without_a_password(stack: LocalStack) -> None:
    email = f"u{next(_numbers)}@example.com"
    with nrt.connect(stack.url, stack.anon_key, options=SWIFT) as rt:
        with pytest.raises(errors.LoginError, match="Signups not allowed"):
            rt.send_code(email, create_user=False)
        rt.send_code(email)
        assert rt.user is None
        mail = stack.mails[-1]
        assert mail.recipient == email
        with pytest.raises(errors.LoginError, match="expired or is invalid"):
            rt.sign_in(email, code=f"{(int(mail.code) + 1) % 10**6:06}")
        me = rt.sign_in(email, code=f"{mail.code[:3]} {mail.code[3:]}")
        assert rt.user == me
        assert me["email"] == email
        with pytest.raises(errors.LoginError, match="expired or is invalid"):
            rt.sign_in(email, code=mail.code)
        assert rt.user == me, "who fails to sign in stays who they are"

        rt.send_code(email)
        assert rt.sign_in(link=stack.mails[-1].link)["id"] == me["id"]

        rt.send_code(email)
        page = httpx.get(stack.mails[-1].link).headers["Location"]
        assert page.startswith("http://localhost:3000#")
        assert rt.sign_in(link=page)["id"] == me["id"]

        somebody = rt.sign_in(anonymous=True)
        assert somebody["is_anonymous"]
        assert rt.user == somebody

        rt.set_auth(stack.token("authenticated", "00000000-0000-0000-0000-000000000001"))
        assert rt.user is not None
        assert rt.user["id"] == "00000000-0000-0000-0000-000000000001"


def test_who_signs_up_is_signed_in_or_has_to_confirm_the_address(
    stack: LocalStack, stack_directory: Path
) -> None:
    email = f"u{next(_numbers)}@example.com"
    with nrt.connect(stack.url, stack.anon_key, options=SWIFT) as rt:
        me = rt.sign_up(email, "correct horse", data={"name": "Ada"})
        assert rt.user == me
        assert me["user_metadata"]["name"] == "Ada"
        with pytest.raises(errors.LoginError, match="already registered"):
            rt.sign_up(email, "correct horse")
        with pytest.raises(errors.LoginError, match="at least 6") as refused:
            rt.sign_up(f"x{email}", "short")
        assert "sign_in" not in str(refused.value)
        with pytest.raises(TypeError, match="an address and a password"):
            rt.sign_up(email)
    with (
        start(stack_directory, options=local.StackOptions(email_confirmation=True)) as strict,
        nrt.connect(strict.url, strict.anon_key, options=SWIFT) as rt,
    ):
        rt.sign_up(email, "correct horse")
        assert rt.user is None
        with pytest.raises(errors.LoginError, match="Email not confirmed"):
            rt.sign_in(email, "correct horse")
        rt.sign_in(link=strict.mails[-1].link)
        assert rt.user is not None
        rt.sign_out()
        assert rt.sign_in(email, "correct horse")["email"] == email


def test_a_wrong_password_is_an_auth_error(stack: LocalStack, user: dict[str, str]) -> None:
    with (
        nrt.connect(stack.url, stack.anon_key) as rt,
        pytest.raises(errors.AuthError) as caught,
    ):
        rt.sign_in(email=user["email"], password="wrong battery")
    assert "wrong battery" not in str(caught.value)


def test_a_token_is_refreshed_before_it_ends(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table()
    given: list[float] = []

    def fresh() -> str:
        given.append(time.monotonic())
        return stack.token("authenticated", "00000000-0000-0000-0000-000000000001", 3)

    options = nrt.Options(token_margin=1.5, audit_interval=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        rt.set_auth(fresh)
        frame = rt.table(table).wait(scaled(10))
        until(lambda: len(given) >= 4, seconds=15)
        assert frame.status in ("live", "stale")  # a new token makes the server bind again
        assert rt.metrics["disconnects"] == 0
        stack.sql(f"insert into {table} values (1, 'a')")
        until(lambda: len(frame.df) == 1)


def test_a_failed_table_comes_to_life_with_the_right_login(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"revoke all on {table} from anon")
    stack.sql(f"insert into {table} values (1, 'a')")
    with nrt.connect(stack.url, stack.anon_key, options=SWIFT) as rt:
        frame = rt.table(table)
        with pytest.raises(errors.PermissionDeniedError):
            frame.wait(scaled(10))
        rt.set_auth(stack.token("authenticated", "00000000-0000-0000-0000-000000000001", 600))
        assert len(frame.wait(scaled(10)).df) == 1


@pytest.fixture
def only_users(stack: LocalStack, make_table: Callable[..., str]) -> str:
    """A table that whoever has not signed in sees nothing of."""
    table = make_table()
    stack.sql(f"alter table {table} enable row level security")
    stack.sql(f"create policy own on {table} for select to authenticated using (true)")
    return table


@pytest.mark.parametrize(
    ("url", "who", "rows"),
    [("local", set(), 0), ("local", {"key"}, 1), ("local", {"access_token"}, 1)],
)
def test_the_local_stack_takes_the_key_and_the_token_it_is_given(
    stack: LocalStack,
    only_users: str,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    who: set[str],
    rows: int,
) -> None:
    stack.sql(f"insert into {only_users} values (1, 'a', 1)")
    monkeypatch.setattr(local, "start", lambda: start(stack.directory))
    monkeypatch.setenv("SUPABASE_KEY", "another project's")
    every = {"key": stack.service_key, "access_token": stack.token("authenticated", ttl=600)}
    with nrt.connect(url, options=SWIFT, **{name: every[name] for name in who}) as rt:
        assert rt.stack is not None
        assert len(rt.table(only_users).wait(scaled(10))) == rows
        rt.stack.stop()


def deaf(stack: LocalStack, frame: nrt.LiveFrame, table: str) -> None:
    """What is written now does not come, though it would by now."""
    until(lambda: frame.status == "live", what=lambda: frame)
    for number in range(3):
        stack.sql(f"insert into {table} values ({100 + number}, 'secret', 1)")
        throughout(lambda: len(frame.df) == 0, 0.5, lambda: frame)


@pytest.mark.parametrize("key", ["anon_key", "publishable_key"])
def test_who_signed_out_hears_no_more_of_what_the_user_may_see(
    stack: LocalStack, only_users: str, key: str
) -> None:
    with nrt.connect(stack.url, getattr(stack, key), options=SWIFT) as rt:
        rt.set_auth(stack.token("authenticated", ttl=600))
        frame = rt.table(only_users).wait(scaled(10))
        until(lambda: frame.status == "live")
        stack.sql(f"insert into {only_users} values (1, 'seen', 1)")
        until(lambda: len(frame.df) == 1)
        rt.set_auth(None)
        until(lambda: len(frame.df) == 0, what=lambda: frame)
        # The server makes the bindings of a new token within one second (docs/design/wire.md).
        throughout(lambda: len(frame.df) == 0, 2.0, lambda: frame)
        deaf(stack, frame, only_users)


def test_who_signed_out_during_a_join_hears_nothing_of_what_the_user_may_see(
    stack: LocalStack, proxy: Proxy, only_users: str
) -> None:
    with nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt:
        rt.set_auth(stack.token("authenticated", ttl=600))
        rt.channel("warm").wait(scaled(10))
        proxy.rules = (Delay(kind="reply", seconds=1.0),)
        frame = rt.table(only_users)
        until(lambda: "joining" in rt._project.connection.registry.channels().values())
        rt.set_auth(None)
        proxy.heal()
        frame.wait(scaled(10))
        throughout(lambda: len(frame.df) == 0, 3.0, lambda: frame)
        deaf(stack, frame, only_users)


def test_a_token_that_the_server_calls_expired_is_refreshed_whatever_this_clock_says(
    stack: LocalStack, proxy: Proxy, make_table: Callable[..., str]
) -> None:
    given: list[str] = []

    def fresh() -> str:
        given.append(
            stack.token("authenticated", f"0000000{len(given)}-0000-0000-0000-000000000001")
        )
        return given[-1]

    with nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt:
        rt.set_auth(fresh)
        channel = rt.channel("room").wait(scaled(10))
        proxy.close_channels("Token has expired 0 seconds ago")
        until(lambda: len(given) == 2)
        channel.wait(scaled(10))
        assert rt._project.credentials.access_token == given[1]


# How it goes ------------------------------------------------------------------------------------


def test_health_says_the_worst_that_is_true_and_green_when_all_is_well(
    stack: LocalStack, proxy: Proxy, make_table: Callable[..., str]
) -> None:
    frame_table = make_table()
    with nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt:
        frame = rt.table(frame_table).wait(scaled(10))
        until(lambda: rt.health.status == "healthy", what=lambda: rt.health)
        assert rt.health.color == "green"
        proxy.rules = (Cut(path="/websocket"),)
        proxy.close_sockets()
        until(lambda: rt.health.status == "polling", what=lambda: (rt.health, frame))
        assert re.search(r"data refreshes every 0\.\d+ s", rt.health.reason)
        proxy.down()
        until(lambda: rt.health.status == "offline", what=lambda: (rt.health, frame))
        assert rt.health.color == "red"
        proxy.rules = ()
        proxy.up()
        until(lambda: rt.health.status == "healthy", what=lambda: (rt.health, frame))
        metrics = rt.metrics
        assert metrics["disconnects"] >= 1
        assert metrics["gaps"] >= 1
        assert metrics["latency_p50_ms"] > 0
        assert metrics.df.loc["status", "value"] == "connected"
    assert rt.health.status == "closed"


def test_over_the_limit_the_least_important_table_polls_and_comes_back(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    options = nrt.Options(max_channels=2, poll_interval=0.2, poll_max=0.3, audit_interval=0)
    tables = [make_table() for _ in range(3)]
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        low = rt.table(tables[0], priority="low").wait(scaled(10))
        until(lambda: low.status == "live")
        others = [rt.table(name).wait(scaled(10)) for name in tables[1:]]
        until(lambda: all(frame.status == "live" for frame in others))
        until(lambda: low.status == "polling", what=lambda: low)
        stack.sql(f"insert into {tables[0]} values (1, 'a')")
        until(lambda: len(low.df) == 1)
        others[0].close()
        until(lambda: low.status == "live", what=lambda: low)


def test_a_table_that_more_look_at_keeps_its_channel_and_so_does_a_higher_priority(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    options = nrt.Options(max_channels=1, poll_interval=0.2, poll_max=0.3, audit_interval=0)
    first, second = make_table(), make_table()
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        a, b = rt.table(first).wait(scaled(10)), rt.table(second).wait(scaled(10))
        until(lambda: (a.status, b.status) == ("live", "polling"), what=lambda: (a, b))
        another = rt.table(second)
        until(lambda: (a.status, b.status) == ("polling", "live"), what=lambda: (a, b))
        another.close()
        until(lambda: (a.status, b.status) == ("live", "polling"), what=lambda: (a, b))
        urgent = rt.table(second, priority="high")
        until(lambda: (a.status, urgent.status) == ("polling", "live"), what=lambda: (a, b))


def test_one_table_with_two_ways_to_merge_is_two_live_tables(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    frames = [
        rt.table(table, merge=way).wait(scaled(10)) for way in (None, "server", {"price": "delta"})
    ]
    until(lambda: [frame.status for frame in frames] == ["live"] * 3, seconds=4)
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    until(lambda: [len(frame.df) for frame in frames] == [1] * 3)
    with pytest.raises(errors.MissingColumnError, match="prise"):
        rt.table(table, merge={"prise": "delta"}).wait(scaled(10))


def test_after_a_wrong_token_the_right_one_is_live_at_once(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table()
    # Only a try from zero comes so soon.
    options = nrt.Options(backoff_base=60.0, backoff_max=60.0, jitter=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        frame = rt.table(table).wait(scaled(10))
        until(lambda: frame.status == "live")
        rt.set_auth("eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.Z2FyYmFnZQ")
        until(lambda: frame.status == "stale", what=lambda: frame)
        until(lambda: "refuses the key or token" in rt.health.reason, what=lambda: rt.health)
        rt.set_auth(None)
        until(lambda: frame.status == "live", what=lambda: frame)


def test_what_is_called_every_so_often_is_called_until_the_session_ends(
    stack: LocalStack, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []
    with nrt.connect(stack.url, stack.anon_key) as rt:
        with pytest.raises(ValueError, match="seconds above 0, not 0"):
            rt.every(0, print)

        def call() -> None:
            calls.append(time.monotonic())
            if len(calls) == 1:
                raise RuntimeError("the first")

        stop = rt.every(0.05, call)
        until(lambda: len(calls) >= 4)
        stop()
        stopped = len(calls)
        rt.every(0.05, lambda: calls.append(0.0))
        until(lambda: len(calls) > stopped + 1)
        assert sum("raised" in record.message for record in caplog.records) == 1
    ended = len(calls)
    throughout(lambda: len(calls) <= ended + 1, 0.3)


def test_who_takes_longer_than_the_time_between_calls_is_not_called_twice_at_once(
    rt: nrt.Session,
) -> None:
    inside: list[int] = []
    most: list[int] = []
    continue_from = threading.Event()

    def slow() -> None:
        inside.append(1)
        most.append(len(inside))
        continue_from.wait(scaled(0.2))
        inside.pop()

    rt.every(0.01, slow)
    until(lambda: len(most) >= 3)
    continue_from.set()
    assert max(most) == 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"limit": "5"}, errors.FilterError),
        ({"limit": 0}, errors.FilterError),
        ({"priority": "urgent"}, ValueError),
        ({"dtype_backend": "arrow"}, ValueError),
        ({"merge": "mine"}, ValueError),
    ],
)
def test_a_wrong_option_is_refused_at_once(
    rt: nrt.Session, wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=str(next(iter(wrong.values())))):
        rt.table("anything", **wrong)


def test_what_is_no_function_is_no_callback(
    rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    with pytest.raises(TypeError, match="on_change needs a function to call, not 'print'"):
        rt.table(make_table()).on_change("print")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_change needs a function to call, not 3"):
        rt.table(make_table()).map(len).on_change(3)  # type: ignore[arg-type]


def test_a_lazy_table_is_not_left_while_somebody_waits_for_its_first_rows(
    stack: LocalStack, proxy: Proxy, make_table: Callable[..., str]
) -> None:
    """Who waited longer than ``lazy_after`` waited for ever."""
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a')")
    options = nrt.Options(lazy_after=1.0, backoff_base=0.2, backoff_max=0.5)
    with (
        ThreadPoolExecutor() as threads,
        nrt.connect(proxy.url, stack.anon_key, options=options) as rt,
    ):
        proxy.rules = (Answer(status=503),)
        frame = rt.table(table, lazy=True)
        rows = threads.submit(lambda: len(frame.df))
        until(lambda: proxy.counts["Answer"] > 0)
        try:
            throughout(lambda: frame.reason != "nobody looks", 2.5, lambda: frame)
        finally:
            proxy.heal()
        assert rows.result(scaled(20)) == 1
        until(lambda: frame.reason == "nobody looks", what=lambda: frame)


def test_a_lazy_table_subscribes_when_looked_at_and_leaves_when_not(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a')")
    options = nrt.Options(lazy_after=1.0, poll_interval=0.1, poll_max=0.2)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        frame = rt.table(table, lazy=True)
        time.sleep(0.2)
        assert rt.metrics["requests"] == 0
        assert rt.metrics["channels"] == 0
        assert len(frame.df) == 1
        # Who looks keeps it joined; the rows may be there before the join is.
        until(lambda: len(frame.df) == 1 and rt.metrics["channels"] == 1)
        until(lambda: rt.metrics["channels"] == 0, seconds=8)
        asked = rt.metrics["requests"]
        # Nor does it poll.
        throughout(lambda: rt.metrics["requests"] <= asked + 1, 0.5, lambda: rt.metrics)
        stack.sql(f"insert into {table} values (2, 'b')")
        assert len(frame.df) == 2  # whoever looks again waits for the truth


def test_presence_is_tracked_again_after_the_socket_was_lost(
    stack: LocalStack, proxy: Proxy
) -> None:
    topic = f"presence_{next(_numbers)}"
    with (
        nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt,
        nrt.connect(stack.url, stack.anon_key) as other,
    ):
        watching = other.channel(topic).presence
        rt.channel(topic).presence.track(name="me")
        until(lambda: list(watching.df.get("name", [])) == ["me"])
        for code in (1006, 1012):
            gone: list[Any] = []
            watching.on_leave(gone.append)
            proxy.close_sockets(code)
            until(lambda gone=gone: gone)
            until(lambda: list(watching.df.get("name", [])) == ["me"], what=lambda: watching.df)


def test_names_that_could_not_be_resolved_are_asked_for_again(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, known = socket.getaddrinfo, False

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host in ("localhost", b"localhost"):
            if not known:
                raise socket.gaierror(-2, "Name or service not known")
            host = "127.0.0.1"
        return resolve(host, *args, **options)

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    url = stack.url.replace("127.0.0.1", "localhost")
    with nrt.connect(url, stack.anon_key, options=SWIFT) as rt:
        frame = rt.table(make_table())
        with pytest.raises(errors.UnreachableError, match="Name or service not known"):
            frame.wait()
        assert rt.health.status == "offline"
        known = True
        until(lambda: frame.status == "live", what=lambda: frame)


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (
            404,
            b'{"message": "no Route"}',
            errors.UnreachableError,
            "answers 404 to POST /auth/v1/tok",
        ),
        (404, b"<html>", errors.UnreachableError, "project: this is no Supabase project, or is a"),
        (302, b"<html>", errors.UnreachableError, "answers 302 to POST /auth/v1/token with a web"),
        (403, b"<html>", errors.UnreachableError, "grants and policies were not asked"),
        (500, b"<html>", errors.ServerError, "answered 500: a web page"),
        (
            540,
            b'{"message": "Project paused"}',
            errors.ServerError,
            "Project paused. The project is",
        ),
        (429, b'{"msg": "Slow down"}', errors.RateLimitedError, "Slow down). Try again in 7 s"),
        (401, b'{"message": "Invalid API key"}', errors.AuthError, "refuses the key (it says: Inv"),
        (
            400,
            b'{"msg": "No such user"}',
            errors.LoginError,
            "No such user. It takes sign_in(email",
        ),
    ],
)
def test_an_answer_that_signs_nobody_in_is_told_by_what_it_is(
    stack: LocalStack, proxy: Proxy, status: int, body: bytes, error: type[Exception], says: str
) -> None:
    with nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt:
        proxy.rules = (Answer(status=status, body=body, retry_after=7, path="/auth/v1"),)
        with pytest.raises(error, match=re.escape(says)) as caught:
            rt.sign_in("ada@example.com", "correct horse")
        assert type(caught.value) is error
        assert rt.user is None


def test_what_is_asked_once_is_not_said_to_be_asked_again(stack: LocalStack, proxy: Proxy) -> None:
    with nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt:
        for status, error in ((503, errors.ServerError), (429, errors.RateLimitedError)):
            proxy.rules = (Answer(status=status, path="/rest"),)
            for ask in (lambda: rt.rpc("add", {"a": 1}), lambda: rt.tables):
                with pytest.raises(error, match=r"\. Try again (later|in a minute)$"):
                    ask()


def test_who_waits_in_vain_is_told_what_the_server_answers(
    stack: LocalStack, proxy: Proxy, make_table: Callable[..., str]
) -> None:
    with nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt:
        proxy.rules = (Answer(status=503, path="/rest"),)
        frame = rt.table(make_table())
        until(lambda: proxy.counts["Answer"] > 0)
        with pytest.raises(errors.WaitTimeoutError, match=r"answered 503"):
            frame.wait(0.5)
        assert (frame.status, "answered 503" in frame.reason) == ("loading", True)
        proxy.heal()
        frame.wait(scaled(10))


def test_a_channel_over_the_servers_limit_says_so_and_the_least_important_are_out(
    stack: LocalStack,
) -> None:
    options = nrt.Options(max_channels=150, join_rate=1000.0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        high = [rt.channel(f"high {number}", priority="high") for number in range(60)]
        for channel in high:
            channel.wait(scaled(20))
        low = [rt.channel(f"low {number}", priority="low") for number in range(50)]
        until(lambda: "ChannelRateLimitReached" in str(rt.metrics["last_error"]), seconds=20)
        until(lambda: sum(channel.status == "joined" for channel in low) == 40, seconds=20)
        with pytest.raises(errors.WaitTimeoutError, match="says: ChannelRateLimitReached"):
            next(channel for channel in low if channel.status != "joined").wait(0.5)
        assert all(channel.status == "joined" for channel in high)
        assert rt.metrics["disconnects"] == 0


@pytest.mark.nightly
def test_a_process_that_was_stopped_for_a_while_is_live_again_at_once(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    """As on a laptop that sleeps, but for its clock, which goes on."""
    table = make_table()
    code = f"""
    import sys, notebook_rt as nrt
    with nrt.connect({stack.url!r}, {stack.anon_key!r}) as rt:
        frame = rt.table({table!r}).wait({scaled(10)})
        print("live", flush=True)
        sys.stdin.readline()
        changes = frame.changes(timeout={scaled(10)})
        print(len(frame.df) or len(next(changes)), frame.df.loc[1, "name"], rt.metrics["disconnects"])
    """
    process = started(code, "live")
    process.send_signal(signal.SIGSTOP)
    stack.sql(f"insert into {table} values (1, 'meanwhile', 1)")
    time.sleep(20)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate("\n", timeout=scaled(30))
    assert out == "1 meanwhile 0\n"
    assert process.returncode == 0


def test_broadcasts_go_on_after_the_socket_was_lost(stack: LocalStack, proxy: Proxy) -> None:
    topic = f"lost_{next(_numbers)}"
    heard: list[int] = []
    with nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt:
        channel = rt.channel(topic).wait(scaled(10))
        channel.on("e", lambda payload: heard.append(payload["n"]))
        with nrt.connect(stack.url, stack.anon_key) as other:
            sender = other.channel(topic).wait(scaled(10))
            sender.send("e", {"n": 1})
            until(lambda: heard == [1])
            proxy.close_sockets()
            until(lambda: channel.status == "waiting")
            channel.wait(scaled(10))
            sender.send("e", {"n": 2})
            until(lambda: heard == [1, 2])


def test_no_task_channel_or_thread_is_left_after_many_reconnects_and_sessions(
    stack: LocalStack, proxy: Proxy, make_table: Callable[..., str]
) -> None:
    import asyncio

    from notebook_rt.net.loop import shared

    table = make_table()

    def tasks() -> int:
        return shared().call(lambda: len(asyncio.all_tasks(shared().loop)))

    before, threads = tasks(), threading.active_count()
    for _ in range(3):
        with nrt.connect(proxy.url, stack.anon_key, options=SWIFT) as rt:
            frame = rt.table(table).wait(scaled(10))
            for _ in range(5):
                until(lambda frame=frame: frame.status == "live")
                proxy.close_sockets()
                until(lambda frame=frame: frame.status != "live")
            until(lambda frame=frame: frame.status == "live")
            assert rt.metrics["channels"] == 1
            assert proxy.sockets == 1
    until(lambda: tasks() <= before, what=tasks)
    assert threading.active_count() <= threads + 1


def test_a_cell_that_is_run_again_replaces_the_listeners_it_had_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[tuple[int, str]] = []
    with nrt.connect("http://127.0.0.1:9", "key") as rt:
        for number in (1, 2):
            monkeypatch.setattr(
                "notebook_rt.runtime.callbacks.running", lambda at=number: Run("a", at)
            )
            rt.on_note(lambda kind, text, at=number: heard.append((at, text)))  # type: ignore[misc]
        rt._thread.call(rt._project.note, "info", "a test")
        until(lambda: (2, "a test") in heard)
        rt._thread.call(rt._project.note, "info", "its end")
        until(lambda: (2, "its end") in heard)
    assert (1, "a test") not in heard


def test_a_cell_that_is_run_again_lets_go_of_the_callbacks_it_had_registered(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(make_table()).wait(scaled(20))
        presence = rt.channel("lets_go").presence
        held: list[weakref.ref[Any]] = []
        for number in range(3):
            run = Run("a", number)
            monkeypatch.setattr("notebook_rt.runtime.callbacks.running", lambda run=run: run)

            def hear(*told: Any) -> None:
                """Heard by nobody once the cell is run again."""

            held.append(weakref.ref(hear))
            frame.on_change(hear)
            frame.when("id=gt.1", hear)
            frame.on_merge(hear)
            frame.map(hear)
            presence.on_change(hear)
            del hear

        def gone() -> bool:
            gc.collect()
            return held[0]() is held[1]() is None

        until(gone, 10)
        assert held[2]() is not None


def test_a_cell_that_connects_again_closes_what_it_had_connected(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(cell: str, number: int) -> nrt.Session:
        monkeypatch.setattr("notebook_rt.session.running", lambda: Run(cell, number))
        return nrt.connect(stack.url, stack.anon_key)

    table = make_table()
    first, second = run("connect", 1), run("connect", 1)  # one run may connect twice
    other = run("another", 2)
    frames = [each.table(table).wait(scaled(10)) for each in (first, second, other)]
    for frame in frames:
        frame.on_change(print)
    with run("connect", 3) as anew:
        until(lambda: [frame.status for frame in frames[:2]] == ["closed", "closed"])
        now = anew.table(table).wait(scaled(10))
        until(lambda: [now.status, frames[2].status] == ["live", "live"])
    other.close()


def test_a_cell_that_connects_to_two_projects_closes_the_old_session_of_each(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table()
    frames: list[nrt.LiveTable] = []
    for number in (1, 2):
        for project in ("one", "two"):
            running = Run("both", number)
            monkeypatch.setattr("notebook_rt.session.running", lambda running=running: running)
            session = connected(nrt.Session(stack.url, stack.anon_key), project)
            frames.append(session.table(table).wait(scaled(10)))
            frames[-1].on_change(print)
    wanted = ["closed", "closed", "live", "live"]
    until(lambda: [frame.status for frame in frames] == wanted)
    session.close()
    frames[2].close()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [5, pytest.param(90, marks=pytest.mark.nightly)])
@pytest.mark.timeout(200)
def test_a_cell_that_computes_keeps_the_connection_and_the_presence(
    stack: LocalStack, make_table: Callable[..., str], seconds: int
) -> None:
    """The GIL is held in Python code; the network thread still gets its turns."""
    table, topic = make_table(), f"busy_{next(_numbers)}"
    code = f"""
    import sys, threading, notebook_rt as nrt
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
    options = nrt.Options(heartbeat_interval=1.0, heartbeat_timeout=2.0, audit_interval=0)
    with nrt.connect({stack.url!r}, {stack.anon_key!r}, options=options) as rt:
        rt.channel({topic!r}).presence.track(name="busy")
        frame = rt.table({table!r}).wait({scaled(10)})
        print("computing", flush=True)
        n = 0
        while not told.is_set():
            n += sum(i * i for i in range(1000))
        print(rt.metrics["disconnects"], len(frame.df), rt.metrics["lag_p95_ms"] is not None)
    """
    process = started(code, "computing")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        presence = rt.channel(topic).presence
        until(lambda: len(presence.df) == 1)
        left: list[Any] = []
        presence.on_leave(left.append)
        for number in range(seconds):
            stack.sql(f"insert into {table} values ({number}, 'x', 1.5)")
            throughout(lambda: not left, 1.0, lambda: left)
        out, _ = process.communicate(timeout=scaled(60))
    assert out == f"0 {seconds} True\n"
