"""The health of a session: one status, the worst that applies, and the numbers behind it.

Pure. ``health`` evaluates ``Facts`` that the session collects. Green requires five conditions: the
socket is open, every channel is joined, changes are confirmed, nothing is late, and the last audit was clean
and began after the last sign of a loss.
The sentences for a status are in ``sentences.py``, the counters in ``metrics.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from notebook_rt.quoting import printable
from notebook_rt.sync.connection.sentences import Cause, sentences
from notebook_rt.sync.connection.supervisor import State
from notebook_rt.sync.events import Status

HealthStatus: TypeAlias = Literal[
    "offline",
    "connecting",
    "stale",
    "polling",
    "behind",
    "drifting",
    "refused",
    "slow",
    "healthy",
    "closed",
]
COLORS: Final[dict[HealthStatus, str]] = {
    "offline": "red",
    "connecting": "grey",
    "stale": "yellow",
    "polling": "yellow",
    "behind": "yellow",
    "drifting": "yellow",
    "refused": "yellow",
    "slow": "yellow",
    "healthy": "green",
    "closed": "grey",
}
UNAVAILABLE: Final = "Live updates temporarily unavailable, data refreshes every {every}"
CALM: Final = 5.0
"""Multiple of ``Options.backoff_base`` after which missing live updates are an outage: a hosted project
regularly ends connections and channels (after 24 h, with each changed setting, when a token is renewed)."""
OUTAGE: Final[frozenset[HealthStatus]] = frozenset({"offline", "polling", "stale"})
"""Statuses of a session whose live updates are missing for longer than that."""
WELL: Final[frozenset[HealthStatus]] = frozenset({"healthy", "slow", "refused"})
"""Statuses of a session without missing updates."""
NEEDS_USER: Final[tuple[Cause, ...]] = (
    "denied",
    "failed",
    "computed",
    "crowded",
    "channel",
    "refused",
)
"""Causes that last until the user acts: they are always in the reason, in this order, after the worst."""
NAMED: Final = 5
"""Maximum number of tables, or refused channels, that a reason names."""


class TableFacts(msgspec.Struct, frozen=True):
    """The facts of one live table."""

    name: str
    status: Status
    drifted: int = 0
    """Number of rows in which the last audit found a difference."""
    error: str = ""
    """For ``error``: the error and what to do; for ``stale``: the reason."""
    denied: bool = False
    """Whether it is in ``error``, or ``stale``, because the server rejects the key or the login."""
    unaudited: bool = False
    """Whether it was not audited yet."""
    behind: float = 0.0
    """Seconds from the commit of the latest change until it was applied, or until now."""
    waiting: int = 0
    """Number of received changes that wait to be applied."""
    age: float | None = None
    """Seconds since its rows were last known to equal the server's."""
    shown: bool = True
    """Whether it has had data: an earlier error concerns only the frame (such as a mistyped name)."""
    doubt: str = ""
    """Why changes may have been lost since the last audit began, in part of a sentence."""
    audit_in: float | None = None
    """Seconds until its next audit; None if there is none."""
    crowded: bool = False
    """Whether there is no channel for it, because others use all of them."""
    poll_every: float | None = None
    """Current seconds between two polls; None: unknown."""
    audited: float | None = None
    """Seconds since its last audit; None before the first."""
    replaced: bool = False
    """Whether that audit replaced rows: those of a query can differ without a received change."""
    late: float = 0.0
    """Delay of late changes in seconds, until there were none for a while; 0.0 without any."""
    missing: bool = False
    """Whether changes were lost although they are followed, and are being read."""


class Facts(msgspec.Struct, frozen=True):
    state: State
    reason: str = ""
    silent_for: float = 0.0
    """Seconds since the last frame while connected."""
    latency: float | None = None
    """Round trip of the last heartbeat in seconds."""
    reachable: bool = True
    """Whether the last request over HTTP reached the server."""
    unjoined: int = 0
    """Requested channels that are not joined, including those of tables, without refused ones."""
    tables: Sequence[TableFacts] = ()
    closed: bool = False
    refused: str = ""
    """A sentence about the user's refused edits."""
    refused_channels: Sequence[tuple[str, str]] = ()
    """Topics that the server refuses to this login, with its reasons."""
    away_since: str = ""
    """Time of the server's last answer, or of the session's start, while there is no connection."""
    in_grace: bool = False
    """Whether live updates, if interrupted, are so only briefly and may return at once."""
    late_answer: bool = False
    """Whether a heartbeat was sent and its answer is later than usual."""
    shortage: str = ""
    """What to do if more channels are requested than allowed, as part of a sentence."""
    crowded_channels: Sequence[str] = ()
    """The user's channels without a place."""
    unjoined_channels: Sequence[tuple[str, str]] = ()
    """The user's requested channels that are not joined, with the server's reason if known."""

    computed: Sequence[tuple[str, str]] = ()
    """Computations on tables that worked before and fail now, with the error."""

    @property
    def away(self) -> bool:
        """Whether live updates are missing, for the connection or for a table that had them."""
        missing = any(table.status in ("polling", "stale") for table in self.tables)
        return missing or self.state not in ("connected", "connecting")


