"""A Supabase project live inside a notebook: tables as pandas DataFrames that stay true.

```python
import notebook_rt as nrt

rt = nrt.demo()                         # sample data that moves; your own: nrt.connect(url, key)
stocks = rt.table("stocks", filter="symbol=in.(AAPL,MSFT)")
stocks.df                               # a pandas DataFrame; look again later, and it has moved
```

`connect` and `demo` give a `Session`; its ``table`` a `LiveTable` (``df``, ``on_change``, ``edit``), its
``query`` a `LiveQuery`, its ``channel`` a `Channel` (``on``, ``send``, ``presence``). `local` is the
embedded stack, `errors` has every failure by name, `Options` every number, and `run` runs a
coroutine from a cell or a script.
"""

# Names are loaded when they are used, so that the import costs next to nothing.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notebook_rt import local
    from notebook_rt.channel import Channel, Message, Person, Presence
    from notebook_rt.edits.at import At
    from notebook_rt.edits.editing import SendResult
    from notebook_rt.edits.report import WriteReport
    from notebook_rt.errors import InvalidEditError, NotebookRTError
    from notebook_rt.frame import LiveFrame, concat, map
    from notebook_rt.history import History
    from notebook_rt.mapped import MappedFrame
    from notebook_rt.model.rows import RowChange
    from notebook_rt.options import Options
    from notebook_rt.query import LiveQuery
    from notebook_rt.queue import Queue
    from notebook_rt.replay import Replay
    from notebook_rt.running import run
    from notebook_rt.runtime.changes import ChangeBatch
    from notebook_rt.runtime.feed import Verdict
    from notebook_rt.sample.demo import demo
    from notebook_rt.session import Session, connect
    from notebook_rt.sqlview import SqlFrame, sql
    from notebook_rt.sync.connection.health import Health
    from notebook_rt.table import LiveTable

__version__ = "0.1.0"

_HOMES = {
    "At": "notebook_rt.edits.at",
    "ChangeBatch": "notebook_rt.runtime.changes",
    "Channel": "notebook_rt.channel",
    "Health": "notebook_rt.sync.connection.health",
    "History": "notebook_rt.history",
    "InvalidEditError": "notebook_rt.errors",
    "LiveFrame": "notebook_rt.frame",
    "LiveQuery": "notebook_rt.query",
    "LiveTable": "notebook_rt.table",
    "MappedFrame": "notebook_rt.mapped",
    "Message": "notebook_rt.channel",
    "NotebookRTError": "notebook_rt.errors",
    "Options": "notebook_rt.options",
    "Person": "notebook_rt.channel",
    "Presence": "notebook_rt.channel",
    "Queue": "notebook_rt.queue",
    "Replay": "notebook_rt.replay",
    "RowChange": "notebook_rt.model.rows",
    "SendResult": "notebook_rt.edits.editing",
    "Session": "notebook_rt.session",
    "concat": "notebook_rt.frame",
    "connect": "notebook_rt.session",
    "demo": "notebook_rt.sample.demo",
    "map": "notebook_rt.frame",
    "Verdict": "notebook_rt.runtime.feed",
    "SqlFrame": "notebook_rt.sqlview",
    "WriteReport": "notebook_rt.edits.report",
    "run": "notebook_rt.running",
    "sql": "notebook_rt.sqlview",
}
_MODULES = ("errors", "local")

__all__ = [
    "At",
    "ChangeBatch",
    "Channel",
    "Health",
    "History",
    "InvalidEditError",
    "LiveFrame",
    "LiveQuery",
    "LiveTable",
    "MappedFrame",
    "Message",
    "NotebookRTError",
    "Options",
    "Person",
    "Presence",
    "Queue",
    "Replay",
    "RowChange",
    "SendResult",
    "Session",
    "SqlFrame",
    "Verdict",
    "WriteReport",
    "concat",
    "connect",
    "demo",
    "errors",
    "local",
    "map",
    "run",
    "sql",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"notebook_rt.{name}")
    else:
        from notebook_rt.quoting import did_you_mean

        hint = "" if name.startswith("_") else did_you_mean(name, __all__)
        raise AttributeError(f"module 'notebook_rt' has no attribute {name!r}{hint}")
    globals()[name] = value
    return value


def load_ipython_extension(ipython: Any) -> None:
    """What ``%load_ext notebook_rt`` calls: the magic ``%rt``, and Tab for tables, columns and keys."""
    from notebook_rt.magics import load

    load(ipython)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
