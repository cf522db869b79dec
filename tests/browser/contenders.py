"""The grids compared by ``latency.py``: the code of each in the kernel, and where it is displayed.

All show the same 100,000 rows × 10 columns and take the same changes: 50 random cells every 50 ms,
1,000 a second, one of them the number of the batch, in the first row. ``START`` is common; a
contender adds how a batch is applied, how the grid is told, and how the page reads the number.

``LIVE`` is a real table of the embedded stack: the changes are SQL of the measuring process
(``TRADES``, ``WRITE``), and the kernel has no part in making them.
"""

from __future__ import annotations

from dataclasses import dataclass

ROWS = 100_000
FIRST = 5_000_000
"""Batches are numbered from here on, so that no other value can be taken for one."""

START = f"""
import json, threading, time
import numpy as np, pandas as pd

rows = np.arange({ROWS})
df = pd.DataFrame(dict(
    id=rows, a=rows / 7, b=rows / 3, c=0.5, i=rows, j=-rows, ok=rows % 2 == 0,
    s=pd.array([f's{{k % 97}}' for k in rows], dtype='str'),
    t=pd.array([f'row {{k}}' for k in rows], dtype='str'),
    at=pd.Timestamp('2026-11-26T09:30Z')))
rng = np.random.default_rng(3)
outcome = {{}}

def storm(seconds):
    '''Batches at 20 Hz: when `df` had each, and the share of a core that the process took.'''
    sent, began, spent = {{}}, time.perf_counter(), time.process_time()
    next_at = began
    while time.perf_counter() - began < seconds:
        storm.batch += 1
        keys = rng.integers(1, {ROWS}, 49)
        apply(keys, rng.uniform(1, 999, 49), storm.batch)
        sent[storm.batch] = time.time() * 1000
        tell()
        next_at += 0.05
        time.sleep(max(0, next_at - time.perf_counter()))
    took = time.perf_counter() - began
    outcome.update(sent=sent, cpu=(time.process_time() - spent) / took, seconds=took)

storm.batch = {FIRST}

def start(seconds, after=0.0):
    outcome.clear()
    threading.Timer(after, storm, (seconds,)).start()
"""


@dataclass(frozen=True)
class Contender:
    """One grid."""

    name: str
    kernel: str
    """Defines ``apply(keys, values, batch)`` and ``tell()``."""
    show: str
    read: str
    """JavaScript: a function that returns the batch that is drawn, or undefined."""
    root: str
    """CSS of the element that is hidden, and scrolled away."""
    sql: bool = False
    """Whether the changes are SQL: then ``start`` measures the kernel's share of a core, and no more."""


