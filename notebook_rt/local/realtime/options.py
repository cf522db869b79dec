"""What a test or a demo may change about the local Realtime server, with the real one's values.

The delays that the real server adds on purpose are options, because a test suite cannot wait for
them; its limits are options, because the limits of the free plan would only hinder a notebook on
one machine. Losing changes on purpose is switched at run time (`faults.py`).
"""

from dataclasses import dataclass


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
        A larger frame closes the socket (1009), a larger broadcast is refused, a larger row is
        sent without its large values (`Error 413`).
    max_channels
        Joined channels a connection.
    events_per_second
        Broadcasts and changes a second, averaged over at most 60 s; broadcasts over it close the
        channel, changes over it are dropped without a word. None: no limit. Free plan: 100.
    presence_calls, presence_window
        Presence calls a client may make in that window.
    """

    connect_error_delay: float = 2.0
    join_error_delay: float = 5.0
    confirm_delay: float = 0.0
    rebind_delay: float = 1.0
    publication_delay: float = 1.0
    idle_timeout: float = 60.0
    slow_reader_timeout: float = 30.0
    restart_delay: float = 0.5
    max_frame_bytes: int = 5_000_000
    max_broadcast_bytes: int = 3_000_000
    max_record_bytes: int = 1024 * 1024
    max_channels: int = 100
    events_per_second: float | None = None
    presence_calls: int = 5
    presence_window: float = 30.0
