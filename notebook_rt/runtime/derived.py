"""The feed of a derived live frame: an operator's result, kept up to date (docs/design/derivation.md).

It is pulled, not pushed: every read first brings the result up to date, under the session's lock. The reader
sees the operator's result for the inputs as they are at that moment, including pending edits. The event loop
also brings it up to date after each batch of an input and publishes the changes: immediately after a quiet
period; in a stream of changes, those of `GATHER_SECONDS` together.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, TypeAlias

import pandas as pd
import pyarrow as pa

from notebook_rt.errors import ClosedError, DerivationError, NotebookRTError
from notebook_rt.model.rows import Key, RowChange
from notebook_rt.model.types import Backend, Schema, equal
from notebook_rt.net.loop import WakingLock
from notebook_rt.runtime.changes import ChangeBatch
from notebook_rt.runtime.faults import Faults
from notebook_rt.runtime.feed import Feed, T
from notebook_rt.store.arranged import Arranged
from notebook_rt.store.marks import Mark
from notebook_rt.store.order import Ordered
from notebook_rt.store.reporter import Reporter
from notebook_rt.store.table import Table
from notebook_rt.store.touched import HIDDEN_PREFIX
from notebook_rt.sync.derive.operator import Derived, Operator
from notebook_rt.sync.derive.source import Source
from notebook_rt.sync.events import Status
from notebook_rt.tracebacks import outside

WORST_FIRST: Final[tuple[Status, ...]] = (
    *("error", "closed", "stale", "loading", "polling", "live"),
)

GATHER_SECONDS: Final = 0.01
"""How long a change in a stream waits, to be published together with the following ones. A thousand changes a
second arrive as hundreds of batches; each would cost a step of the operator and of the result, and wake every
listener. Reads do not wait for it."""

STREAM_SECONDS: Final = 0.1
"""A change that arrives this soon after the last publication is part of a stream. A polled server, or a
writer with a timer, sends its changes in bursts; each would be published twice: its first change, then the
rest."""

Outline: TypeAlias = tuple[Table, Arranged | None]
"""A table without rows that has the columns of another table, and its view."""

_MADE: weakref.WeakKeyDictionary[Feed, weakref.WeakValueDictionary[Hashable, DerivedFeed]]
_MADE = weakref.WeakKeyDictionary()
"""The derived feeds of each feed, by what they compute. Callers that ask for the same one share it, as long
as it has a reader."""


def derived_feed(
    name: str, inputs: Sequence[Feed], make: Callable[[], Operator], same: Hashable = None
) -> DerivedFeed:
    """Return the feed that an operator makes of ``inputs``; calls with the same ``same`` share one feed."""
    if same is None or not _is_hashable(same):  # a user's callable object may not be
        return DerivedFeed(name, inputs, make)
    made = _MADE.setdefault(inputs[0], weakref.WeakValueDictionary())
    about = (same, tuple(map(id, inputs)))  # an existing feed keeps its inputs alive
    found = made.get(about)
    if found is None or found.status == "closed":
        # Does not take the session's lock, which the loop may wait for: two threads may make one each.
        found = made[about] = DerivedFeed(name, inputs, make)
    return found


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class DerivedFeed(Feed):
    """See the module. ``make`` returns a new operator."""

    def __init__(self, name: str, inputs: Sequence[Feed], make: Callable[[], Operator]) -> None:
        first = inputs[0]
        super().__init__(name, first.thread, first.options, first.counters)
        self.inputs = tuple(inputs)
        self.make = make
        self.holds: object = None
        """Kept alive as long as this feed: the handles on the inputs."""
        self.readers: weakref.WeakSet[Hashable] = weakref.WeakSet()
        """The open handles on this feed."""
        self._derived: Derived | None = None
        self._bound: tuple[tuple[Table | None, Ordered | None], ...] = ()
        self._unreported: list[Sequence[RowChange]] = []
        self._reporter = Reporter()
        self._whole_schema: Schema | None = None
        """The schema of the result, including hidden columns; ``schema`` has only the visible ones."""
        self._latest: ChangeBatch | None = None
        """The input batch that was received last."""
        self._outline: Outline | None = None
        self._checked = False
        self._told_at = float("-inf")
        """When the loop last brought it up to date, by the loop's clock."""
        self._gathering: asyncio.TimerHandle | None = None
        self._bringing = False
        """Whether `_bring` is running: it publishes the changes, so the loop need not be woken."""
        receiver = weakref.WeakMethod(self._receive)

        def on_batch(batch: ChangeBatch) -> None:
            method = receiver()
            if method is not None:
                method(batch)

        def on_gathered(batch: ChangeBatch) -> None:
            method = receiver()
            if method is not None:
                method(batch, gathered=True)

        checker = weakref.WeakMethod(self._check_inputs)

        def on_status(status: Status, reason: str) -> None:
            method = checker()
            if method is not None:
                method()

        for one in dict.fromkeys(inputs):
            of_it = on_gathered if isinstance(one, DerivedFeed) else on_batch
            one.thread.call(one.listeners.add, of_it)
            one.thread.call(one.status_listeners.add, on_status)
            weakref.finalize(self, _leave, one, of_it, on_status).atexit = False
        self._check_inputs()

    # For any thread

    def check(self) -> None:
        """Raise the error that a read would raise, if the columns of the inputs are enough to detect it.

        The operator is tried without rows, which takes a moment. If that fails, the error is raised only if
        the operator fails with the rows, too.
        """
        if self.status == "closed" or not self.filled:
            return
        if self._checked:
            if self.error is not None:
                self.advance()  # the cause of the error may be gone
            return
        found = [one for feed in self.inputs if (one := _outline(feed)) is not None]
        if len(found) < len(self.inputs):
            return
        self._checked = True
        tried = Derived(self.make(), found[0][0].dtype_backend)
        if not tried.operator.of_no_rows:
            return
        tried.bind([Source(table, view) for table, view in found])
        try:
            tried.advance(want_changes=False)
        except Exception:  # any error: the rows decide
            self.advance()
        else:
            assert tried.table is not None  # just made
            self._outline = tried.table, tried.view

    def _check_once(self) -> None:
        if not self._checked:
            with suppress(NotebookRTError):  # it is kept as the error
                self.check()

    @property
    def outline(self) -> Outline | None:
        """The table without rows that it shows; None while that is not known."""
        with self.lock:
            table, view = self.table, self.ordered
            if table is None:
                return self._outline
            if any(_outline(one) is None for one in self.inputs):
                return None
            empty = Table(table.schema, table.dtype_backend)
            assert isinstance(view, Arranged)  # a derived table is
            shown = Arranged(empty, view.index)
            shown.dtypes, shown.blank = view.dtypes, view.blank
            return empty, shown

    @property
    def lock(self) -> WakingLock:
        return self.inputs[0].lock

    @property
    def why_undeclared(self) -> str:
        return next((why for one in self.inputs if (why := one.why_undeclared)), "")

    @property
    def owner(self) -> tuple[str, str]:
        return self.inputs[0].owner

    @property
    def faults(self) -> tuple[Faults, ...]:
        return tuple(dict.fromkeys(each for one in self.inputs for each in one.faults))

    def touch(self) -> None:
        for one in self.inputs:
            one.touch()

    @property
    def filled(self) -> bool:
        return all(one.filled for one in self.inputs)

    @property
    def is_warm(self) -> bool:
        return any(one.is_warm for one in self.inputs)

    def in_grace(self) -> bool:
        return any(one.in_grace() for one in self.inputs)

    def replayed(self) -> bool:
        return any(one.replayed() for one in self.inputs)

    def why_empty(self) -> str:
        if self.table is None or len(self.table):
            return ""
        if self._derived is not None and self._derived.operator.why_empty:
            return self._derived.operator.why_empty
        return next((why for one in self.inputs if (why := one.why_empty())), "")

    def catch_up(self) -> None:
        for one in self.inputs:
            one.catch_up()
        self.advance()
        if self._unreported:
            self.thread.call(self._notify)

    def snapshot(self) -> pd.DataFrame | None:
        with self.lock:
            return super().snapshot() if self.advance() else None

    def arrow(self) -> pa.Table | None:
        with self.lock:
            return super().arrow() if self.advance() else None

    def shown(self, read: Callable[[Table | Ordered], T]) -> tuple[T, Mark] | None:
        with self.lock:
            return super().shown(read) if self.advance() else None

    def find(self, key: Hashable) -> tuple[Key, dict[str, Any]] | None:
        with self.lock:
            return super().find(key) if self.advance() else None

    def compare(self) -> tuple[int, int]:
        """Derive the result again and replace it; return how many rows were compared and how many differ."""
        with self.lock:
            if not self.advance() or self._derived is None or self.table is None:
                return 0, 0
            before = self._visible_rows()
            self._bound = ()
            self.advance()
            after = self._visible_rows()
            differed = sum(
                not equal(before.get(key), after.get(key)) for key in before.keys() | after.keys()
            )
            pairs = zip(before, after, strict=False)
            return len(before), differed or sum(one != other for one, other in pairs)

    def _visible_rows(self) -> dict[Key, dict[str, Any]]:
        """Return the visible rows, in order."""
        assert self.table is not None
        assert self.ordered is not None
        rows = self.table.gather(self.ordered.keys())
        return {key: self.ordered.visible(row or {}) for key, row in rows.items()}

    @property
    def nbytes(self) -> int:
        """Approximate size in bytes of the result and the operator's state; 0 before the first derivation."""
        with self.lock:
            return 0 if self._derived is None else self._derived.nbytes

    def leave(self, reader: Hashable) -> None:
        """Remove a handle that was closed; close the feed with the last one."""
        with self.lock:
            self.readers.discard(reader)
            if self.readers:
                return
        self.close()

    def advance(self) -> bool:
        """Bring the result up to date with the inputs. Return False if an input has no data yet."""
        if self.status == "closed":
            return self.table is not None
        with self.lock:
            for one in self.inputs:
                if isinstance(one, DerivedFeed) and not one.advance():
                    return False
            if not self.filled:
                return False
            with ExitStack() as held:
                tables = [one.table for one in self.inputs if one.table is not None]
                for table in sorted(set(tables), key=id):
                    held.enter_context(table.lock)
                self._advance(tables[0].dtype_backend)
            return True

    def _advance(self, backend: Backend) -> None:
        bound = tuple((one.table, one.ordered) for one in self.inputs)
        derived = self._derived
        if derived is None:
            derived = self._derived = Derived(self.make(), backend)
        if bound != self._bound:
            sources = [Source(table, view) for table, view in bound if table is not None]
            derived.bind(sources)
            self._bound = bound
        elif not derived.moved:
            return
        try:
            changes = derived.advance(want_changes=self.table is not None)
        except DerivationError as error:
            why = self.why_undeclared
            raise self._fails(DerivationError(f"{why} ({error})") if why else error) from None
        except NotebookRTError as error:
            self._fails(error)
            raise
        except Exception as problem:
            problem.__traceback__ = outside(problem.__traceback__)
            said = f"{self.name}: {type(problem).__name__}: {problem}"
            # most likely from a user's function
            raise self._fails(DerivationError(said)) from problem
        self._works()
        assert derived.table is not None  # just made
        first = self.table is None
        if self.table is not derived.table:
            self._reporter.show(derived.table, derived.view)
            self.table, self.ordered = derived.table, derived.view
        schema = derived.table.schema
        if schema is not self._whole_schema:
            self._whole_schema = schema
            shown = [name for name in schema.names if not name.startswith(HIDDEN_PREFIX)]
            self.schema = schema.project(shown)
        visible = self._reporter.report(changes)
        if first and self.listeners:  # earlier than the first data: they get all of it
            visible = self._everything(derived.view)
        if visible or first:
            self._unreported.append(visible)
            if not self._bringing:
                self.lock.soon(self._notify)

    def _everything(self, view: Arranged | None) -> list[RowChange]:
        assert self.table is not None
        assert view is not None
        rows = self.table.gather(view.keys())
        return [
            RowChange("insert", key, None, view.visible(row or {})) for key, row in rows.items()
        ]

    # On the loop

    def _receive(self, batch: ChangeBatch, *, gathered: bool = False) -> None:
        """Handle a change of an input; ``gathered``: the input already limits how often it publishes."""
        if batch.cause == "login":
            self._drop()
            return
        self._latest = batch
        self._check_once()
        if batch.cause != "stream" or gathered:
            self._bring()
        elif self._gathering is None:
            loop = asyncio.get_running_loop()
            if loop.time() - self._told_at >= STREAM_SECONDS:
                self._bring()
            else:
                self._gathering = loop.call_later(GATHER_SECONDS, self._bring)

    def _bring(self) -> None:
        """Bring it up to date and publish the changes; before the first read or listener, derive nothing."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if self._derived is not None or self.listeners:
            failed = None
            with self.lock:
                self._bringing = True
                try:
                    self.advance()
                except NotebookRTError as error:
                    failed = error
                finally:
                    self._bringing = False
            if failed is not None:
                self.fail(failed)
        self._notify()
        self._told_at = asyncio.get_running_loop().time()

    def _drop(self) -> None:
        """Remove what another login saw, and publish the removal to the listeners."""
        if self.table is None:
            return
        self._notify()
        with self.lock:
            gone = self._reporter.drop()
            self._derived, self._bound = None, ()
            self.table = self.ordered = None
            self._works()
        self.login_version = self.version + 1
        self.publish(gone, "login")
        self.synced_at = None
        self.log.clear()
        self._logged = 0

    def _check_inputs(self) -> None:
        """Take the worst status of the inputs. It is in error if it cannot be derived from their data."""
        if self.status != "closed":
            self._check_once()
            worst = min(self.inputs, key=lambda one: WORST_FIRST.index(one.status))
            self.set_status(worst.status, worst.reason)

    def _notify(self) -> None:
        with self.lock:
            unreported, self._unreported = self._unreported, []
        latest = self._latest
        for changes in unreported:
            if latest is None:
                self.publish(changes, "snapshot")
            else:
                self.publish(changes, latest.cause, latest.commit_time)

    def fail(self, error: Exception) -> None:
        """Report an error once; the next change of an input may fix it."""
        self._fails(error)
        self.wake_waiting(error)

    def _fails(self, error: Exception) -> Exception:
        """Keep the error and the last result. If there is a result, report the fault to the health.
        @@ runtime/keeping.py"""
        self.error = error
        if self.table is not None and self.status != "closed":
            for each in self.faults:
                each.failed(self, self.name, error)
        return error

    def _works(self) -> None:
        if self.error is not None:
            self.error = None
            for each in self.faults:
                each.over(self)

    def close(self) -> None:
        """Close the feed; the last data stays."""
        self.set_status("closed", "closed")

    def set_status(self, status: Status, reason: str) -> None:
        super().set_status(status, reason)
        if status == "closed":  # by the user, like a table that it is made of
            for each in self.faults:
                each.over(self)


def _outline(feed: Feed) -> Outline | None:
    if isinstance(feed, DerivedFeed):
        return feed.outline
    if feed.table is None or feed.schema is None or not feed.declared:
        return None
    return Table(feed.schema, feed.table.dtype_backend), None


def _leave(
    feed: Feed, on_batch: Callable[[ChangeBatch], None], on_status: Callable[[Status, str], None]
) -> None:
    with suppress(ClosedError):  # the loop has ended
        feed.thread.post(feed.listeners.remove, on_batch)
        feed.thread.post(feed.status_listeners.remove, on_status)
