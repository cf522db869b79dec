"""``%load_ext notebook_rt``: the magics ``%rt`` and ``%%live``, and Tab inside the quotes.

In: IPython's shell. Out: ``%rt`` prints the state of the notebook's sessions and tables; a cell of SQL after
``%%live`` is shown and kept up to date; completion offers tables in ``rt.table("``, columns in
``frame.edit(7, `` and ``order="``, and keys in ``frame.at["``. Only names of the notebook are looked up; the
typed text is never run.
"""

from __future__ import annotations

import re
import shlex
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from notebook_rt.errors import NotebookRTError
from notebook_rt.frame import LiveFrame
from notebook_rt.mapped import MappedFrame
from notebook_rt.quoting import printable
from notebook_rt.session import Session
from notebook_rt.table import LiveTable

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

TABLES_SECONDS: Final = 30.0
"""Seconds for which a list of tables is reused."""
MOST: Final = 200
"""Maximum number of completions."""

_TABLE: Final = re.compile(r"""(\w+)\.(?:table|query)\(\s*["'](?P<begun>[^"']*)$""")
_DEPENDS: Final = re.compile(
    r"""(\w+)\.query\(.*\bdepends_on\s*=\s*\[?(?:\s*["'][^"']*["']\s*,)*\s*["'](?P<begun>[^"']*)$"""
)
_KEY: Final = re.compile(
    r"""(\w+)\.(?:at\[|get\(|edit\(|delete\(|resolve\()\s*["'](?P<begun>[^"']*)$"""
)
_CELL: Final = re.compile(r"""(\w+)\.at\[[^\]]*,\s*["'](?P<begun>[^"']*)$""")
_VALUE: Final = re.compile(
    r"""(\w+)\.(?:edit\((?:[^()]|\([^()]*\))*,|insert\((?:(?:[^()]|\([^()]*\))*,)?)\s*(?P<begun>\w*)$"""
)
_NAMED: Final = re.compile(
    r"""(\w+)\.(?:grid|plot)\(.*\b(?:columns|editable|x|y|color)\s*=\s*\[?"""
    r"""(?:\s*["'][^"']*["']\s*,)*\s*["'](?P<begun>[^"']*)$"""
)

_listed: weakref.WeakKeyDictionary[Session, tuple[float, list[str]]] = weakref.WeakKeyDictionary()


def load(shell: InteractiveShell) -> None:
    """Register the magics and the completion."""
    magic: Any = partial(rt, shell.user_ns)  # IPython annotates it as its own method
    shell.register_magic_function(magic, "line", "rt")
    of_a_cell: Any = partial(live, shell.user_ns)
    shell.register_magic_function(of_a_cell, "cell", "live")
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:  # before IPython 8.6
        return

    def matcher(context: Any) -> Any:
        begun, found = offered(shell.user_ns, context.line_with_cursor[: context.cursor_position])
        return {
            "completions": [SimpleCompletion(text=text, type="notebook_rt") for text in found],
            "matched_fragment": begun,
            "suppress": bool(found),
        }

    assert shell.Completer is not None  # a shell has one
    shell.Completer.custom_matchers.append(context_matcher()(matcher))


def offered(names: Mapping[str, Any], line: str) -> tuple[str, list[str]]:
    """Return the beginning of a word at the end of ``line``, and its completions."""
    for pattern, wanted, list_them in _PLACES:
        found = pattern.search(line)
        if found is None or not isinstance(thing := names.get(found[1]), wanted):
            continue
        begun = found["begun"]
        going_on = [text for text in list_them(thing) if text.startswith(begun)]
        return begun, going_on[:MOST]
    return "", []


def _tables(session: Session) -> list[str]:
    at, found = _listed.get(session, (0.0, []))
    if not found or time.monotonic() - at > TABLES_SECONDS:
        try:
            found = [str(name) for name in session.tables.index]
        except NotebookRTError:  # completion must not raise
            return []
        _listed[session] = time.monotonic(), found
    return found


def _columns(frame: LiveFrame) -> list[str]:
    return [] if frame.schema is None else list(frame.schema.names)


def _assigned(frame: LiveTable) -> list[str]:
    return [f"{name}=" for name in _columns(frame) if name.isidentifier()]


