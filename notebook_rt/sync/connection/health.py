"""How the connection is doing: one word, worst first, and the numbers behind it.

Pure. ``health`` looks at ``Facts`` that the session gathers; green needs five things at once: the
socket, every channel joined, changes confirmed, nothing late, and a last audit that was clean and that
began after whatever hints at a loss.
What the verdict means in sentences is in ``sentences.py``, what is counted besides in ``metrics.py``.
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
"""Times ``Options.backoff_base`` that live updates may be away before it is an outage: a hosted project
ends connections and channels as a matter of course (after 24 h, with each changed setting, when a token
is renewed)."""
OUTAGE: Final[frozenset[HealthStatus]] = frozenset({"offline", "polling", "stale"})
"""Words of a session whose live updates are missing for longer than that."""
WELL: Final[frozenset[HealthStatus]] = frozenset({"healthy", "slow", "refused"})
"""Words of a session that misses nothing."""
NEEDS_USER: Final[tuple[Cause, ...]] = (
    "denied",
    "failed",
    "computed",
    "crowded",
    "channel",
    "refused",
)
"""What goes on until the user does something about it: it is in the reason whatever else is true, in this
order, after the worst."""
NAMED: Final = 5
"""Tables, or refused channels, that a reason names."""


class TableFacts(msgspec.Struct, frozen=True):
    """What counts of one live table."""

    name: str
    status: Status
    drifted: int = 0
    """Rows in which the last audit found a difference."""
    error: str = ""
    """In ``error``: what is wrong, and what to do; in ``stale``: why."""
    denied: bool = False
    """In ``error``, or ``stale`` since then, because the server does not accept the key or the login."""
    unaudited: bool = False
    """Its first audit is still to come."""
    behind: float = 0.0
    """Seconds from its commit to now, or to when it was applied, of the change that is latest."""
    waiting: int = 0
    """Changes that were received and wait to be applied."""
    age: float | None = None
    """Seconds since it was last known to be the server's."""
    shown: bool = True
    """Whether it has had data: an error before that is the frame's alone (a mistyped name)."""
    doubt: str = ""
    """Why changes may have been lost since the last audit began, in part of a sentence."""
    audit_in: float | None = None
    """Seconds until its next audit; None while none is to come."""
    crowded: bool = False
    """There is no channel for it: others take all that there may be."""
    poll_every: float | None = None
    """Seconds from one poll to the next, as it is now; None: not known."""
    audited: float | None = None
    """Seconds since its last audit; None before the first."""
    replaced: bool = False
    """Whether that audit has replaced rows: a query's may differ though no change was told."""
    late: float = 0.0
    """Seconds by which changes came late, until none has for a while; 0.0: none did."""
    missing: bool = False
    """Changes were lost though they are followed, and are being read."""


class Facts(msgspec.Struct, frozen=True):
    state: State
    reason: str = ""
    silent_for: float = 0.0
    """Seconds since the last frame while connected."""
    latency: float | None = None
    """Seconds, of the last heartbeat."""
    reachable: bool = True
    """Whether the last request over HTTP reached the server."""
    unjoined: int = 0
    """Channels that are wanted and not joined, tables' too, without those that were refused."""
    tables: Sequence[TableFacts] = ()
    closed: bool = False
    refused: str = ""
    """What the server refused of the user's edits, in a sentence."""
    refused_channels: Sequence[tuple[str, str]] = ()
    """Topics that the server does not let this login into, and its reasons."""
    away_since: str = ""
    """When the server was heard of last, or the session began, while there is no connection."""
    calm: bool = False
    """Whether live updates, if they are away, are so for so short a time that they may be back at once."""
    late_answer: bool = False
    """Whether the server was asked for a sign of life meanwhile, and its answer is later than usual."""
    crowd: str = ""
    """What to do where more channels are wanted than there may be, in part of a sentence."""
    crowded_channels: Sequence[str] = ()
    """The user's channels that have no place."""
    unjoined_channels: Sequence[tuple[str, str]] = ()
    """The user's channels that are wanted and not joined, and why, where the server has said it."""

    computed: Sequence[tuple[str, str]] = ()
    """What is computed from the tables and cannot be now, though it was, and why."""

    @property
    def away(self) -> bool:
        """Whether live updates are missing, of the connection or of a table that had them."""
        missing = any(table.status in ("polling", "stale") for table in self.tables)
        return missing or self.state not in ("connected", "connecting")


class Audits(NamedTuple):
    """What the audits of all live tables can be said to have shown."""

    tables: int = 0
    """Live tables and queries."""
    next_in: float | None = None
    """Seconds until the next audit of one; None while none is to come."""
    last_ago: float | None = None
    """Seconds since the audit that lies furthest back; None before each has had one."""
    all_right: bool = False
    """Whether each has had one, and none of the last ones found or replaced anything."""


