"""The whole way in a real JupyterLab: PostgreSQL to pixel, a typed cell to PostgreSQL, cut off and back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notebook_rt.local import LocalStack
from tests.browser.axe import findings
from tests.browser.lab import Browser
from tests.proxy import Proxy
from tests.waiting import until

pytestmark = pytest.mark.browser

TABLE = """
create type {0}_state as enum ('open', 'held', 'sold');
create table {0} (
    id int primary key, symbol text not null, quantity int not null check (quantity >= 0),
    state {0}_state not null default 'open', price numeric, notes text
);
alter publication supabase_realtime add table {0};
grant all on {0} to anon, authenticated, service_role;
insert into {0} select n, (array['AAPL', 'MSFT', 'NVDA'])[n % 3 + 1], n * 10, 'open', n * 1.5, null
from generate_series(1, 12) n
"""
SETUP = """
import notebook_rt as nrt
rt = nrt.connect({url!r}, {key!r}, queue_path={path!r},
                 options=nrt.Options(backoff_base=0.2, backoff_max=0.5, poll_interval=0.5))
frame = rt.table({table!r}, order='id')
_ = frame.wait(20)
"""
SYMBOL, QUANTITY, STATE, PRICE, NOTES = range(1, 6)


@pytest.fixture
def table(stack: LocalStack) -> Iterator[str]:
    name = f"lab_{uuid.uuid4().hex[:8]}"
    stack.sql(TABLE.format(name))
    yield name
    stack.sql(f"drop table {name}; drop type {name}_state")


@pytest.fixture
def stored(stack: LocalStack, table: str) -> Callable[[str, int], object]:
    """What PostgreSQL has: a column of the row with a key, as text."""
    return lambda column, key: stack.sql(f"select {column}::text from {table} where id = {key}")[0][
        0
    ]


def test_postgres_to_pixel_and_a_typed_cell_to_postgres(
    browser: Browser,
    stack: LocalStack,
    table: str,
    stored: Callable[[str, int], object],
    tmp_path: Path,
) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        path = str(tmp_path / "queue.sqlite3")
        notebook.run(SETUP.format(url=stack.url, key=stack.anon_key, path=path, table=table))
        notebook.show("rt")
        notebook.show("frame")
        page.locator(".nrt-health .nrt-word", has_text="Healthy").wait_for()
        page.locator('[data-row="11"] .l0 .nrt-v').wait_for()
        assert not Path(path).exists(), "who only looks makes no file"

        # What others write arrives, a row and a cell, and while a cell sleeps too.
        stack.sql(f"update {table} set notes = 'written by sql' where id = 2")
        page.locator(f'[data-row="1"] .l{NOTES}', has_text="written by sql").wait_for()
        stack.sql(f"insert into {table} values (13, 'TSM', 130, 'held', 19.5)")
        page.locator(f'[data-row="12"] .l{SYMBOL}', has_text="TSM").wait_for()
        notebook.start("import time; time.sleep(3)")
        stack.sql(f"update {table} set notes = 'while it sleeps' where id = 3")
        page.locator(f'[data-row="2"] .l{NOTES}', has_text="while it sleeps").wait_for(timeout=2500)

        # What is typed arrives in PostgreSQL, and is then no longer marked.
        page.locator(f'[data-row="0"] .l{PRICE}').dblclick()
        page.keyboard.type("12.75")
        page.keyboard.press("Enter")
        until(lambda: stored("price", 1) == "12.75")
        page.locator(f'[data-row="0"] .l{PRICE} .nrt-v:not(.nrt-mark)', has_text="12.75").wait_for()
        page.locator(".nrt-queue .nrt-word", has_text="All saved").wait_for()

        # An enum's labels are a choice, without null where the column is NOT NULL.
        page.locator(f'[data-row="1"] .l{STATE}').dblclick()
        choice = page.locator("select.nrt-editor")
        assert choice.locator("option").all_inner_texts() == ["open", "held", "sold"]
        choice.select_option(label="sold")
        choice.press("Enter")
        until(lambda: stored("state", 2) == "sold")

        # A column that is NOT NULL refuses an empty value at the cell; nothing is queued.
        page.locator(f'[data-row="1"] .l{QUANTITY}').dblclick()
        page.locator("input.nrt-editor").fill("")
        page.keyboard.press("Enter")
        said = page.locator(".nrt-why-not")
        said.wait_for()
        assert said.inner_text() == "quantity cannot be empty: it is NOT NULL"
        assert page.locator("input.nrt-editor").is_visible(), "to be mended where it is"
        page.keyboard.type("7")
        said.wait_for(state="detached")
        page.keyboard.press("Escape")
        page.keyboard.press("Delete")
        said.wait_for()
        assert notebook.ask("print(len(rt.queue))") == "0"
        assert stored("quantity", 2) == "20"

        # Who is there, with a name from elsewhere; a chart of the table.
        notebook.run(
            "room = rt.channel('room:browser'); room.wait(10)\n"
            "room.presence.track(username='<b>Ada</b> Lovelace')"
        )
        notebook.show("room.presence").get_by_text("Only you").wait_for()
        notebook.show("frame.plot(x='id', y='price')").locator("canvas").wait_for(timeout=60000)

        assert findings(page) == []
        assert stack.anon_key not in str([cell["outputs"] for cell in notebook.save()["cells"]])
        notebook.run("rt.close()")
        page.locator(".nrt-health").scroll_into_view_if_needed()
        page.locator(".nrt-health .nrt-word", has_text="Closed").wait_for()
        assert notebook.console == []


def test_what_is_typed_without_a_network_or_refused_is_kept_and_shown(
    browser: Browser,
    stack: LocalStack,
    table: str,
    stored: Callable[[str, int], object],
    tmp_path: Path,
) -> None:
    with Proxy(stack.url) as proxy, browser.notebook() as notebook:
        page = notebook.page

        def type_into(row: int, text: str) -> None:
            page.locator(f'[data-row="{row}"] .l{QUANTITY}').dblclick()
            page.locator("input.nrt-editor").fill(text)
            page.keyboard.press("Enter")

        path = str(tmp_path / "queue.sqlite3")
        notebook.run(SETUP.format(url=proxy.url, key=stack.anon_key, path=path, table=table))
        notebook.run("display(rt.status_bar()); display(frame)")
        page.locator('[data-row="11"] .l0 .nrt-v').wait_for()
        health, saved = page.locator(".nrt-health .nrt-word"), page.locator(".nrt-queue .nrt-word")
        health.filter(has_text="Healthy").wait_for()

        # Cut off: said at once, the edit is kept and shown, and counted.
        proxy.down()
        page.locator(".nrt-health .nrt-word:not(:text-is('Healthy'))").wait_for(timeout=5000)
        type_into(1, "88")
        page.locator(f'[data-row="1"] .l{QUANTITY} .nrt-is-pending', has_text="88").wait_for()
        saved.filter(has_text="1 unsaved").wait_for()
        health.filter(has_text="Offline").wait_for()
        page.locator(".nrt-note", has_text="No connection, this is the data of").wait_for()
        assert stored("quantity", 2) == "20"

        # Back: it heals itself, and what was typed is sent.
        proxy.up()
        health.filter(has_text="Healthy").wait_for()
        saved.filter(has_text="All saved").wait_for()
        assert stored("quantity", 2) == "88"

        # What the server refuses stays marked, with its words; the queue's list can let go of it.
        type_into(2, "-1")
        page.locator('[data-row="2"] .nrt-is-failed').wait_for()
        page.locator(".nrt-failed", has_text="1 needs you").wait_for()
        page.locator('[data-part="queue"] .nrt-pill').click()
        page.locator('li[data-state="failed"] .nrt-why', has_text="check").wait_for()
        assert findings(page) == []
        page.locator('li[data-state="failed"] [data-act="discard"]').click()
        page.locator(f'[data-row="2"] .l{QUANTITY} .nrt-v:not(.nrt-mark):text-is("30")').wait_for()
        saved.filter(has_text="All saved").wait_for()
        assert notebook.console == []
        notebook.run("rt.close()")
