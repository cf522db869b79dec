"""From ``df`` to pixel, beside other grids: ``python -m tests.browser.latency [s] [name]``.

Each contender of ``contenders.py`` in a notebook of its own in one JupyterLab: 1,000 random changes a
second on 100,000 rows, in batches at 20 Hz, from a thread. A cell of the first row carries the number
of the batch: the kernel notes when ``df`` had it, the page in which frame it was on the screen. While
the kernel waits, while a cell sleeps, and with the grid hidden and scrolled away; before that while nothing
changes: the frames that the machine has to give. The changes of ``LIVE`` are SQL, and its batches are late
from their commit on. Prints a Markdown table, and writes it to ``tests/benchmarks/LATENCY.md``; not where
only those contenders run whose name has ``name`` in it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psycopg
from playwright.sync_api import Page

import notebook_rt as nrt
from notebook_rt.local import LocalStack, StackOptions
from notebook_rt.local.options import RealtimeOptions
from tests.browser.contenders import CONTENDERS, FIRST, ROWS, START, TRADES, WRITE, Contender
from tests.browser.lab import Browser, OpenNotebook, browsing, serving
from tests.waiting import scaled

UNSEEN = 5.0
"""Seconds of a run with nothing to see."""
LIMITLESS = StackOptions(realtime=RealtimeOptions(events_per_second=None))
RESULTS = Path(__file__).parents[1] / "benchmarks" / "LATENCY.md"
PAGE = """
// Every byte that reaches the page by websocket, and what ipydatagrid draws on its canvas.
window.nrtBytes = window.nrtMessages = 0;
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data }) => {
      window.nrtBytes += data.byteLength ?? data.size ?? data.length;
      window.nrtMessages++;
    });
  }
};
const fillText = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  const number = Number(String(text).replace(/,/g, ""));
  if (number > 4e6) window.nrtDrawn = number;
  return fillText.call(this, text, ...rest);
};
"""
WATCH = """
() => {
  const read = %s;
  const run = (window.nrtRun = {
    seen: {}, frames: 0, on: true, bytes: nrtBytes, messages: nrtMessages, began: performance.now(),
  });
  const look = () => {
    if (!run.on) return;
    run.frames++;
    const batch = read();
    // Drawn in this frame: on the screen when the next one begins.
    if (batch && !(batch in run.seen)) {
      run.seen[batch] = 0;
      requestAnimationFrame(() => (run.seen[batch] = Date.now()));
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}
"""
STOP = """
() => {
  const run = window.nrtRun;
  run.on = false;
  return { seen: run.seen, frames: run.frames, seconds: (performance.now() - run.began) / 1000,
           bytes: nrtBytes - run.bytes, messages: nrtMessages - run.messages };
}
"""


@dataclass(frozen=True)
class Measured:
    """One run of one contender."""

    name: str
    what: str
    late: tuple[float, ...]
    """Milliseconds from ``df`` to the screen, of the batches that were shown."""
    sent: int
    fps: float
    busy: float
    """Of one core, the processor time of the page's main thread."""
    megabytes: float
    messages: float
    cpu: float
    """Of one core, the kernel's process."""
    before: float
    """… and the same changes with no grid."""

    def row(self) -> str:
        late = (
            f"{np.percentile(self.late, 50):.0f} / {np.percentile(self.late, 95):.0f}"
            if self.late
            else "–"
        )
        return (
            f"| {self.name} | {self.what} | {late} | {len(self.late)} of {self.sent} "
            f"| {self.fps:.0f} | {self.busy:.0%} | {self.megabytes:.3f} | {self.messages:.1f} "
            f"| {self.cpu:.1%} | {self.cpu - self.before:.1%} |"
        )


HEAD = """\
| | while | df to pixel, p50 / p95 ms | shown | fps | page | MB/s | messages/s | kernel CPU | of it the grid |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


class Writer:
    """Batches of SQL at 20 Hz, 1,000 changes a second, on a thread."""

    def __init__(self, stack: LocalStack) -> None:
        self._connection = psycopg.connect(stack.dsn, autocommit=True, prepare_threshold=1)
        self._cursor = psycopg.RawCursor(self._connection)
        self._rng = np.random.default_rng(3)
        self._batch = FIRST
        self._thread = threading.Thread()
        self.sent: dict[int, float] = {}
        """When each batch was committed, in milliseconds since 1970."""

    def start(self, seconds: float, after: float = 0.0) -> None:
        self.sent = {}
        self._thread = threading.Thread(target=self._storm, args=(seconds, after), daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _storm(self, seconds: float, after: float) -> None:
        time.sleep(after)
        began = next_at = time.perf_counter()
        while time.perf_counter() - began < seconds:
            self._batch += 1
            keys = np.unique(self._rng.integers(1, ROWS, 49)).tolist()
            values = self._rng.uniform(1, 999, len(keys)).tolist()
            self._cursor.execute(WRITE, [[*keys, 0], [*values, float(self._batch)]])
            self.sent[self._batch] = time.time() * 1000
            next_at += 0.05
            time.sleep(max(0, next_at - time.perf_counter()))


class Clock:
    """How much processor time a page's main thread took."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy(self) -> float:
        """Seconds of tasks so far."""
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


def measure(
    notebook: OpenNotebook,
    contender: Contender,
    what: str,
    seconds: float,
    before: float,
    writer: Writer | None,
    *,
    asleep: bool = False,
    quiet: bool = False,
) -> Measured:
    """A storm of ``seconds``, or none, and what the page saw of it."""
    page = notebook.page
    # Half a second late, so that nothing of the cell that starts it is part of it.
    if not quiet:
        notebook.ask(f"start({seconds}, after=0.5)")
        if writer is not None:
            writer.start(seconds, after=0.5)
    if asleep:
        notebook.start(f"time.sleep({seconds + 1.5})")
    clock = Clock(page)
    busy = clock.busy()
    page.evaluate(WATCH % contender.read)
    page.wait_for_timeout((seconds + 1.2) * 1000)
    saw = page.evaluate(STOP)
    busy = clock.busy() - busy
    page.wait_for_timeout(1500 if asleep else 300)
    told = {"sent": {}, "cpu": 0.0}
    if not quiet:
        told |= json.loads(notebook.ask("print(json.dumps(outcome))"))
        if writer is not None:
            writer.join()
            assert told["status"] == "live", told
            told["sent"] = writer.sent
    sent = {int(batch): at for batch, at in told["sent"].items()}
    seen = {int(batch): at for batch, at in saw["seen"].items() if at}
    return Measured(
        contender.name,
        what,
        tuple(seen[batch] - at for batch, at in sent.items() if batch in seen),
        len(sent),
        saw["frames"] / saw["seconds"],
        busy / saw["seconds"],
        saw["bytes"] / saw["seconds"] / 1e6,
        saw["messages"] / saw["seconds"],
        told["cpu"],
        0.0 if quiet else before,
    )


def compete(
    browser: Browser, stack: LocalStack, contender: Contender, seconds: float
) -> list[Measured]:
    """All runs of one contender, in a notebook of its own."""
    writer = Writer(stack) if contender.sql else None
    where = f"URL, KEY = {stack.url!r}, {stack.anon_key!r}\n"
    with browser.notebook(height=1000, script=PAGE) as notebook:
        page = notebook.page
        notebook.run((START if writer is None else where) + contender.kernel)
        if writer is not None:  # what the first change makes is made before
            writer.start(2)
            writer.join()
        notebook.run(f"start({UNSEEN})")
        if writer is not None:
            writer.start(UNSEEN)
        page.wait_for_timeout(UNSEEN * 1000 + 500)
        before = float(notebook.run("print(outcome['cpu'])"))
        notebook.run(contender.show)
        grid = page.locator(contender.root).first
        grid.scroll_into_view_if_needed(timeout=scaled(60_000))
        notebook.run("start(2)")  # what is made once is made now
        if writer is not None:
            writer.start(2)
        page.wait_for_timeout(3000)

        def run(
            what: str, seconds: float, *, asleep: bool = False, quiet: bool = False
        ) -> Measured:
            measured = measure(
                notebook, contender, what, seconds, before, writer, asleep=asleep, quiet=quiet
            )
            print(measured.row(), flush=True)
            return measured

        results = [
            run("nothing changes", UNSEEN, quiet=True),
            run("nothing changes, a cell sleeps", UNSEEN, asleep=True, quiet=True),
            run("the kernel waits", seconds),
            run("a cell sleeps", seconds, asleep=True),
        ]
        style = grid.evaluate_handle("node => node.closest('.jp-OutputArea').style")
        style.evaluate("style => { style.display = 'none'; }")
        page.wait_for_timeout(500)
        results.append(run("it is hidden", UNSEEN))
        style.evaluate("style => { style.display = ''; style.marginTop = '9000px'; }")
        grid.evaluate(
            """node => {  // to the notebook's beginning: a margin alone does not move what is seen
              for (let up = node; up; up = up.parentElement) up.scrollTop = 0;
            }"""
        )
        page.wait_for_timeout(1000)
        results.append(run("it is scrolled away", UNSEEN))
        return results


def main(seconds: float, name: str = "") -> None:
    with (
        tempfile.TemporaryDirectory() as root,
        serving(Path(root)) as server,
        nrt.local.start(Path(root) / "stack", options=LIMITLESS) as stack,
        browsing(server) as browser,
    ):
        for statement in TRADES.split(";"):
            stack.sql(statement)
        print(HEAD)
        wanted = [each for each in CONTENDERS if name in each.name]
        results = [m for each in wanted for m in compete(browser, stack, each, seconds)]
    blind = {result.name for result in results} - {result.name for result in results if result.late}
    assert not blind, (
        f"{', '.join(blind)} showed nothing: what it is given here is not what it takes"
    )
    if name:
        return
    load = os.getloadavg()[2]
    packages = ("jupyterlab", "ipykernel", "perspective-python", "ipydatagrid")
    table = "\n".join([HEAD, *(result.row() for result in results)])
    RESULTS.write_text(
        f"# From `df` to pixel\n\n`./do latency {seconds:g}` on {datetime.now(UTC):%Y-%m-%d}: 1,000 random "
        "changes a second on 100,000 rows × 10 columns,\nbatches at 20 Hz from a thread, "
        f"{seconds:g} s a run ({UNSEEN:g} s unseen), in a real JupyterLab in headless Chromium. "
        f"{os.cpu_count()} cores with a load of {load:.0f}, Python {platform.python_version()},\n"
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + ". MB/s and messages/s are all that the page's\nwebsockets received; the percentiles are "
        "of the batches that were shown, of the real table from the commit on. *page* is the processor time\n"
        f"of the page's main thread.\n\n{table}\n"
    )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0, *sys.argv[2:3])
