"""Ask Realtime whether it streams a table.

A table that this login may not read, or whose key is unknown, is in error before its channel is joined. The
server answers a binding regardless of the grants, so that the publication is known independently of them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from notebook_rt.errors import AuthError, NotebookRTError
from notebook_rt.net.registry import CHANGES_ONLY, Place
from notebook_rt.sync.events import Binding, Change

if TYPE_CHECKING:
    from notebook_rt.net.websocket.topic import SocketChannel
    from notebook_rt.session import Session

NOT_STREAMED: Final = "Please check Realtime is enabled for the given connect parameters"
"""The server's message for a table that is missing or not published (docs/design/wire.md, "Joining")."""


def published(session: Session, schema: str, name: str, timeout: float) -> bool | None:
    """Return whether the table's changes are streamed; None: no answer within ``timeout`` seconds."""
    asked = _Asked(schema, name)
    registry = session._project.connection.registry
    place = Place(registry, f"doctor-{schema}-{name}", asked, "low")
    session._thread.call(place.take)
    asked.answered.wait(timeout)
    session._thread.call(place.leave)
    return asked.streamed


class _Asked:
    """The owner of a topic with one binding, which is left once the server has answered."""

    def __init__(self, schema: str, name: str) -> None:
        self.binding = Binding("*", schema, name)
        self.streamed: bool | None = None
        self.answered = threading.Event()

    def config(self) -> Mapping[str, Any]:
        return CHANGES_ONLY

    def bindings(self) -> tuple[Binding, ...]:
        return (self.binding,)

    def system(self, payload: Mapping[str, Any]) -> None:
        if payload.get("extension") != "postgres_changes":
            return
        if payload.get("status") == "ok":
            self.streamed = True
        elif NOT_STREAMED in str(payload.get("message", "")):
            self.streamed = False
        self.answered.set()

    def joined(self, channel: SocketChannel) -> None:
        """Do nothing: the relevant answer is the ``system`` message after the join."""

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None:
        if error is not None:
            self.answered.set()

    def evicted(self) -> None:
        self.answered.set()

    def token_refused(self, error: AuthError) -> None:
        self.answered.set()

    def change(self, change: Change | None) -> None:
        """Do nothing, as in the methods below."""

    def broadcast(self, payload: Mapping[str, Any]) -> None: ...

    def presence(self, event: str, payload: Mapping[str, Any]) -> None: ...

    def gap(self, reason: str) -> None: ...
