"""All overrides of ``realtime``, and all uses of its private parts: no other module imports it.

The package carries the protocol: its URL, refs, pushes that wait for an answer, presence. It is not used for
what would make a table wrong (``docs/design/facts.md``, "What realtime-py does"): it neither connects nor
receives, joins nothing automatically and calls no user code. Check this list before raising its upper bound
(``pyproject.toml``); ``tests/net/test_upstream.py`` checks that each name exists, and that no other private
name is used. ``./do bounds next`` tests the next release.

``AsyncRealtimeClient.is_connected``
    Overridden: the socket is opened here, with one attempt; frames of up to 8 MiB are read on
    arrival.
    Wanted: a client that uses a given socket.
``AsyncRealtimeClient.send``
    Overridden: without a socket it keeps messages, and sends them once there is one, regardless of changes
    meanwhile. Wanted: an error if there is no socket.
``AsyncRealtimeClient._make_ref``
    Messages without an answer share the counter of refs with pushes. Wanted: a public counter.
``AsyncRealtimeClient.channels``
    A frame is decoded once and passed to its channel; a channel that is left is forgotten at once.
    Wanted: a hook for each frame, and leaving without an answer.
``AsyncRealtimeChannel.join_push``
    Created for each join: ``subscribe`` can be called once, and then rejoins by its own timers.
    Wanted: a join that may be repeated, and is not repeated automatically.
``AsyncRealtimeChannel.messages_waiting_for_ack``
    Frames are decoded here, so answers are matched here; waiting pushes are given up with their socket.
    Wanted: a method that takes an answer, and one that gives up all pushes.
``AsyncRealtimeChannel.state``
    Set here, where joins and closes are handled. Wanted: events instead of callbacks.
``AsyncPush.send``, ``AsyncPush.receive``, ``AsyncPush.trigger``, ``AsyncPush.destroy``
    A push that waits for its answer, and can be given up. Wanted: a push that can be awaited.
``AsyncRealtimePresence._on_state_event``, ``AsyncRealtimePresence._on_diff_event``
    The package tracks presence, from frames that are decoded here. Wanted: a public method that takes a
    presence frame.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Coroutine, Mapping
from typing import Any

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime._async.push import AsyncPush
from realtime.message import Message
from realtime.types import ChannelStates, RealtimeAcknowledgementStatus, RealtimeChannelOptions
from websockets.asyncio.client import ClientConnection


class Carrier(AsyncRealtimeClient):
    """The package's client over the socket ``ws``, which is opened elsewhere."""

    def __init__(self, url: str, key: str, timeout: int) -> None:
        super().__init__(url, key, auto_reconnect=False, params={"apikey": key}, timeout=timeout)
        self.ws: ClientConnection | None = None

    @property
    def is_connected(self) -> bool:
        return self.ws is not None

    async def send(self, message: Message | dict[str, Any]) -> None:
        """Called by a push."""
        await self.transmit(message if isinstance(message, dict) else dict(message))

    @abstractmethod
    async def transmit(self, fields: Mapping[str, Any]) -> None:
        """Send now; raise ConnectionError if the socket is gone."""

    def next_ref(self) -> str:
        return self._make_ref()

    def orphan_channels(self) -> None:
        """Give up all pushes on the socket that is gone."""
        for channel in self.channels.values():
            channel.join_push.destroy()
            for push in channel.messages_waiting_for_ack.values():
                push.destroy()
            channel.messages_waiting_for_ack.clear()
            channel.state = ChannelStates.ERRORED


