"""A driver as its helpers use it: subscription and lateness; for a table also keeping, recording, grants."""

from __future__ import annotations

from typing import Protocol

from notebook_rt.edits.overlay import Overlay
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Backend
from notebook_rt.net.loop import LoopThread
from notebook_rt.runtime.services import Services
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.sync.events import Status
from notebook_rt.sync.table.machine import Machine
from notebook_rt.sync.table.mirror import Mirror


class Observed(Protocol):
    """See the module."""

    name: str
    spec: TableSpec
    dtype_backend: Backend
    thread: LoopThread
    services: Services
    status: Status
    table: Table | None
    ordered: Ordered | None

    @property
    def machine(self) -> Machine: ...


class ObservedTable(Observed, Protocol):
    """The same for a table's driver."""

    overlay: Overlay | None

    @property
    def machine(self) -> Mirror: ...
