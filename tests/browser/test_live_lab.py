"""The whole product in a real JupyterLab: PostgreSQL to pixels and back, cut off and back again."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_rt.local import LocalStack
from tests.browser.axe import findings
from tests.browser.lab import Browser
from tests.proxy import Proxy
from tests.waiting import until

pytestmark = pytest.mark.browser

SETUP = """
import notebook_rt as nrt
rt = nrt.connect({url!r}, {key!r}, queue_path={path!r},
                 options=nrt.Options(backoff_base=0.2, backoff_max=0.5, poll_interval=0.5))
frame = rt.table({table!r})
_ = frame.wait(20)
"""


@pytest.fixture
def table(stack: LocalStack) -> Iterator[str]:
    name = f"lab_{uuid.uuid4().hex[:8]}"
    stack.sql(
        f"create table {name} (id int primary key, symbol text not null, quantity int not null "
        "check (quantity >= 0), price numeric, notes text);"
        f"alter publication supabase_realtime add table {name};"
        f"grant all on {name} to anon, authenticated, service_role;"
        f"insert into {name} select n, (array['AAPL','MSFT','NVDA'])[n % 3 + 1], n * 10, n * 1.5, "
        f"null from generate_series(1, 12) n"
    )
    yield name
    stack.sql(f"drop table {name}")


def test_a_notebook_on_the_local_stack(
    browser: Browser, stack: LocalStack, table: str, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("NRT_PICTURES", tmp_path))
    with Proxy(stack.url) as proxy, browser.notebook() as notebook:
        page = notebook.page

        def value(row: int, column: int) -> str:
            text = page.locator(f'[data-row="{row}"] .l{column} .nrt-v').inner_text()
            return text.partition("\n")[0]  # what follows tells the mark to a screen reader

        def stored(column: str, key: int) -> object:
            return stack.sql(f"select {column} from {table} where id = {key}")[0][0]

        path = str(tmp_path / "queue.sqlite3")
        notebook.run(SETUP.format(url=proxy.url, key=stack.anon_key, path=path, table=table))
        notebook.run("display(rt.status_bar()); display(frame)")
        page.locator('[data-row="11"] .l0 .nrt-v').wait_for()
        health = page.locator(".nrt-health .nrt-word")
        page.locator(".nrt-health .nrt-word", has_text="Healthy").wait_for(timeout=5000)
        assert not Path(path).exists(), "who only looks makes no file"
        assert findings(page) == []

        # What others write arrives.
        stack.sql(f"update {table} set notes = 'written by sql' where id = 2")
        page.locator('[data-row="1"] .l4', has_text="written by sql").wait_for(timeout=5000)
        stack.sql(f"insert into {table} values (13, 'TSM', 130, 19.5)")
        page.locator('[data-row="12"] .l1', has_text="TSM").wait_for(timeout=5000)

        # What is edited in the grid arrives in PostgreSQL.
        page.locator('[data-row="0"] .l2').dblclick()
        page.locator("input.nrt-editor").fill("77")
        page.keyboard.press("Enter")
        until(lambda: stored("quantity", 1) == 77)
        saved = page.locator(".nrt-queue .nrt-word")
        until(lambda: saved.inner_text() == "All saved", 5, saved.inner_text)
        page.locator(".nrt-grid", has_text="not saved yet").wait_for(state="detached", timeout=5000)
        page.screenshot(path=pictures / "live-lab.png")

        # Cut off: said at once, the edit is kept and shown, and counted.
        proxy.down()
        page.locator(".nrt-health .nrt-word:not(:text-is('Healthy'))").wait_for(timeout=5000)
        page.locator('[data-row="1"] .l2').dblclick()
        page.locator("input.nrt-editor").fill("88")
        page.keyboard.press("Enter")
        until(lambda: value(1, 2) == "88", 5, lambda: value(1, 2))
        page.locator(".nrt-queue .nrt-word", has_text="1 unsaved").wait_for(timeout=5000)
        page.locator(".nrt-health .nrt-word", has_text="Offline").wait_for(timeout=8000)
        page.locator(".nrt", has_text="No connection, this is the data of").first.wait_for()
        assert stored("quantity", 2) == 20
        page.screenshot(path=pictures / "live-lab-offline.png")

        # Back: it heals itself, and what was typed is sent.
        proxy.up()
        until(lambda: health.inner_text() == "Healthy", 15, health.inner_text)
        until(lambda: saved.inner_text() == "All saved", 15, saved.inner_text)
        assert stored("quantity", 2) == 88

        # What the server refuses stays marked, with its words; the queue's list can let go of it.
        page.locator('[data-row="2"] .l2').dblclick()
        page.locator("input.nrt-editor").fill("-1")
        page.keyboard.press("Enter")
        page.locator(".nrt-queue .nrt-failed").wait_for(timeout=8000)
        page.locator(".nrt-queue .nrt-pill").click()
        page.locator('li[data-state="failed"] .nrt-why', has_text="check").wait_for()
        page.screenshot(path=pictures / "live-lab-failed.png")
        page.locator('li[data-state="failed"] [data-act="discard"]').click()
        until(lambda: value(2, 2) == "30", 5, lambda: value(2, 2))
        assert findings(page) == []

        # A cell that sleeps stops nothing.
        notebook.start("import time; time.sleep(3)")
        stack.sql(f"update {table} set notes = 'while it sleeps' where id = 3")
        page.locator('[data-row="2"] .l4', has_text="while it sleeps").wait_for(timeout=2500)
        assert stack.anon_key not in str([cell["outputs"] for cell in notebook.save()["cells"]])
        assert notebook.console == []
        notebook.run("rt.close()")
