"""What it costs to record a table's past, and to look at it (docs/design/history.md).

Processor time of what a live table does with changes, from the frames on, with its past recorded and
without; then an hour of 100 changes a second on 100,000 rows: its bytes, and how soon a moment of it is a
frame.
"""

from __future__ import annotations

import time
from statistics import median

from notebook_rt.edits.overlay import Overlay
from notebook_rt.model.rows import Op, Upsert
from notebook_rt.model.spec import TableSpec
from notebook_rt.store.journal import JournalledTable
from notebook_rt.sync.events import Change, Page, ReceivedMany
from notebook_rt.sync.history.past import Past, View
from tests.benchmarks.harness import OURS, Result
from tests.benchmarks.workload import rows, table

SUITE = "history"
