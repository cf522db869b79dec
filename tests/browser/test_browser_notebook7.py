"""The same widgets in Notebook 7."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser as Chromium

from tests.browser.lab import Browser, serving
from tests.waiting import scaled

pytestmark = pytest.mark.browser


def test_status_bar_and_grid_in_notebook_7(
    chromium: Chromium, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        serving(tmp_path_factory.mktemp("notebook7"), "notebook") as server,
        Browser(chromium, server).notebook() as notebook,
    ):
        page = notebook.page
        notebook.run("from tests.browser.scenes import *\ndisplay(status_bar())")
        page.locator(".nrt-health .nrt-word", has_text="Healthy").wait_for()
        notebook.run("source = frame(2000); g = GridWidget(source); display(g)")
        page.locator('[data-row="0"] .l4 .nrt-v').wait_for()
        notebook.run("df = source.df.copy(); df.loc[1, 'price'] = 123.25; source.set(df)")
        page.locator('[data-row="0"] .l4 .nrt-v', has_text="123.25").wait_for(timeout=scaled(3000))
        page.locator('[data-row="1"] .l3').dblclick()
        page.keyboard.type("17")
        page.keyboard.press("Enter")
        notebook.until("source.edits == [(2, {'quantity': 17})]")
        # Notebook 7 itself logs an error about its settings; ours would name a widget's module.
        assert not [line for line in notebook.console if "schema" not in line]
