"""The numbers that a session runs by in one frozen value, each with its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final, Literal, Self, TypeAlias, get_args

from notebook_rt.quoting import near

MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
"""256 KiB a row of a page of 1,000 rows: far past what a notebook reads, far below what ends a kernel."""

MAX_ROWS: Final = 10_000_000
"""Ten times the largest table that is measured (``tests/benchmarks``)."""
PlanName: TypeAlias = Literal["free", "pro", "uncapped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The numbers that a session runs by. All times are seconds unless the name says otherwise.

    Parameters
    ----------
    backoff_base : float, default 1.0
        The first wait before connecting again; doubled with each try. A table in error is asked for
        again after twice as long at first, and after a minute in the end.
    backoff_max : float, default 30.0
        The longest wait between two tries.
    jitter : float, default 0.2
        Up to this share is added to each wait, so that many kernels do not come at once.
    max_retries : int, default 10
        Tries before the session stops trying and only polls.
    retry_anyway : float, default 300.0
        While only polling, one more try each so many seconds, even when no browser is watching.
    connect_timeout : float, default 10.0
        For a connection over HTTP, and for each answer while signing in; opening the socket, its
        handshake included, may take twice as long.
    join_timeout : float, default 10.0
        For the answer to a channel's join, or to a broadcast that is to be acknowledged; of a
        join, whole seconds.
    join_rate : float, default 20.0
        Joins a second: a server disconnects who joins too fast.
    heartbeat_interval : float, default 25.0
        The longest between two heartbeats; the latency is how long the answer to one takes.
    heartbeat_timeout : float, default 10.0
        A heartbeat that is not answered by then means that the socket is dead.
    silence_after : float, default 5.0
        Nothing received for so long while connected, and a heartbeat asks whether the server is still
        there. An answer that is later than is usual on this connection makes the session ``stale``.
    stale_after : float, default 60.0
        No frame for so long while connected is stale; a heartbeat that is not answered for so
        long ends the connection though other frames come. At least ``heartbeat_interval +
        heartbeat_timeout``: where nothing changes, only heartbeats are answered.
    stale_check : float, default 15.0
        How often silence, and a machine that slept, is looked for.
    slow_ms : float, default 500.0
        Milliseconds of heartbeat latency above which the connection is called slow.
    max_channels : int, default 10
        Channels at once; above it the least important ones poll.
    plan : {"free", "pro", "uncapped", None}, default None
        The project's plan, whose limits the session measures its traffic against: it warns above
        80 % of one. ``"uncapped"`` is the pro plan without a spend cap, and what the team plan has.
        None: not known, or a server of one's own; only what holds on every plan is measured, and
        above 100 changes a second tables are audited more often until a higher limit has shown.
    max_frame_bytes : int, default 8,388,608
        A larger frame closes the socket. A broadcast may have 3,000 KB.
    token_margin : float, default 60.0
        An access token is refreshed so long before it expires.
    page_size : int, default 1,000
        Rows asked for at once over REST.
    reads_at_once : int, default 8
        Requests for rows that a session has under way at a time: a project's API has some ten
        connections to its database for everybody. A server that is slow or says 429 gets fewer.
    max_answer_bytes : int, default 268,435,456
        An answer over HTTP that has more bytes, decompressed, is an error and is not read to its
        end.
    max_rows : int, default 10,000,000
        A table with more rows is an error: a server whose pages do not end would fill the memory.
    request_timeout : float, default 30.0
        For one REST request, and for signing in or refreshing a token, from beginning to end.
    poll_interval : float, default 5.0
        Between two polls while changes are not streamed.
    poll_max : float, default 30.0
        The longest a poll's interval grows to while nothing changes.
    polls_at_once : int, default 4
        So many tables of a session poll at a time; who has waited longest comes first.
    audit_interval : float, default 20.0
        Between two checks of a table against the server; 0 switches them off. What the server
        loses without a word is wrong until the next one: at 20 s nothing is 30 s after a fault,
        at 60 s it often was (``tests/benchmarks/FAULTS.md``). At 20 s and above, checks of a
        table that take more than 1 % of the time are made less often, up to ``audit_max``; a
        shorter interval is obeyed as long as a check takes less than a quarter of it. What hints
        at a loss brings the next one forward.
    audit_max : float, default 60.0
        The longest between the ends of two checks of a table, unless one takes more than a third
        of it.
    behind_after : float, default 3.0
        A change that is applied so long after its commit, or that waits so long to be applied,
        means that the session is ``behind``.
    visible_within : float, default 1.5
        A commit that was told is visible to every read after so long. PostgreSQL tells its log
        first and other sessions then, and may be kept waiting between the two (0.15 s were seen).
    clock_margin : float, default 1.0
        The clock of the REST server may be so far behind the database's.
    reread_pause : float, default 0.01
        A row whose read does not show yet what was told of it is read again after so long;
        doubled with each read.
    reread_max : float, default 2.0
        The longest pause between two reads of one row.
    companion_delay : float, default 0.05
        How long to wait for the full frame of a change whose narrow one cannot be judged.
    buffer_size : int, default 100,000
        Changes a table keeps that could not be applied yet; above it a gap is opened. And batches
        or messages that a callback or an iteration has not taken yet; above it the oldest go.
    batch_size : int, default 2,000
        Changes applied before the loop looks at anything else.
    lazy_after : float, default 60.0
        A lazy table that nobody looked at or listens to for so long leaves its channel.
    debounce : float, default 0.25
        A ``LiveQuery`` waits so long for more changes before it fetches again, where ``query``
        was not told otherwise.
    log_size : int, default 1,000
        Changes kept by ``LiveFrame.log`` and messages by ``Channel.messages``.
    progress_after : float, default 0.5
        A ``wait`` for the first data, or a `Queue.flush`, that takes longer shows a progress bar.
    numeric : {"float", "decimal"}, default "float"
        What PostgreSQL's ``numeric`` becomes: float64 as in ``pandas.read_sql``, or exact.
    source : {"auto", "changes", "broadcast"}, default "auto"
        How a table's changes come, where ``table`` was not told otherwise: by broadcast from the
        database where the project has the SQL for that (``notebook-rt doctor --sql TABLE``), else by
        Postgres Changes.
    presence_calls : int, default 4
        Presence calls in ``presence_window``; the server closes the channel at the sixth.
    presence_window : float, default 30.0
        The window of ``presence_calls``.
    queue_batch : int, default 10
        Requests with writes under way at a time, or broadcasts sent at once. Rows that are inserted,
        deleted or set to the same values are many to a request.
    queue_max_attempts : int, default 3
        Tries of a write that the server fails (5xx) before it is set aside.
    queue_scope : {"project", "session"}, default "project"
        Whose edits a session sends, lists and shows: all of the same project and login, or only
        its own. What a session of its own scope leaves is taken over by the next session with
        ``"project"`` that opens the file. In either scope, no session sends what another edited
        that is paused; if that one ended while it was paused, `Queue.resume` or `Queue.retry`
        sends it.
    keep : bool, default False
        Whether tables are kept on disk for the next kernel, where ``table`` was not told otherwise:
        those of which the project tells that no row policy decides who sees what.
    keep_bytes : int, default 1,073,741,824
        Bytes that kept tables take on disk, of all projects and logins; what was used least lately
        gives way.

    Raises
    ------
    TypeError
        If a value is not a number, or not a whole one where things are counted; or if ``keep`` is
        neither True nor False.
    ValueError
        If a number is negative or not finite, or zero where that has no meaning; if an option that
        is one of a few words is another; or if two contradict each other, such as a
        ``poll_interval`` above ``poll_max``.

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
                raise TypeError(f"there is no Options({name}=){near(name, names)}")
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
        """Refuse numbers that contradict each other, each of which is valid alone."""
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
