"""End to end in a real JupyterLab: PostgreSQL to pixel, a typed cell to PostgreSQL, disconnected and back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from notebook_rt.local import LocalStack
from tests.browser.axe import findings
from tests.browser.lab import Browser, OpenNotebook
from tests.proxy import Proxy
from tests.waiting import scaled, until
from tests.widgets.memory import HOSTILE

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
from tests.waiting import scaled
rt = nrt.connect({url!r}, {key!r}, queue_path={path!r},
                 options=nrt.Options(backoff_base=0.2, backoff_max=0.5, poll_interval=0.5))
frame = rt.table({table!r}, order={order!r})
_ = frame.wait(scaled(20))
"""
SYMBOL, QUANTITY, STATE, PRICE, NOTES = range(1, 6)


def connect(
    notebook: OpenNotebook,
    url: str,
    key: str,
    table: str,
    directory: Path,
    order: str | None = "id",
) -> None:
    """``rt`` and the live ``frame`` of ``table``, with a queue of their own."""
    path = str(directory / "queue.sqlite3")
    notebook.run(SETUP.format(url=url, key=key, path=path, table=table, order=order))


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
        connect(notebook, stack.url, stack.anon_key, table, tmp_path)
        notebook.show("rt")
        notebook.show("frame")
        page.locator(".nrt-health .nrt-word", has_text="Healthy").wait_for()
        page.locator('[data-row="11"] .l0 .nrt-v').wait_for()
        assert not (tmp_path / "queue.sqlite3").exists(), "who only looks makes no file"

        # What others write arrives, a row and a cell, and while a cell sleeps too.
        stack.sql(f"update {table} set notes = 'written by sql' where id = 2")
        page.locator(f'[data-row="1"] .l{NOTES}', has_text="written by sql").wait_for()
        stack.sql(f"insert into {table} values (13, 'TSM', 130, 'held', 19.5)")
        page.locator(f'[data-row="12"] .l{SYMBOL}', has_text="TSM").wait_for()
        with notebook.busy():
            stack.sql(f"update {table} set notes = 'while it sleeps' where id = 3")
            page.locator(f'[data-row="2"] .l{NOTES}', has_text="while it sleeps").wait_for()

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
            "room = rt.channel('room:browser'); room.wait(scaled(10))\n"
            "room.presence.track(username='<b>Ada</b> Lovelace')"
        )
        notebook.show("room.presence").get_by_text("Only you").wait_for()
        notebook.show("frame.plot(x='id', y='price')").locator("canvas").wait_for(
            timeout=scaled(60000)
        )

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

        connect(notebook, proxy.url, stack.anon_key, table, tmp_path)
        notebook.run("display(rt.status_bar()); display(frame)")
        page.locator('[data-row="11"] .l0 .nrt-v').wait_for()
        health, saved = page.locator(".nrt-health .nrt-word"), page.locator(".nrt-queue .nrt-word")
        health.filter(has_text="Healthy").wait_for()

        # Cut off: said at once, the edit is kept and shown, and counted.
        proxy.down()
        page.locator(".nrt-health .nrt-word:not(:text-is('Healthy'))").wait_for(
            timeout=scaled(5000)
        )
        type_into(1, "88")
        page.locator(f'[data-row="1"] .l{QUANTITY} .nrt-is-pending', has_text="88").wait_for()
        saved.filter(has_text="1 unsaved").wait_for()
        health.filter(has_text="Offline").wait_for()
        page.locator(".nrt-note", has_text="No connection; these rows are as of").wait_for()
        assert stored("quantity", 2) == "20"

        # Back: it heals itself, and what was typed is sent.
        proxy.up()
        health.filter(has_text="Healthy").wait_for()
        saved.filter(has_text="All saved").wait_for()
        page.locator(".nrt-note", has_text="No connection").wait_for(state="hidden")
        assert stored("quantity", 2) == "88"

        # What the server refuses stays marked, with its words; the queue's list can let go of it.
        type_into(2, "-1")
        page.locator('[data-row="2"] .nrt-is-failed').wait_for()
        page.locator(".nrt-failed", has_text="1 to decide").wait_for()
        page.locator('[data-part="queue"] .nrt-pill').click()
        page.locator('li[data-state="failed"] .nrt-why', has_text="check").wait_for()
        assert findings(page) == []
        page.locator('li[data-state="failed"] [data-act="discard"]').click()
        page.locator(f'[data-row="2"] .l{QUANTITY} .nrt-v:not(.nrt-mark):text-is("30")').wait_for()
        saved.filter(has_text="All saved").wait_for()

        # Or it is sent again, once the server would take it.
        type_into(3, "-4")
        page.locator('li[data-state="failed"] .nrt-why', has_text="check").wait_for()
        stack.sql(f"alter table {table} drop constraint {table}_quantity_check")
        page.locator('li[data-state="failed"] [data-act="retry"]').click()
        saved.filter(has_text="All saved").wait_for()
        page.locator(f'[data-row="3"] .l{QUANTITY} .nrt-v:not(.nrt-mark):text-is("-4")').wait_for()
        assert stored("quantity", 4) == "-4"
        assert notebook.console == []
        notebook.run("rt.close()")


