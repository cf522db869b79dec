"""A joined channel: one topic on one socket, from its join to its close.

In: the messages of its client, and the tenant's changes, broadcasts and presence. Out: frames on its socket,
in the order of the real server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import Error as PgError

from notebook_rt.local.realtime import bindings as binding_params
from notebook_rt.local.realtime import private, protocol, tokens
from notebook_rt.local.realtime.bindings import Binding, BindingError
from notebook_rt.local.realtime.changes import Subscription
from notebook_rt.local.realtime.join import JoinConfig
from notebook_rt.local.realtime.limits import CallLimit
from notebook_rt.local.realtime.protocol import Message, UserBroadcast, dumps, frame
from notebook_rt.local.realtime.tokens import Claims, TokenRefusedError

if TYPE_CHECKING:
    from notebook_rt.local.realtime.hub import Frame
    from notebook_rt.local.realtime.protocol import Version
    from notebook_rt.local.realtime.tenant import Tenant


NO_DATABASE = "Realtime was unable to connect to the project database"
REPLICATING = "Replication connection established"
NOT_REPLICATING = "Replication connection was not established in time"


class Connection(Protocol):
    """The interface of the socket that a channel uses."""

    tenant: Tenant
    vsn: Version

    def send(self, frame_: Frame) -> None: ...

    def reply(
        self, topic: str, join_ref: Any, ref: Any, response: Any, status: str = "ok"
    ) -> None: ...

    def forget(self, channel: Channel) -> None: ...

    def claims_of(self, token: str) -> Claims: ...


class Channel:
    """The state of one join. `join_ref` is the ref of the join message."""

    def __init__(
        self, socket: Connection, name: str, join_ref: Any, config: JoinConfig, claims: Claims
    ) -> None:
        tenant = socket.tenant
        self.socket = socket
        self.vsn = socket.vsn
        self.topic = f"realtime:{name}"
        self.name = name
        self.key = (name, config.private)
        self.join_ref = join_ref
        self.presence_key = config.presence_key
        self.presence_enabled = config.presence_enabled
        self.claims = claims
        self.policies: private.Policies | None = None
        self._config = config
        self._tenant = tenant
        self._subscription: Subscription | None = None
        self._presence_calls = CallLimit(
            tenant.options.presence_calls, tenant.options.presence_window, time.monotonic
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    # --- frames out

    def send(self, frame_: Frame) -> None:
        self.socket.send(frame_)

    def push(self, event: str, payload: str, with_join_ref: bool = True) -> None:
        join_ref = self.join_ref if with_join_ref else None
        self.send(frame(self.vsn, self.topic, event, payload, join_ref))

    def reply(self, ref: Any, response: Any, status: str = "ok") -> None:
        self.socket.reply(self.topic, self.join_ref, ref, response, status)

    def system(self, message: str, status: str, extension: str) -> None:
        payload = {"message": message, "status": status, "extension": extension}
        self.push("system", dumps({**payload, "channel": self.name}))

    def change(self, kind: str, data: str, ids: list[int]) -> None:
        """Send a change for this channel's bindings; `data` is JSON text."""
        if self._config.old_style:
            self.push(kind, data, with_join_ref=False)
        else:
            payload = f'{{"data":{data},"ids":{dumps(ids)}}}'
            self.push("postgres_changes", payload, with_join_ref=False)

    # --- from join to close

    async def open(self, message: Message, replaces: Channel | None) -> None:
        """Answer the join; then close the replaced join; then do what the join requested.

        The real server has the same order: a client that closes on any `phx_close` fails.
        """
        config = self._config
        options = self._tenant.options
        self._tenant.from_database.warm_up()
        outcome = await self._checked() if config.bindings else None
        replayed = []
        if config.replay is not None:
            with contextlib.suppress(PgError):  # cannot fill a gap; the real server says so, too
                replayed = await private.replay(
                    self._tenant.pool, self.name, config.replay.since, config.replay.limit
                )
        response = [{"id": binding_params.binding_id(b), **b} for b in config.bindings]
        self._tenant.hub.join(self)
        self.socket.reply(self.topic, message.join_ref, message.ref, {"postgres_changes": response})
        if replaces is not None:
            replaces.close()
        if config.presence_enabled:
            self.push("presence_state", self._tenant.hub.presence_state(self.key))
            self._tenant.presence.count()
        if config.replication_ready:
            if self._tenant.from_database.ready:
                self.system(REPLICATING, "ok", "system")
            else:
                self._later("replication", self._say_when_replicating())
        for stored in replayed:
            self._replay(stored)
        if outcome is not None:
            if options.confirm_delay:
                self._later("bind", self._bind_after(options.confirm_delay))
            else:
                self._bind(outcome)
                if options.confirm_again_delay is not None:
                    self._later("bind", self._bind_after(options.confirm_again_delay))
        self._later("expiry", self._expire())

    def close(self) -> None:
        """Leave the topic and notify the client."""
        if not self._closed:
            self.send(frame(self.vsn, self.topic, "phx_close", "{}", self.join_ref, self.join_ref))
            self.abandon()

    def abandon(self) -> None:
        """Leave the topic without a message, because the socket is gone."""
        self._closed = True
        if self._subscription is not None:
            self._tenant.changes.unsubscribe(self._subscription)
        self._tenant.hub.leave(self)
        self.socket.forget(self)
        current = asyncio.current_task()
        for task in self._tasks.values():
            if task is not current:
                task.cancel()

    def fail(self, message: str) -> None:
        """Close with a reason."""
        self.system(message, "error", "system")
        self.close()

    def _later(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        if name in self._tasks:
            self._tasks[name].cancel()
        self._tasks[name] = asyncio.create_task(work)

    async def _expire(self) -> None:
        await asyncio.sleep(max(0.0, self.claims.expires - time.time()))
        self.fail(tokens.expired(self.claims.expires).on_push)

    async def _say_when_replicating(self) -> None:
        try:
            async with asyncio.timeout(self._tenant.options.replication_timeout):
                await self._tenant.from_database.until_ready()
        except TimeoutError:
            self.fail(NOT_REPLICATING)
        else:
            self.system(REPLICATING, "ok", "system")

    # --- changes

    async def _checked(self) -> tuple[Binding, ...] | BindingError:
        """Set up the join's bindings; one invalid binding invalidates all."""
        tenant = self._tenant
        try:
            read = tuple(binding_params.read(params) for params in self._config.bindings)
            for binding in read:
                await binding_params.check(
                    binding, self.claims.role, tenant.changes.catalog, tenant.callers
                )
        except BindingError as error:
            return error
        except PgError:
            return BindingError(NO_DATABASE)
        return read

    def _bind(self, outcome: tuple[Binding, ...] | BindingError) -> None:
        changes = self._tenant.changes
        if self._subscription is not None:
            changes.unsubscribe(self._subscription)
            self._subscription = None
        if isinstance(outcome, BindingError):
            self.system(str(outcome), "error", "postgres_changes")
            return
        self._subscription = Subscription(outcome, self.claims.role, self.claims.json, self.change)
        changes.subscribe(self._subscription)
        self.system("Subscribed to PostgreSQL", "ok", "postgres_changes")

    async def _bind_after(self, delay: float) -> None:
        await asyncio.sleep(delay)
        outcome = await self._checked()
        self._bind(outcome)

    def rebind(self, delay: float) -> None:
        """Renew the bindings, which the client sees as a second system message."""
        if self._config.bindings:
            self._later("bind", self._bind_after(delay))

    # --- messages in

    async def handle(self, message: Message, size: int) -> None:
        """Handle a message of the client; `size` is the size of its frame."""
        match message.event:
            case "broadcast":
                await self._broadcast(message, size)
            case "presence":
                await self._presence(message)
            case "access_token":
                self._access_token(message.json())
            case _ if isinstance(message.payload, bytes):
                await self._broadcast(message, size)
            case _:
                pass  # the real server ignores unknown messages

    async def _broadcast(self, message: Message, size: int) -> None:
        payload, hub = message.payload, self._tenant.hub
        ack = self._config.ack
        if size > self._tenant.options.max_broadcast_bytes:
            if ack:
                self.reply(message.ref, "payload_size_exceeded", "error")
            return
        if not await self._may("broadcast"):
            return  # no reply even with ack
        within = self._tenant.broadcasts.admit()
        others = None if self._config.to_self else self
        if isinstance(payload, UserBroadcast):
            sent = hub.user_broadcast(self.key, payload, others)
        elif isinstance(payload, bytes):
            raw, topic, event = payload, self.topic, message.event
            sent = hub.send(
                self.key, lambda vsn: protocol.raw_broadcast(vsn, topic, event, raw), others
            )
        elif payload[:1] not in ("{", "n"):
            self._crash(payload)
            return
        else:
            sent = hub.broadcast(self.key, payload, others)
        self._tenant.broadcasts.count(sent)
        if ack:
            self.reply(message.ref, {})
        if not within:
            self.fail("Too many messages per second")

    def _crash(self, payload: str) -> None:
        """Handle a payload that is not an object, which breaks the real channel during its fan-out.

        In both observed cases, one member of version 1 received it, and no other member.
        """
        first = self._tenant.hub.first(self.key, "1.0.0")
        if first is not None:
            first.push("broadcast", payload, with_join_ref=False)
        self.send(
            frame(
                self.vsn,
                self.topic,
                "phx_error",
                '{"reason":"channel_crash"}',
                self.join_ref,
                self.join_ref,
            )
        )
        self.abandon()

    async def _presence(self, message: Message) -> None:
        if not self._presence_calls.admit():
            self.fail("Client presence rate limit exceeded")
            return
        if not self._tenant.presence.admit():
            self.fail("Too many presence messages per second")
            return
        request = message.json()
        if request is None and message.payload != "null":
            reason = {"reason": "Presence track payload must be a map"}
            self.reply(message.ref, reason, "error")
            return
        request = request if isinstance(request, dict) else {}
        event = str(request.get("event", "")).lower()
        if not await self._may("presence"):
            self.reply(message.ref, {}, "error")
        elif event == "track":
            payload = request.get("payload", {})
            if not isinstance(payload, dict):
                reason = {"reason": "Presence track payload must be a map"}
                self.reply(message.ref, reason, "error")
                return
            self.presence_enabled = True
            self.reply(message.ref, {})
            self._tenant.hub.track(self, payload)
        elif event == "untrack":
            self.reply(message.ref, {})
            self._tenant.hub.untrack(self)
        else:
            self.reply(message.ref, {}, "error" if event else "ok")

    async def _may(self, extension: private.Extension) -> bool:
        if not self._config.private:
            return True
        if self.policies is None:
            self.policies = await private.policies(self._tenant.callers, self.name, self.claims)
        return extension in self.policies.write

    def _access_token(self, payload: Any) -> None:
        """Handle a new token: there is no reply; an invalid token closes the channel."""
        token = payload.get("access_token") if isinstance(payload, dict) else None
        if not isinstance(token, str):
            return
        try:
            claims = self.socket.claims_of(token)
        except TokenRefusedError as refused:
            self.fail(refused.on_push)
            return
        self.claims = claims
        self.policies = None
        self._later("expiry", self._expire())
        self.rebind(self._tenant.options.rebind_delay)

    def _replay(self, stored: private.Replayed) -> None:
        meta = {"id": stored.id, "replayed": True}
        if stored.binary is not None:
            message = UserBroadcast(stored.event, stored.binary, False, dumps(meta))
            made = protocol.user_broadcast(self.vsn, self.topic, message)
            if made is not None:
                self.send(made)
            return
        self.push(
            "broadcast",
            f'{{"event":{dumps(stored.event)},"meta":{dumps(meta)},'
            f'"payload":{stored.payload or "null"},"type":"broadcast"}}',
        )
