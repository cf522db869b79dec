"""Health, queue, presence, notes, status bar: their messages to a browser, and their text without one."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import weakref
from html import escape
from html.parser import HTMLParser

import pytest

from notebook_rt.widgets import (
    ChartWidget,
    GridWidget,
    HealthWidget,
    NotesWidget,
    PresenceWidget,
    QueueWidget,
    StatusBar,
)
from notebook_rt.widgets.base import HERE, built, pump
from notebook_rt.widgets.health import COLORS, COMPARING, HealthState, health_html
from notebook_rt.widgets.notes import SHOWN, NotesState
from notebook_rt.widgets.presence import initials, presence_html, presence_state
from notebook_rt.widgets.queue import queue_state
from notebook_rt.widgets.sources import HealthReport, Note, Person, QueuedWrite
from notebook_rt.widgets.state import StateModel
from tests.browser import scenes
from tests.waiting import until
from tests.widgets.memory import (
    HOSTILE,
    MemoryHealth,
    MemoryNotes,
    MemoryPresence,
    MemoryQueue,
    ago,
)

WIDGETS = ["chart", "grid", "health", "notes", "presence", "queue", "statusbar"]


@pytest.mark.parametrize("name", [*WIDGETS, "gridview"])
def test_a_widget_s_module_is_one_valid_module_without_imports(name, tmp_path):
    text = built(f"{name}.js")
    path = tmp_path / f"{name}.mjs"
    path.write_text(text)
    assert subprocess.run(["node", "--check", path], capture_output=True).returncode == 0
    assert not re.search(r"\bimport\b(?!\()", text)
    assert text.count("as default") == 1


@pytest.mark.parametrize("name", WIDGETS)
def test_code_and_style_are_small_enough_for_a_saved_notebook(name):
    assert len(built(f"{name}.js")) + len(built(f"{name}.css")) < 21_000


def test_the_grid_asks_for_the_libraries_that_the_kernel_has():
    """``build.mjs`` and ``grid.py`` name them after their content: a stale bundle would wait for ever."""
    for name in GridWidget.libraries:
        assert name in built("grid.js")


@pytest.mark.parametrize("path", sorted(HERE.glob("*.js")), ids=lambda path: path.name)
def test_no_widget_writes_html(path):
    text = path.read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text


@pytest.mark.parametrize("state", COLORS)
def test_every_state_of_health_has_a_word_a_colour_and_four_sentences(state):
    drawn = HealthState(scenes.health_source(state))()
    assert drawn["word"]
    assert drawn["colour"] in {"green", "yellow", "red", "grey"}
    assert len(set(drawn["sentences"])) == 4
    assert [trend["name"] for trend in drawn["trends"]] == ["Changes a second", "Lag", "Latency"]


def test_how_far_behind_and_when_the_next_audit_is_are_said_in_words():
    """In the widget and without a browser: never by the colour alone."""
    source = scenes.health_source("behind")
    drawn = HealthState(source)()
    assert (drawn["word"], drawn["colour"]) == ("Behind", "yellow")
    widget = StatusBar(source)
    said = " ".join([*drawn["sentences"], drawn["audits"]])
    for text in (said, widget._repr_mimebundle_()[0]["text/html"]):
        assert "17 s behind the server: positions; 1,240 changes wait" in text
        assert "The next audit is in 2 s" in text
    widget.close()


def test_the_button_compares_once_at_a_time_and_says_what_was_found():
    source = MemoryHealth()
    widget = HealthWidget(source)
    state = widget._link.model._parts["health"]
    press = {"view": "v", "t": "verify"}
    widget._enqueue(widget, press, [])
    until(lambda: len(source.verified) == 1)
    assert (state()["compared"], state()["comparing"]) == (COMPARING, True)
    widget._enqueue(widget, press, [])
    widget._enqueue(widget, {"view": "v", "t": "look"}, [])
    until(lambda: widget.seen)
    pump.act(lambda: source.verified.append(None))  # after what was asked before
    until(lambda: len(source.verified) >= 2)
    assert source.verified[1] is None
    source.verified[0]("2 rows compared")
    assert (state()["compared"], state()["comparing"]) == ("2 rows compared", False)
    widget._enqueue(widget, press, [])
    until(lambda: len(source.verified) == 3)
    widget.close()


def test_a_saved_notebook_holds_little_code_of_a_widget():
    for kind in ("chart", "grid", "health", "notes", "presence", "queue", "statusbar"):
        assert len(built(f"{kind}.js")) + len(built(f"{kind}.css")) < 24_000, kind


def test_what_needs_the_user_comes_first_and_the_list_is_bounded():
    waiting = [QueuedWrite(str(n), f"update t {n}", "waiting") for n in range(500)]
    state = queue_state([*waiting, QueuedWrite("bad", "update t 9", "failed", "no")])
    assert state["total"] == 501
    assert state["failed"] == 1
    assert state["writes"][0]["id"] == "bad"
    assert len(json.dumps(state)) < 20_000


def test_retry_and_discard_reach_the_queue_from_another_thread():
    source = MemoryQueue(QueuedWrite("7", "update t 7", "failed", "no"))
    widget = QueueWidget(source)
    widget._link.receive({"view": "v", "t": "look"}, 0.0)
    widget._enqueue(widget, {"view": "v", "t": "retry", "id": "7"}, [])
    widget._enqueue(widget, {"view": "v", "t": "discard", "id": "7"}, [])
    until(lambda: len(source.asked) == 2)
    assert source.asked == [("retry", "7"), ("discard", "7")]
    widget.close()


def test_you_are_first_and_the_idle_are_last():
    people = [
        Person("1", "zoe", idle=True),
        Person("2", "bob"),
        Person("3", "me", you=True),
        Person("4", "Ann"),
    ]
    assert [p["name"] for p in presence_state(people)["people"]] == ["me", "Ann", "bob", "zoe"]


@pytest.mark.parametrize(
    ("name", "letters"),
    [("Ada Lovelace", "AL"), ("ada", "AD"), ("", "?"), ("<b>", "?"), ("j. r. hacker", "JH")],
)
def test_initials(name, letters):
    assert initials(name) == letters


def test_a_person_keeps_the_colour():
    def hue(*people):
        return {p["id"]: p["hue"] for p in presence_state(people)["people"]}["u1"]

    assert hue(Person("u1", "Ann")) == hue(Person("u0", "Bob"), Person("u1", "Annie")) == 2


def test_notes_are_a_few_and_a_dismissed_one_stays_away():
    notes = [Note(n, "info", f"note {n}", ago(0)) for n in range(100)]
    state = NotesState(MemoryNotes(*notes))
    assert [line["id"] for line in state()["lines"]] == list(range(99, 99 - SHOWN, -1))
    assert state()["earlier"] == 100 - SHOWN
    state.dismiss({"id": 99})
    assert state()["lines"][0]["id"] == 98


def test_the_same_state_is_not_sent_twice():
    source = MemoryHealth()
    model = StateModel({"health": HealthState(source)})
    assert len(model.update()) == 1
    assert model.update() == []
    source.report = HealthReport("offline")
    assert len(model.update()) == 1


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert attrs == []


def test_the_static_forms_hold_every_hostile_text_as_text():
    health = MemoryHealth(HealthReport("offline", last_error=HOSTILE, metrics={HOSTILE: HOSTILE}))
    queue = MemoryQueue(QueuedWrite("1", HOSTILE, "failed", HOSTILE))
    people = MemoryPresence(Person("1", HOSTILE))
    notes = MemoryNotes(Note(1, "failed", HOSTILE, ago(0)))
    widgets = [StatusBar(health, queue, people), NotesWidget(notes), HealthWidget(health)]
    widgets += [QueueWidget(queue), PresenceWidget(people)]
    for widget in widgets:
        bundle = widget._repr_mimebundle_()[0]
        tags = _Tags()
        tags.feed(bundle["text/html"])
        assert "img" not in tags.tags
        assert tags.tags <= {"p", "b", "table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert escape(HOSTILE) in bundle["text/html"]
        widget.close()


def test_the_synced_state_holds_nothing_of_what_is_shown():
    secret = "sb_secret_abc"
    people = MemoryPresence(Person(secret, secret))
    widget = StatusBar(MemoryHealth(HealthReport("offline", last_error=secret)), None, people)
    widget.changed()
    assert secret not in json.dumps(widget.get_state(), default=str)
    widget.close()


def test_a_closed_widget_listens_no_more():
    source = MemoryHealth()
    widget = HealthWidget(source)
    assert len(source.listeners) == 1
    widget.close()
    assert source.listeners == []


def test_a_closed_widget_keeps_nothing_of_what_it_showed():
    """marimo holds on to the widgets of cells that have run again; a session must not live by that."""
    frame, health = scenes.frame(20), MemoryHealth()
    widgets = [GridWidget(frame), ChartWidget(frame, y="price"), StatusBar(health)]
    sources = [weakref.ref(frame), weakref.ref(health)]
    for widget in widgets:
        widget.close()
        widget._enqueue(None, {"t": "look", "view": "late"}, [])
    pump.act(lambda: None)  # the worker's last task would be kept by its thread otherwise
    del frame, health
    until(lambda: gc.collect() is not None and [ref() for ref in sources] == [None, None])
    assert "closed" in repr(widgets[0])
    assert len(widgets[0].selected) == 0


def test_the_static_list_of_people_is_in_the_order_of_the_live_one():
    here = [Person("1", "Zoe", idle=True), Person("2", "Bob"), Person("3", "Ada", you=True)]
    names = ["Ada (you)", "Bob", "Zoe"]
    html = presence_html(here)
    assert sorted(names, key=html.index) == names


def test_the_panel_says_the_traffic_and_each_limit_that_is_near():
    report = HealthReport(
        "healthy",
        usage="5 messages this hour.",
        near_limits=("Near a limit: 85 channels.", HOSTILE),
    )
    drawn = HealthState(MemoryHealth(report))()
    assert drawn["usage"] == "5 messages this hour."
    assert drawn["limits"] == ["Near a limit: 85 channels.", HOSTILE]
    static = health_html(report)
    assert "<p>5 messages this hour.</p>" in static
    assert "<b>Near a limit: 85 channels.</b>" in static
    assert HOSTILE not in static
    assert escape(HOSTILE) in static
    assert "Near a limit" not in health_html(HealthReport("healthy"))