def _keys(frame: LiveFrame) -> list[str]:
    if frame.schema is None or len(frame.schema.key) != 1 or frame.status == "error":
        return []
    return [key for key in frame.df.index if isinstance(key, str) and key.isprintable()]


_PLACES: Final[tuple[tuple[re.Pattern[str], type, Callable[[Any], list[str]]], ...]] = (
    (_TABLE, Session, _tables),
    (_DEPENDS, Session, _tables),
    (_KEY, LiveFrame, _keys),
    (_CELL, LiveFrame, _columns),
    (_NAMED, LiveFrame, _columns),
    (_VALUE, LiveTable, _assigned),
)
"""Patterns of the text before the cursor, the class of the named object, and its completions."""


def rt(names: Mapping[str, Any], line: str) -> Any:
    """``%rt`` prints the state. ``%rt tables``, ``%rt queue``, ``%rt reconnect`` are for one session, given
    by its name if there are several.
    """
    words = shlex.split(line)
    sessions = {
        name: one
        for name, one in names.items()
        if isinstance(one, Session) and not name.startswith("_")
    }
    what, *who = words or ["status"]
    if what not in ("status", "tables", "queue", "reconnect") or len(who) > 1:
        print("%rt, %rt tables, %rt queue or %rt reconnect; a session's name may follow")
        return None
    if who:
        sessions = {name: one for name, one in sessions.items() if name == who[0]}
    if not sessions:
        print(
            f"there is no session {who[0]!r}" if who else "there is no session: rt = nrt.connect()"
        )
        return None
    if what == "status":
        print("\n".join(_listing(names, sessions)))
        return None
    if len({id(one) for one in sessions.values()}) > 1:
        print(
            f"of which session? %rt {what} {next(iter(sessions))}, or {', '.join(list(sessions)[1:])}"
        )
        return None
    (session, *_) = sessions.values()
    if what == "reconnect":
        session.retry()
        return None
    return session.tables if what == "tables" else session.queue


def live(names: dict[str, Any], line: str, cell: str) -> Any:
    """``%%live`` shows the cell's SQL over the notebook's live frames, kept up to date. ``%%live totals``
    names the view, ``%%live totals symbol`` also sets its key. A table without a variable is opened if there
    is one session.
    """
    from notebook_rt.sqlview import SqlFrame, made

    words = shlex.split(line)
    name, key = words[0] if words else None, words[1:]
    if name is not None and not (name.isidentifier() and not name.startswith("_")):
        print("%%live, %%live name, or %%live name key: the cell's SQL, as a variable")
        return None
    view: SqlFrame = made(cell, None, partial(_frame, names), key or None)
    if name is not None:
        names[name] = view
    return view


def _frame(names: Mapping[str, Any], table: tuple[str, str]) -> Any:
    """Return the frame that a query of ``%%live`` names: the notebook's, otherwise the session's table."""
    import pandas as pd

    schema, name = table
    frame = names.get(name)
    if not schema and isinstance(frame, (LiveFrame, MappedFrame, pd.DataFrame)):
        return frame
    sessions = {id(one): one for one in names.values() if isinstance(one, Session)}
    if len(sessions) == 1:
        return next(iter(sessions.values())).table(name, schema=schema or None)
    why = "several sessions could have it" if sessions else "there is no session to open it"
    raise NotebookRTError(f"no live frame of this notebook is named {name}, and {why}")


def _listing(names: Mapping[str, Any], sessions: Mapping[str, Session]) -> Iterator[str]:
    for name, session in sessions.items():
        health = session.health
        yield printable(f"{name}: {session.url}, {health.status}: {health.reason}")
    for name, frame in names.items():
        if isinstance(frame, LiveFrame) and not name.startswith("_"):
            rows = ""
            if frame.status not in ("loading", "error"):
                # A derived frame is computed when it is read, and may fail then: its status shows the reason.
                with suppress(NotebookRTError):
                    rows = f", {len(frame):,} rows"
            why = f": {frame.reason}" if frame.reason and frame.status != "live" else ""
            yield printable(f"  {name}: {frame.name}, {frame.status}{rows}{why}")
