"""One topic on the socket: the ``realtime`` package's channel, joined when it is told to.

In: the frames of its topic, handed on by ``socket.py``. Out: what its ``ChannelListener`` is told, and
answers to what was asked. It never joins again by itself (``sync/connection/joins.py`` decides), and
changes pass by the package's callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient, RealtimePostgresChangesListenEvent
from realtime._async.push import AsyncPush
from realtime._async.timer import AsyncTimer
from realtime.message import ReplyPostgresChanges
from realtime.types import (
    ChannelStates,
    RealtimeAcknowledgementStatus,
    RealtimeChannelOptions,
    RealtimeSubscribeStates,
)

from notebook_rt.sync.events import Binding, Change

_EVENTS = ("broadcast", "phx_reply", "presence_state", "presence_diff", "system")
"""Events whose payload is an object."""
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


class _NoTimer(AsyncTimer):
    """When to join again is decided by ``sync/connection/joins.py``."""

    def schedule_timeout(self, delay: float | None = None) -> None:
        pass


class SocketChannel(AsyncRealtimeChannel):
    """One topic. ``join`` again as often as needed; nothing happens by itself."""

    def __init__(
        self,
        socket: AsyncRealtimeClient,
        topic: str,
        config: dict[str, Any],
        listener: ChannelListener,
    ) -> None:
        params: RealtimeChannelOptions = {"config": config}  # type: ignore[typeddict-item]  # checked by the server
        super().__init__(socket, topic, params)
        self.listener = listener
        self.joined_as: str | None = None
        """The access token of its join."""
        self.rejoin_timer = _NoTimer(self._rejoin_if_connected, lambda tries: 0.0)

    async def subscribe_to(self, bindings: tuple[Binding, ...]) -> None:
        """Join, or join again, with these bindings; the listener hears the answer."""
        self.join_push.destroy()
        self.join_push = self._create_join_push()
        self.postgres_changes_callbacks.clear()
        for binding in bindings:
            self.on_postgres_changes(
                RealtimePostgresChangesListenEvent(binding.event),
                _unused,
                table=binding.table,
                schema=binding.schema,
                filter=binding.filter,
                select=None if binding.select is None else list(binding.select),
            )
        self.joined_as = self.socket.access_token
        self._prepare_join(self._subscribe_answered)
        try:
            await self._rejoin()
        except ConnectionError:  # the receive loop hears of that too
            self.join_push.destroy()  # or it would be missed later, when the topic is joined anew

    def _subscribe_answered(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state == RealtimeSubscribeStates.SUBSCRIBED:
            self.listener.channel_joined()
        elif state == RealtimeSubscribeStates.TIMED_OUT:
            self.listener.channel_failed("no answer to the join")
        elif state == RealtimeSubscribeStates.CHANNEL_ERROR:
            self.listener.channel_failed(_reason(error))

    async def leave(self) -> None:
        """Leave without waiting for the answer; nothing of this channel is heard any more."""
        self.join_push.destroy()
        self.socket._remove_channel(self)
        self.state = ChannelStates.CLOSED
        push = AsyncPush(self, "phx_leave", {}, self.timeout)
        with contextlib.suppress(ConnectionError):
            await push.send()
        push.destroy()

    async def ask(self, event: str, payload: dict[str, Any], seconds: float) -> Any:
        """Push and wait for the server's answer.

        Raises
        ------
        ConnectionError
            If the socket is gone, or goes.
        TimeoutError
            If no answer came.
        """
        push = AsyncPush(self, event, payload, int(seconds) + 1)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(status: str) -> Any:
            def settle(response: Any) -> None:
                if not answer.done():
                    answer.set_result((status, response))

            return settle

        push.receive(RealtimeAcknowledgementStatus.Ok, answered("ok"))
        push.receive(RealtimeAcknowledgementStatus.Error, answered("error"))
        try:
            await push.send()
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            push.destroy()
            if push.ref is not None:
                self.messages_waiting_for_ack.pop(push.ref, None)

    async def tell(self, event: str, payload: dict[str, Any]) -> None:
        """Push; no answer is wanted. Raises ConnectionError if the socket is gone."""
        await self.socket.send(
            {
                "topic": self.topic,
                "event": event,
                "payload": payload,
                "ref": self.socket._make_ref(),
                "join_ref": self.join_push.ref,
            }
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
                if not self._keep_presence(event, fields):
                    return 1
                self.listener.presence(event, fields)
            case "system":
                self.listener.system(fields)
                known = fields.get("status") in ("ok", "error")
                return len(fields.keys() - _SYSTEM_KEYS) + (not known)
            case "phx_close":
                # Joining a topic twice: the old join's close comes after the new join's ok.
                if ref is None or ref == self.join_push.ref:
                    self.join_push.destroy()
                    self.state = ChannelStates.CLOSED
                    self.listener.channel_closed()
            case "phx_error":
                self.state = ChannelStates.ERRORED
                self.listener.channel_failed(str(fields.get("reason", "the channel crashed")))
            case _:
                return 1
        return 0

    def _answered(self, ref: str | None, payload: Mapping[str, Any]) -> int:
        status = payload.get("status")
        if status not in ("ok", "error"):
            return 1  # such as one that says that the answer is still to come
        push = self.messages_waiting_for_ack.pop(ref, None) if ref is not None else None
        if push is None:
            return 0
        response = payload.get("response")
        if status == "ok":
            try:
                reply = ReplyPostgresChanges.model_validate(response)
            except ValueError:  # an answer of another shape is an answer
                reply = ReplyPostgresChanges.model_validate({})
            push.trigger(RealtimeAcknowledgementStatus.Ok, reply)
        else:
            refusal = response if isinstance(response, dict) else {"reason": str(response)}
            push.trigger(RealtimeAcknowledgementStatus.Error, refusal)
        return 0

    def _keep_presence(self, event: str, payload: Mapping[str, Any]) -> bool:
        try:
            if event == "presence_state":
                self.presence._on_state_event(dict(payload))
            else:
                self.presence._on_diff_event(payload)  # type: ignore[arg-type]  # the KeyError is caught
        except (KeyError, TypeError, AttributeError):
            return False  # a shape that the package does not know
        return True


def _unused(payload: object) -> None:
    """Changes never take the way through the package's callbacks."""


def _reason(error: Exception | None) -> str:
    """The words in the package's ``Exception(json.dumps(response))``."""
    text = str(error)
    try:
        words = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return str(words.get("reason", text)) if isinstance(words, dict) else text
