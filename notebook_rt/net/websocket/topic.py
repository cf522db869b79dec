"""One topic on the socket: the ``realtime`` package's channel, joined when it is told to.

In: the frames of its topic, handed on by ``socket.py``. Out: what its ``ChannelListener`` is told, and
answers to what was asked. It never joins again by itself (``sync/connection/joins.py`` decides), and
changes pass by the package's callbacks.
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
"""What the server repeats of a binding."""
_SYSTEM_KEYS = frozenset({"message", "status", "extension", "channel"})


class ChannelListener(Protocol):
    """Who owns a channel. Called on the loop, must not raise."""

    def channel_joined(self) -> None: ...

    def channel_failed(self, reason: str) -> None:
        """The join was refused or not answered, or the channel crashed."""

    def channel_closed(self) -> None:
        """The server closed the channel (``phx_close`` with this join's ref)."""

    def system(self, payload: Mapping[str, Any]) -> None: ...

    def change(self, change: Change | None) -> None:
        """A change; None where it could not be understood."""

    def broadcast(self, payload: Mapping[str, Any]) -> None: ...

    def presence(self, event: str, payload: Mapping[str, Any]) -> None:
        """After the package's bookkeeping took it in."""


class SocketChannel(CarriedChannel):
    """One topic. ``subscribe_to`` again as often as needed; nothing happens by itself."""

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
        """Join, or join again, with these bindings; the listener hears the answer."""
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
        """Whether the server has taken the bindings as they were sent; an older one does not say."""
        taken = response.get("postgres_changes") if isinstance(response, dict) else None
        if not isinstance(taken, list):
            return True
        return len(taken) >= len(self._asked) and all(
            isinstance(one, dict) and all(one.get(name) == asked.get(name) for name in _SAME)
            for one, asked in zip(taken, self._asked, strict=False)
        )

    def receive(self, event: str, payload: Any, ref: str | None) -> int:
        """Take any frame of this topic but a change; gives how much of it is not known.

        What a newer server says besides is ignored: a frame that tells nothing known tells nothing.
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
                # Joining a topic twice: the old join's close comes after the new join's ok.
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
            return 1  # such as one that says that the answer is still to come
        if ref is not None:
            self.take_answer(ref, status == "ok", payload.get("response"))
        return 0


def _wire(binding: Binding) -> dict[str, Any]:
    """A binding as a join carries it."""
    fields = {
        "event": binding.event,
        "schema": binding.schema,
        "table": binding.table,
        "filter": binding.filter,
        "select": None if binding.select is None else list(binding.select),
    }
    return {name: value for name, value in fields.items() if value}
