"""Rows under headings, in a real JupyterLab: by pointer, by keyboard, and for a screen reader."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.axe import findings
from tests.browser.lab import Browser
from tests.browser.scenes import HERO
from tests.waiting import scaled

pytestmark = pytest.mark.browser


def test_groups_are_opened_closed_and_let_go(browser: Browser) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run("from tests.browser.scenes import *\nsource = frame(60)")
        grid = notebook.show(
            "g = GridWidget(source, columns=HERO, group='status', totals={'quantity': 'sum'}); g"
        )
        heading = grid.locator(".slick-row.nrt-group:has(.nrt-heading)")
        first = heading.first
        cell = first.locator(".slick-cell:has(.nrt-heading)")
        first.wait_for()
        counts = notebook.ask("print(source.df.groupby('status').size().to_dict())")
        value, count = first.locator(".nrt-heading").inner_text().lstrip("▾▸").split()
        assert f"'{value}': {count}" in counts
        total = notebook.ask(
            f"print(f\"{{source.df.quantity[source.df.status == '{value}'].sum()}}\")"
        )
        assert total in first.inner_text().replace(",", "")
        grid.get_by_text("60 rows").wait_for()

        # By pointer; what a screen reader hears of it.
        expect(cell).to_have_attribute("aria-expanded", "true")
        cell.click()
        expect(cell).to_have_attribute("aria-expanded", "false")
        expect(heading.nth(1)).to_have_attribute("aria-rowindex", "3")
        assert grid.locator('[data-row="1"] .slick-cell').count() < len(HERO), "it spans some"
        hear = grid.locator("[data-sink] > span").first
        expect(hear).to_have_text(f"{value}, {count} rows, closed: Enter to open")

        # By keyboard: to the right opens, to the left closes; a heading is not typed into.
        page.keyboard.press("ArrowRight")
        expect(cell).to_have_attribute("aria-expanded", "true")
        expect(grid.locator('[data-row="1"] .slick-cell')).to_have_count(len(HERO))
        page.keyboard.press("x")
        assert grid.locator("input.nrt-editor").count() == 0
        page.keyboard.press("ArrowLeft")
        expect(cell).to_have_attribute("aria-expanded", "false")
        page.keyboard.press("Enter")
        expect(cell).to_have_attribute("aria-expanded", "true")

        # A row goes to the group of its new value, and what is grouped by is chosen in the menu.
        notebook.ask("source.df = source.df.assign(status='held'); source.tell()")
        expect(heading).to_have_count(1, timeout=scaled(10_000))
        assert findings(page) == []
        cell.click(button="right")
        grid.get_by_role("menuitem", name="Do not group the rows").click()
        expect(heading).to_have_count(0)
        grid.locator('[data-row="0"] .l1').click(button="right")
        grid.get_by_role("menuitem", name="Group by this column").click()
        heading.first.wait_for()
        assert notebook.console == []