OURS = Contender(
    "notebook_rt",
    """
from notebook_rt.store.table import Table
from notebook_rt.model.types import Column, Schema
from notebook_rt.model.rows import Upsert
from notebook_rt.widgets import GridWidget
from tests.widgets.memory import MemoryFrame

TYPES = dict(id='int8', a='float8', b='float8', c='float8', i='int4', j='int4', ok='bool',
             s='text', t='text', at='timestamptz')

class TableSource(MemoryFrame):
    '''The columnar table itself, as a live frame hands it out.'''

    def __init__(self):
        fields = tuple(Column(name, kind) for name, kind in TYPES.items())
        self.table = Table(Schema(fields, ('id',)))
        self.table.apply([Upsert(row['id'], row) for row in df.to_dict('records')])
        super().__init__(self.table.snapshot(), fields, 'trades')

    @property
    def df(self):
        return self.table.snapshot()

    @df.setter
    def df(self, df):
        pass

source = TableSource()

def apply(keys, values, batch):
    ops = [Upsert(int(k), dict(a=float(v))) for k, v in zip(keys, values)]
    source.table.apply([*ops, Upsert(0, dict(a=float(batch)))])
    source.table.snapshot()

tell = source.tell
""",
    "g = GridWidget(source, height=420); display(g)",
    """() => {
      const node = document.querySelector('[data-row="0"] .l1 .nrt-v');
      return node ? Number(node.textContent.replace(/,/g, "")) : undefined;
    }""",
    ".nrt",
)
GROUPED = Contender(
    "notebook_rt, a group-by",
    OURS.kernel
    + """
from notebook_rt.sync.derive.groupby import Aggregate, GroupBy
from notebook_rt.sync.derive.operator import Derived
from notebook_rt.sync.derive.source import Source

class GroupedSource(MemoryFrame):
    # A group-by of the table, kept up as a live frame keeps it.

    def __init__(self, table):
        aggregates = [Aggregate('highest', 'a', 'max'), Aggregate('mean', 'a', 'mean'),
                      Aggregate('total', 'i', 'sum'), Aggregate('n', 'a', 'count')]
        self.derived = Derived(GroupBy(('s',), aggregates), None)
        self.derived.bind([Source(table)])
        self.derived.advance(want_changes=False)
        fields = (Column('s', 'text'), Column('highest', 'float8'), Column('mean', 'float8'),
                  Column('total', 'int8'), Column('n', 'int8'))
        super().__init__(self.df, fields, 'groups')

    @property
    def df(self):
        return self.derived.view.snapshot()

    @df.setter
    def df(self, df):
        pass

grouped = GroupedSource(source.table)

def apply(keys, values, batch):
    ops = [Upsert(int(k), dict(a=float(v))) for k, v in zip(keys, values)]
    source.table.apply([*ops, Upsert(0, dict(a=float(batch)))])
    grouped.derived.advance(want_changes=True)
    grouped.derived.view.snapshot()

tell = grouped.tell
""",
    "g = GridWidget(grouped, height=420); display(g)",
    OURS.read,
    OURS.root,
)
PERSPECTIVE = Contender(
    "perspective",
    """
import perspective
from perspective.widget import PerspectiveWidget

table = perspective.table(df, index='id')

def apply(keys, values, batch):
    table.update(dict(id=[*keys.tolist(), 0], a=[*values.tolist(), float(batch)]))

def tell(): pass
""",
    "g = PerspectiveWidget(table, columns=[*df.columns]); display(g)",
    """() => {
      const find = (node) => {
        if (node.localName === "regular-table") return node;
        for (const child of [...(node.shadowRoot?.children ?? []), ...node.children]) {
          const found = find(child);
          if (found) return found;
        }
      };
      const table = (window.nrtTable ??= find(document.querySelector("perspective-viewer")));
      const cells = table?.querySelectorAll("tbody tr:first-child td") ?? [];
      return [...cells].map((cell) => Number(cell.textContent.replace(/,/g, ""))).find((n) => n > 4e6);
    }""",
    "perspective-viewer",
)
IPYDATAGRID = Contender(
    "ipydatagrid, debounce 20 ms",
    """
from ipydatagrid import StreamingDataGrid

df = df.set_index('id')

def apply(keys, values, batch):
    df.iloc[[*keys, 0], 0] = [*values, batch]

def tell():
    if 'g' in globals():
        g.tick()
""",
    "layout = {'height': '420px'}\n"
    "g = StreamingDataGrid(df, debounce_delay=20, base_column_size=110, layout=layout); display(g)",
    "() => window.nrtDrawn",
    ".ipydatagrid-widget, .lm-DataGrid",
)
TRADES = f"""
create table trades (id int8 primary key, a float8, b float8, c float8, i int, j int, ok bool, s text,
                     t text, at timestamptz);
insert into trades select k, k / 7.0, k / 3.0, 0.5, k, -k, k % 2 = 0, 's' || k % 97, 'row ' || k,
                          '2026-11-26T09:30Z' from generate_series(0, {ROWS - 1}) k;
grant select, insert, update, delete on trades to anon, authenticated, service_role;
alter publication supabase_realtime add table trades
"""
WRITE = "update trades set a = n.a from unnest($1::int8[], $2::float8[]) n (id, a) where trades.id = n.id"
"""A batch: keys, and what the column ``a`` is from now on."""
LIVE = Contender(
    "notebook_rt, a group-by of a real table",
    """
import json, threading, time
import notebook_rt as nrt

rt = nrt.connect(URL, KEY, options=nrt.Options(plan="uncapped"))  # which sends so many
trades = rt.table('trades')
trades.wait(120)
groups = trades.groupby('s').agg(
    highest=('a', 'max'), mean=('a', 'mean'), total=('i', 'sum'), n=('a', 'count'))
outcome = {}

def spend(seconds):
    began, spent = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    took = time.perf_counter() - began
    outcome.update(cpu=(time.process_time() - spent) / took, status=str(groups.status))

def start(seconds, after=0.0):
    outcome.clear()
    threading.Timer(after, spend, (seconds,)).start()

told = groups.on_change(lambda batch: None)
""",
    "g = groups.grid(height=420); display(g)",
    OURS.read,
    OURS.root,
    sql=True,
)
CONTENDERS = (OURS, GROUPED, LIVE, PERSPECTIVE, IPYDATAGRID)
