"""The status bar and the grid under marimo and Voila: PostgreSQL to pixel and back."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page

from notebook_rt.local import LocalStack
from tests.browser.apps import SETUP, App, showing
from tests.waiting import scaled, until

pytestmark = pytest.mark.browser

NOTICED = """
from notebook_rt.local.stack import StartNotice

notice = StartNotice()
notice.say("starting")
notice.say("making the database")
notice.clear()
"""
"""What a slow start of the local stack shows."""
HOSTILE = '<img src=x onerror="window.__ran = 1"><b>bold</b>'
COUNT = """
import gc
from marimo._plugins.ui._impl.anywidget.init import WIDGET_COMM_MANAGER
from notebook_rt.widgets.base import living, pump

gc.collect()
counts = dict(
    widgets=len(living),
    links=len(pump),
    comms=len(WIDGET_COMM_MANAGER.comms),
    sessions=sum(
        isinstance(thing, nrt.Session) and not thing._project.closed for thing in gc.get_objects()
    ),
)
print(f"counted {json.dumps(counts)} at {time.monotonic_ns()}")
"""


@pytest.fixture(scope="module")
def table(stack: LocalStack) -> Iterator[str]:
    name = f"app_{uuid.uuid4().hex[:8]}"
    stack.sql(
        f"create table {name} (id int primary key, symbol text not null, quantity int not null, "
        "notes text);"
        f"alter publication supabase_realtime add table {name};"
        f"grant all on {name} to anon, authenticated, service_role;"
        f"insert into {name} select n, 'S' || n, n * 10, null from generate_series(1, 40) n"
    )
    stack.sql(f"update {name} set notes = %s where id = 3", HOSTILE)
    yield name
    stack.sql(f"drop table {name}")


def live_both_ways(page: Page, stack: LocalStack, table: str) -> None:
    """What every host must do: words, rows, a change that arrives, an edit that arrives."""
    page.locator(".nrt-health .nrt-word", has_text="Healthy").wait_for(timeout=scaled(40_000))
    page.locator('[data-row="9"] .l1 .nrt-v', has_text="S10").wait_for(timeout=scaled(20_000))

    value = stack.sql(f"update {table} set quantity = quantity + 1 where id = 2 returning quantity")
    page.locator('[data-row="1"] .l2', has_text=str(value[0][0])).wait_for()

    typed = stack.sql(f"select quantity + 7 from {table} where id = 1")[0][0]
    page.locator('[data-row="0"] .l2').dblclick()
    page.locator("input.nrt-editor").fill(str(typed))
    page.keyboard.press("Enter")
    until(lambda: stack.sql(f"select quantity from {table} where id = 1") == [(typed,)])
    page.locator(".nrt-queue .nrt-word", has_text="All saved").wait_for()
    page.locator('[data-row="0"] .l2 .nrt-v:not(.nrt-mark)', has_text=str(typed)).wait_for()

    assert page.locator('[data-row="2"] .l3 .nrt-v').inner_text() == HOSTILE
    assert page.locator(".nrt img, .nrt .nrt-v b").count() == 0
    assert page.evaluate("window.__ran") is None
    # What is light behind a widget is light in it.
    assert page.locator(".nrt").first.get_attribute("data-theme") == "light"


@pytest.fixture(scope="module")
def voila(
    stack: LocalStack, table: str, chromium: Chromium, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    root = tmp_path_factory.mktemp("voila")
    cells = [
        NOTICED,
        SETUP.format(path=str(root / "queue"), table=table),
        "rt.status_bar()",
        "frame",
    ]
    with showing("voila", cells, stack, chromium, root) as app:
        yield app


def test_the_status_bar_and_the_grid_in_voila(voila: App, stack: LocalStack, table: str) -> None:
    opened = voila.open()
    live_both_ways(opened.page, stack, table)
    assert "local stack" not in opened.page.content(), "it is ready"
    # Every visitor has a kernel of their own.
    second = voila.open()
    live_both_ways(second.page, stack, table)
    assert opened.console == second.console == []
    opened.page.close()
    second.page.close()


@pytest.fixture(scope="module")
def nap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell sleeps while this file is there."""
    return tmp_path_factory.mktemp("nap") / "nap"