class CarriedChannel(AsyncRealtimeChannel):
    """The package's channel; only this module joins, leaves and answers it."""

    socket: Carrier

    def __init__(self, carrier: Carrier, topic: str, config: dict[str, Any]) -> None:
        params: RealtimeChannelOptions = {"config": config}  # type: ignore[typeddict-item]  # checked by the server
        super().__init__(carrier, topic, params)
        carrier.channels[topic] = self
        self.left = False

    @abstractmethod
    def join_answered(self, status: str, response: Any) -> None:
        """Called with ``ok``, ``error`` or ``timeout``, and the server's answer."""

    async def send_join(self, payload: Mapping[str, Any]) -> None:
        """Join, or join again; `join_answered` gets the answer. A channel that was left is not joined."""
        if self.left:
            return
        self.join_push.destroy()
        self.join_push = push = AsyncPush(self, "phx_join", payload, self.timeout)

        def answered(status: str, state: ChannelStates, response: Any = None) -> None:
            self.state = state
            self.join_answered(status, response)

        push.receive(
            RealtimeAcknowledgementStatus.Ok,
            lambda said: answered("ok", ChannelStates.JOINED, said),
        )
        push.receive(
            RealtimeAcknowledgementStatus.Error,
            lambda said: answered("error", ChannelStates.ERRORED, said),
        )
        push.receive(
            RealtimeAcknowledgementStatus.Timeout,
            lambda: answered("timeout", ChannelStates.ERRORED),
        )
        self.state = ChannelStates.JOINING
        try:
            await push.send()
        except ConnectionError:  # the owner of the socket is notified, too
            push.destroy()  # otherwise it would be missing when the topic is joined again

    def leave(self) -> Coroutine[Any, Any, None]:
        """Leave: ignore everything of this channel from now on, including a pending answer to its join.

        The returned coroutine notifies the server without waiting for an answer.
        """
        self.join_push.destroy()
        if self.socket.channels.get(self.topic) is self:
            del self.socket.channels[self.topic]
        self.state, self.left = ChannelStates.CLOSED, True
        return self.push_leave()

    async def push_leave(self) -> None:
        if self.join_push.ref is None:
            return  # its join was not sent, and never will be
        push = AsyncPush(self, "phx_leave", {}, self.timeout)
        with contextlib.suppress(ConnectionError):
            await push.send()
        push.destroy()

    async def ask(self, event: str, payload: dict[str, Any], seconds: float) -> tuple[str, Any]:
        """Push and wait for the server's answer: its status and its content.

        Raises
        ------
        ConnectionError
            If the socket is gone or closes.
        TimeoutError
            If there is no answer.
        """
        push = AsyncPush(self, event, payload, int(seconds) + 1)
        answer: asyncio.Future[tuple[str, Any]] = asyncio.get_running_loop().create_future()

        def answered(status: str, response: Any) -> None:
            if not answer.done():
                answer.set_result((status, response))

        push.receive(RealtimeAcknowledgementStatus.Ok, lambda said: answered("ok", said))
        push.receive(RealtimeAcknowledgementStatus.Error, lambda said: answered("error", said))
        try:
            await push.send()
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            push.destroy()
            if push.ref is not None:
                self.messages_waiting_for_ack.pop(push.ref, None)

    async def push_without_answer(self, event: str, payload: dict[str, Any]) -> None:
        """Push without waiting for an answer; raise ConnectionError if the socket is gone."""
        await self.socket.transmit(
            {
                "topic": self.topic,
                "event": event,
                "payload": payload,
                "ref": self.socket.next_ref(),
                "join_ref": self.join_push.ref,
            }
        )

    def take_answer(self, ref: str, ok: bool, response: Any) -> None:
        """Pass an answer to the push that waits for it, if any."""
        push = self.messages_waiting_for_ack.pop(ref, None)
        if push is not None and ok:
            push.trigger(RealtimeAcknowledgementStatus.Ok, response)
        elif push is not None:
            refusal = response if isinstance(response, dict) else {"reason": str(response)}
            push.trigger(RealtimeAcknowledgementStatus.Error, refusal)

    def keep_presence(self, event: str, payload: Mapping[str, Any]) -> bool:
        """Take a presence frame; return False if the package does not know its form."""
        try:
            if event == "presence_state":
                self.presence._on_state_event(dict(payload))
            else:
                self.presence._on_diff_event(payload)  # type: ignore[arg-type]  # the KeyError is caught
        except (KeyError, TypeError, AttributeError):
            return False
        return True

    def closed(self) -> None:
        """Record that the server has closed the channel."""
        self.join_push.destroy()
        self.state = ChannelStates.CLOSED

    def crashed(self) -> None:
        """Record that the channel has failed on the server."""
        self.state = ChannelStates.ERRORED