def test_a_row_is_typed_in_place_and_inserted_as_one(
    browser: Browser, stack: LocalStack, table: str, tmp_path: Path
) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        connect(notebook, stack.url, stack.anon_key, table, tmp_path)
        grid = notebook.show("frame")
        draft, said = grid.locator(".nrt-draft"), page.locator(".nrt-why-not")
        grid.locator('[data-row="11"] .l0 .nrt-v').wait_for()

        # A row that is not saved: what it must have, what it has by itself.
        add = grid.get_by_role("button", name="Add a row")
        assert add.get_attribute("title") == "Add a row (Ctrl+I)"
        add.click()
        page.keyboard.press("Escape")  # leaves the editor
        expect(draft.locator(".nrt-v")).to_have_text(
            [*("required", "required", "required"), *("default", "null", "null")]
        )
        assert findings(page) == []
        page.keyboard.press("Escape")  # and the row
        draft.first.wait_for(state="detached")
        expect(grid.locator(".nrt-grid")).to_have_attribute("aria-rowcount", "13")

        # By keyboard: Enter goes to what is missing and then saves; Tab to the next cell.
        grid.locator('[data-row="4"] .l1').click()
        page.keyboard.press("Insert")
        editor = draft.locator(".nrt-editor")
        editor.wait_for()
        page.keyboard.type("3")
        page.keyboard.press("Enter")
        grid.locator(f".nrt-draft .l{SYMBOL} .nrt-editor").wait_for()
        page.keyboard.type(HOSTILE)
        page.keyboard.press("Tab")
        grid.locator(f".nrt-draft .l{QUANTITY} .nrt-editor").wait_for()
        page.keyboard.type("many")
        page.keyboard.press("Enter")
        said.filter(has_text="“many” is not a whole number").wait_for()
        editor.fill("7")

        # What others do meanwhile moves it, and takes nothing from it.
        stack.sql(f"insert into {table} values (13, 'TSM', 130, 'held', 19.5)")
        page.keyboard.press("Tab")
        grid.locator(f".nrt-draft .l{STATE} .nrt-editor").wait_for()
        page.keyboard.press("Escape")
        grid.locator('.nrt-draft[data-row="13"]').first.wait_for()
        page.keyboard.press("Enter")

        # A key that is there is refused at its cell, and nothing that was typed is lost.
        said.filter(has_text="there is a row with the key 3").wait_for()
        assert draft.locator(f".l{SYMBOL}").inner_text() == HOSTILE
        grid.locator(".nrt-draft .l0 .nrt-editor").fill("20")
        page.keyboard.press("Enter")
        draft.first.wait_for(state="detached")
        row = f"select symbol, quantity, state::text, price from {table} where id = 20"
        until(lambda: stack.sql(row) == [(HOSTILE, 7, "open", None)])
        grid.locator(f'[data-row="13"] .l{STATE} .nrt-v', has_text="open").wait_for()
        grid.locator('[data-row="13"] .l0.active').wait_for()
        assert page.evaluate("window.__ran") is None
        kinds = "frame.log.query('key == 20').groupby('cause').kind.first().to_dict()"
        assert "'edit': 'insert'" in notebook.ask(f"print({kinds})")

        # What the server refuses is kept where it is, with its words; mended there, it is sent.
        page.keyboard.press("Control+i")
        for column, text in ((0, "21"), (SYMBOL, "GOOGL"), (QUANTITY, "-1")):
            grid.locator(f".nrt-draft .l{column} .nrt-editor").wait_for()
            page.keyboard.type(text)
            page.keyboard.press("Enter")
        said.filter(has_text="violates check constraint").wait_for()
        assert findings(page) == []
        page.keyboard.type("1")
        page.keyboard.press("Enter")
        until(lambda: stack.sql(f"select quantity from {table} where id = 21") == [(1,)])
        grid.locator(f'[data-row="14"] .l{QUANTITY} .nrt-v:not(.nrt-mark):text-is("1")').wait_for()

        # Somebody who goes on to another row has finished this one, if it lacks nothing.
        grid.get_by_role("button", name="Add a row").click()
        editor.wait_for()
        page.keyboard.type("22")
        page.keyboard.press("Enter")
        grid.locator(f".nrt-draft .l{SYMBOL} .nrt-editor").wait_for()
        page.keyboard.type("AMZN")
        grid.locator('[data-row="12"] .l1').click()
        assert draft.locator(".l1").inner_text() == "AMZN"
        stack.sql(f"alter table {table} add column extra text")
        stack.sql(f"update {table} set extra = 'fresh' where id = 1")
        grid.locator('[data-row="0"] .l6', has_text="fresh").wait_for()
        draft.locator(f".l{SYMBOL}", has_text="AMZN").wait_for()  # though the grid is another now
        draft.locator(f".l{QUANTITY}").click()
        editor.wait_for()
        page.keyboard.type("9")
        grid.locator('[data-row="12"] .l1').click()
        until(lambda: stack.sql(f"select symbol from {table} where id = 22") == [("AMZN",)])
        draft.first.wait_for(state="detached")
        grid.locator('[data-row="12"] .l1.active').wait_for()  # who went on stays there
        assert notebook.console == []
        notebook.run("rt.close()")


