"""A table's past in a real JupyterLab, with a real kernel, PostgreSQL and clock: the time slider of grid and
chart, and the history of a cell and a row in the grid's menu.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.axe import findings
from tests.browser.lab import Browser, OpenNotebook
from tests.waiting import until

pytestmark = pytest.mark.browser

SETUP = """
import time
import notebook_rt as nrt
from notebook_rt.widgets.grid import GridWidget
from tests.widgets.memory import HOSTILE
stack = nrt.local.start()
stack.sql('''
    drop table if exists stocks;
    create table stocks (symbol text primary key, price numeric, lots bigint, updated_by text);
    alter publication supabase_realtime add table stocks;
    grant select, insert, update, delete on stocks to anon, authenticated, service_role;
    insert into stocks values ('AAA', 1, 9007199254740993, 'ada'), ('BBB', 2, 5, 'ada'), ('CCC', 3, 6, null);
''')
rt = nrt.connect(stack.url, stack.anon_key, options=nrt.Options(audit_interval=0))
stocks = rt.table("stocks").wait(timeout=60)
driver = stocks._feed
while driver.services.rest.clock() <= driver.machine._horizon.floor or stocks.status != "live":
    time.sleep(0.02)

def price(symbol, value, by="grace"):
    before = len(past)
    stack.sql("update stocks set price = %s, updated_by = %s where symbol = %s", value, by, symbol)
    while len(past) <= before:
        time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def notebook(browser: Browser) -> Iterator[OpenNotebook]:
    with browser.notebook() as notebook:
        notebook.run(SETUP)
        yield notebook
        notebook.run("rt.close(); stack.stop()")
        assert notebook.console == []


def cell(grid: Locator, row: int, column: int) -> Locator:
    return grid.locator(f'[data-row="{row}"] .l{column}')


def slid(slider: Locator, moment: str, notebook: OpenNotebook) -> None:
    """The slider is put to a moment of the kernel's, as by hand."""
    at = float(notebook.ask(f"print({moment}.value // 10**6 - past.start.value // 10**6)"))
    slider.evaluate(
        """(node, at) => {
            node.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true }));
            node.value = Math.round(at / Number(node.step)) * Number(node.step);
            node.dispatchEvent(new Event("input", { bubbles: true }));
            node.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
        }""",
        at,
    )


def test_the_history_is_offered_where_none_is_recorded_with_how_to_begin(
    notebook: OpenNotebook,
) -> None:
    page = notebook.page
    grid = notebook.show("stocks.grid()")
    cell(grid, 0, 1).click(button="right")
    grid.get_by_role("menuitem", name="History of the cell").click()
    dialog = grid.get_by_role("dialog", name="History of price, symbol AAA")
    expect(dialog).to_contain_text("No history of this table is recorded yet")
    expect(dialog.locator("pre")).to_have_text('table.history("1h")')
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(grid.locator(".nrt-past")).to_be_hidden()

    dear = notebook.show("stocks.where('price=gt.1').grid()")
    cell(dear, 0, 1).click(button="right")
    dear.get_by_role("menuitem", name="History of the row").click()
    expect(dear.get_by_role("dialog")).to_contain_text("Only a table has a history")
    page.keyboard.press("Escape")


