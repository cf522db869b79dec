"""Fresh tokens: asked for once by all who need one, and never on the network's own thread."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from notebook_rt.net.credentials import Credentials
from notebook_rt.net.login import Login, Token
from notebook_rt.net.loop import shared
from notebook_rt.options import Options
from notebook_rt.sync.health import Metrics


def login(credentials: Credentials) -> Login:
    async def taken(token: str | None) -> None:
        credentials.access_token = token

    thread = shared()
    return Login("http://127.0.0.1", credentials, Options(), thread, taken, taken, Metrics())


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
        return f"token {len(asked_on)}"

    async def fresh_later() -> str:
        await asyncio.sleep(0)
        return fresh()

    credentials = Credentials("key")
    one = login(credentials)
    found = thread.wait(
        ask_at_once(one, fresh if way == "function" else fresh_later, 20), timeout=10
    )
    assert found == [True] * 20
    assert credentials.access_token == "token 2"
    assert len(asked_on) == 2, "once to log in, once for all who were refused"
    on_loop = thread.call(threading.current_thread)
    assert on_loop not in asked_on
    # Whoever was refused with a token that is not the present one has only to try again.
    assert thread.wait(one.refresh("token 1"), timeout=10)
    assert len(asked_on) == 2


def test_a_token_function_that_raises_is_no_token(caplog: pytest.LogCaptureFixture) -> None:
    thread, credentials = shared(), Credentials("key")
    one = login(credentials)
    answers = iter(["first"])
    assert thread.wait(ask_at_once(one, lambda: next(answers), 3), timeout=10) == [False] * 3
    assert credentials.access_token == "first"
    assert "could not be refreshed" in (one._counters.last_error or "")
    assert not caplog.records
