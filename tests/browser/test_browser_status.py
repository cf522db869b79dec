"""The status widgets in a real JupyterLab: shown, pressed, hidden, run again, saved."""

from __future__ import annotations

import json

import pytest

from tests.browser.axe import findings
from tests.browser.lab import Browser
from tests.waiting import until

pytestmark = pytest.mark.browser


def test_status_widgets_in_jupyterlab(browser: Browser) -> None:
    """One notebook for all of it: opening a kernel takes longer than looking at it."""
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run("from tests.browser.scenes import *\nfrom tests.widgets.memory import *")
        notebook.run("source = health_source('healthy'); w = HealthWidget(source); display(w)")
        page.locator(".nrt-health .nrt-word", has_text="Healthy").wait_for()

        # Told from a thread while a cell sleeps.
        tell = (
            "import threading\nthreading.Timer(0.5, source.set, [HealthReport('offline')]).start()"
        )
        with notebook.busy(tell):
            page.locator(".nrt-word", has_text="Offline").wait_for()

        # The keyboard opens, Escape closes and gives the focus back.
        pill = page.locator(".nrt-health .nrt-pill")
        pill.focus()
        page.keyboard.press("Enter")
        assert page.locator(".nrt-panel").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator(".nrt-panel").is_visible()
        assert pill.evaluate("node => node === document.activeElement")

        # It says what is wrong and what was compared, and the counters are behind "Details".
        pill.click()
        panel = page.locator(".nrt-health + .nrt-panel")
        notebook.run("source.set(health_source('polling').report)")
        panel.get_by_text("rt.retry() tries at once").wait_for()
        assert panel.locator(".nrt-sentence").count() == 4
        assert panel.get_by_role("img").count() == 3
        assert not panel.locator("dl").is_visible()
        panel.get_by_text("Details").click()
        assert panel.locator("dl").is_visible()
        compare = panel.get_by_role("button", name="Compare with the server now")
        with notebook.busy():
            compare.click()
            panel.get_by_text("Comparing every row").wait_for()
        assert compare.is_disabled()
        notebook.run("source.verified.pop()('2 rows compared')")
        panel.get_by_text("2 rows compared").wait_for()
        assert compare.is_enabled()
        notebook.run("source.set(HealthReport('offline'))")
        panel.locator("[title='The server cannot be reached']").wait_for()
        assert compare.is_disabled(), "there is nobody to compare with"
        notebook.run("source.set(health_source('polling').report)")
        panel.get_by_text("rt.retry() tries at once").wait_for()
        assert compare.is_enabled()
        pill.click()

        # A click is handled while a cell sleeps, on the queue's own thread.
        notebook.run("writes = MemoryQueue(*WRITES); q = QueueWidget(writes); display(q)")
        page.locator(".nrt-queue .nrt-pill").click()
        with notebook.busy():
            page.locator('li[data-state="failed"] [data-act="discard"]').click()
            page.locator(".nrt-queue .nrt-word", has_text="4 unsaved").wait_for()
        assert notebook.ask("print(writes.asked)") == "[('discard', '3')]"

        # Nothing to a hidden one; one whole state on return.
        notebook.run(
            "sent = []\n"
            "real = w._send_now\n"
            "from notebook_rt.widgets.base import pump\n"
            "pump._links[w._link] = lambda c, b: (sent.append(c), real(c, b))"
        )
        page.locator(".nrt-health").evaluate("node => node.closest('.nrt').style.display = 'none'")
        notebook.until("not w.seen")
        notebook.run(
            "sent.clear()\n"
            "for n in range(50): source.set(HealthReport('slow', latency=600.0 + n)); time.sleep(0.01)"
        )
        assert notebook.ask("print(len(sent), w.seen)") == "0 False"
        page.locator(".nrt-health").evaluate("node => node.closest('.nrt').style.display = ''")
        pill.scroll_into_view_if_needed()
        page.locator(".nrt-word", has_text="Slow").wait_for()
        whole = "print([bool(one.get('whole')) for one in sent].count(True), sent[0]['whole'])"
        assert notebook.ask(whole) == "1 True"

        # The browser's network is told.
        notebook.run("told = []; e = HealthWidget(source, on_viewer=told.append); display(e)")
        page.locator(".nrt-health").nth(1).scroll_into_view_if_needed()
        page.locator(".nrt-health .nrt-word").nth(1).wait_for()
        page.context.set_offline(True)
        page.evaluate("dispatchEvent(new Event('offline')); dispatchEvent(new Event('online'))")
        page.context.set_offline(False)
        notebook.until("{'seen', 'offline', 'online'} <= set(told)")

        # Names are text, everywhere.
        notebook.run(
            "bad = Person('x', HOSTILE)\n"
            "display(PresenceWidget(MemoryPresence(bad)),\n"
            "        QueueWidget(MemoryQueue(\n"
            "            QueuedWrite('1', HOSTILE, 'failed', HOSTILE, payload=HOSTILE))),\n"
            "        HealthWidget(MemoryHealth(HealthReport(\n"
            "            'offline', [HOSTILE] * 4, HOSTILE, last_error=HOSTILE, usage=HOSTILE,\n"
            "            metrics={HOSTILE: HOSTILE}, trends=[Trend(HOSTILE, HOSTILE, HOSTILE, [1.0])]))),\n"
            "        NotesWidget(MemoryNotes(Note(1, 'failed', HOSTILE, ago(1)))))"
        )
        page.locator(".nrt-notes li").wait_for()
        page.locator(".nrt-pill[aria-expanded=false]").evaluate_all(
            "all => all.map(b => b.click())"
        )
        assert page.locator(".nrt img").count() == 0
        assert page.locator(".nrt .nrt-body b").count() == 0
        assert page.evaluate("window.__ran") is None
        assert page.locator(".nrt-name", has_text="<img src=x").count() == 1

        assert findings(page) == []
        assert notebook.console == []


