"""The objects that a session's tables, queries and channels share; made once, by the ``Project``."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from notebook_rt.errors import NotebookRTError
from notebook_rt.net.loop import LoopThread, WakingLock
from notebook_rt.net.registry import Registry
from notebook_rt.net.rest import RestClient
from notebook_rt.options import Options
from notebook_rt.runtime.faults import Faults
from notebook_rt.runtime.heads import Heads
from notebook_rt.runtime.topics import Topics
from notebook_rt.sync.connection.metrics import Metrics
from notebook_rt.sync.connection.poll_turns import Turns
from notebook_rt.sync.rate import ChangeRate


class Services(msgspec.Struct):
    """See the module."""

    thread: LoopThread
    rest: RestClient
    registry: Registry
    options: Options
    metrics: Metrics
    topics: Topics
    heads: Heads
    phase: float
    """When the session's tables check the heads of their logs, in seconds (``ChangeLog``)."""
    turns: Turns[Callable[[], None]]
    """The order of polls; each callback is called when its turn has come."""
    rate: ChangeRate
    """Whether the server may be dropping changes."""
    on_overload: Callable[[], None]
    """Called when ``rate`` starts to report that."""
    lock: WakingLock
    """Held while a table is written: by the mirror's feeder on the loop, by a local edit on the user's
    thread."""
    unreachable: Callable[[], NotebookRTError | None]
    """Why the socket cannot be opened; None if it can."""
    in_grace: Callable[[], bool]
    """Whether live updates, if they are interrupted, may be back immediately; from any thread."""
    on_contact: Callable[[bool], None]
    """Called with whether a request over HTTP reached the server."""
    known: Callable[[NotebookRTError], NotebookRTError]
    """Returns a request's error, adjusted to what is known about the server: it may have answered before."""
    on_note: Callable[[str, str], None]
    """Called with each note: its kind and text."""
    faults: Faults
    """Failures of what is computed from the session's tables."""
    on_facts: Callable[[], None]
    """Called when a table's lag or its last audit may change the health."""

    @property
    def owner(self) -> tuple[str, str]:
        """The project, and the login whose rows are shown (`Credentials.identity`).

        The login is a user's id or the key's role, and the role.
        """
        return self.rest.url, self.rest.credentials.owner
