"""What it costs to record a table's past, and to look at it (docs/design/history.md).

Processor time of what a live table does with changes, from the frames on, with its past recorded and
without; then an hour of 100 changes a second on 100,000 rows: its bytes, and how soon a moment of it is a
frame.
"""

from __future__ import annotations

SUITE = "history"
