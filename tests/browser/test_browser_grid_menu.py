"""The grid's menu, files, colours and totals, and a chart's pictures, in a real JupyterLab."""

from __future__ import annotations

import csv
import io

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.axe import findings
from tests.browser.lab import Browser, OpenNotebook
from tests.waiting import scaled, until

pytestmark = pytest.mark.browser

SETUP = """
from tests.browser.scenes import *
from tests.widgets.memory import HOSTILE
"""
OPTIONS = """
formats={'change': '.2%', 'quantity': ',d'}, height=300,
style={'quantity': 'bar', 'change': 'updown', 'price': 'color', 'symbol': 'color',
       'status': {'open': 'green'}},
totals={'quantity': 'sum', 'id': 'count'}
"""


def names(grid: Locator) -> list[str]:
    return grid.locator(".nrt-sort").all_inner_texts()


def chosen(notebook: OpenNotebook, grid: Locator, label: str) -> None:
    """Choose of the menu that is open."""
    grid.get_by_role("menuitem", name=label, exact=True).click()
    grid.get_by_role("menu").wait_for(state="detached")


def saved(notebook: OpenNotebook, grid: Locator, label: str) -> bytes:
    """The file that the menu's item makes."""
    with notebook.page.expect_download(timeout=scaled(20_000)) as download:
        chosen(notebook, grid, label)
    return download.value.path().read_bytes()


