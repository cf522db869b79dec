"""Fresh tokens: requested once for all callers, and never on the network's own thread."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supabase_auth.errors import AuthSessionMissingError

from notebook_rt.errors import LoginError, UnreachableError
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.followed import FollowedClient
from notebook_rt.net.login import Login, Token
from notebook_rt.net.loop import shared
from notebook_rt.options import Options
from notebook_rt.sync.connection.metrics import Metrics
from tests.waiting import scaled, throughout, until


def login(credentials: Credentials, url: str = "http://127.0.0.1", **options: Any) -> Login:
    async def taken(token: str | None) -> None:
        credentials.access_token = token

    thread = shared()
    given = credentials, Options(**options), thread, taken, taken, Metrics(), time.time
    return Login(url, *given)


async def ask_at_once(one: Login, token: Token, times: int) -> list[bool]:
    await one.set_auth(token)
    old = one._credentials.access_token
    return await asyncio.gather(*(one.refresh(old) for _ in range(times)))


@pytest.mark.parametrize("way", ["function", "coroutine function"])
def test_many_refused_requests_ask_for_one_token_and_not_on_the_loop(way: str) -> None:
    thread, asked_on = shared(), list[threading.Thread]()

    def fresh() -> str:
        asked_on.append(threading.current_thread())
        time.sleep(0.05)
        return f"token-{len(asked_on)}"

    async def fresh_later() -> str:
        await asyncio.sleep(0)
        return fresh()

    credentials = Credentials("key")
    one = login(credentials)
    found = thread.wait(
        ask_at_once(one, fresh if way == "function" else fresh_later, 20), timeout=scaled(10)
    )
    assert found == [True] * 20
    assert credentials.access_token == "token-2"
    assert len(asked_on) == 2, "once to log in, once for all who were refused"
    on_loop = thread.call(threading.current_thread)
    assert on_loop not in asked_on
    # Whoever was refused with a token that is not the present one has only to try again.
    assert thread.wait(one.refresh("token-1"), timeout=scaled(10))
    assert len(asked_on) == 2


def test_a_token_function_that_raises_is_no_token(caplog: pytest.LogCaptureFixture) -> None:
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)
    answers = iter(["first"])
    assert (
        thread.wait(ask_at_once(one, lambda: next(answers), 3), timeout=scaled(10)) == [False] * 3
    )
    assert credentials.access_token == "first"
    assert "could not be refreshed" in (one._counters.last_error or "")
    assert not caplog.records


@pytest.mark.parametrize("raised", [KeyError("token"), ValueError(), LoginError("url", "why")])
def test_what_a_token_function_raises_is_told_with_its_name(raised: Exception) -> None:
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)

    def give() -> str:
        if credentials.access_token is None:
            return "first"
        raise raised

    assert thread.wait(ask_at_once(one, give, 1), timeout=scaled(10)) == [False]
    told = one._counters.last_error or ""
    named = "url does not sign in: why" if isinstance(raised, LoginError) else repr(raised)
    assert named in told


class Brought:
    """As much of a client of the ``supabase`` package as is asked for a fresh token."""

    def __init__(self, get_session: Callable[[], object]) -> None:
        self.auth = SimpleNamespace(get_session=get_session)


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("raised", [httpx.ConnectError(""), AuthSessionMissingError()])
def test_what_the_client_that_is_followed_raises_is_told_as_the_clients(
    raised: Exception, way: str
) -> None:
    def get_session() -> object:
        raise raised

    async def get_session_later() -> object:
        raise raised

    async def follow() -> FollowedClient:
        client: Any = Brought(get_session if way == "sync" else get_session_later)
        return FollowedClient(client, scaled(5))

    followed = shared().wait(follow(), timeout=scaled(5))
    with pytest.raises(UnreachableError, match=f"supabase client: {type(raised).__name__}"):
        followed.fresh()


def test_a_client_that_gives_no_token_in_time_is_told_so_and_asked_no_more() -> None:
    given_up = threading.Event()

    async def get_session() -> object:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async def follow() -> FollowedClient:
        client: Any = Brought(get_session)
        return FollowedClient(client, 0.05)

    followed = shared().wait(follow(), timeout=scaled(5))
    with pytest.raises(UnreachableError, match=r"no answer in 0\.05 s"):
        followed.fresh()
    assert given_up.wait(scaled(5))


def jwt(seconds: float, name: str = "") -> str:
    """A token that ends in so many seconds."""
    claims = json.dumps({"exp": time.time() + seconds, "name": name}).encode()
    return f"e.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.s"


def ends(one: Login) -> None:
    shared().wait(one.stop(), timeout=scaled(5))


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_token_function_that_ends_python_ends_neither_the_network_thread_nor_who_waits(
    ending: type[BaseException],
) -> None:
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)
    answers = iter(["first"])

    def give() -> str:
        for answer in answers:
            return answer
        raise ending("no token")

    assert thread.wait(ask_at_once(one, give, 3), timeout=scaled(10)) == [False] * 3
    assert thread is shared()
    assert ending.__name__ in (one._counters.last_error or "")


@pytest.mark.parametrize("wrong", [None, 5, b"abc", "", "Bearer abc", "a\r\nX-Evil: 1", "clé"])
def test_what_can_be_no_token_is_refused_and_the_login_stays(wrong: Any) -> None:
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)
    thread.wait(one.set_auth("good"))
    with pytest.raises(
        (TypeError, ValueError), match=r"an access token (must be|is one word)"
    ) as caught:
        thread.wait(one.set_auth(lambda: wrong), timeout=scaled(10))
    assert "Evil" not in str(caught.value)
    if wrong is not None:
        with pytest.raises((TypeError, ValueError)):
            thread.wait(one.set_auth(wrong), timeout=scaled(10))
        with pytest.raises((TypeError, ValueError)):
            Credentials("key", wrong)
    assert credentials.access_token == "good"


def test_who_signs_out_during_a_refresh_stays_signed_out() -> None:
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)
    asked, answer = threading.Event(), threading.Event()

    def give() -> str:
        if credentials.access_token is None:
            return "first"
        asked.set()
        answer.wait(scaled(10))
        return "second"

    thread.wait(one.set_auth(give), timeout=scaled(10))
    refreshed = thread.submit(one.refresh("first"))
    assert asked.wait(scaled(5))
    thread.wait(one.set_auth(None), timeout=scaled(5))
    assert refreshed.result(scaled(5)) is True, "whoever was refused tries again, as who it is now"
    answer.set()
    time.sleep(0.1)
    assert credentials.access_token is None


def test_the_last_of_two_logins_counts_though_the_first_is_slower() -> None:
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)
    answer = threading.Event()
    slow = thread.submit(one.set_auth(lambda: "slow" if answer.wait(scaled(10)) else "late"))
    thread.wait(one.set_auth("quick"), timeout=scaled(5))
    answer.set()
    slow.result(scaled(5))
    assert credentials.access_token == "quick"


def test_a_token_function_that_never_answers_holds_nobody_forever() -> None:
    thread, credentials = shared(), Credentials("key")
    one = login(credentials, request_timeout=0.2)
    answer = threading.Event()
    answers = iter(["first"])
    thread.wait(
        one.set_auth(lambda: next(answers, None) or str(answer.wait(scaled(20)))), timeout=scaled(5)
    )
    assert thread.wait(one.refresh("first"), timeout=scaled(5)) is False
    assert "no answer in 0.2 s" in (one._counters.last_error or "")
    answer.set()


def test_a_short_token_is_refreshed_at_half_its_life_and_one_that_has_ended_not_in_a_storm() -> (
    None
):
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)  # token_margin is 60 s
    given: list[float] = []

    def give(seconds: float) -> str:
        given.append(time.monotonic())
        return jwt(seconds, str(len(given)))

    thread.wait(one.set_auth(lambda: give(4)), timeout=scaled(5))
    until(lambda: len(given) == 3, seconds=15)
    assert given[2] - given[0] > 3
    given.clear()
    thread.wait(one.set_auth(lambda: give(-600)), timeout=scaled(5))  # or a clock that is wrong
    throughout(lambda: len(given) == 1, 2.5, lambda: given)
    ends(one)


def test_a_refresh_that_failed_is_tried_again_before_the_token_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("notebook_rt.net.login.AGAIN_SECONDS", 0.1)
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)
    given = [jwt(6, "first")]
    asked: list[str] = []

    def give() -> str:
        if asked and len(asked) < 2:
            asked.append("failed")
            raise OSError("no network")
        asked.append("given")
        return given[0] if len(asked) == 1 else jwt(600, "second")

    thread.wait(one.set_auth(give), timeout=scaled(5))
    until(lambda: credentials.access_token != given[0], seconds=6)
    assert asked == ["given", "failed", "given"]
    ends(one)


def token(**said: object) -> str:
    return f"x.{base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip('=')}.y"


EACH_TOKEN = ("iat", "nbf", "exp", "jti", "session_id", "aal", "amr", "sid", "auth_time", "fva")
values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b"]),
    lambda some: st.lists(some, max_size=2) | st.dictionaries(st.sampled_from("xy"), some),
    max_leaves=4,
)
own = st.dictionaries(st.sampled_from((*EACH_TOKEN, "user_metadata")), values)
policies = st.dictionaries(
    st.sampled_from(("sub", "role", "org_id", "app_metadata", "email", "tenant", "o")), values
)


@given(policies, policies, own, own)
def test_a_login_is_told_by_what_policies_may_go_by_and_by_nothing_else(
    one: dict[str, Any], other: dict[str, Any], first: dict[str, Any], next_one: dict[str, Any]
) -> None:
    """The same user in another tenant is shown none of its rows; a fresh token costs nothing."""

    def identity(said: dict[str, Any], own: dict[str, Any], key: str = "k") -> tuple[str, ...]:
        return Credentials(key, token(**own, **said)).identity

    def meant(said: dict[str, Any]) -> str:
        text = {name: said[name] for name in said if name not in ("sub", "role")}
        who = [said[name] if isinstance(said.get(name), str) else "" for name in ("sub", "role")]
        return json.dumps([who, text], sort_keys=True)

    backwards = dict(reversed(one.items()))
    assert identity(one, first) == identity(backwards, next_one)
    apart = identity(one, first) != identity(other, next_one)
    assert apart == (meant(one) != meant(other))


def test_another_token_of_the_same_user_is_the_same_identity() -> None:
    ann = Credentials("sb_publishable_x", token(sub="ann", role="authenticated", exp=1)).identity
    later = token(sub="ann", role="authenticated", exp=2, aal="aal2")
    assert Credentials("sb_publishable_x", later).identity == ann
    others = (None, token(sub="ben", role="authenticated"), token(sub="ann", role="auditor"))
    for other in others:
        assert Credentials("sb_publishable_x", other).identity != ann
    nobody = token(role="authenticated", tenant="a", exp=1)
    same = token(role="authenticated", tenant="a", exp=2, jti="x")
    other = token(role="authenticated", tenant="b", exp=1)
    found = [Credentials("sb_publishable_x", one).identity for one in (nobody, same, other)]
    assert found[0] == found[1] != found[2]
    anon = Credentials("sb_publishable_x").identity
    assert anon == Credentials(token(role="anon")).identity
    assert anon != Credentials(token(role="service_role")).identity
