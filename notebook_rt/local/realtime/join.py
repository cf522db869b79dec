"""Read a client's join of a channel.

In: the JSON of a join. Out: `JoinConfig`, or `JoinRefusedError` with the server's reason. It also supports
the old style: a join without `config`, whose topic contains schema, table and filter.
"""

from dataclasses import dataclass
from typing import Any
from uuid import uuid1


class JoinRefusedError(Exception):
    """A join that is answered with an error; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A request for stored broadcasts since this time (ms)."""

    since: int
    limit: int


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """`bindings` are the client's objects; `old_style` frames contain the change itself."""

    private: bool
    ack: bool
    to_self: bool
    replication_ready: bool
    replay: Replay | None
    presence_key: str
    presence_enabled: bool
    bindings: tuple[dict[str, Any], ...]
    old_style: bool
    access_token: str | None


def read(topic: str, payload: Any) -> JoinConfig:
    """Read the payload of a join to `realtime:<topic>`."""
    if not topic:
        raise JoinRefusedError("TopicNameRequired: You must provide a topic name")
    if not isinstance(payload, dict):
        payload = {}
    config = payload.get("config", {})
    if not isinstance(config, dict):
        raise JoinRefusedError("UnknownErrorOnChannel: no function clause matching in Access.get/3")
    broadcast, presence = _object(config, "broadcast"), _object(config, "presence")
    private = _flag(config.get("private"))
    old_style = "config" not in payload
    bindings = [_old_binding(topic)] if old_style else config.get("postgres_changes")
    token = payload.get("access_token", payload.get("user_token"))
    return JoinConfig(
        private=private,
        ack=_flag(broadcast.get("ack")),
        to_self=_flag(broadcast.get("self")),
        replication_ready=_flag(broadcast.get("replication_ready")),
        replay=_replay(broadcast.get("replay"), private),
        presence_key=str(presence.get("key") or uuid1()),
        presence_enabled=_flag(presence.get("enabled")),
        bindings=tuple(b for b in bindings if isinstance(b, dict))
        if isinstance(bindings, list)
        else (),
        old_style=old_style,
        access_token=token if isinstance(token, str) else None,
    )


def _object(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _flag(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _old_binding(topic: str) -> dict[str, Any]:
    names = ("schema", "table", "filter")
    return dict(zip(names, topic.split(":", 2), strict=False))


def _replay(value: Any, private: bool) -> Replay | None:
    if value is None:
        return None
    if not private:
        raise JoinRefusedError("UnableToReplayMessages: Replay is not allowed for public channels")
    since = value.get("since") if isinstance(value, dict) else None
    limit = value.get("limit", 25) if isinstance(value, dict) else None
    if not isinstance(since, int) or not isinstance(limit, int):
        raise JoinRefusedError("UnableToReplayMessages: Replay params are not valid")
    return Replay(since, limit)
