"""All that is overridden of ``realtime``, or reached into: nothing else of this package imports it.

The package stays the carrier of the protocol: its URL, refs, pushes that wait for an answer, presence. What
it does badly for a table that must be true (``docs/design/facts.md``, "What realtime-py does") it is not
asked to do: it neither connects nor receives, joins nothing by itself and calls no user code. Before its
upper bound is raised (``pyproject.toml``) this table is read, and ``tests/net/test_upstream.py`` reads
it: each name is there, and no other that is private is used. ``./do bounds next`` tries the next release.

``AsyncRealtimeClient.is_connected``
    Overridden: the socket is opened here, with one try, and frames of up to 8 MiB cut out as they come.
    Wanted: a client over a socket that is given to it.
``AsyncRealtimeClient.send``
    Overridden: with no socket it keeps messages, and sends them when one is back, whatever has changed
    meanwhile. Wanted: an error where there is no socket.
``AsyncRealtimeClient._make_ref``
    Refs of what wants no answer are counted with those of pushes. Wanted: a public counter.
``AsyncRealtimeClient.channels``
    A frame is decoded once and handed to its channel; one that is left is forgotten at once. Wanted: a
    hook for each frame, and leaving without an answer.
``AsyncRealtimeChannel.join_push``
    Made anew for each join: ``subscribe`` can be called once, and then joins again by timers of its own.
    Wanted: a join that may be repeated, and that nothing repeats.
``AsyncRealtimeChannel.messages_waiting_for_ack``
    Frames are decoded here, so answers are matched here; what waits is given up with its socket. Wanted:
    a method that takes an answer, and one that gives all up.
``AsyncRealtimeChannel.state``
    Set here, where joins and closes are heard of. Wanted: events in place of callbacks.
``AsyncPush.send``, ``AsyncPush.receive``, ``AsyncPush.trigger``, ``AsyncPush.destroy``
    A push that waits for its answer, and can be given up. Wanted: a push that can be awaited.
``AsyncRealtimePresence._on_state_event``, ``AsyncRealtimePresence._on_diff_event``
    The package keeps who is there, from frames that are decoded here. Wanted: a public method that takes
    a presence frame.
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
    """The package's client, over the socket ``ws``, which somebody else opens."""

    def __init__(self, url: str, key: str, timeout: int) -> None:
        super().__init__(url, key, auto_reconnect=False, params={"apikey": key}, timeout=timeout)
        self.ws: ClientConnection | None = None

    @property
    def is_connected(self) -> bool:
        return self.ws is not None

    async def send(self, message: Message | dict[str, Any]) -> None:
        """What a push calls."""
        await self.transmit(message if isinstance(message, dict) else dict(message))

    @abstractmethod
    async def transmit(self, fields: Mapping[str, Any]) -> None:
        """Send now. Raises ConnectionError if the socket is gone."""

    def next_ref(self) -> str:
        return self._make_ref()

    def orphan_channels(self) -> None:
        """No answer will come any more to what was pushed on the socket that is gone."""
        for channel in self.channels.values():
            channel.join_push.destroy()
            for push in channel.messages_waiting_for_ack.values():
                push.destroy()
            channel.messages_waiting_for_ack.clear()
            channel.state = ChannelStates.ERRORED


class CarriedChannel(AsyncRealtimeChannel):
    """The package's channel, joined, left and answered only from here."""

    socket: Carrier

    def __init__(self, carrier: Carrier, topic: str, config: dict[str, Any]) -> None:
        params: RealtimeChannelOptions = {"config": config}  # type: ignore[typeddict-item]  # checked by the server
        super().__init__(carrier, topic, params)
        carrier.channels[topic] = self
        self.left = False

    @abstractmethod
    def join_answered(self, status: str, response: Any) -> None:
        """``ok``, ``error`` or ``timeout``, and what the server said."""

    async def send_join(self, payload: Mapping[str, Any]) -> None:
        """Join, or join again; `join_answered` hears the answer. One that was left is not joined."""
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
        except ConnectionError:  # who owns the socket hears of that too
            push.destroy()  # or it would be missed later, when the topic is joined anew

    def leave(self) -> Coroutine[Any, Any, None]:
        """Leave: nothing of this channel is heard from now on, nor an answer to its join that is on its way.

        What is returned tells the server, and waits for no answer.
        """
        self.join_push.destroy()
        if self.socket.channels.get(self.topic) is self:
            del self.socket.channels[self.topic]
        self.state, self.left = ChannelStates.CLOSED, True
        return self.push_leave()

    async def push_leave(self) -> None:
        if self.join_push.ref is None:
            return  # its join was not sent, and will not be
        push = AsyncPush(self, "phx_leave", {}, self.timeout)
        with contextlib.suppress(ConnectionError):
            await push.send()
        push.destroy()

    async def ask(self, event: str, payload: dict[str, Any], seconds: float) -> tuple[str, Any]:
        """Push and wait for the server's answer: its status, and what it says.

        Raises
        ------
        ConnectionError
            If the socket is gone, or goes.
        TimeoutError
            If no answer came.
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
        """Push; no answer is wanted. Raises ConnectionError if the socket is gone."""
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
        """Give an answer to the push that waits for it, if one does."""
        push = self.messages_waiting_for_ack.pop(ref, None)
        if push is not None and ok:
            push.trigger(RealtimeAcknowledgementStatus.Ok, response)
        elif push is not None:
            refusal = response if isinstance(response, dict) else {"reason": str(response)}
            push.trigger(RealtimeAcknowledgementStatus.Error, refusal)

    def keep_presence(self, event: str, payload: Mapping[str, Any]) -> bool:
        """Take a presence frame; False: it is of a shape that the package does not know."""
        try:
            if event == "presence_state":
                self.presence._on_state_event(dict(payload))
            else:
                self.presence._on_diff_event(payload)  # type: ignore[arg-type]  # the KeyError is caught
        except (KeyError, TypeError, AttributeError):
            return False
        return True

    def closed(self) -> None:
        """The server has closed the channel."""
        self.join_push.destroy()
        self.state = ChannelStates.CLOSED

    def crashed(self) -> None:
        """The channel has failed on the server."""
        self.state = ChannelStates.ERRORED
