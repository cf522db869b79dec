"""Foreign text is printed to a terminal as text: no escape sequence, no changed direction."""

from __future__ import annotations

import asyncio
import json
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.errors import NotebookRTError
from notebook_rt.quoting import printable
from notebook_rt.runtime import feed, room
from notebook_rt.sync.connection.health import Facts, TableFacts, health
from notebook_rt.sync.connection.metrics import Metrics
from notebook_rt.widgets.base import LiveWidget
from notebook_rt.widgets.presence import PresenceWidget
from notebook_rt.widgets.sources import Person
from tests.relay import Relay
from tests.waiting import scaled

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2066\ud800\r\x00"


def is_safe(text: str) -> bool:
    return not any(c in text for c in "\x1b\x07\x9b\u202e\u2066\ud800\r\x00")


def is_text(text: str) -> bool:
    """Whether a terminal shows all of ``text``, line breaks and tabs included, and obeys none of it."""
    return printable(text, lines=True) == text


@given(st.text(alphabet=st.characters()) | st.text(alphabet="\x1b\x9b\u202e\u2067\n\ta \u200d"))
def test_what_is_printed_has_no_control_characters(text: str) -> None:
    for lines in (False, True):
        said = printable(text, lines=lines)
        assert len(said) == len(text)
        said.encode()
        rest = said.replace("\n", "").replace("\t", "") if lines else said
        assert all(c.isprintable() or c.isspace() or c in "\u200c\u200d" for c in rest)
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in rest)
        assert printable(said, lines=lines) == said


@pytest.mark.parametrize(
    "error",
    [
        errors.UnreachableError("https://x.supabase.co", HOSTILE),
        errors.MissingTableError("public", HOSTILE),
        errors.RefusedError("PATCH /x", 400, "23514", HOSTILE, HOSTILE, HOSTILE),
        errors.ChannelRefusedError(HOSTILE, HOSTILE),
        errors.WaitTimeoutError(HOSTILE),
    ],
)
def test_an_error_shows_hostile_words_as_text(error: NotebookRTError) -> None:
    assert is_safe(str(error))
    assert is_safe(repr(error))
    assert is_safe(str(pickle.loads(pickle.dumps(error))))


def test_the_reason_of_health_is_text() -> None:
    for facts in (
        Facts("reconnecting", reason=HOSTILE),
        Facts("connected", tables=(TableFacts(HOSTILE, "error", error=HOSTILE),)),
        Facts("connected", tables=(TableFacts(HOSTILE, "polling"),)),
    ):
        _, reason, _ = health(facts, slow_ms=500, stale_after=60, poll_interval=5, behind_after=3)
        assert is_safe(reason)
    metrics = Metrics()
    metrics.state("reconnecting", HOSTILE, 1.0)
    assert is_safe(str(metrics.last_error))


class People:
    def people(self) -> list[Person]:
        return [Person("1", HOSTILE)]

    def on_presence(self, fn: object) -> object:
        return lambda: None


def test_presence_as_plain_text_is_text() -> None:
    widget: LiveWidget = PresenceWidget(People())  # type: ignore[arg-type]  # as much as is asked
    assert is_safe(repr(widget))
    assert is_safe(widget._repr_mimebundle_()[0]["text/plain"])


class Hostile(Relay):
    """Answers every request, and every websocket that is asked for, with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("http://127.0.0.1:9")
        self._answer = answer

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self._answer)
            await writer.drain()
        finally:
            writer.close()


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2066"


def answer(status: str, body: str = "", head: str = "Content-Type: application/json") -> bytes:
    content = body.encode()
    length = f"Content-Length: {len(content)}\r\nConnection: close"
    return f"HTTP/1.1 {status}\r\n{head}\r\n{length}\r\n\r\n".encode() + content


def words(code: str = "") -> str:
    said = {"message": ESCAPES, "msg": ESCAPES, "details": ESCAPES, "hint": ESCAPES, "code": code}
    return json.dumps(said, ensure_ascii=False)


ANSWERS = {
    "bad request": answer("400 Bad Request", words("22P02")),
    "no table": answer("404 Not Found", words("42P01")),
    "no right": answer("403 Forbidden", words("42501")),
    "unauthorized": answer("401 Unauthorized", words("PGRST301")),
    "server error": answer("500 Oops", words()),
    "gateway": answer("503 Oops", ESCAPES, "Content-Type: text/html"),
    "portal": answer("200 OK", f"<html>{ESCAPES}</html>", "Content-Type: text/html"),
    "no session": answer("200 OK", words()),
    "session": answer("200 OK", json.dumps({"access_token": ESCAPES, "user": {"id": ESCAPES}})),
    "words in the status line": answer(f"418 {ESCAPES}"),
    "no http": f"{ESCAPES}\r\n\r\n".encode(),
    "an encoding": answer("200 OK", "[]", f"Content-Encoding: {ESCAPES}"),
    "a header": answer("200 OK", "[]", f"{ESCAPES}: x"),
    "a redirect": answer("302 Found", "", f"Location: http://{ESCAPES}/"),
}


def read(rt: nrt.Session) -> None:
    rt.table("t", key="id").wait(scaled(1))


def call(rt: nrt.Session) -> None:
    rt.rpc("f", {})


def sign_in(rt: nrt.Session) -> None:
    rt.sign_in("ada@example.com", "secret")


def flush(rt: nrt.Session) -> None:
    rt.queue.rpc("f", {})
    rt.queue.flush(timeout=scaled(0.5))
    raise errors.QueueError(f"{rt.queue!r} {rt.queue.df.to_string()}")


def join(rt: nrt.Session) -> None:
    rt.channel("room").wait(scaled(1))


@pytest.mark.parametrize("ask", [read, call, sign_in, flush, join])
@pytest.mark.parametrize("hostile", ANSWERS)
def test_a_traceback_shows_a_hostile_servers_words_as_text(
    hostile: str,
    ask: Callable[[nrt.Session], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "PATIENCE", 0.1)
    monkeypatch.setattr(room, "PATIENCE", 0.1)
    with (
        Hostile(ANSWERS[hostile]) as server,
        nrt.connect(server.url, "key", queue_path=tmp_path / "queue") as rt,
    ):
        with pytest.raises(errors.NotebookRTError) as raised:
            ask(rt)
        printed = "".join(traceback.format_exception(raised.value))
        assert is_text(printed), ascii(printed)