class Audits(NamedTuple):
    """The combined result of the audits of all live tables."""

    tables: int = 0
    """Number of live tables and queries."""
    next_in: float | None = None
    """Seconds until the next audit; None if there is none."""
    last_ago: float | None = None
    """Seconds since the oldest of the last audits; None before each table had one."""
    all_right: bool = False
    """Whether each table had an audit, and no last audit found or replaced a row."""


def audits_of(tables: Sequence[TableFacts]) -> Audits:
    """Return the audits of the tables that follow changes; the others are not audited."""
    live = [table for table in tables if table.status == "live"]
    coming = [table.audit_in for table in live if table.audit_in is not None]
    audited = [table.audited for table in live if table.audited is not None]
    every_one = len(audited) == len(live) > 0
    return Audits(
        len(live),
        min(coming, default=None),
        max(audited) if every_one else None,
        every_one and not any(table.drifted or table.replaced for table in live),
    )


class Finding(NamedTuple):
    """The worst status that applies."""

    status: HealthStatus
    reason: str
    """The reason as part of a sentence, safe for a terminal."""
    cause: Cause


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a session. ``str(health)`` is the text of the panel; ``color`` is never the only sign."""

    status: HealthStatus
    reason: str
    """The reason as a sentence."""
    latency_ms: float | None = None
    """Round trip of the last heartbeat in milliseconds; None without a connection."""
    metrics: dict[str, Any] = field(default_factory=dict, compare=False)
    """``Session.metrics`` at that moment."""
    next_audit_s: float | None = None
    """Seconds until the next audit of a table; None if there is none."""
    audited_s: float | None = None
    """Seconds since the oldest of the live tables' last audits; None before each had one."""
    tables: int = field(default=0, compare=False)
    """Number of tables and queries that follow changes."""
    all_right: bool = field(default=False, compare=False)
    """Whether the last audit of each of them found every row equal to the server's."""
    usage: str = field(default="", compare=False)
    """A sentence about the messages of the last hour and their projection to a month."""
    near_limits: tuple[str, ...] = ()
    """A line for each limit of the plan of which more than 80 % is used."""
    cause: Cause = field(default="live", compare=False)
    """The cause of the status."""
    needs: tuple[str, ...] = field(default=(), compare=False)
    """Everything that needs your action, as parts of a sentence, worst first; also part of ``reason``."""
    since_s: float = field(default=0.0, compare=False)
    """Seconds since the status changed."""
    trends: Mapping[str, Sequence[float | None]] = field(default_factory=dict, compare=False)
    """``changes_per_s``, ``lag_ms`` and ``latency_ms`` of the last five minutes, one number per 5 s, oldest
    first; None without a measurement."""
    disk: str = field(default="", compare=False)
    """A sentence about the last problem with tables stored on disk; empty without one."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The source of each table's changes: ``changes`` (Postgres Changes), ``broadcast``, or, with a topic for
    each value of a column, ``broadcast per user_id``."""
    display: Callable[[], Any] | None = field(default=None, compare=False)
    """Returns the live widget of the health, for a front end."""

    @property
    def color(self) -> str:
        """``green``, ``yellow``, ``red`` or ``grey``."""
        return COLORS[self.status]

    def __str__(self) -> str:
        return printable(f"{self.status.capitalize()}: {' '.join(sentences(self))}")

    def __repr__(self) -> str:
        return f"<Health {self.status}: {self.reason}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        return {"text/plain": repr(self)} if self.display is None else self.display()


def health(
    facts: Facts, *, slow_ms: float, stale_after: float, poll_interval: float, behind_after: float
) -> Finding:
    """Return the worst status that applies, and its reason, which is safe for a terminal.

    >>> limits = {"slow_ms": 500, "stale_after": 60, "poll_interval": 5, "behind_after": 3}
    >>> tuple(health(Facts("connected", latency=0.02), **limits))
    ('healthy', 'live', 'live')
    """
    findings = list(_findings(facts, slow_ms, stale_after, poll_interval, behind_after))
    status, cause, worst = findings[0]
    reason = "; ".join(dict.fromkeys([worst, *_needs(findings[1:])]))
    return Finding(status, printable(reason), cause)


def needs(facts: Facts, *, poll_interval: float) -> tuple[str, ...]:
    """Return everything that needs the user's action, as parts of a sentence, worst first.

    >>> needs(Facts("connecting", refused="1 edit of yours was refused"), poll_interval=5)
    ('1 edit of yours was refused',)
    """
    inf = math.inf
    return tuple(map(printable, _needs(list(_findings(facts, inf, inf, poll_interval, inf)))))


