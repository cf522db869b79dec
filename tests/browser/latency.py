"""From ``df`` to pixel, beside perspective and ipydatagrid: ``python -m tests.browser.latency [s] [name]``.

Each contender of ``contenders.py`` in a notebook of its own in one JupyterLab: 1,000 random changes a
second on 100,000 rows, in batches at 20 Hz, from a thread. A cell of the first row carries the number
of the batch: the kernel notes when ``df`` had it, the page in which frame it was on the screen. While
the kernel waits, while a cell sleeps, and with the grid hidden and scrolled away. Prints a Markdown
table, and writes it to ``tests/benchmarks/LATENCY.md``; not where only those contenders run whose name
has ``name`` in it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.browser.contenders import CONTENDERS, START, Contender
from tests.browser.lab import Browser, OpenNotebook, browsing, serving
from tests.waiting import scaled

UNSEEN = 5.0
"""Seconds of a run with nothing to see."""
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
            f"| {self.fps:.0f} | {self.megabytes:.3f} | {self.messages:.1f} "
            f"| {self.cpu:.1%} | {self.cpu - self.before:.1%} |"
        )


HEAD = """\
| | while | df to pixel, p50 / p95 ms | shown | fps | MB/s | messages/s | kernel CPU | of it the grid |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def measure(
    notebook: OpenNotebook,
    contender: Contender,
    what: str,
    seconds: float,
    before: float,
    *,
    asleep: bool = False,
) -> Measured:
    """A storm of ``seconds``, and what the page saw of it."""
    page = notebook.page
    # Half a second late, so that nothing of the cell that starts it is part of it.
    notebook.run(f"start({seconds}, after=0.5)")
    if asleep:
        notebook.start(f"time.sleep({seconds + 1.5})")
    page.evaluate(WATCH % contender.read)
    page.wait_for_timeout((seconds + 1.2) * 1000)
    saw = page.evaluate(STOP)
    page.wait_for_timeout(1500 if asleep else 300)
    told = json.loads(notebook.run("print(json.dumps(outcome))"))
    sent = {int(batch): at for batch, at in told["sent"].items()}
    seen = {int(batch): at for batch, at in saw["seen"].items() if at}
    return Measured(
        contender.name,
        what,
        tuple(seen[batch] - at for batch, at in sent.items() if batch in seen),
        len(sent),
        saw["frames"] / saw["seconds"],
        saw["bytes"] / saw["seconds"] / 1e6,
        saw["messages"] / saw["seconds"],
        told["cpu"],
        before,
    )


def compete(browser: Browser, contender: Contender, seconds: float) -> list[Measured]:
    """All runs of one contender, in a notebook of its own."""
    with browser.notebook(height=1000, script=PAGE) as notebook:
        page = notebook.page
        notebook.run(START + contender.kernel)
        notebook.run(f"start({UNSEEN})")
        page.wait_for_timeout(UNSEEN * 1000 + 500)
        before = float(notebook.run("print(outcome['cpu'])"))
        notebook.run(contender.show)
        grid = page.locator(contender.root).first
        grid.scroll_into_view_if_needed(timeout=scaled(60_000))
        notebook.run("start(2)")  # what is made once is made now
        page.wait_for_timeout(3000)

        def run(what: str, seconds: float, *, asleep: bool = False) -> Measured:
            measured = measure(notebook, contender, what, seconds, before, asleep=asleep)
            print(measured.row(), flush=True)
            return measured

        results = [run("the kernel waits", seconds), run("a cell sleeps", seconds, asleep=True)]
        style = grid.evaluate_handle("node => node.closest('.jp-OutputArea').style")
        style.evaluate("style => { style.display = 'none'; }")
        page.wait_for_timeout(500)
        results.append(run("it is hidden", UNSEEN))
        style.evaluate("style => { style.display = ''; style.marginTop = '9000px'; }")
        page.wait_for_timeout(1000)
        results.append(run("it is scrolled away", UNSEEN))
        return results


def main(seconds: float, name: str = "") -> None:
    with (
        tempfile.TemporaryDirectory() as root,
        serving(Path(root)) as server,
        browsing(server) as browser,
    ):
        print(HEAD)
        wanted = [each for each in CONTENDERS if name in each.name]
        results = [m for each in wanted for m in compete(browser, each, seconds)]
    blind = {result.name for result in results} - {result.name for result in results if result.late}
    assert not blind, (
        f"{', '.join(blind)} showed nothing: what it is given here is not what it takes"
    )
    if name:
        return
    packages = ("jupyterlab", "ipykernel", "perspective-python", "ipydatagrid")
    table = "\n".join([HEAD, *(result.row() for result in results)])
    RESULTS.write_text(
        f"# From `df` to pixel\n\n`./do latency {seconds:g}` on {datetime.now(UTC):%Y-%m-%d}: 1,000 random "
        "changes a second on 100,000 rows × 10 columns,\nbatches at 20 Hz from a thread, "
        f"{seconds:g} s a run ({UNSEEN:g} s unseen), in a real JupyterLab in headless Chromium. "
        f"{os.cpu_count()} cores, Python {platform.python_version()},\n"
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + ". MB/s and messages/s are all that the page's\nwebsockets received; the percentiles are "
        f"of the batches that were shown.\n\n{table}\n"
    )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0, *sys.argv[2:3])
