"""What a session's tables, queries and channels share; made once, by the ``Project``."""

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
    """When the session's tables look at the heads of their logs, in seconds (``ChangeLog``)."""
    turns: Turns[Callable[[], None]]
    """Who polls when; each is called when its turn has come."""
    rate: ChangeRate
    """Whether the server may be dropping changes."""
    on_overload: Callable[[], None]
    """Told when, as ``rate`` has just said, it may be from now on."""
    lock: WakingLock
    """Held by whoever writes a table: the mirror's feeder here, a local edit on the user's thread."""
    unreachable: Callable[[], NotebookRTError | None]
    """Why the socket cannot be opened, while it cannot."""
    in_grace: Callable[[], bool]
    """Whether live updates, if they are away, may be back at once; from any thread."""
    on_contact: Callable[[bool], None]
    """Told whether a request over HTTP reached the server."""
    known: Callable[[NotebookRTError], NotebookRTError]
    """Given what a request met, says it as is known of this server: it may have been there before."""
    on_note: Callable[[str, str], None]
    """Told each note: its kind and text."""
    faults: Faults
    """What is computed from the session's tables, and fails."""
    on_facts: Callable[[], None]
    """Told when a table's lag or its last audit may make for another health."""

    @property
    def owner(self) -> tuple[str, str]:
        """The project, and the login whose rows are shown: a user's id or the key's role, and the role
        (`Credentials.identity`).
        """
        return self.rest.url, self.rest.credentials.owner