_Found: TypeAlias = tuple[HealthStatus, Cause, str]


def _needs(findings: Sequence[_Found]) -> list[str]:
    said = {cause: reason for _, cause, reason in findings}
    return [said[cause] for cause in NEEDS_USER if cause in said]


def _findings(
    facts: Facts, slow_ms: float, stale_after: float, poll_interval: float, behind_after: float
) -> Iterator[_Found]:
    """Yield all statuses that apply, worst first; the last one is ``healthy``."""
    if facts.closed:
        yield "closed", "closed", "closed"
        return
    # A table that was never live reports its own error.
    tables = [t for t in facts.tables if t.status != "error" or t.denied or t.shown]
    statuses = [table.status for table in tables]
    denied = [table for table in tables if table.denied]
    failed = [table for table in tables if table.status == "error" and not table.denied]
    polling = [table for table in tables if table.status == "polling" and not table.crowded]
    crowded = [table for table in tables if table.crowded]
    if denied:
        yield "offline", "denied", denied[0].error
    # Without the socket only polling is left; without HTTP nothing is.
    connected, polled = facts.state == "connected", "polling" in statuses and facts.reachable
    in_grace = facts.in_grace and facts.reachable and facts.state != "disconnected"
    if not connected and facts.state != "connecting" and not polled and not in_grace:
        since = f" (offline since {facts.away_since})" if facts.away_since else ""
        yield "offline", "unreachable", facts.reason + since
    if connected and (facts.late_answer or facts.silent_for > stale_after):
        said = f"nothing has come from the server for {facts.silent_for:.0f} s"
        yield "stale", "silent", f"{said}, though it was asked for an answer"
    if failed:
        others = _names(failed[1:])
        yield "stale", "failed", failed[0].error + (f" (in error, too: {others})" if others else "")
    if facts.computed:
        name, why = facts.computed[0]
        others = _few([other for other, _ in facts.computed[1:]])
        more = f" (in error, too: {others})" if others else ""
        yield "stale", "computed", f"{name} is not kept up: {why}{more}"
    if facts.state == "connecting":
        yield "connecting", "connecting", facts.reason
    if in_grace and facts.away:
        if not connected:
            yield "connecting", "reconnecting", "reconnecting"
        elif polling:
            yield "connecting", "waiting", f"waiting for live updates: {_names(polling)}"
        elif any(table.missing for table in tables):
            yield "behind", "missing", _missing(tables)
        elif "stale" in statuses:
            yield "connecting", "comparing", _compared(tables)
    if not connected:
        yield "polling", "polling", _unavailable(tables, poll_interval)
    if "stale" in statuses:
        yield "stale", "comparing", _compared(tables)
    if polling:
        note = _unavailable(polling, poll_interval)
        yield "polling", "polling", f"{note} ({_names(polling)}){_oldest(polling)}"
    if crowded or facts.crowded_channels:
        yield "polling", "crowded", _crowded(facts, crowded, poll_interval)
    yield from _doubts(tables, behind_after)
    if facts.unjoined_channels and "loading" not in statuses:
        yield "connecting", "joining", _unjoined(facts.unjoined_channels)
    elif "loading" in statuses or facts.unjoined:
        yield "connecting", "loading", "waiting for the first data"
    refusals = [f"channel {topic} was refused: {why}" for topic, why in facts.refused_channels]
    if refusals:
        more = f" (refused, too: {len(refusals) - NAMED} more)" if len(refusals) > NAMED else ""
        yield "refused", "channel", "; ".join(refusals[:NAMED]) + more
    if facts.refused:
        yield "refused", "refused", facts.refused
    unaudited = [table for table in tables if table.unaudited]
    if unaudited:
        yield "connecting", "unaudited", f"waiting for the first audit: {_names(unaudited)}"
    if facts.latency is not None and facts.latency * 1000 > slow_ms:
        yield "slow", "slow", f"latency {facts.latency * 1000:.0f} ms"
    yield "healthy", "live", "live"


