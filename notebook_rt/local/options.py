"""What a test or a demo may change about the local Realtime server, with the real one's values.

The delays that the real server adds on purpose are options, because a test suite cannot wait for
them; its limits are those of a hosted project on the free plan. Losing changes on purpose is switched
at run time (`routes.faults`).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RealtimeOptions:
    """Numbers of the local Realtime server; times in seconds, sizes in bytes.

    Parameters
    ----------
    connect_error_delay, join_error_delay
        How long a refused connection or join waits for its answer.
    confirm_delay
        Time between a join's reply and its `Subscribed to PostgreSQL`. Changes committed before
        that message are not sent. The real server needs 1 to 2 s on a cold tenant, 4 ms warm.
    confirm_again_delay
        Time after which `Subscribed to PostgreSQL` comes a second time. None: it does not.
    poll_interval
        How often the log is looked at while nothing changes: 0.5 on the real server, which looks
        again at once after it found something. 0: a change is sent as soon as it is committed.
    replication_delay
        Time between the first join on a stack and the stream of broadcasts from the database.
        What is committed before is not sent, although the join was answered ``ok``; a join with
        ``replication_ready`` is told when it runs. The real server needs 0.5 to 2 s on a project
        where nobody was.
    replication_timeout
        How long a join with ``replication_ready`` may wait before its channel is closed.
    login_timeout
        How long a connection may live that nobody signed in on; 24 h on a hosted project.
    rebind_delay
        Time between a new access token and the bindings made again with it.
    publication_delay
        Time between a change of the set of published tables and the second system message.
    idle_timeout
        Silence of the client after which its socket is closed with 1000.
    slow_reader_timeout
        How long frames may wait for a client that does not read before the connection is cut.
    restart_delay
        How long the stream of changes rests before it starts again after PostgreSQL went away.
    max_frame_bytes, max_broadcast_bytes, max_record_bytes
        A larger frame closes the socket (1009), a larger broadcast is refused (one from the
        database is dropped, with a line in the log), a larger row is sent without its large
        values (`Error 413`).
    max_channels
        Joined channels a connection.
    events_per_second
        Broadcasts and changes a second, averaged over at most 60 s; broadcasts over it close the
        channel, changes over it are dropped without a word. A broadcast counts once and once more
        for each who receives it. None: no limit.
    over_rate
        What becomes of broadcasts from the database over that rate; the real server does both.
        ``"silent"``: they are dropped, and the channels stay joined. ``"closed"``: the message
        that is over it is sent, and its channels are told so and closed.
    rate_tick
        How often the averages are looked at; they reach back over twelve of these.
    presence_per_second
        Presence messages a second, averaged as ``events_per_second`` is: calls, and what is
        delivered to each client. Over it a call closes its channel. None: no limit.
    presence_calls, presence_window
        Presence calls a client may make in that window.
    """

    connect_error_delay: float = 2.0
    join_error_delay: float = 5.0
    confirm_delay: float = 0.0
    confirm_again_delay: float | None = 0.3
    poll_interval: float = 0.0
    replication_delay: float = 0.0
    replication_timeout: float = 60.0
    login_timeout: float = 24 * 3600.0
    rebind_delay: float = 1.0
    publication_delay: float = 1.0
    idle_timeout: float = 60.0
    slow_reader_timeout: float = 30.0
    restart_delay: float = 0.5
    max_frame_bytes: int = 5_000_000
    max_broadcast_bytes: int = 256_500
    max_record_bytes: int = 1024 * 1024
    max_channels: int = 100
    events_per_second: float | None = 100.0
    over_rate: Literal["silent", "closed"] = "silent"
    rate_tick: float = 5.0
    presence_per_second: float | None = 20.0
    presence_calls: int = 5
    presence_window: float = 30.0
