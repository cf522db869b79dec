"""A project's address: valid URLs, and who can read the traffic."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator

import httpx
import pytest

import notebook_rt as nrt
from notebook_rt.errors import NotebookRTError, UnreachableError
from notebook_rt.local import LocalStack
from notebook_rt.net.address import is_loopback, project_url
from tests.waiting import scaled, until


class Listener:
    """A proxy that records what it is sent and answers nothing."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    self.heard += client.recv(65536)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """What the environment names as its proxy, for everything."""
    made = Listener()
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, made.url)
    yield made
    made.close()


def test_a_proxy_of_the_environment_hears_nothing_of_this_machine(
    stack: LocalStack, make_table: Callable[..., str], listener: Listener
) -> None:
    name = make_table()
    answer = httpx.post(
        stack.url + "/auth/v1/signup",
        headers={"apikey": stack.anon_key},
        json={"email": "proxied@example.com", "password": "a long password"},
        trust_env=False,
    )
    assert answer.status_code in (200, 422)
    with nrt.connect(stack.url, stack.anon_key) as rt:
        user = None
        with contextlib.suppress(NotebookRTError):
            user = rt.sign_in(email="proxied@example.com", password="a long password")
        rows = rt.table(name)
        with contextlib.suppress(NotebookRTError):
            rows.wait(scaled(2))
            rows.insert(id=1, name="a")
        until(lambda: len(rt.queue) == 0 or listener.heard)
        assert not listener.heard, bytes(listener.heard[:60])
        assert user is not None
        until(lambda: rows.status == "live", what=lambda: repr(rows))


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:54321", True),
        ("http://LOCALHOST.", True),
        ("http://app.localhost", True),
        ("http://127.0.0.1", True),
        ("https://127.9.9.9", True),
        ("http://[::1]:8000", True),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://192.168.0.1", False),
        ("https://abc.supabase.co", False),
    ],
)
def test_what_is_on_this_machine(url: str, here: bool) -> None:
    assert is_loopback(url) is here


def test_a_key_over_http_to_another_host_is_warned_of() -> None:
    with (
        pytest.warns(UserWarning, match=r"in clear.*use https") as said,
        nrt.connect("http://project.invalid", "a_key"),
    ):
        pass
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nrt.connect("https://project.invalid", "a_key").close()
        nrt.connect("http://127.0.0.1:9", "a_key").close()


@pytest.mark.parametrize(
    "tail", ["?apikey=secret", "/?apikey=secret", "#secret", "/rest/v1?a=secret"]
)
def test_a_url_with_a_query_or_a_fragment_is_refused(tail: str) -> None:
    with pytest.raises(UnreachableError, match="a query or a fragment") as caught:
        project_url("https://abc.supabase.co" + tail)
    assert "secret" not in str(caught.value)