def audits_of(tables: Sequence[TableFacts]) -> Audits:
    """Of the tables that follow changes; the others are not audited."""
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
    """The worst that is true."""

    status: HealthStatus
    reason: str
    """Why, in a part of a sentence, fit for a terminal."""
    cause: Cause


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict. ``str(health)`` is the sentences of the panel; ``color`` never stands alone."""

    status: HealthStatus
    reason: str
    """Why, in a sentence."""
    latency_ms: float | None = None
    """Of the last heartbeat, in milliseconds; None while there is no connection."""
    metrics: dict[str, Any] = field(default_factory=dict, compare=False)
    """What ``Session.metrics`` had at that moment."""
    next_audit_s: float | None = None
    """Seconds until the next audit of a table; None while none is to come."""
    audited_s: float | None = None
    """Seconds since the audit that lies furthest back, of all live tables; None before each has had
    one."""
    tables: int = field(default=0, compare=False)
    """Tables and queries that follow changes."""
    all_right: bool = field(default=False, compare=False)
    """Whether the last audit of each of them found every row as the server has it."""
    usage: str = field(default="", compare=False)
    """The messages of the last hour, and what they are in a month, in a sentence."""
    near_limits: tuple[str, ...] = ()
    """A line for each limit of which more than 80 % is used: near it or over it, and what it is."""
    cause: Cause = field(default="live", compare=False)
    """What the status comes from."""
    needs: tuple[str, ...] = field(default=(), compare=False)
    """All that you must act on, each in a part of a sentence, the worst first; ``reason`` has them, too."""
    since_s: float = field(default=0.0, compare=False)
    """Seconds for which the status has been this one."""
    trends: Mapping[str, Sequence[float | None]] = field(default_factory=dict, compare=False)
    """``changes_per_s``, ``lag_ms`` and ``latency_ms`` of the last five minutes, a number for each 5 s,
    the latest last; None where nothing was measured."""
    disk: str = field(default="", compare=False)
    """What went wrong last with tables that are kept on disk, in a sentence; empty: all works."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """How each table's changes come: ``changes`` (Postgres Changes), ``broadcast``, or, where each value of
    a column has a topic of its own, ``broadcast per user_id``."""
    display: Callable[[], Any] | None = field(default=None, compare=False)
    """How the session shows its health as it goes on, where there is a front end."""

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
    """The worst that is true, and why; the reason is fit for a terminal.

    >>> limits = {"slow_ms": 500, "stale_after": 60, "poll_interval": 5, "behind_after": 3}
    >>> tuple(health(Facts("connected", latency=0.02), **limits))
    ('healthy', 'live', 'live')
    """
    findings = list(_findings(facts, slow_ms, stale_after, poll_interval, behind_after))
    status, cause, worst = findings[0]
    reason = "; ".join(dict.fromkeys([worst, *_needs(findings[1:])]))
    return Finding(status, printable(reason), cause)


def needs(facts: Facts, *, poll_interval: float) -> tuple[str, ...]:
    """All that the user must act on, each in a part of a sentence, the worst first.

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
    """All that is true, worst first; the last is ``healthy``, which is true where nothing else is."""
    if facts.closed:
        yield "closed", "closed", "closed"
        return
    # A table that never lived says itself what is wrong.
    tables = [t for t in facts.tables if t.status != "error" or t.denied or t.shown]
    statuses = [table.status for table in tables]
    denied = [table for table in tables if table.denied]
    failed = [table for table in tables if table.status == "error" and not table.denied]
    polling = [table for table in tables if table.status == "polling" and not table.crowded]
    crowded = [table for table in tables if table.crowded]
    if denied:
        yield "offline", "denied", denied[0].error
    # Without the socket, polling is all there is; without HTTP not even that.
    connected, polled = facts.state == "connected", "polling" in statuses and facts.reachable
    calm = facts.calm and facts.reachable and facts.state != "disconnected"
    if not connected and facts.state != "connecting" and not polled and not calm:
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
    if calm and facts.away:
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
    yield from _doubtful(tables, behind_after)
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


def _doubtful(tables: Sequence[TableFacts], behind_after: float) -> Iterator[_Found]:
    """Why rows may be wrong, or were, though changes flow."""
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
    """What is said of polling, with the interval that it has now: it grows while nothing changes."""
    known = [table.poll_every for table in tables if table.poll_every is not None]
    return UNAVAILABLE.format(
        every=every(min(known), max(known)) if known else every(poll_interval)
    )


def every(least: float, most: float | None = None) -> str:
    """An interval, or the range of several, as it is read.

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
    return f"{' and '.join(said)}: {facts.crowd}{_oldest(tables)}"


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
    """The tables by name, each once, and not more than fit a sentence."""
    return _few([table.name for table in tables])


def _few(all_names: Sequence[str]) -> str:
    names = list(dict.fromkeys(all_names))
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


class Interruption:
    """Since when live updates are away, and whether that was told. Times are monotonic seconds.

    What is over within ``grace`` seconds is not reported.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.since: float | None = None
        self.told = False

    def calm(self, now: float) -> bool:
        """Whether updates that are away now have been so for less than the grace."""
        return not self.told and (self.since is None or now - self.since < self.grace)

    def look(
        self, away: bool, verdict: HealthStatus, reason: str, now: float
    ) -> tuple[Literal["unavailable", "live"], str] | None:
        """Take how things are; gives the line that is to be told, its kind and text, if there is one."""
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
    """For how long the status has been what it is. Times are monotonic seconds; from any thread."""

    def __init__(self) -> None:
        self._begun: tuple[HealthStatus, float] | None = None

    def look(self, status: HealthStatus, now: float) -> float:
        """Take the status of now; gives the seconds since it became that."""
        begun = self._begun
        if begun is None or begun[0] != status:
            self._begun = begun = status, now
        return max(0.0, now - begun[1])