def test_what_a_menu_offers_is_done_and_the_focus_stays(browser: Browser) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        notebook.run(SETUP)
        notebook.run("source = frame(60); source.df.loc[3, 'notes'] = '=1+1'")
        grid = notebook.show("g = GridWidget(source, columns=HERO, height=300); g")
        menu = grid.get_by_role("menu")
        item = grid.get_by_role("menuitem")
        grid.locator('[data-row="5"] .l3 .nrt-v').wait_for()

        # By mouse at the pointer; by keyboard; Escape gives the focus back to its cell.
        grid.locator('[data-row="2"] .l1').click(button="right")
        menu.wait_for()
        assert page.locator(".lm-Menu").count() == 0, "nor the notebook's own"
        grid.locator('[data-row="2"] .l1.active').wait_for(state="attached")
        assert findings(page) == []
        page.keyboard.press("Escape")
        menu.wait_for(state="detached")
        page.keyboard.press("ArrowDown")
        grid.locator('[data-row="3"] .l1.active').wait_for()
        grid.locator('[data-row="6"] .l1').hover()  # the menu opens under it, and is the keys'
        page.keyboard.press("Shift+F10")
        menu.wait_for()
        assert menu.get_attribute("aria-label") == "symbol, row 4"
        assert item.first.evaluate("n => n === document.activeElement")
        page.keyboard.press("ArrowUp")
        expect(item.last).to_be_focused()
        for label in ("History of the cell", "History of the row", "Hide the column"):
            page.keyboard.press("h")
            expect(item.filter(has_text=label)).to_be_focused()
        page.keyboard.press("Tab")
        menu.wait_for(state="detached")
        page.keyboard.press("ContextMenu")
        menu.wait_for()
        grid.locator(".nrt-tools").click(position={"x": 300, "y": 10})  # elsewhere
        menu.wait_for(state="detached")

        # Only rows with this value, and all again.
        grid.locator('[data-row="2"] .l1').click(button="right")
        chosen(notebook, grid, "Show only rows with this value")
        grid.get_by_text("6 rows found").wait_for()
        assert grid.locator(".nrt-filter").input_value() == "symbol=NVDA"
        grid.locator('[data-row="1"] .l1').click(button="right")
        chosen(notebook, grid, "Show all rows")
        grid.get_by_text("60 rows").wait_for()

        # Sorted, pinned, hidden, and back: the cell of the focus keeps it.
        grid.locator('[data-row="4"] .l3').click(button="right")
        chosen(notebook, grid, "Sort descending")
        grid.locator('[data-id="c3"][aria-sort="descending"]').wait_for()
        top = notebook.ask("print(source.df['quantity'].max())")
        grid.locator('[data-row="0"] .l3', has_text=top).wait_for()
        grid.locator('[data-row="1"] .l4').click()
        price = grid.locator('[data-row="1"] .l4').inner_text()
        page.keyboard.press("Shift+F10")
        chosen(notebook, grid, "Pin the column at the left")
        until(lambda: names(grid)[:2] == ["id", "price"])
        pinned = grid.locator('[data-row="1"] .l1.frozen.active')
        pinned.wait_for()
        assert pinned.inner_text() == price
        page.keyboard.press("ArrowRight")  # by keyboard, so it has the page's focus
        grid.locator('[data-row="1"] .l2.active').wait_for()
        grid.locator('[data-id="c7"]').click(button="right")
        chosen(notebook, grid, "Hide the column")
        until(lambda: "notes" not in names(grid))
        grid.locator('[data-id="c1"] button').focus()
        page.keyboard.press("ContextMenu")
        menu.wait_for()
        assert menu.get_attribute("aria-label") == "price"
        chosen(notebook, grid, "Let the column go from the left")
        until(lambda: names(grid)[:2] == ["id", "symbol"])

        # A file has what is shown, as it is shown: all rows, no column that is hidden.
        grid.locator('[data-row="1"] .l2').click(button="right")
        text = saved(notebook, grid, "Save as CSV").decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text)))
        assert len(lines) == 61
        assert lines[0] == ["id", "symbol", "status", "quantity", "price", "change", "updated_at"]
        assert lines[1][3] == top
        grid.get_by_text("Saved 60 rows as positions.csv").wait_for()
        grid.locator('[data-id="c1"]').click(button="right")
        assert saved(notebook, grid, "Save as Excel")[:2] == b"PK"
        grid.locator('[data-id="c1"]').click(button="right")
        chosen(notebook, grid, "Show the 1 hidden column")
        until(lambda: "notes" in names(grid))

        # Copied as CSV, guarded; several rows deleted, as the menu says how many.
        notebook.ask("from IPython import get_ipython")
        grid.locator(".nrt-filter").fill("notes:=1")
        grid.get_by_text("1 row found").wait_for()
        grid.locator('[data-row="0"] .l7').click(button="right")
        chosen(notebook, grid, "Copy as CSV")
        grid.get_by_text("Copied 1 row as CSV").wait_for()
        assert page.evaluate("navigator.clipboard.readText()").split() == ['"notes"', '"\'=1+1"']
        grid.locator(".nrt-filter").fill("")
        grid.get_by_text("60 rows").wait_for()
        grid.locator('[data-row="1"] .l2').click()
        page.keyboard.press("Shift+ArrowDown")
        grid.locator('[data-row="2"] .l2').click(button="right")
        chosen(notebook, grid, "Delete 2 rows")
        grid.locator(".nrt-gone").nth(1).wait_for()
        notebook.ask("source.written()")
        grid.locator(".nrt-gone").first.wait_for(state="detached")
        grid.get_by_text("58 rows").wait_for()

        # Nothing is left where the rows were, though the table has become short.
        notebook.ask("source.set(source.df.iloc[:3])")
        grid.get_by_text("3 rows").wait_for()
        drawn = "rows => [...new Set(rows.map(row => row.dataset.row))].sort()"
        until(lambda: grid.locator(".slick-row").evaluate_all(drawn) == ["0", "1", "2"])

        # Who may not write is offered nothing of it, and a time is typed as it is shown.
        notebook.ask("source.rights = {'update'}; source.tell()")
        grid.locator("button[data-act]:visible").first.wait_for(state="detached")
        grid.locator('[data-row="1"] .l1').click(button="right")
        menu.wait_for()
        assert item.filter(has_text="Delete").count() == 0
        page.keyboard.press("Escape")
        shown = grid.locator('[data-row="1"] .l6').inner_text()
        grid.locator('[data-row="1"] .l6').dblclick()
        editor = grid.locator("input.nrt-editor")
        assert editor.input_value() == shown
        editor.fill("soon")
        page.keyboard.press("Enter")
        page.locator(
            ".nrt-why-not", has_text="“soon” is not a time like 2026-03-31 14:30"
        ).wait_for()
        editor.fill(f"2025-{shown[5:]}")
        page.keyboard.press("Enter")
        notebook.until(
            "[v['updated_at'].year for _, v, *_ in source.edits[-1:] if 'updated_at' in v] == [2025]"
        )
        grid.locator('[data-row="1"] .l6', has_text=f"2025-{shown[5:]}").wait_for()
        assert notebook.console == []


