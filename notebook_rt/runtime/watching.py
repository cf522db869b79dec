"""``when`` and ``until``: evaluate a condition on the rows of a live frame, and call the user's functions.

``sync/watch.py`` decides. The loop receives batches, and takes a `_Cut` of all rows at first, after a change
of the login, and if too many batches wait. A mailbox thread evaluates the condition, which may be a
function of the user, and calls the user's functions: one row at a time, after it is remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, update_wrapper
from sys import maxsize
from typing import Any, Final, Protocol, TypeAlias
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from notebook_rt.disk.alerts import Memory
from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.errors import DerivationError, NotebookRTError
from notebook_rt.model.filters import Filter, parse
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import Schema
from notebook_rt.runtime.callbacks import Mailbox
from notebook_rt.runtime.changes import ChangeBatch
from notebook_rt.runtime.feed import Feed
from notebook_rt.runtime.judging import Condition
from notebook_rt.store.marks import Mark, OutOfReachError
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.store.touched import HIDDEN_PREFIX
from notebook_rt.sync.derive.operator import known
from notebook_rt.sync.derive.source import Source
from notebook_rt.sync.derive.where import compared, readable, selected, selects
from notebook_rt.sync.events import Status
from notebook_rt.sync.query.answer import POSITION
from notebook_rt.sync.watch import Turn, Watch

logger = logging.getLogger("notebook_rt")

OnTurn: TypeAlias = Callable[[dict[str, Any]], Any]

_AT_A_TIME: Final = 10_000
"""Rows read at a time for a function; the table is locked meanwhile."""
AGAIN_AFTER: Final = 60.0
"""Seconds after which writing a memory is retried."""
WAITING: Final = 1_000
"""Number of waiting batches and calls above which batches are skipped and the rows are read again."""


class Watched(Protocol):
    """The interface of a live frame that is watched."""

    _feed: Feed
    _removers: list[Callable[[], None]]
    _session: object

    @property
    def name(self) -> str: ...

    def _attach(
        self, put: Callable[[ChangeBatch], None], *, gather: bool = True
    ) -> Callable[[], None]: ...


class _Cut(msgspec.Struct, frozen=True):
    """All rows at one moment, and their owner."""

    owner: tuple[str, str]
    schema: Schema
    keys: Sequence[Key]
    mark: Mark
    selected: Sequence[Key] | None
    """The keys that the filter selects; None: the condition is a function."""


class _Reported(msgspec.Struct, frozen=True):
    """Marks that the rows of a cut have been reported."""

    notify: Callable[[], object]


class _Call(msgspec.Struct, frozen=True):
    """A turn to report to the user, and its owner."""

    owner: tuple[str, str]
    schema: Schema
    turn: Turn


class _Unwritten(msgspec.Struct, frozen=True):
    """Marks that the unwritten turns of an owner must be written again."""

    owner: tuple[str, str]


class _Memory:
    """The alert's memory for one owner. Turns that cannot be written are kept, and written later."""

    def __init__(self, opened: Callable[[], Memory]) -> None:
        self._opened = opened
        self._file: Memory | None = None
        self._replace = False
        """Whether the stored contents were not read, so that they must be replaced."""
        self._unwritten: dict[Key, bool | None] = {}
        self._has_failed = False
        self._not_before = float("-inf")

    def read(self) -> Mapping[Key, bool] | None:
        """Return the stored rows; raise like `Memory`."""
        self._replace = True
        self._file = self._opened()
        found = self._file.read()
        self._replace = False
        return found

    def write(self, turns: Iterable[tuple[Key, bool | None]], *, last: bool = False) -> None:
        """Write turns, and earlier ones that could not be written; raise like `Memory`.

        After a failure it is retried only after a pause, or for the ``last`` time.
        """
        self._unwritten.update(turns)
        if time.monotonic() < self._not_before and not last:
            return
        self._has_failed, self._not_before = True, time.monotonic() + AGAIN_AFTER
        if self._file is None:
            self._file = self._opened()
        self._file.write(self._unwritten.items(), replace=self._replace)
        self._unwritten.clear()
        self._replace, self._has_failed, self._not_before = False, False, float("-inf")

    def close(self) -> None:
        """Write the remaining turns, and close the file."""
        if self._has_failed:
            with contextlib.suppress(*_TROUBLE):
                self.write((), last=True)
        if self._file is not None:
            self._file.close()


