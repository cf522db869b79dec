"""The settings of a session in one frozen value, each with its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final, Literal, Self, TypeAlias, get_args

from notebook_rt.quoting import did_you_mean

MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
"""256 KiB per row for a page of 1,000 rows: more than a notebook reads, less than what crashes a kernel."""

MAX_ROWS: Final = 10_000_000
"""Ten times the largest table that is measured (``tests/benchmarks``)."""
PlanName: TypeAlias = Literal["free", "pro", "uncapped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of a session. All times are in seconds unless the name has another unit.

    Parameters
    ----------
    backoff_base : float, default 1.0
        Wait before the first reconnection; doubled with each attempt. A table in error is retried
        after twice this time at first, and eventually every minute.
    backoff_max : float, default 30.0
        Longest wait between two attempts.
    jitter : float, default 0.2
        Up to this share is added to each wait, so that many kernels do not reconnect at once.
    max_retries : int, default 10
        Attempts before the session stops reconnecting and only polls.
    retry_anyway : float, default 300.0
        Seconds between further attempts while the session only polls, even if no browser is watching.
    connect_timeout : float, default 10.0
        Timeout of an HTTP connection, and of each answer while signing in; opening the socket, including
        its handshake, may take twice as long.
    join_timeout : float, default 10.0
        Timeout of the answer to a channel's join, or of the acknowledgement of a broadcast; for a
        join, whole seconds.
    join_rate : float, default 20.0
        Joins per second: a server disconnects a client that joins too fast.
    heartbeat_interval : float, default 25.0
        Longest time between two heartbeats; the latency is the time until the answer.
    heartbeat_timeout : float, default 10.0
        A heartbeat without an answer for this time means that the socket is dead.
    silence_after : float, default 5.0
        If nothing is received for this time while connected, a heartbeat is sent. An answer that is later
        than usual on this connection makes the session ``stale``.
    stale_after : float, default 60.0
        A connection without a frame for this time is stale; a heartbeat without an answer for this
        time ends the connection even if other frames arrive. At least ``heartbeat_interval +
        heartbeat_timeout``, because without changes only heartbeats are answered.
    stale_check : float, default 15.0
        Time between two checks for silence, and for a machine that slept.
    slow_ms : float, default 500.0
        Milliseconds of heartbeat latency above which the connection is called slow.
    max_channels : int, default 10
        Number of channels; above it the tables with the lowest priority poll.
    plan : {"free", "pro", "uncapped", None}, default None
        The project's plan. The session compares its traffic with the limits of the plan and warns above
        80 % of a limit. ``"uncapped"`` is the pro plan without a spend cap, which equals the team plan.
        None: unknown, or a self-hosted server; only limits that all plans share are checked, and
        above 100 changes a second tables are audited more often until a higher limit is observed.
    max_frame_bytes : int, default 8,388,608
        A larger frame closes the socket. A broadcast can have 3,000 KB.
    token_margin : float, default 60.0
        An access token is refreshed this long before it expires.
    page_size : int, default 1,000
        Rows per request over REST.
    reads_at_once : int, default 8
        Number of concurrent requests for rows of a session: a project's API has about ten
        connections to its database for all clients. A server that is slow or answers 429 gets fewer.
    max_answer_bytes : int, default 268,435,456
        An HTTP answer with more bytes, decompressed, is an error and is not read to its
        end.
    max_rows : int, default 10,000,000
        A table with more rows is an error: endless pages of a server would fill the memory.
    request_timeout : float, default 30.0
        Timeout of a whole REST request, and of signing in or refreshing a token.
    poll_interval : float, default 5.0
        Time between two polls while changes are not streamed.
    poll_max : float, default 30.0
        Maximum of the poll interval, which grows while nothing changes.
    polls_at_once : int, default 4
        Number of tables of a session that poll at the same time, the longest waiting first.
    audit_interval : float, default 20.0
        Time between two audits of a table against the server; 0 disables them. A change that the
        server loses silently is missing until the next audit: with 20 s no row is wrong 30 s after a
        fault, with 60 s rows often were (``tests/benchmarks/FAULTS.md``). At 20 s and above, audits of a
        table that take more than 1 % of the time are made less often, up to ``audit_max``; a
        shorter interval applies as long as an audit takes less than a quarter of it. A sign of a
        loss brings the next audit forward.
    audit_max : float, default 60.0
        Longest time between the ends of two audits of a table, unless an audit takes more than a third
        of it.
    behind_after : float, default 3.0
        The session is ``behind`` if a change is applied this long after its commit, or waits this long
        to be applied.
    visible_within : float, default 1.5
        Time after which a received commit is visible to every read. PostgreSQL writes a commit to its
        log before other sessions see it, and can be delayed in between (0.15 s were observed).
    clock_margin : float, default 1.0
        Maximum lag of the REST server's clock behind the database's.
    reread_pause : float, default 0.01
        A row whose read does not contain a received change yet is read again after this time;
        doubled with each read.
    reread_max : float, default 2.0
        Longest pause between two reads of one row.
    companion_delay : float, default 0.05
        Time to wait for the full frame of a change whose narrow frame cannot be evaluated.
    buffer_size : int, default 100,000
        Changes of a table that wait to be applied; above it a gap is opened. Also batches
        or messages that wait for a callback or an iteration; above it the oldest are dropped.
    batch_size : int, default 2,000
        Changes applied before the loop handles other events.
    lazy_after : float, default 60.0
        A lazy table that was not used for this time leaves its channel.
    debounce : float, default 0.25
        Time for which a ``LiveQuery`` waits for more changes before it fetches again; ``query`` can
        override it.
    log_size : int, default 1,000
        Number of changes kept by ``LiveFrame.log`` and of messages kept by ``Channel.messages``.
    progress_after : float, default 0.5
        A ``wait`` for the first data, or a `Queue.flush`, that takes longer shows a progress bar.
    numeric : {"float", "decimal"}, default "float"
        The type of PostgreSQL's ``numeric``: float64 as in ``pandas.read_sql``, or exact.
    source : {"auto", "changes", "broadcast"}, default "auto"
        How a table's changes are received; ``table`` can override it: by broadcast from the
        database if the project has the SQL for that (``notebook-rt doctor --sql TABLE``), else by
        Postgres Changes.
    presence_calls : int, default 4
        Presence calls per ``presence_window``; the server closes the channel at the sixth.
    presence_window : float, default 30.0
        The window of ``presence_calls``.
    queue_batch : int, default 10
        Number of concurrent write requests, or of broadcasts sent at once. Rows that are inserted,
        deleted or set to the same values share a request.
    queue_max_attempts : int, default 3
        Attempts of a write that fails on the server (5xx) before it is set aside.
    queue_scope : {"project", "session"}, default "project"
        The edits that a session sends, lists and shows: all of the same project and login, or only
        its own. Edits left by a session with the scope ``"session"`` are taken over by the next session
        with ``"project"`` that opens the file. In either scope, no session sends the edits of another
        session that is paused; if that session ended while paused, `Queue.resume` or `Queue.retry`
        sends them.
    keep : bool, default False
        Whether tables are stored on disk for the next kernel; ``table`` can override it. It applies to
        tables that are known to have no row-level security.
    keep_bytes : int, default 1,073,741,824
        Bytes of stored tables on disk, of all projects and logins; the least recently used are removed
        first.

    Raises
    ------
    TypeError
        If a value is not a number, or not a whole number where required; or if ``keep`` is not a
        bool.
    ValueError
        If a number is negative or not finite, or zero where that is not allowed; if an option is not
        one of its choices; or if two options contradict each other, such as a ``poll_interval`` above
        ``poll_max``.

    Examples
    --------
    >>> Options(poll_interval=2.0).poll_interval
    2.0
    >>> Options(page_size=0)
    Traceback (most recent call last):
        ...
    ValueError: Options.page_size must be greater than 0, not 0
    """

    # The connection
    backoff_base: float = 1.0
    backoff_max: float = 30.0
    jitter: float = 0.2
    max_retries: int = 10
    retry_anyway: float = 300.0
    connect_timeout: float = 10.0
    join_timeout: float = 10.0
    join_rate: float = 20.0
    heartbeat_interval: float = 25.0
    heartbeat_timeout: float = 10.0
    silence_after: float = 5.0
    stale_after: float = 60.0
    stale_check: float = 15.0
    slow_ms: float = 500.0
    max_channels: int = 10
    plan: PlanName | None = None
    max_frame_bytes: int = 8 * 1024 * 1024
    token_margin: float = 60.0

    # Tables
    page_size: int = 1000
    reads_at_once: int = 8
    max_answer_bytes: int = MAX_ANSWER_BYTES
    max_rows: int = MAX_ROWS
    request_timeout: float = 30.0
    poll_interval: float = 5.0
    poll_max: float = 30.0
    polls_at_once: int = 4
    audit_interval: float = 20.0
    audit_max: float = 60.0
    behind_after: float = 3.0
    visible_within: float = 1.5
    clock_margin: float = 1.0
    reread_pause: float = 0.01
    reread_max: float = 2.0
    companion_delay: float = 0.05
    buffer_size: int = 100_000
    batch_size: int = 2_000
    lazy_after: float = 60.0
    debounce: float = 0.25
    log_size: int = 1_000
    progress_after: float = 0.5
    numeric: Literal["float", "decimal"] = "float"
    source: Literal["auto", "changes", "broadcast"] = "auto"

    # Presence
    presence_calls: int = 4
    presence_window: float = 30.0

    # The queue of unsent writes
    queue_batch: int = 10
    queue_max_attempts: int = 3
    queue_scope: Literal["project", "session"] = "project"

    # What is kept on disk
    keep: bool = False
    keep_bytes: int = 1024 * 1024 * 1024

    def __new__(cls, *_: object, **given: object) -> Self:
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise TypeError(f"there is no Options({name}=){did_you_mean(name, names)}")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        zero_is_fine = {"audit_interval", "jitter", "max_retries", "progress_after", "debounce"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "numeric":
                if value not in ("float", "decimal"):
                    raise ValueError(f'Options.numeric must be "float" or "decimal", not {value!r}')
            elif field.name == "plan":
                if value not in (*get_args(PlanName), None):
                    raise ValueError(
                        'Options.plan must be "free", "pro", "uncapped" (pro without a spend cap, and '
                        f"team) or None, not {value!r}"
                    )
            elif field.name == "source":
                if value not in ("auto", "changes", "broadcast"):
                    raise ValueError(
                        f'Options.source must be "auto", "changes" or "broadcast", not {value!r}'
                    )
            elif field.name == "keep":
                if not isinstance(value, bool):
                    raise TypeError(f"Options.keep must be True or False, not {value!r}")
            elif field.name == "queue_scope":
                if value not in ("project", "session"):
                    raise ValueError(
                        f'Options.queue_scope must be "project" or "session", not {value!r}'
                    )
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"Options.{field.name} must be a number, not {value!r}")
            elif not math.isfinite(value):
                raise ValueError(f"Options.{field.name} must be a finite number, not {value!r}")
            elif field.type == "int" and value != int(value):
                raise TypeError(f"Options.{field.name} must be a whole number, not {value!r}")
            elif field.name in zero_is_fine:
                if not value >= 0:
                    raise ValueError(f"Options.{field.name} must not be negative, not {value!r}")
            elif not value > 0:
                raise ValueError(f"Options.{field.name} must be greater than 0, not {value!r}")
            if field.type == "int":
                object.__setattr__(self, field.name, int(value))  # 1e5 was given
        self._agree()

    def _agree(self) -> None:
        """Raise for settings that are valid alone but contradict each other."""
        at_most = (
            ("backoff_base", "backoff_max"),
            ("poll_interval", "poll_max"),
            ("audit_interval", "audit_max"),
        )
        for name, limit in at_most:
            value, most = getattr(self, name), getattr(self, limit)
            if value > most:
                raise ValueError(
                    f"Options.{name} ({value:g}) must not be above {limit} ({most:g}); "
                    f"give {limit}={value:g} too"
                )
        least = self.heartbeat_interval + self.heartbeat_timeout
        if self.stale_after < least:
            raise ValueError(
                f"Options.stale_after ({self.stale_after:g}) must be at least heartbeat_interval + "
                f"heartbeat_timeout ({self.heartbeat_interval:g} + {self.heartbeat_timeout:g}): a "
                "connection on which nothing changes is silent for so long; "
                f"give stale_after={least:g} or more"
            )