def test_colours_totals_and_edges_follow_what_is_shown(browser: Browser) -> None:
    with browser.notebook(width=900) as notebook:
        page = notebook.page
        notebook.run(SETUP)
        notebook.run("source = frame(40); source.df.loc[1, 'symbol'] = HOSTILE")
        grid = notebook.show(f"g = GridWidget(source, {OPTIONS.strip()}); g")
        frame = grid.locator(".nrt-grid")
        grid.locator('[data-row="5"] .l3 .nrt-v').wait_for()

        # Bars, up and down, colours, totals; a hostile text is a text, whatever draws it.
        assert grid.locator('[data-row="1"] .l3 .nrt-bar').count() == 1
        arrows = grid.locator(".l5 .nrt-arrow").all_inner_texts()
        signs = grid.locator(".l5 .nrt-v:not(.nrt-null)").all_inner_texts()
        assert [("▲", "▼")["-" in text] for text in signs] == arrows
        assert grid.locator('[data-row="0"] .l2 .nrt-in-green').inner_text() == "open"
        assert grid.locator('[data-row="1"] .l2 .nrt-tag').count() == 0
        total = grid.locator(".slick-footerrow-column.l3 .nrt-total")
        said = notebook.ask("print(f'{source.df.quantity.sum():,}')")
        expect(total).to_have_text(said)
        assert grid.locator('[data-row="0"] .l1').inner_text().startswith("<img")
        assert page.evaluate("window.__ran") is None
        assert findings(page) == []

        # The totals, and the bars, are of the rows that are found.
        grid.locator(".nrt-filter").fill("status=open")
        some = notebook.ask("print(f\"{source.df[source.df.status == 'open'].quantity.sum():,}\")")
        total.filter(has_text=some).wait_for()

        # A filter that cannot be read says so, beside itself.
        grid.locator(".nrt-filter").fill(f"{'<b>'}pric>10")
        grid.locator(".nrt-filter").fill("pric>10")
        grid.locator(
            ".nrt-trouble", has_text="There is no column “pric”; did you mean “price”?"
        ).wait_for()
        assert grid.locator(".nrt-filter[aria-invalid]").count() == 1
        grid.locator(".nrt-filter").fill("")
        grid.locator(".nrt-trouble").wait_for(state="hidden")
        grid.locator('[data-row="5"] .l3 .nrt-v').wait_for()

        # There is more to the right, and then to the left.
        expect(frame).to_have_attribute("data-more", "right")
        viewport = grid.locator(".slick-viewport-right.slick-viewport-top")
        viewport.evaluate("node => { node.scrollLeft = 100; }")
        expect(frame).to_have_attribute("data-more", "left right")
        viewport.evaluate("node => { node.scrollLeft = 10_000; }")
        expect(frame).to_have_attribute("data-more", "left")
        viewport.evaluate("node => { node.scrollLeft = 0; }")

        # A column follows what it shows, until somebody sets its width.
        width = "node => node.getBoundingClientRect().width"
        head = grid.locator('[data-id="c3"]')
        before = head.evaluate(width)
        notebook.ask("df = source.df.copy(); df.loc[2, 'quantity'] = 10**14; source.set(df)")
        until(lambda: head.evaluate(width) > before + 20)
        box = head.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] - 4, box["y"] + 10)
        page.mouse.down()
        page.mouse.move(box["x"] + 90, box["y"] + 10, steps=4)
        page.mouse.up()
        until(lambda: head.evaluate(width) < before + 20)
        narrow = head.evaluate(width)
        notebook.ask("df = source.df.copy(); df.loc[3, 'quantity'] = 10**15; source.set(df)")
        grid.locator('[data-row="2"] .l3', has_text="1,000,000,000,000,000").wait_for()
        notebook.ask("df = source.df.copy(); df.loc[4, 'symbol'] = 'W' * 30; source.set(df)")
        until(lambda: grid.locator('[data-id="c1"]').evaluate(width) > 200)
        assert head.evaluate(width) == narrow
        head.click(button="right")
        chosen(notebook, grid, "Fit the width to the content")
        until(lambda: head.evaluate(width) > narrow + 20)

        # A chart in the same page saves as it is seen, under a name that is harmless.
        notebook.ask("quotes = prices(50); quotes.name = HOSTILE")
        chart = notebook.show("ChartWidget(quotes, 'at', 'bid')")
        chart.locator("canvas").wait_for(timeout=scaled(60_000))
        for label, begins in (("Save as PNG", b"\x89PNG"), ("Save as SVG", b"<svg")):
            chart.hover()
            with page.expect_download() as download:
                chart.get_by_role("button", name=label).click()
            assert download.value.path().read_bytes().startswith(begins)
            assert set("<>/'=") & set(download.value.suggested_filename) == set()
        assert findings(page) == []
        assert notebook.console == []
