"""The whole way in a real JupyterLab: PostgreSQL to pixel, and a typed cell to PostgreSQL."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.browser.axe import findings
from tests.browser.lab import Browser

pytestmark = pytest.mark.browser

TABLE = """
create table browser_positions (
    id int primary key,
    symbol text not null,
    price numeric,
    notes text,
    tags jsonb,
    updated_at timestamptz not null default now()
)
"""


def eventually(check: Any, expected: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while (found := check()) != expected:
        assert time.monotonic() < deadline, f"{found!r} is not {expected!r}"
        time.sleep(0.05)


def test_postgres_to_pixel_and_a_typed_cell_to_postgres(browser: Browser, stack: Any) -> None:
    stack.sql("drop table if exists browser_positions")
    stack.sql(TABLE)
    stack.sql("grant all on browser_positions to anon, authenticated, service_role")
    stack.sql("alter publication supabase_realtime add table browser_positions")
    stack.sql(
        "insert into browser_positions select n, 'S' || n, n * 1.5, 'note ' || n, '{\"a\": 1}'"
        " from generate_series(1, 500) n"
    )
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run(
            "import tempfile, notebook_rt as nrt\n"
            f"rt = nrt.connect({stack.url!r}, {stack.service_key!r},"
            " queue_path=tempfile.mkdtemp() + '/queue.db')\n"
            "positions = rt.table('browser_positions', order='id')\n"
            "positions.wait(20); None"
        )
        notebook.start("positions")
        page.locator('[data-row="0"] .l2 .nrt-v', has_text="1.5").wait_for()

        # A commit elsewhere is seen.
        stack.sql("update browser_positions set price = 77.25 where id = 2")
        page.locator('[data-row="1"] .l2 .nrt-v', has_text="77.25").wait_for(timeout=30000)

        # What is typed arrives in PostgreSQL.
        page.locator('[data-row="2"] .l2').dblclick()
        page.keyboard.type("12.75")
        page.keyboard.press("Enter")
        price = "select price::text from browser_positions where id = 3"
        eventually(lambda: stack.sql(price), [("12.75",)])
        page.locator('[data-row="2"] .l2 .nrt-v:not(.nrt-mark)', has_text="12.75").wait_for(
            timeout=30000
        )

        # What the server refuses is marked with its words, and is in the queue's list.
        stack.sql(
            "alter table browser_positions add constraint price_positive check (price > 0) not valid"
        )
        page.locator('[data-row="3"] .l2').dblclick()
        page.keyboard.type("-1")
        page.keyboard.press("Enter")
        page.locator('[data-row="3"] .nrt-is-failed').wait_for(timeout=30000)
        notebook.start("rt")
        page.locator(".nrt-failed", has_text="1 needs you").wait_for(timeout=30000)
        page.locator('[data-part="queue"] .nrt-pill').click()
        page.locator('li[data-state="failed"] .nrt-why', has_text="price_positive").wait_for()
        page.locator('li[data-state="failed"] [data-act="discard"]').click()
        page.locator(".nrt-word", has_text="All saved").wait_for(timeout=30000)
        page.locator('[data-row="3"] .l2 .nrt-v:not(.nrt-mark)', has_text="6").wait_for(
            timeout=30000
        )

        # Who is there, with a name from elsewhere.
        notebook.run(
            "room = rt.channel('room:browser'); room.wait(10)\n"
            "room.presence.track(username='<b>Ada</b> Lovelace')"
        )
        notebook.start("room.presence")
        page.locator(".nrt-presence .nrt-soft", has_text="Only you").wait_for(timeout=30000)

        # A chart of it.
        notebook.start("positions.plot(x='id', y='price')")
        page.locator(".nrt-chart").scroll_into_view_if_needed()
        page.locator(".nrt-chart canvas").wait_for(timeout=60000)

        assert findings(page) == []
        notebook.run("rt.close()")
        page.locator(".nrt-health").scroll_into_view_if_needed()
        page.locator(".nrt-health .nrt-word", has_text="Closed").wait_for(timeout=30000)
        assert notebook.console == []
