"""One table's mirror: events in, effects out (promises 1 to 10).

The driver makes ``Mirror(spec, make_rows, options)``, calls ``handle(Tick(), now)`` once and then
``handle(event, now)`` for whatever happens, and carries out the effects it gets back, in order.
"""

from __future__ import annotations

from collections.abc import Callable

from notebook_rt.options import Options
from notebook_rt.store.types import Schema
from notebook_rt.sync.events import Binding, Effect, Event, Status
from notebook_rt.sync.rows import Rows
from notebook_rt.sync.spec import TableSpec


class Mirror:
    """The state machine that keeps one table true.

    Parameters
    ----------
    make_rows
        Makes the empty table for a schema, once it is learnt (and again when columns change): the
        columnar table, or the overlay over it.
    """

    def __init__(
        self, spec: TableSpec, make_rows: Callable[[Schema], Rows], options: Options
    ) -> None:
        self.spec = spec
        self.options = options
        self.want_changes = False
        """Whether somebody listens: then ``Published.changes`` is filled."""
        self.status: Status = "loading"
        self.schema: Schema | None = None
        """None until learnt; the projection, with key and order columns."""
        self.rows: Rows | None = None
        """What is shown; None until the first snapshot (``Shown``)."""
        self._make_rows = make_rows

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """The bindings to join with; empty until they are known (then ``Rejoin`` comes)."""
        return ()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take what happened at monotonic ``now`` (seconds); return what to do."""
        raise NotImplementedError