@pytest.mark.usefixtures("ledger")
def test_a_new_row_needs_no_key_where_a_sequence_gives_it(
    browser: Browser, stack: LocalStack, table: str, tmp_path: Path
) -> None:
    stack.sql(f"alter table {table} alter id add generated by default as identity (start 100)")
    stack.sql(f"grant usage on sequence {table}_id_seq to anon")
    with browser.notebook() as notebook:
        page = notebook.page
        connect(notebook, stack.url, stack.anon_key, table, tmp_path)
        grid = notebook.show("frame")
        draft = grid.locator(".nrt-draft")
        grid.locator('[data-row="11"] .l0').click()
        page.keyboard.press("Control+i")
        grid.locator(f".nrt-draft .l{SYMBOL} .nrt-editor").wait_for()
        page.keyboard.type("AMZN")
        page.keyboard.press("Enter")
        grid.locator(f".nrt-draft .l{QUANTITY} .nrt-editor").wait_for()
        assert draft.locator(".l0 .nrt-v").inner_text() == "default"
        page.keyboard.type("9")
        page.keyboard.press("Enter")
        until(lambda: stack.sql(f"select id from {table} where symbol = 'AMZN'") == [(100,)])
        grid.locator('[data-row="12"] .l0 .nrt-v:not(.nrt-mark)', has_text="100").wait_for()
        assert notebook.console == []
        notebook.run("rt.close()")