def _doubts(tables: Sequence[TableFacts], behind_after: float) -> Iterator[_Found]:
    """Yield why rows may be or were wrong although changes flow."""
    late = [table for table in tables if table.behind > behind_after]
    if late:
        seconds, waiting = max(t.behind for t in late), sum(t.waiting for t in late)
        more = f"; {waiting:,} changes wait to be applied" if waiting else ""
        more = "; 1 change waits to be applied" if waiting == 1 else more
        yield "behind", "late", f"{seconds:.0f} s behind the server: {_names(late)}{more}"
    lately = [table for table in tables if table.late]
    if lately and not late:
        seconds = max(table.late for table in lately)
        yield "behind", "late", f"changes came {seconds:.0f} s late a moment ago: {_names(lately)}"
    drifted = [table for table in tables if table.drifted]
    if drifted:
        rows = sum({table.name: table.drifted for table in drifted}.values())
        found = (
            "1 row that differed, and repaired it"
            if rows == 1
            else (f"{rows:,} rows that differed, and repaired them")
        )
        yield "drifting", "drifted", f"the last audit found {found}: {_names(drifted)}"
    doubted = [table for table in tables if table.doubt]
    if doubted:
        when = min((t.audit_in for t in doubted if t.audit_in is not None), default=0.0)
        check = f"the next check is in {when:.0f} s" if when >= 0.5 else "being checked now"
        names, why = _names(doubted), doubted[0].doubt
        yield "behind", "doubted", f"changes may have been lost: {names} ({why}); {check}"


def _unjoined(channels: Sequence[tuple[str, str]]) -> str:
    why = next((f": the server says {why}" for _, why in channels if why), "")
    names = _few([topic for topic, _ in channels])
    which = f"channel {names} is" if len(channels) == 1 else f"channels {names} are"
    return f"{which} not open yet{why}"


def _unavailable(tables: Sequence[TableFacts], poll_interval: float) -> str:
    """Return the text about polling with its current interval, which grows while nothing changes."""
    known = [table.poll_every for table in tables if table.poll_every is not None]
    return UNAVAILABLE.format(
        every=every(min(known), max(known)) if known else every(poll_interval)
    )


def every(least: float, most: float | None = None) -> str:
    """Return an interval, or a range of intervals, as text.

    >>> every(0.5), every(5.0, 7.5), every(30.0, 30.2)
    ('0.5 s', '5 to 8 s', '30 s')
    """
    low, high = (f"{one:.0f}" if one >= 2 else f"{one:.2g}" for one in (least, most or least))
    return f"{low} s" if low == high else f"{low} to {high} s"


def _crowded(facts: Facts, tables: Sequence[TableFacts], poll_interval: float) -> str:
    known = [table.poll_every for table in tables if table.poll_every is not None]
    seconds = every(min(known), max(known)) if known else every(poll_interval)
    said = [f"{_names(tables)} without live updates, read every {seconds}"] if tables else []
    if facts.crowded_channels:
        names = _few(facts.crowded_channels)
        said.append(f"no messages come over {names}")
    return f"{' and '.join(said)}: {facts.shortage}{_oldest(tables)}"


def _oldest(tables: Sequence[TableFacts]) -> str:
    ages = [table.age for table in tables if table.age is not None]
    return f"; the oldest is {max(ages):.0f} s old" if ages else ""


def _compared(tables: Sequence[TableFacts]) -> str:
    stale = [table for table in tables if table.status == "stale"]
    why = next((f" ({table.error})" for table in stale if table.error), "")
    return f"being compared with the server: {_names(stale)}{why}"


def _missing(tables: Sequence[TableFacts]) -> str:
    missing = [table for table in tables if table.missing]
    why = next((f" ({table.error})" for table in missing if table.error), "")
    return f"changes were lost, and are being read: {_names(missing)}{why}"


def _names(tables: Sequence[TableFacts]) -> str:
    """Return the names of the tables without duplicates, as many as fit a sentence."""
    return _few([table.name for table in tables])


def _few(all_names: Sequence[str]) -> str:
    names = list(dict.fromkeys(all_names))
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


class Interruption:
    """Since when live updates are interrupted, and whether that was reported. Times are monotonic seconds.

    Interruptions of less than ``grace`` seconds are not reported.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.since: float | None = None
        self.told = False

    def in_grace(self, now: float) -> bool:
        """Return whether a current interruption is shorter than the grace period."""
        return not self.told and (self.since is None or now - self.since < self.grace)

    def update(
        self, away: bool, verdict: HealthStatus, reason: str, now: float
    ) -> tuple[Literal["unavailable", "live"], str] | None:
        """Take the current state; return the kind and text of a line to report, if there is one."""
        if verdict in OUTAGE or away:
            self.since = now if self.since is None else self.since
            if verdict in OUTAGE and not self.told:
                self.told = True
                return "unavailable", reason
        elif self.since is not None and (verdict in WELL or not self.told):
            seconds, told = now - self.since, self.told
            self.since, self.told = None, False
            after = f" after {seconds:.0f} s" if seconds >= 1 else ""
            return ("live", f"Live again{after}") if told else None
        return None


class Since:
    """The duration of the current status. Times are monotonic seconds; from any thread."""

    def __init__(self) -> None:
        self._begun: tuple[HealthStatus, float] | None = None

    def update(self, status: HealthStatus, now: float) -> float:
        """Take the current status; return the seconds since it changed."""
        begun = self._begun
        if begun is None or begun[0] != status:
            self._begun = begun = status, now
        return max(0.0, now - begun[1])