@pytest.fixture(scope="module")
def editor(
    stack: LocalStack,
    table: str,
    nap: Path,
    chromium: Chromium,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[App]:
    root = tmp_path_factory.mktemp("marimo-edit")
    cells = [
        SETUP.format(path=str(root / "queue"), table=table),
        "rt.status_bar()",
        "frame",
        COUNT,
        f"while pathlib.Path({str(nap)!r}).exists(): time.sleep(0.02)",
    ]
    with showing("marimo edit", cells, stack, chromium, root) as app:
        yield app


class Cells:
    """The cells of marimo's editor, by their buttons."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._buttons = page.locator('[data-testid="run-button"]')

    def run_all(self) -> None:
        # A cell has two such buttons, of which one is dead; the last is the whole notebook's.
        until(lambda: self._page.locator("[data-testid=run-button]:enabled").count() == 6, 30)
        self._buttons.last.click()

    def run(self, number: int) -> None:
        button = self._buttons.nth(2 * number)
        until(button.is_enabled)
        button.dispatch_event("click")  # it is shown only below the mouse

    def counted(self) -> dict[str, int]:
        before = counted(self._page)
        self.run(3)
        until(lambda: counted(self._page) not in (before, ({}, "")))
        return counted(self._page)[0]


def counted(page: Page) -> tuple[dict[str, int], str]:
    """What the cell of ``COUNT`` has printed last, and when."""
    for text in page.locator(".console-output-area").all_inner_texts():
        found = re.search(r"counted (\{.*\}) at (\d+)", text)
        if found:
            return json.loads(found[1]), found[2]
    return {}, ""


def test_the_status_bar_and_the_grid_in_marimo(
    editor: App, stack: LocalStack, table: str, nap: Path
) -> None:
    opened = editor.open()
    page = opened.page
    cells = Cells(page)
    cells.run_all()
    live_both_ways(page, stack, table)

    # A cell that sleeps stops nothing, though marimo hands on no word of the browser meanwhile.
    page.wait_for_timeout(300)
    nap.touch()
    cells.run(4)
    page.locator('[data-status="running"]').first.wait_for()
    for n in range(6):
        stack.sql(f"update {table} set notes = 'nap {n}' where id = 4")
        page.locator('[data-row="3"] .l3', has_text=f"nap {n}").wait_for()
    assert page.locator('[data-status="running"]').count() > 0
    nap.unlink()
    page.locator('[data-status="running"]').first.wait_for(state="detached")

    # A cell that is run again leaves nothing behind.
    before = cells.counted()
    assert before["widgets"] == before["links"] == 2
    for _ in range(3):
        cells.run(1)
        cells.run(2)
    until(lambda: cells.counted() == before, 20, lambda: counted(page))
    live_both_ways(page, stack, table)
    # … not even the cell that everything stands on.
    run_before = counted(page)
    cells.run(0)
    until(lambda: counted(page) not in (run_before, ({}, "")), 30)
    live_both_ways(page, stack, table)
    until(lambda: cells.counted() == before, 20, lambda: counted(page))
    assert opened.console == []
    page.close()


@pytest.fixture(scope="module")
def published(
    stack: LocalStack, table: str, chromium: Chromium, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    root = tmp_path_factory.mktemp("marimo-run")
    cells = [
        SETUP.format(path=str(root / "queue"), table=table),
        "rt.status_bar()",
        "frame",
        "import marimo as mo\n"
        "again = mo.ui.button(value=0, on_click=lambda n: n + 1, label='Count')\nagain",
        f"again.value\n{COUNT}\nmo.md(f'counted {{json.dumps(counts)}} at {{time.monotonic_ns()}}')",
        "frame.plot(y='quantity')",
    ]
    with showing("marimo run", cells, stack, chromium, root) as app:
        yield app


def test_a_visitor_of_a_marimo_app_who_has_left_is_forgotten(
    published: App, stack: LocalStack, table: str
) -> None:
    first, second = published.open(), published.open()
    live_both_ways(first.page, stack, table)
    live_both_ways(second.page, stack, table)

    def shown() -> list[str]:
        return re.findall(r"counted \{.*?\} at \d+", second.page.locator("body").inner_text())

    def count() -> tuple[int, int]:
        before = shown()
        second.page.get_by_role("button", name="Count").click()
        until(lambda: shown() not in (before, []), 30)
        counts = json.loads(shown()[-1].removeprefix("counted ").split(" at ")[0])
        return counts["widgets"], counts["sessions"]

    until(lambda: count() == (6, 2), 30, count)
    first.page.close()
    until(lambda: count() == (3, 1), 30, count)
    live_both_ways(second.page, stack, table)
    assert first.console == second.console == []
    second.page.close()


def test_a_page_that_forbids_blobs_shows_the_grid_or_says_why_not(published: App) -> None:
    own = "worker-src * blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'"
    # Where another way is open, it is taken.
    page = published.open(f"{own} data:").page
    page.locator('[data-row="9"] .l1 .nrt-v', has_text="S10").wait_for(timeout=scaled(60_000))
    page.locator(".nrt-chart canvas").wait_for()
    page.close()

    # Where none is, what is refused is said, and the table is there as it is now.
    page = published.open(own).page
    said = page.locator(".nrt-unloaded")
    said.first.wait_for(timeout=scaled(60_000))
    until(lambda: said.count() == 2)
    assert "Content-Security-Policy" in said.first.inner_text()
    assert page.locator(".nrt-loading").count() == 0
    page.locator(".nrt-static td", has_text="S10").wait_for()
    page.locator(".nrt-static td", has_text=HOSTILE).wait_for()
    assert page.locator(".nrt img, .nrt .nrt-v b").count() == 0
    assert page.evaluate("window.__ran") is None
    page.close()