def test_running_a_cell_again_and_again_leaks_nothing(browser: Browser) -> None:
    with browser.notebook() as notebook:
        notebook.run(
            "import threading\n"
            "from tests.browser.scenes import *\n"
            "from tests.widgets.memory import *\n"
            "from notebook_rt.widgets.base import living, pump\n"
            "from comm import get_comm_manager\n"
            "health, people = MemoryHealth(), MemoryPresence(*people(3))"
        )
        index = notebook.start("bar = StatusBar(health, None, people); bar")
        notebook.page.locator(".nrt-health .nrt-word").wait_for()
        count = (
            "print([len(get_comm_manager().comms), len(living), len(pump), threading.active_count(),"
            " len(health.listeners), len(people.listeners)])"
        )
        before = notebook.ask(count)
        notebook.page.evaluate(
            """async ([index]) => {
              const app = window.jupyterapp;
              const notebook = app.shell.currentWidget.content;
              for (let i = 0; i < 10; i++) {
                notebook.activeCellIndex = index;
                await app.commands.execute("notebook:run-cell");
              }
            }""",
            [index],
        )
        until(lambda: notebook.ask(count) == before, what=lambda: (before, notebook.ask(count)))
        assert notebook.page.locator(".nrt-health").count() == 1


def test_a_saved_notebook_keeps_no_names_and_stays_small(browser: Browser) -> None:
    secret = "sb_secret_0123456789"
    with browser.notebook() as notebook:
        notebook.run(
            "from tests.browser.scenes import *\nfrom tests.widgets.memory import *\n"
            f"error = bytes.fromhex('{secret.encode().hex()}').decode()\n"
            "source = MemoryHealth()"
        )
        notebook.run("w = HealthWidget(source); display(w)")
        notebook.page.locator(".nrt-health .nrt-word").wait_for()
        notebook.run("source.set(HealthReport('offline', last_error=error))")
        notebook.page.locator(".nrt-word", has_text="Offline").wait_for()
        text = json.dumps(notebook.save())
        assert secret not in text
        assert len(text) < 50_000

        # A kernel that has started anew knows nothing of it.
        notebook.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()"
        )
        notebook.page.get_by_text("The kernel was restarted").wait_for()
        faded = "node => getComputedStyle(node).opacity"
        assert float(notebook.page.locator(".nrt-body").evaluate(faded)) < 0.6
