"""What other people wrote reaches a terminal as text: no escape sequence, no turned direction."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt import errors
from notebook_rt.errors import NotebookRTError, printable
from notebook_rt.sync.connection.health import Facts, Metrics, TableFacts, health
from notebook_rt.widgets.base import LiveWidget
from notebook_rt.widgets.presence import PresenceWidget
from notebook_rt.widgets.sources import Person

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2066\ud800\r\x00"


def is_safe(text: str) -> bool:
    return not any(c in text for c in "\x1b\x07\x9b\u202e\u2066\ud800\r\x00")


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
        _, reason = health(facts, slow_ms=500, stale_after=60, poll_interval=5, behind_after=3)
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