def test_what_a_cell_and_a_row_were_is_in_the_menu(notebook: OpenNotebook) -> None:
    page = notebook.page
    notebook.run("past = stocks.history('1h')")
    notebook.run("for n in (10, 11, 12): price('AAA', n)")
    notebook.run("price('BBB', 20, HOSTILE)")
    grid = notebook.show("stocks.grid()")
    cell(grid, 0, 1).filter(has_text="12").click()
    page.keyboard.press("Shift+F10")
    page.keyboard.press("h")
    page.keyboard.press("Enter")
    dialog = grid.get_by_role("dialog", name="History of price, symbol AAA")
    expect(dialog.locator("li ins")).to_have_text(["12", "11", "10", "1"])
    expect(dialog.locator("li").first).to_contain_text("by grace")
    expect(dialog.locator("li").last).to_contain_text("there when the recording began")
    expect(dialog.locator("ol")).to_be_focused()
    assert findings(page) == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("ArrowDown")  # the focus is the grid's again
    page.keyboard.press("Shift+F10")
    for item in ("History of the cell", "History of the row"):
        page.keyboard.press("h")
        expect(grid.get_by_role("menuitem", name=item)).to_be_focused()
    page.keyboard.press("Enter")
    dialog = grid.get_by_role("dialog", name="History of symbol BBB")
    step = dialog.locator("li").first
    expect(step.locator(".nrt-step-cell")).to_have_text("price2→20")
    expect(step).to_contain_text("by <img src=x onerror")
    assert dialog.locator("img, b").count() == 0
    assert page.evaluate("window.__ran") is None
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)

    # An integer too large for a float is exact, and a deleted row can be asked while it is looked back at.
    notebook.run("stack.sql(\"update stocks set lots = 7 where symbol = 'AAA'\")")
    cell(grid, 0, 2).filter(has_text="7").click(button="right")
    grid.get_by_role("menuitem", name="History of the cell").click()
    values = grid.get_by_role("dialog").locator("li ins")
    expect(values).to_have_text(["7", "9007199254740993"])
    page.keyboard.press("Escape")


def test_the_slider_shows_what_was_and_the_live_table_goes_on(notebook: OpenNotebook) -> None:
    page = notebook.page
    notebook.run("import pandas as pd")
    notebook.run("price('CCC', 30); time.sleep(0.4); middle = past.end; time.sleep(0.4)")
    notebook.run("price('CCC', 31)")
    grid = notebook.show("g = stocks.grid(); g")
    slider, bar = grid.get_by_role("slider"), grid.locator(".nrt-past")
    expect(bar.get_by_role("button")).to_have_text("Live")
    expect(slider).to_have_attribute("aria-valuetext", "live")
    cell(grid, 2, 1).filter(has_text="31").wait_for()
    grid.get_by_role("button", name="Add a row").wait_for()

    slid(slider, "(middle + pd.Timedelta('200ms'))", notebook)
    expect(cell(grid, 2, 1)).to_have_text("30")
    expect(bar.locator(".nrt-past-at")).to_be_visible()
    assert findings(page) == []

    # Nothing can be written, by hand or by key, and what changes meanwhile does not show.
    expect(grid.get_by_role("button", name="Add a row")).to_be_hidden()
    cell(grid, 2, 1).dblclick()
    page.keyboard.type("5")
    page.keyboard.press("Delete")
    assert grid.locator(".nrt-editor").count() == 0
    notebook.run("price('CCC', 32)")
    expect(cell(grid, 2, 1)).to_have_text("30")
    assert notebook.ask("print(len(stocks.pending), g.shown['price'].tolist()[2])") == "0 30.0"

    # Back by one click, with what has come since; then by keys.
    bar.get_by_role("button", name="Back to live").click()
    expect(cell(grid, 2, 1)).to_have_text("32")
    expect(bar.get_by_role("button")).to_have_text("Live")
    slider.focus()
    page.keyboard.press("Home")
    expect(cell(grid, 2, 1)).to_have_text("3")
    page.keyboard.press("End")
    expect(cell(grid, 2, 1)).to_have_text("32")
    page.keyboard.press("Home")
    expect(cell(grid, 2, 1)).to_have_text("3")
    page.keyboard.press("Escape")
    expect(cell(grid, 2, 1)).to_have_text("32")
    cell(grid, 2, 1).dblclick()
    grid.locator(".nrt-editor").wait_for()
    page.keyboard.press("Escape")


