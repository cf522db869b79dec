"""One topic on the socket: the ``realtime`` package's channel, joined on request.

In: the frames of its topic, from ``socket.py``. Out: calls of its ``ChannelListener``, and answers to
requests. It never rejoins automatically (``sync/connection/joins.py`` decides), and changes bypass the
package's callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from notebook_rt.net.websocket.upstream import CarriedChannel, Carrier
from notebook_rt.sync.events import Binding, Change

_EVENTS = ("broadcast", "phx_reply", "presence_state", "presence_diff", "system")
"""Events whose payload is an object."""
_SAME = ("event", "schema", "table", "filter")
"""The parts of a binding that the server repeats."""
_SYSTEM_KEYS = frozenset({"message", "status", "extension", "channel"})


class ChannelListener(Protocol):
    """The owner of a channel. Its methods are called on the loop, and must not raise."""

    def channel_joined(self) -> None: ...

    def channel_failed(self, reason: str) -> None:
        """Handle a refused or unanswered join, or a crash of the channel."""

    def channel_closed(self) -> None:
        """Handle that the server closed the channel (``phx_close`` with this join's ref)."""

    def system(self, payload: Mapping[str, Any]) -> None: ...

    def change(self, change: Change | None) -> None:
        """Handle a change; None if it could not be decoded."""

    def broadcast(self, payload: Mapping[str, Any]) -> None: ...

    def presence(self, event: str, payload: Mapping[str, Any]) -> None:
        """Handle a presence frame, after the package has processed it."""


class SocketChannel(CarriedChannel):
    """One topic. Call ``subscribe_to`` as often as needed; nothing happens automatically."""

    def __init__(
        self, carrier: Carrier, topic: str, config: dict[str, Any], listener: ChannelListener
    ) -> None:
        super().__init__(carrier, topic, config)
        self.listener = listener
        self.joined_as: str | None = None
        """The access token of its join."""
        self._config = config
        self._asked: list[dict[str, Any]] = []

    async def subscribe_to(self, bindings: tuple[Binding, ...]) -> None:
        """Join, or join again, with these bindings; the listener is notified of the answer."""
        self._asked = [_wire(binding) for binding in bindings]
        config = {**self._config, "postgres_changes": self._asked}
        self.joined_as = self.socket.access_token
        await self.send_join({"config": config, "access_token": self.joined_as})

    def join_answered(self, status: str, response: Any) -> None:
        if status == "timeout":
            self.listener.channel_failed("no answer to the join")
        elif status == "error":
            words = response.get("reason") or msgspec.json.encode(response).decode()
            self.listener.channel_failed(str(words))
        elif self._is_as_asked(response):
            self.listener.channel_joined()
        else:
            self.crashed()
            self.listener.channel_failed("the server streams other changes than were asked for")

    def _is_as_asked(self, response: Any) -> bool:
        """Return whether the server has confirmed the bindings as sent; older servers do not confirm them."""
        taken = response.get("postgres_changes") if isinstance(response, dict) else None
        if not isinstance(taken, list):
            return True
        return len(taken) >= len(self._asked) and all(
            isinstance(one, dict) and all(one.get(name) == asked.get(name) for name in _SAME)
            for one, asked in zip(taken, self._asked, strict=False)
        )

    def receive(self, event: str, payload: Any, ref: str | None) -> int:
        """Handle any frame of this topic except a change; return the number of unknown parts.

        Unknown parts from a newer server are ignored; a frame with only unknown parts has no effect.
        """
        if event in _EVENTS and not isinstance(payload, dict):
            return 1
        fields: Mapping[str, Any] = payload if isinstance(payload, dict) else {}
        match event:
            case "broadcast":
                self.listener.broadcast(fields)
            case "phx_reply":
                return self._answered(ref, fields)
            case "presence_state" | "presence_diff":
                if not self.keep_presence(event, fields):
                    return 1
                self.listener.presence(event, fields)
            case "system":
                self.listener.system(fields)
                known = fields.get("status") in ("ok", "error")
                return len(fields.keys() - _SYSTEM_KEYS) + (not known)
            case "phx_close":
                # After a topic is joined twice, the old join's close arrives after the new join's ok.
                if ref is None or ref == self.join_push.ref:
                    self.closed()
                    self.listener.channel_closed()
            case "phx_error":
                self.crashed()
                self.listener.channel_failed(str(fields.get("reason", "the channel crashed")))
            case _:
                return 1
        return 0

    def _answered(self, ref: str | None, payload: Mapping[str, Any]) -> int:
        status = payload.get("status")
        if status not in ("ok", "error"):
            return 1  # for example one that announces a later answer
        if ref is not None:
            self.take_answer(ref, status == "ok", payload.get("response"))
        return 0


def _wire(binding: Binding) -> dict[str, Any]:
    """Return a binding in the form of a join."""
    fields = {
        "event": binding.event,
        "schema": binding.schema,
        "table": binding.table,
        "filter": binding.filter,
        "select": None if binding.select is None else list(binding.select),
    }
    return {name: value for name, value in fields.items() if value}
