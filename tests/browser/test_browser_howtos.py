"""The how-tos of apps, as their readers do them: the page's own code, in marimo and Voila, in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page

from notebook_rt.local import LocalStack
from tests.browser.apps import showing
from tests.test_pages import WITH_CODE
from tests.waiting import scaled, until

pytestmark = pytest.mark.browser

PRICES = """
drop table if exists prices;
create table prices (symbol text primary key, price float8);
insert into prices values ('AAPL', 231), ('MSFT', 417), ('KO', 63), ('IBM', 250);
grant select, insert, update, delete on prices to anon, authenticated, service_role;
alter publication supabase_realtime add table prices;
"""


@pytest.fixture(scope="module")
def project(stack: LocalStack) -> Iterator[LocalStack]:
    """The project that the pages talk of."""
    stack.sql(PRICES)
    yield stack
    stack.sql("drop table prices")


def symbols(page: Page, grid: int) -> list[str]:
    """The first column of a grid, from its top."""
    rows = page.locator(".nrt-grid").nth(grid).locator(".slick-row")
    tops = rows.evaluate_all("all => all.map(row => row.getBoundingClientRect().top)")
    found = rows.evaluate_all("all => all.map(row => row.querySelector('.l0')?.innerText ?? '')")
    return [symbol.strip() for _, symbol in sorted(zip(tops, found, strict=True)) if symbol.strip()]


def test_the_howto_of_marimo(project: LocalStack, chromium: Chromium, tmp_path: Path) -> None:
    with showing("marimo run", WITH_CODE["howto/marimo"], project, chromium, tmp_path) as app:
        opened = app.open()
        page = opened.page
        until(lambda: page.locator(".nrt-grid").count() == 2, 60, page.content)
        until(lambda: len(symbols(page, 0)) == 4, 30, lambda: symbols(page, 0))
        until(lambda: symbols(page, 1) == ["MSFT", "IBM", "AAPL"], 30, lambda: symbols(page, 1))
        project.sql("update prices set price = 999 where symbol = 'KO'")
        until(lambda: symbols(page, 1) == ["KO", "MSFT", "IBM"], 30, lambda: symbols(page, 1))
        assert opened.console == []
        page.close()
    project.sql("update prices set price = 63 where symbol = 'KO'")


def test_the_howto_of_voila(project: LocalStack, chromium: Chromium, tmp_path: Path) -> None:
    with showing("voila", WITH_CODE["howto/voila"], project, chromium, tmp_path) as app:
        opened = app.open()
        page = opened.page
        page.locator(".nrt-health .nrt-word", has_text="Healthy").wait_for(timeout=scaled(60_000))
        page.locator(".nrt-chart canvas").wait_for()
        until(lambda: symbols(page, 0) == ["MSFT", "IBM", "AAPL", "KO"], 30)
        project.sql("update prices set price = 999 where symbol = 'KO'")
        until(lambda: symbols(page, 0)[0] == "KO", 30, lambda: symbols(page, 0))
        assert opened.console == []
        page.close()
    project.sql("update prices set price = 63 where symbol = 'KO'")
