"""No leaks: after cells are run repeatedly, and in the notebook's file."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_rt.local import LocalStack
from tests.browser.lab import Browser, OpenNotebook
from tests.proxy import Proxy
from tests.waiting import scaled, until

pytestmark = pytest.mark.browser

CONNECT = """
import json, notebook_rt as nrt
from tests.waiting import scaled
rt = nrt.connect(**json.loads({given!r}))
frame = rt.table({table!r}, order="id")
room = rt.channel("room:leaks")
_ = frame.wait(scaled(20)), room.wait(scaled(20)), room.presence.track(username="Ada")
"""
SHOW = """
unsubscribe = frame.on_change(lambda batch: None)
display(rt, rt.health, rt.queue, rt.notes(), room.presence, frame, frame.grid(height=120),
        frame.map(lambda df: df.tail(3)), frame.plot(y="quantity"))
"""
LISTENERS = 4
"""Of the table, after ``SHOW``: ``on_change``, two grids and a chart, of which those count that are seen."""
COUNT = """
import gc, threading, time
from comm import get_comm_manager
from ipywidgets.widgets.widget import _instances
from notebook_rt.widgets.base import living, pump
gc.collect()
threads = [t.name for t in threading.enumerate() if "subshell" not in t.name]
counts = dict(
    comms=len(get_comm_manager().comms), widgets=len(_instances), living=len(living), links=len(pump),
    sessions=sum(isinstance(thing, nrt.Session) for thing in gc.get_objects()),
    frames=sum(isinstance(thing, nrt.LiveFrame) for thing in gc.get_objects()),
    changes=len(frame._feed.listeners), healths=len(rt._project.health_listeners),
    notes=len(rt._project.note_listeners),
)
counts |= {f"thread {name}": threads.count(name) for name in set(threads) if "cb" not in name}
print(json.dumps(counts))
"""
AGAIN = """async ([cells, times]) => {
  const app = window.jupyterapp;
  const notebook = app.shell.currentWidget.content;
  for (let i = 0; i < times; i++) {
    for (const cell of cells) {
      notebook.activeCellIndex = cell;
      await app.commands.execute("notebook:run-cell");
    }
  }
}"""


@pytest.fixture
def table(stack: LocalStack) -> Iterator[str]:
    name = f"leaks_{uuid.uuid4().hex[:8]}"
    stack.sql(
        f"create table {name} (id int primary key, quantity int not null, notes text);"
        f"alter publication supabase_realtime add table {name};"
        f"grant all on {name} to anon, authenticated, service_role;"
        f"insert into {name} select n, n * 10, 'confidential ' || n || '.' "
        "from generate_series(1, 60) n"
    )
    yield name
    stack.sql(f"drop table {name}")


def given(url: str, stack: LocalStack, path: Path, **more: str) -> str:
    return json.dumps(
        {"url": url, "key": stack.anon_key, "queue_path": str(path / "queue"), **more}
    )


@pytest.mark.parametrize("runs", [2, pytest.param(50, marks=pytest.mark.nightly)])
def test_runs_of_the_cells_leave_no_more_than_one_run_leaves(
    browser: Browser, stack: LocalStack, table: str, tmp_path: Path, runs: int
) -> None:
    with Proxy(stack.url) as proxy, browser.notebook() as notebook:

        def count() -> dict[str, int]:
            counts: dict[str, int] = json.loads(notebook.ask(COUNT))
            return {**counts, "sockets": proxy.sockets}

        def grown() -> dict[str, int]:
            """What there is more of than after the first runs; less is a widget that is not seen."""
            return {what: n for what, n in count().items() if n > before.get(what, 0)}

        def again(cells: list[int], times: int) -> None:
            notebook.page.evaluate(AGAIN, [cells, times])
            shown(notebook)

        connect = notebook.start(
            CONNECT.format(given=given(proxy.url, stack, tmp_path), table=table)
        )
        show = notebook.start(SHOW)
        shown(notebook)
        again([connect, show], 1)
        before = {**count(), "changes": LISTENERS}
        again([connect, show], max(1, runs // 5))
        until(lambda: not grown(), 20, grown)
        again([show], runs)
        until(lambda: not grown(), 10, grown)
        # The console is not asked: runs faster than Lab attaches views make its own core complain.
        assert notebook.page.locator(".nrt-health").count() == 2


def shown(notebook: OpenNotebook) -> None:
    page = notebook.page
    page.locator(".nrt-health .nrt-word", has_text="Healthy").first.wait_for(timeout=scaled(30_000))
    page.locator('[data-row="0"] .l1 .nrt-v').first.wait_for(timeout=scaled(30_000))


def test_a_saved_notebook_holds_no_key_no_token_and_no_row_beyond_the_preview(
    browser: Browser, stack: LocalStack, table: str, tmp_path: Path
) -> None:
    token = stack.token("authenticated", "3f6f0d6c-0000-4000-8000-000000000001")
    secrets = tmp_path / "given.json"
    secrets.write_text(given(stack.url, stack, tmp_path, access_token=token))
    with browser.notebook() as notebook:
        page = notebook.page
        source = CONNECT.format(given="", table=table)
        notebook.run(source.replace("json.loads('')", f"json.load(open({str(secrets)!r}))"))
        empty = len(json.dumps(notebook.save()))
        notebook.run(SHOW)
        shown(notebook)
        # All of it has been on the screen: scrolled to the end, panels opened, a conflict, an edit.
        grid = page.locator(".nrt-grid").first
        grid.scroll_into_view_if_needed()
        grid.locator(".slick-viewport-right.slick-viewport-top").evaluate(
            "node => { node.scrollTop = 1e6; }"
        )
        page.locator('[data-row="59"] .l2', has_text="confidential 60.").first.wait_for()
        page.locator(".nrt-pill[aria-expanded=false]").evaluate_all(
            "all => all.map(button => button.click())"
        )
        page.wait_for_timeout(500)
        saved = notebook.save()
        text = json.dumps(saved)
        state = saved["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
        widgets = [model for model in state.values() if "_esm" in model["state"]]
        assert len(widgets) == 9
        for secret in (stack.anon_key, token, token.split(".")[1], token.split(".")[2]):
            assert secret not in text
        rows = [n for n in range(1, 61) if f"confidential {n}." in text]
        assert set(rows) <= {*range(1, 11), 58, 59, 60}, "ten of the table, three of what is mapped"
        assert (len(text) - empty) / len(widgets) < 50_000
        assert max(len(json.dumps(model)) for model in widgets) < 50_000
        assert notebook.console == []
