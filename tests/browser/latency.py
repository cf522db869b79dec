"""From ``df`` to pixel: ``python -m tests.browser.latency [seconds]``.

A table of 100,000 rows × 10 columns in a real JupyterLab, 1,000 random changes a second in batches
at 20 Hz from a thread. One visible cell carries the number of the batch; the page notes the frame
in which it sees each number, the kernel notes when ``df`` had it. The same again while a cell
sleeps, and once more with the grid hidden. Prints a Markdown table.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.browser.lab import OpenNotebook, browsing, serving

ROWS = 100_000

KERNEL = f"""
import json, threading, time
import numpy as np, pandas as pd
from notebook_rt.store.table import Table
from notebook_rt.store.types import Column, Schema
from notebook_rt.sync.rows import Upsert
from notebook_rt.widgets import GridWidget
from notebook_rt.widgets.base import pump
from tests.widgets.memory import Told

TYPES = dict(id='int8', a='float8', b='float8', c='float8', i='int4', j='int4', ok='bool',
             s='text', t='text', at='timestamptz')

class TableSource(Told):
    '''The columnar table itself, as a live frame would hand it out.'''
    name, status, note, editable = 'trades', 'live', '', True
    fields = tuple(Column(name, kind) for name, kind in TYPES.items())

    def __init__(self, n):
        super().__init__()
        self.table = Table(Schema(tuple(Column(k, v) for k, v in TYPES.items()), ('id',)))
        now = pd.Timestamp.now('UTC').floor('us')
        self.table.apply([
            Upsert(k, dict(id=k, a=k / 7, b=k / 3, c=0.5, i=k, j=-k, ok=k % 2 == 0, s=f's{{k % 97}}',
                           t=f'row {{k}}', at=now))
            for k in range(n)])

    @property
    def df(self):
        return self.table.snapshot()

    def marks(self): return {{}}
    def conflicts(self): return ()
    def edit(self, *args): raise NotImplementedError
    def resolve(self, *args): raise NotImplementedError
    on_change = Told.listen

source = TableSource({ROWS})
rng = np.random.default_rng(3)

def storm(seconds, tell=True):
    sent, started = {{}}, time.process_time()
    base = storm.batch
    begin = next_at = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        storm.batch += 1
        keys = rng.integers(1, {ROWS}, 49).tolist()
        ops = [Upsert(k, dict(a=float(rng.uniform(1, 999)), i=int(k))) for k in keys]
        source.table.apply([*ops, Upsert(0, dict(a=float(storm.batch)))])
        source.table.snapshot()
        sent[storm.batch] = time.time() * 1000
        if tell:
            source.tell()
        next_at += 0.05
        time.sleep(max(0, next_at - time.perf_counter()))
    return sent, (time.process_time() - started) / seconds

storm.batch = 0
bytes_out = [0, 0]
"""
SHOW = """
g = GridWidget(source, height=420)
real = g._send_now
def counted(content, buffers):
    bytes_out[0] += len(json.dumps(content)) + sum(map(len, buffers)); bytes_out[1] += 1
    real(content, buffers)
pump.call(lambda: pump._links.__setitem__(g._link, counted))
display(g)
"""
WATCH = """
() => {
  const seen = (window.nrtSeen = {});
  window.nrtFrames = 0;
  window.nrtWatching = true;
  const look = () => {
    window.nrtFrames++;
    const node = document.querySelector('[data-row="0"] .l1 .nrt-v');
    const value = node && Number(node.textContent.replace(/,/g, ""));
    if (value && !(value in seen)) {
      // Drawn in this frame: on the screen when the next one begins.
      const at = value;
      requestAnimationFrame(() => (seen[at] ??= performance.timeOrigin + performance.now()));
    }
    if (window.nrtWatching) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}
"""


@dataclass(frozen=True)
class Measured:
    """One run."""

    name: str
    p50: float
    p95: float
    shown: int
    sent: int
    fps: float
    megabytes: float
    messages: float
    cpu: float

    def row(self) -> str:
        return (
            f"| {self.name} | {self.p50:.0f} / {self.p95:.0f} | {self.shown} of {self.sent} "
            f"| {self.fps:.0f} | {self.megabytes:.3f} | {self.messages:.1f} | {self.cpu:.1%} |"
        )


def measure(notebook: OpenNotebook, name: str, seconds: float, *, asleep: bool) -> Measured:
    """Storm for ``seconds`` and see what the page saw."""
    page = notebook.page
    idle = float(notebook.run(f"print(storm({seconds / 2}, tell=False)[1])"))
    notebook.run("bytes_out[:] = 0, 0")
    page.evaluate(WATCH)
    if asleep:
        notebook.run(
            "result = {}\n"
            f"run = lambda: result.update(zip(('sent', 'cpu'), storm({seconds})))\n"
            "thread = threading.Timer(0.5, run); thread.start()"
        )
        notebook.run(f"time.sleep({seconds + 1})")
        notebook.run("thread.join()")
    else:
        notebook.run(f"result = dict(zip(('sent', 'cpu'), await_storm({seconds})))")
    page.wait_for_timeout(300)
    frames = page.evaluate("() => { window.nrtWatching = false; return window.nrtFrames; }")
    seen = {int(k): v for k, v in page.evaluate("window.nrtSeen").items()}
    result = json.loads(
        notebook.run("print(json.dumps([result['sent'], result['cpu'], bytes_out]))")
    )
    sent = {int(k): v for k, v in result[0].items()}
    late = np.array([seen[k] - at for k, at in sent.items() if k in seen] or [np.nan])
    length = seconds + (1.5 if asleep else 0) + 0.3
    return Measured(
        name,
        float(np.percentile(late, 50)),
        float(np.percentile(late, 95)),
        len(late) if len(seen) else 0,
        len(sent),
        frames / length,
        result[2][0] / seconds / 1e6,
        result[2][1] / seconds,
        result[1] - idle,
    )


def main(seconds: float) -> None:
    with (
        tempfile.TemporaryDirectory() as root,
        serving(Path(root)) as server,
        browsing(server) as browser,
        browser.notebook(height=1000) as notebook,
    ):
        notebook.run(KERNEL)
        notebook.run(
            "import asyncio\n"
            "def await_storm(seconds):\n"
            "    box = []\n"
            "    thread = threading.Thread(target=lambda: box.append(storm(seconds)))\n"
            "    thread.start(); thread.join()\n"
            "    return box[0]"
        )
        notebook.run(SHOW)
        notebook.page.locator(".nrt").scroll_into_view_if_needed()  # unseen, it is sent nothing
        notebook.page.locator('[data-row="0"] .l1 .nrt-v').wait_for()
        notebook.page.wait_for_timeout(500)
        results = [
            measure(notebook, "the kernel waits", seconds, asleep=False),
            measure(notebook, "a cell sleeps", seconds, asleep=True),
        ]
        notebook.page.evaluate("() => { document.querySelector('.nrt').style.display = 'none'; }")
        notebook.page.wait_for_timeout(300)
        results.append(measure(notebook, "the grid is hidden", seconds, asleep=False))
        print("| | df to pixel, p50 / p95 ms | shown | fps | MB/s | messages/s | kernel CPU |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for result in results:
            print(result.row())


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 8.0)
