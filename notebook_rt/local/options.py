"""The options of the local Realtime server, with the real server's values as defaults.

The delays that the real server adds intentionally are options, because a test suite cannot wait for them; the
limits are those of a hosted project on the free plan. Intentional losses of changes are switched at run time
(`routes.faults`).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RealtimeOptions:
    """Options of the local Realtime server; times in seconds, sizes in bytes.

    Parameters
    ----------
    connect_error_delay, join_error_delay
        Delay of the answer to a refused connection or join.
    confirm_delay
        Time between the reply to a join and its `Subscribed to PostgreSQL`. Changes committed before
        that message are not sent. The real server needs 1 to 2 s on a cold tenant, 4 ms on a warm one.
    confirm_again_delay
        Time after which `Subscribed to PostgreSQL` is sent a second time. None: never.
    poll_interval
        Interval of reading the log while nothing changes: 0.5 on the real server, which reads again at
        once after it found changes. 0: a change is sent as soon as it is committed.
    replication_delay
        Time between the first join on a stack and the stream of broadcasts from the database.
        Earlier commits are not sent, although the join was answered ``ok``; a join with
        ``replication_ready`` is notified when the stream runs. The real server needs 0.5 to 2 s on a
        project without clients.
    replication_timeout
        Maximum wait of a join with ``replication_ready`` before its channel is closed.
    login_timeout
        Maximum lifetime of a connection without a login; 24 h on a hosted project.
    rebind_delay
        Time between a new access token and the renewal of the bindings with it.
    publication_delay
        Time between a change of the set of published tables and the second system message.
    idle_timeout
        Silence of the client after which its socket is closed with 1000.
    slow_reader_timeout
        Maximum wait of frames for a client that does not read before the connection is cut.
    restart_delay
        Pause before the stream of changes restarts after a loss of PostgreSQL.
    max_frame_bytes, max_broadcast_bytes, max_record_bytes
        A larger frame closes the socket (1009), a larger broadcast is refused (one from the
        database is dropped, with a line in the log), a larger row is sent without its large
        values (`Error 413`).
    max_channels
        Maximum joined channels per connection.
    events_per_second
        Maximum broadcasts and changes per second, averaged over at most 60 s; excess broadcasts close the
        channel, excess changes are dropped silently. A broadcast counts once, and once more for each
        receiver. None: no limit.
    over_rate
        The handling of broadcasts from the database above that rate; the real server does both.
        ``"silent"``: they are dropped, and the channels stay joined. ``"closed"``: the excess message is
        sent, and its channels are notified and closed.
    rate_tick
        Interval of computing the averages, which cover twelve of these intervals.
    presence_per_second
        Maximum presence messages per second, averaged like ``events_per_second``: calls, and messages
        delivered to each client. An excess call closes its channel. None: no limit.
    presence_calls, presence_window
        Maximum presence calls of a client within the window.
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