class Watching:
    """Calls ``enter`` and ``leave`` for each row of ``frame`` that starts and stops to match.

    Parameters
    ----------
    frame
        The watched frame; it is kept alive until `stop`.
    condition, enter, leave, name, at_once, debounce
        As for `LiveFrame.when`.
    failed : callable, optional
        Called with the exception of the condition; by default it is logged once.
    looked : callable, optional
        Called when the current rows have been evaluated and reported; at once if there is no data yet.

    Raises
    ------
    FilterError, DerivationError
        If the condition cannot be parsed or, with data present, cannot be evaluated here.
    """

    def __init__(
        self,
        frame: Watched,
        condition: Condition,
        enter: OnTurn,
        leave: OnTurn | None = None,
        *,
        name: str | None = None,
        at_once: bool = False,
        debounce: float = 0.0,
        failed: Callable[[Exception], object] | None = None,
        reported: Callable[[], object] | None = None,
    ) -> None:
        self._feed = feed = frame._feed
        self._what = f"{frame.name}.when"
        self._filter: Filter | None = None if callable(condition) else parse(condition)
        self._function = condition if callable(condition) else None
        self._selects: tuple[Schema, Callable[[Row], bool]] | None = None
        self._enter, self._leave = enter, leave
        self._name, self._failed, self._reported = name, failed, reported
        self._make = partial(Watch, at_once=at_once, debounce=debounce)
        self._watches: dict[tuple[str, str], Watch] = {}
        self._memories: dict[tuple[str, str], _Memory] = {}
        self._judged: tuple[tuple[str, str], Schema, Watch] | None = None
        """The owner, schema and watch of the evaluated rows. Used by the mailbox thread, as are the next."""
        self._has_failed = False
        self._has_reported = False
        self._error: Exception | None = None
        """The first exception of the condition for the rows being evaluated."""
        self._read_for: tuple[str, str] | None = None
        """The owner of the rows whose changes are received; None: they must be read. Used by the loop."""
        self._skipping = False
        """Whether too many items wait: the mailbox then reads the rows again. Used by the loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._in_use = threading.Lock()
        """Held while the mailbox thread may use the memories: a file that is closed during a write stays
        locked.
        """
        take = update_wrapper(lambda item: self._take(item), enter, ("__qualname__",), ())
        self._box = Mailbox(take, maxsize, self._what, feed.counters)
        self._box.holds = frame  # a waiting caller keeps the frame alive without a variable
        if name is not None:
            before = _named.get((id(frame._session), name))
            if before is not None:
                before.stop()
            _named[id(frame._session), name] = self
        thread = feed.thread
        self._stops = [frame._attach(self._receive, gather=False)]
        thread.call(feed.status_listeners.add, self._read_later)
        self._stops.append(lambda: thread.post(feed.status_listeners.remove, self._read_later))
        if failed is None:
            self._stops.append(feed.log_errors(self._what))
        try:
            thread.call(self._begin)
        except BaseException:
            self.stop()
            raise
        if reported is not None and self._read_for is None:
            reported()

    def stop(self) -> None:
        """Stop calling the functions."""
        self._over = True
        self._box.close()
        for stop in self._stops:
            stop()
        self._release()

    def _release(self) -> None:
        """Close the memories after `stop`: here, or in the mailbox thread once it no longer uses them."""
        if self._over and self._in_use.acquire(blocking=False):
            try:
                for memory in self._memories.values():
                    memory.close()
                self._memories.clear()
            finally:
                self._in_use.release()

    # On the loop

    def _receive(self, batch: ChangeBatch) -> None:
        feed = self._feed
        if batch.cause == "login" or self._read_for != feed.owner:
            self._read_for = None
            self._read_later()
        elif self._skipping:
            pass
        elif self._box.waiting > WAITING:
            self._skipping = True
            self._box.put(None)
        else:
            self._box.put(batch)

    def _read_later(self, status: Status = "live", reason: str = "") -> None:
        """Read the rows after the current notifications of the loop."""
        if self._read_for != self._feed.owner:
            self._read_for = None
            self._feed.thread.post(self._begin_later)

    def _begin_later(self) -> None:
        try:
            if self._read_for is None and not self._over:
                self._begin()
        except NotebookRTError as error:
            self._box.put(error)

    def _begin(self) -> None:
        """Read the rows, if there are any yet, and receive changes from then on."""
        feed = self._feed
        with feed.lock:
            try:
                feed.catch_up()
            except DerivationError:
                if not feed.why_undeclared:
                    raise
                self._make = partial(self._make, at_once=True)  # every row is still to come
                return
            if feed.table is None or not feed.is_whole:
                return
            if self._name is not None and feed.is_warm:
                return  # the memory may be newer than rows stored on disk
            cut = self._cut(feed.table, feed.ordered)
            self._read_for, self._skipping = cut.owner, False
        self._box.put(cut)

    def _cut(self, table: Table, view: Ordered | None) -> _Cut:
        feed, schema = self._feed, self._feed.schema
        assert schema is not None  # there is a table
        if POSITION in schema.key:
            raise DerivationError(
                f'"{feed.name}": its rows have no key, so none can be told from another: say key='
            )
        with table.lock:
            source, chosen = Source(table, view), None
            keys = list(table.keys() if view is None else view.keys())
            if self._filter is not None and self._is_known(schema):
                known(source, self._filter.columns, f"when {str(self._filter)!r}")
                types = compared(source.schema)
                readable(self._filter, types)
                mask = selected(self._filter, source, types)
                chosen = [keys[at] for at in np.flatnonzero(mask)]
            elif self._filter is not None:
                chosen = []
            return _Cut(feed.owner, schema, keys, table.mark(), chosen)

    def _wake(self, at: float) -> None:
        """Let the mailbox check again for due rows."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._over:
            pause = max(0.0, at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(pause, self._box.put, at)

    def _is_known(self, schema: Schema) -> bool:
        """Return whether the filter can be evaluated: a missing column selects no row until it appears."""
        assert self._filter is not None
        return self._feed.declared or set(self._filter.columns) <= schema.types.keys()

    def _restart(self) -> None:
        self._read_for = None
        self._begin_later()

    # On the mailbox thread

    def _take(
        self,
        item: _Cut | _Reported | _Unwritten | ChangeBatch | _Call | NotebookRTError | float | None,
    ) -> Any:
        """Process an item of the loop: a cut, a batch, a time to check for due rows, None (read the rows
        again), an error; or a call put in here.
        """
        try:
            with self._in_use:
                if isinstance(item, _Call):
                    return self._call(item)
                self._process(item)
        finally:
            self._release()
        return None

    def _process(
        self, item: _Cut | _Reported | _Unwritten | ChangeBatch | NotebookRTError | float | None
    ) -> None:
        match item:
            case NotebookRTError():
                self._fail(item)
            case None:
                self._feed.thread.call(self._restart)
            case _Reported():
                item.notify()
            case _Unwritten():
                self._remember(item.owner, ())
            case _Cut():
                self._take_cut(item)
            case _ if self._judged is not None:
                watch, now = self._judged[2], time.monotonic()
                if isinstance(item, ChangeBatch):
                    self._schedule_calls(self._judge(watch, item, now))
                self._schedule_calls(watch.due(now))
        error, self._error = self._error, None
        if error is not None:
            self._fail(error)

    def _take_cut(self, cut: _Cut) -> None:
        watch = self._watches.get(cut.owner)
        first = watch is None
        if watch is None:
            watch = self._watches[cut.owner] = self._make(self._remembered(cut))
        try:
            matching, others = self._read(watch, cut)
        except OutOfReachError:
            self._feed.thread.call(self._restart)
            return
        self._judged = cut.owner, cut.schema, watch
        turns = watch.whole(matching, others, time.monotonic())
        self._schedule_calls(turns, first)
        if self._reported is not None:
            self._box.put(_Reported(self._reported))

    def _read(self, watch: Watch, cut: _Cut) -> tuple[Mapping[Key, Row], Mapping[Key, Row]]:
        """Return the matching rows in order, and existing rows that no longer match."""
        matching: dict[Key, Row] = {}
        others: dict[Key, Row] = {}
        names = [name for name in cut.schema.names if name and not name.startswith(HIDDEN_PREFIX)]
        watched = set(watch.keys)
        chosen = cut.keys if cut.selected is None else cut.selected
        matches = None if cut.selected is None else set(cut.selected)
        besides = () if matches is None else [key for key in cut.keys if key in watched - matches]
        for keys in (*_parts(chosen), besides):
            found = cut.mark.rows(keys)
            for key in keys:
                row = {name: found[key][name] for name in names}
                if self._matches(watch, key, row) if matches is None else key in matches:
                    matching[key] = row
                elif key in watched:
                    others[key] = row
        return matching, others

    def _judge(self, watch: Watch, batch: ChangeBatch, now: float) -> list[Turn]:
        found: list[Turn] = []
        for change in batch:
            row = change.new if change.new is not None else change.old
            matches = change.new is not None and self._matches(watch, change.key, change.new)
            found += watch.change(change.key, row, matches, now)
        return found

    def _matches(self, watch: Watch, key: Key, row: Row) -> bool:
        """Return whether a row matches. If the condition raises, return the previous result."""
        try:
            if self._function is not None:
                return bool(self._function(dict(row)))
            assert self._filter is not None
            schema = self._feed.schema
            assert schema is not None  # there is a row
            if self._selects is None or self._selects[0] is not schema:
                self._selects = schema, selects(self._filter, schema)
            return self._is_known(schema) and self._selects[1](row)
        except Exception as error:
            self._error = self._error or error
            return watch.matches(key)

    def _schedule_calls(self, turns: Sequence[Turn], first: bool = False) -> None:
        """Remember turns that are not reported; schedule the others, one row at a time.

        The ``first`` call also remembers that the alert exists, in the same write: a later kernel reports
        every matching row that it does not find there.
        """
        assert self._judged is not None  # there were rows
        owner, schema, watch = self._judged
        silent = [turn for turn in turns if not turn.told]
        if silent or first:
            self._remember(owner, silent)
        for turn in turns:
            if turn.told:
                self._box.put(_Call(owner, schema, turn))
        if watch.next_due is not None:
            self._feed.thread.post(self._wake, watch.next_due)

    def _call(self, call: _Call) -> Any:
        turn = call.turn
        # Remembered before the call: a kernel killed during the call has reported this turn once.
        self._remember(call.owner, [turn])
        fn = self._enter if turn.kind == "enter" else self._leave
        if fn is None:
            return None
        row = call.schema.values_of(turn.key) if turn.row is None else turn.row
        return fn(dict(row))

    def _fail(self, error: Exception) -> None:
        if self._failed is not None:
            self._failed(error)
            return
        # Logged here: the mailbox would report an exception of the user's function.
        self._feed.counters.callback_errors += 1
        if not self._has_failed:
            self._has_failed = True
            said = getattr(self._function, "__qualname__", None) or str(self._filter)
            logger.error(
                "%s: the condition %r raised; a row that it cannot judge stays as it was",
                *(self._what, said),
                exc_info=error,
            )

    # Memory

    def _remembered(self, cut: _Cut) -> Mapping[Key, bool] | None:
        if self._name is None:
            return None
        opened = partial(Memory, *cut.owner, self._name, cut.schema)
        memory = self._memories[cut.owner] = _Memory(opened)
        try:
            return memory.read()
        except _TROUBLE as error:
            self._report_problem(error)
            return None

    def _remember(self, owner: tuple[str, str], turns: Sequence[Turn]) -> None:
        memory = self._memories.get(owner)
        if memory is not None:
            try:
                memory.write(
                    (turn.key, turn.told if turn.kind == "enter" else None) for turn in turns
                )
            except _TROUBLE as error:
                self._report_problem(error)
                self._feed.thread.post(self._write_later, owner)

    def _write_later(self, owner: tuple[str, str]) -> None:
        """Schedule another attempt, on the loop."""
        if not self._over:
            later = asyncio.get_running_loop().call_later
            later(AGAIN_AFTER, self._box.put, _Unwritten(owner))

    def _report_problem(self, error: Exception) -> None:
        """Report once that the file is not usable; it is retried."""
        if not self._has_reported:
            self._has_reported = True
            logger.warning(
                "%s: the rows reported by %r cannot be remembered (%s): it is tried again; a kernel that "
                "starts before that may report them again, or miss changes until then",
                *(self._what, self._name, error),
            )


def _parts(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    return (keys[at : at + _AT_A_TIME] for at in range(0, len(keys), _AT_A_TIME))


_TROUBLE: Final = (OSError, sqlite3.Error, RefusedFileError)
_named: WeakValueDictionary[tuple[int, str], Watching] = WeakValueDictionary()
"""The alert of each name in a session: the next one with the name replaces it."""