def test_rows_are_deleted_and_taken_back(
    browser: Browser, stack: LocalStack, table: str, tmp_path: Path
) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        connect(notebook, stack.url, stack.anon_key, table, tmp_path, order=None)
        # As long as what is looked at meanwhile takes.
        notebook.run(
            "from notebook_rt.widgets import gridwrites; gridwrites.UNDO_SECONDS = scaled(30)"
        )
        grid = notebook.show("frame")
        grid.locator('[data-row="11"] .l0 .nrt-v').wait_for()
        remove = grid.get_by_role("button", name="Delete the selected rows")
        gone = grid.locator(".nrt-gone .l0")
        assert remove.is_disabled()
        there = f"select count(*) from {table}"

        def keys() -> list[str]:
            return grid.locator(".slick-row .l0").all_inner_texts()

        # Struck through where they are, and not sent yet: so they can be taken back.
        shown = keys()
        grid.locator('[data-row="4"] .l1').click()
        page.keyboard.press("Shift+ArrowDown")
        remove.click()
        gone.nth(1).wait_for()
        assert [text.split()[0] for text in gone.all_inner_texts()] == ["5", "6"]
        grid.get_by_text("10 rows").wait_for()
        assert notebook.ask("print(len(frame.df))") == "10"
        assert findings(page) == []
        grid.get_by_role("button", name="Undo").click()
        gone.first.wait_for(state="detached")
        until(lambda: keys() == shown, what=keys)  # though in the table they are the last ones now
        assert notebook.ask("print(len(rt.queue), len(frame.df))") == "0 12"
        assert stack.sql(there) == [(12,)]

        # By keyboard, and Python's, and then written.
        notebook.run("frame.delete(9, after=60)")
        gone.filter(has_text="9").wait_for()
        grid.locator('[data-row="3"] .l1').click()
        page.keyboard.press("Control+Delete")
        gone.filter(has_text="4").wait_for()
        page.keyboard.press("Control+z")
        gone.filter(has_text="4").wait_for(state="detached")
        page.keyboard.press("Control+Delete")
        gone.filter(has_text="4").wait_for()
        grid.locator('[data-row="3"] .l1').dblclick()
        assert grid.locator(".nrt-pop, .nrt-editor").count() == 0, "it cannot be edited"
        assert notebook.ask("print(rt.queue.flush(scaled(10)))") == "0"
        gone.first.wait_for(state="detached")
        assert stack.sql(there) == [(10,)]
        grid.get_by_text("10 rows").wait_for()
        grid.locator('[data-row="3"] .l1.active').wait_for()  # the focus stays in the grid

        # What cannot be written offers neither.
        for source in ("frame.grid(editable=False)", "frame.map(lambda df: df)"):
            other = notebook.show(source)
            other.locator('[data-row="1"]').first.wait_for()
            assert other.locator("button[data-act]:visible").count() == 0
        assert notebook.console == []
        notebook.run("rt.close()")


def test_what_a_column_may_hold_is_discovered_again_when_it_has_refused(
    browser: Browser,
    stack: LocalStack,
    table: str,
    stored: Callable[[str, int], object],
    tmp_path: Path,
) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        connect(notebook, stack.url, stack.anon_key, table, tmp_path)
        grid = notebook.show("frame")
        said = page.locator(".nrt-why-not")
        grid.locator('[data-row="11"] .l0 .nrt-v').wait_for()

        # An editor refuses what has become possible: it stays open until that is known.
        stack.sql(f"alter table {table} alter column quantity drop not null")
        grid.locator(f'[data-row="1"] .l{QUANTITY}').dblclick()
        editor = page.locator("input.nrt-editor")
        editor.fill("")
        page.keyboard.press("Enter")
        said.filter(has_text="quantity cannot be empty: it is NOT NULL").wait_for()
        notebook.until("frame.schema.column('quantity').nullable")
        assert editor.is_visible()
        until(lambda: not editor.is_visible() or page.keyboard.press("Enter"))  # once it is told
        until(lambda: stored("quantity", 2) is None)

        # The server refuses what is not possible any more: from then on the grid does.
        stack.sql(f"alter table {table} alter column price set not null")
        grid.locator(f'[data-row="2"] .l{PRICE}').click()
        page.keyboard.press("Delete")
        said.filter(has_text="null value in column").wait_for()
        notebook.until("not frame.schema.column('price').nullable", seconds=30)
        grid.locator(f'[data-row="4"] .l{PRICE}').click()
        page.keyboard.press("Delete")
        said.filter(has_text="price cannot be empty: it is NOT NULL").wait_for()
        assert notebook.ask("print(len(rt.queue))") == "1"
        assert notebook.console == []
        notebook.run("rt.close()")
