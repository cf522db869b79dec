"""The live grid in a real JupyterLab, while a thousand changes a second arrive."""

from __future__ import annotations

import json

import pytest

from tests.browser.axe import findings
from tests.browser.lab import Browser, OpenNotebook

pytestmark = pytest.mark.browser

SETUP = """
import threading, time
import numpy as np
from tests.browser.scenes import *
from tests.widgets.memory import HOSTILE
"""
STORM = """
class Storm(threading.Thread):
    '''Fifty random rows change every 50 ms: 1,000 changes a second.'''

    def __init__(self, source, every=0.05):
        super().__init__(daemon=True)
        self.source, self.every, self.on, self.batches = source, every, True, 0

    def run(self):
        rng = np.random.default_rng(1)
        while self.on:
            df = self.source.df.copy()
            price = df['price'].to_numpy(copy=True)
            price[rng.integers(0, len(df), 50)] = np.round(rng.uniform(1, 999, 50), 2)
            price[79_999 % len(df)] = price[0] = self.batches
            df['price'] = price
            self.batches += 1
            self.source.set(df)
            time.sleep(self.every)

storm = Storm(source)
storm.start()
"""


def cell(notebook: OpenNotebook, row: int, column: int) -> str:
    """The text of a drawn cell, by the row's number in the table."""
    return notebook.page.locator(f'[data-row="{row}"] .l{column} .nrt-v').inner_text()


def test_a_person_works_while_a_thousand_changes_a_second_arrive(browser: Browser) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run(SETUP)
        notebook.run("source = frame(100_000); g = GridWidget(source); display(g)")
        page.locator('[data-row="0"] .l4 .nrt-v').wait_for()
        assert findings(page) == []
        notebook.run(STORM)
        grid = page.locator(".nrt-grid")

        # Patches arrive, and nothing moves under a scrolled view.
        first = cell(notebook, 0, 4)
        page.locator(f'[data-row="0"] .l4 .nrt-v:not(:text-is("{first}"))').wait_for(timeout=3000)
        viewport = grid.locator(".slick-viewport-right.slick-viewport-top")
        viewport.evaluate("node => { node.scrollTop = 79_990 * 28; }")
        page.locator('[data-row="79999"] .l4 .nrt-v').wait_for(timeout=3000)
        batch = notebook.ask("print(storm.batches)")
        notebook.until(f"storm.batches > {batch} + 8")  # patches of the new window have come
        at = viewport.evaluate("node => node.scrollTop")

        # An open editor survives, and what is typed slowly arrives.
        page.locator('[data-row="79999"] .l8').click()
        page.locator('[data-row="79999"] .l4').dblclick()
        editor = grid.locator("input.nrt-editor")
        editor.wait_for()
        editor.fill("")
        page.keyboard.type("4321.5", delay=120)
        assert editor.input_value() == "4321.5"
        assert viewport.evaluate("node => node.scrollTop") == at
        assert page.locator(".nrt-why-not").is_visible()  # the cell changed meanwhile
        page.keyboard.press("Enter")
        editor.wait_for(state="detached")
        notebook.until("source.edits and source.edits[-1][0] == 80000")
        assert "'price': Decimal('4321.5')" in notebook.ask("print(source.edits[-1])")
        notebook.run("storm.on = False; storm.join()")

        # Sorted in the kernel, and the first rows of the new order are seen at once.
        page.locator(".nrt-sort", has_text="quantity").click()
        top = notebook.ask("print(source.df['quantity'].min())")
        page.locator(f'[data-row="0"] .l3 .nrt-v:text-is("{top}")').wait_for(timeout=3000)
        assert grid.get_attribute("aria-rowcount") == "100001"
        assert page.locator('[data-row="0"]').first.get_attribute("aria-rowindex") == "2"

        # Filtered in the kernel.
        page.locator(".nrt-filter").fill("symbol=SAP quantity>1990")
        expected = notebook.ask(
            "print(((source.df.symbol == 'SAP') & (source.df.quantity > 1990)).sum())"
        )
        page.locator(".nrt-tools .nrt-soft", has_text=f"{expected} rows").wait_for(timeout=3000)
        page.locator(".nrt-filter").fill("")
        page.locator(".nrt-tools .nrt-soft", has_text="100,000 rows").wait_for(timeout=3000)

        # Selected and copied by keyboard.
        page.locator('[data-row="1"] .l1').click()
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("Shift+ArrowRight")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.keyboard.press("Control+c")
        page.locator("[aria-live]", has_text="Copied 2 rows").wait_for(state="attached")
        lines = page.evaluate("navigator.clipboard.readText()").split("\n")
        assert [len(line.split("\t")) for line in lines] == [2, 2]
        assert notebook.ask("print(len(g.selected))") == "2"

        # A refused value says why, and stays out.
        page.locator('[data-row="2"] .l3').dblclick()
        page.keyboard.type("many")
        page.keyboard.press("Enter")
        page.locator(".nrt-why-not", has_text="not a whole number").wait_for()
        page.keyboard.press("Escape")
        assert findings(page) == []
        assert notebook.console == []


def test_hostile_names_are_text_and_nothing_is_saved(browser: Browser) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run(SETUP)
        notebook.run(
            "df = positions(30).rename(columns={'notes': HOSTILE}); df[HOSTILE] = HOSTILE\n"
            "df['tags'] = [{'x': HOSTILE}] * 30\n"
            "fields = [f if f.name != 'notes' else Column(HOSTILE, HOSTILE) for f in FIELDS]\n"
            "source = MemoryFrame(df, fields, name=HOSTILE); source.note = HOSTILE\n"
            "source.marked[1, 'price'] = ('failed', HOSTILE)\n"
            "source.disputed.append(Conflict(2, HOSTILE, HOSTILE, HOSTILE, HOSTILE))\n"
            "g = GridWidget(source, columns=['id', HOSTILE, 'price', 'tags']); display(g)"
        )
        page.locator(".nrt-is-conflict").click()
        page.locator(".nrt-choices").wait_for()
        page.locator(".nrt-choice").first.press("Escape")
        page.locator('[data-row="4"] .l1').dblclick()
        page.locator(".nrt-pop textarea").wait_for()
        assert page.locator(".nrt-pop textarea").input_value().startswith("<img")
        page.keyboard.press("Escape")
        assert page.locator(".nrt img, .nrt b:text-is('bold')").count() == 0
        assert page.evaluate("window.__ran") is None

        # A conflict is chosen by keyboard.
        page.locator(".nrt-is-conflict").click()
        page.wait_for_function("document.activeElement?.classList.contains('nrt-choice')")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        notebook.until("source.resolved and source.resolved[0][2] == 'theirs'")
        assert findings(page) == []

        # Ten rows of preview are all that the file keeps, and the library is not in it.
        notebook.run("source.set(source.df.assign(status='sb_secret' + '_status', price=17.25))")
        page.locator('[data-row="3"] .l2', has_text="17.25").wait_for()
        text = json.dumps(notebook.save())
        assert "sb_secret_status" not in text
        assert "rowHeight" not in text, "what draws the grid is loaded once a page"
        assert len(text) < 40_000
        assert notebook.console == []
