"""The view model of every widget whose whole state is small: sends it when it differs.

Input: functions that read sources into JSON values. Output: one whole message whenever the values differ from
the last ones sent. Texts from other people are cut to a maximum length, so that a message stays small,
however long a person's name is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from notebook_rt.widgets.transport import Message

Read: TypeAlias = Callable[[], Any]
Handler: TypeAlias = Callable[[Mapping[str, Any]], object]
LONG = 400


def cut(text: object, length: int = LONG) -> str:
    """Return at most ``length`` characters of ``text``."""
    whole = str(text)
    return whole if len(whole) <= length else whole[: length - 1] + "…"


def sentence(text: str) -> str:
    """Return ``text`` with a capital first letter."""
    return text[:1].upper() + text[1:]


class StateModel:
    """Named parts, each read by a function; user actions are passed to named handlers.

    Parameters
    ----------
    parts
        Name in the message to the function that reads it, as JSON values.
    handlers
        The ``t`` of a view's message to its handler.
    look
        Seconds after which to read again even without a notification: for what has no event of its own (a
        metric, a silence, another kernel on the same queue).
    """

    def __init__(
        self,
        parts: Mapping[str, Read],
        handlers: Mapping[str, Handler] | None = None,
        *,
        reread: float = float("inf"),
    ) -> None:
        self._reread = reread
        self._parts = dict(parts)
        self._handlers = dict(handlers or {})
        self._sent: dict[str, Any] | None = None

    def whole(self, view: str) -> Sequence[Message]:
        self._sent = {name: read() for name, read in self._parts.items()}
        return [Message({"t": "state", **self._sent}, whole=True, to=view)]

    def update(self) -> Sequence[Message]:
        state = {name: read() for name, read in self._parts.items()}
        if state == self._sent:
            return []
        self._sent = state
        return [Message({"t": "state", **state}, whole=True)]

    def received(self, view: str, content: Mapping[str, Any]) -> None:
        handler = self._handlers.get(str(content.get("t")))
        if handler is not None:
            handler(content)

    def view_closed(self, view: str) -> None:
        pass

    def wants(self) -> float:
        return self._reread