def test_a_dragged_slider_asks_one_question_at_a_time(notebook: OpenNotebook) -> None:
    page = notebook.page
    notebook.run(
        "asked = []\n_heard = GridWidget._enqueue\n"
        "def heard(self, _, content, buffers):\n"
        "    if content.get('t') == 'past': asked.append(len(asked) - g._model._source._answers)\n"
        "    _heard(self, _, content, buffers)\n"
        "GridWidget._enqueue = heard"
    )
    grid = notebook.show("g = stocks.grid(); g")
    slider = grid.get_by_role("slider")
    cell(grid, 2, 1).wait_for()
    slider.scroll_into_view_if_needed()
    slider.hover()
    box = slider.bounding_box()
    assert box is not None
    x, y, width = box["x"], box["y"] + box["height"] / 2, box["width"]
    page.mouse.move(x + width - 7, y)
    page.mouse.down()
    for step in range(100):
        page.mouse.move(x + width - 7 - step * (width - 20) / 100, y)
    during = slider.bounding_box()
    page.mouse.move(x + 1, y)
    page.mouse.up()
    assert during == box, "the slider does not move under the hand"
    expect(cell(grid, 2, 1)).to_have_text("3")
    assert int(notebook.ask("print(len(asked))")) > 1
    assert notebook.ask("print(max(asked))") == "0", "asked only when all before were answered"
    notebook.run("GridWidget._enqueue = _heard")


def test_a_row_that_is_being_typed_keeps_the_live_table(notebook: OpenNotebook) -> None:
    grid = notebook.show("stocks.grid()")
    slider = grid.get_by_role("slider")
    grid.get_by_role("button", name="Add a row").click()
    grid.get_by_role("button", name="Save row").wait_for()
    slid(slider, "past.start", notebook)
    expect(grid.get_by_role("alert").filter(has_text="Save or discard the new row")).to_be_visible()
    expect(slider).to_have_attribute("aria-valuetext", "live")
    grid.get_by_role("button", name="Discard").click()


def test_a_gap_is_drawn_and_said(notebook: OpenNotebook) -> None:
    grid = notebook.show("stocks.grid()")
    before = grid.locator(".nrt-past-gap").count()
    notebook.run(
        "time.sleep(0.3)\n"
        "driver.thread.call(driver.subscription.gap, 'a cable was pulled'); time.sleep(0.3)\n"
        "while stocks.status != 'live' or 'a cable was pulled' not in past.gaps['reason'].tolist()"
        " or past.gaps['until'].isna().any(): time.sleep(0.02)\n"
        "gap = past.gaps[past.gaps['reason'] == 'a cable was pulled'].iloc[-1]\n"
        "inside = gap['since'] + (gap['until'] - gap['since']) / 2"
    )
    slider = grid.get_by_role("slider")
    until(lambda: grid.locator(".nrt-past-gap").count() > before)
    expect(grid.locator(".nrt-past .nrt-hear")).to_contain_text("a cable was pulled")
    slid(slider, "inside", notebook)
    note = grid.locator(".nrt-past + .nrt-note")
    expect(note).to_contain_text("(a cable was pulled)")
    expect(note).to_contain_text("Changes may be missing here")
    grid.get_by_role("button", name="Back to live").click()
    expect(note).to_be_hidden()


def test_a_chart_has_the_slider_too(notebook: OpenNotebook) -> None:
    page = notebook.page
    chart = notebook.show("c = stocks.plot(x='symbol', y='price', kind='bar'); c")
    chart.locator("canvas").wait_for()
    slider = chart.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    picture = chart.get_by_role("img")
    expect(picture).to_have_attribute(
        "aria-label", "Past bar chart of price by symbol, stocks, 3 points"
    )
    shown = "print([row['y'] for row in c._model._rows()])"
    assert notebook.ask(shown) == "[1.0, 2.0, 3.0]"
    chart.get_by_role("button", name="Back to live").click()
    expect(picture).to_have_attribute(
        "aria-label", "Live bar chart of price by symbol, stocks, 3 points"
    )
    assert notebook.ask(shown) == "[12.0, 20.0, 32.0]"


def test_a_history_that_ends_leaves_the_live_table(notebook: OpenNotebook) -> None:
    page = notebook.page
    grid = notebook.show("stocks.grid()")
    grid.get_by_role("slider").focus()
    page.keyboard.press("Home")
    expect(cell(grid, 0, 1)).to_have_text("1")
    notebook.run("past.close()")
    expect(cell(grid, 0, 1)).to_have_text("12")
    expect(grid.locator(".nrt-past")).to_be_hidden()
