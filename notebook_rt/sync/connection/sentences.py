"""Explain a health verdict in sentences: what is wrong, since when, what is done, what the user can do. Pure.

In: a ``Health``. Out: the texts of the health panel and of ``print(rt.health)``. Only the sentences of a
healthy session claim that all is well (docs/design/promises.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

Cause: TypeAlias = Literal[
    "closed",
    "denied",
    "unreachable",
    "silent",
    "failed",
    "computed",
    "connecting",
    "reconnecting",
    "waiting",
    "comparing",
    "missing",
    "polling",
    "crowded",
    "late",
    "drifted",
    "doubted",
    "joining",
    "loading",
    "unaudited",
    "channel",
    "refused",
    "slow",
    "live",
]
"""The cause of a status that has several causes, each handled differently."""
SHORT: Final = 1.5
"""Seconds below which a status has just begun."""


class Verdict(Protocol):
    """The part of a ``Health`` that the sentences use."""

    @property
    def status(self) -> str: ...
    @property
    def cause(self) -> Cause: ...
    @property
    def reason(self) -> str: ...
    @property
    def needs(self) -> Sequence[str]: ...
    @property
    def since_s(self) -> float: ...
    @property
    def tables(self) -> int: ...
    @property
    def audited_s(self) -> float | None: ...
    @property
    def next_audit_s(self) -> float | None: ...
    @property
    def all_right(self) -> bool: ...


class Sentences(NamedTuple):
    """The four sentences of the panel."""

    what: str
    """What is wrong, or that nothing is wrong."""
    since: str
    """Since when."""
    done: str
    """What the session does about it."""
    advice: str
    """What the user can do."""


REASON: Final = "{reason}"
"""The reason is the sentence."""
WAIT: Final = "You can wait: it takes some seconds."
CLAIMS: Final = (
    "Changes arrive as they happen.",
    "There is nothing for you to do.",
    "found every row right",
)
"""Used for a healthy session only."""

COMPARED: Final = "The rows are compared with the server every now and then."
UNAUDITED: Final = "Audits are off: nothing compares the rows with the server unless you do."
NO_TABLE: Final = "No table is open."

_SAID: Final[dict[Cause, tuple[str, str, str]]] = {
    "closed": (
        "This session was closed.",
        "Its tables keep their last data and no longer change.",
        "Connect again with nrt.connect() to see live data.",
    ),
    "denied": (
        "The server does not accept the key or the login.",
        "What was read stays as it was; your edits are kept.",
        REASON,
    ),
    "unreachable": (
        "There is no connection to the server: {reason}.",
        "It is retried automatically; your edits are kept, and sent when the connection is back.",
        "You can wait, or call rt.retry() to try at once.",
    ),
    "silent": (
        "Nothing comes from the server, though the connection is open.",
        "If it stays silent, the session reconnects and compares every table with the server.",
        "You can wait some seconds, or call rt.retry() to try at once.",
    ),
    "failed": (
        "A table cannot be read any more.",
        "It keeps its last rows, and is not updated until this is fixed.",
        REASON,
    ),
    "computed": (
        "What is computed from a table cannot be computed any more.",
        "It shows what it showed last, and is computed again with the next change.",
        REASON,
    ),
    "connecting": (
        "The session is connecting to the server.",
        "The tables are read as soon as it is connected.",
        "You can wait; if it lasts, check the URL and your network.",
    ),
    "reconnecting": (
        "The connection was lost, and is being restored.",
        "What changed meanwhile is read then; your edits are kept.",
        WAIT,
    ),
    "waiting": (
        REASON,
        "Until they come, the rows are read again every few seconds.",
        WAIT,
    ),
    "comparing": (
        REASON,
        "Rows that differ are replaced by the server's.",
        WAIT,
    ),
    "missing": (
        REASON,
        "The rows that they changed are read from the server.",
        WAIT,
    ),
    "polling": (
        REASON,
        "The rows are read again every few seconds, and live updates are retried meanwhile.",
        "You can continue to work; rt.retry() tries at once.",
    ),
    "crowded": (
        REASON,
        "The tables are read again every few seconds; their rows are true, and some seconds old.",
        "Give Options(max_channels=...) to nrt.connect, or close what you do not need.",
    ),
    "late": (
        REASON,
        "Changes are applied as fast as they come, and the rows compared with the server after that.",
        "You can wait; if it lasts, a filter brings fewer changes.",
    ),
    "drifted": (
        REASON,
        "The next audit tells whether every row is the server's again.",
        "Run again what you computed from these rows.",
    ),
    "doubted": (
        REASON,
        "The rows are compared with the server, and those that differ are repaired.",
        "You can wait for that, or compare now.",
    ),
    "joining": (
        REASON,
        "It is asked for again by itself; nothing is heard over a channel until it is open.",
        "You can wait; if it lasts, see to what the server says, or close the channel.",
    ),
    "loading": (
        "The first data is not here yet.",
        "The rows are being read.",
        "You can wait; a large table takes a while.",
    ),
    "unaudited": (
        REASON,
        "The rows are shown, and are being compared with the server.",
        WAIT,
    ),
    "channel": (
        REASON,
        "A channel that was refused stays closed until there is another login; the rest goes on.",
        "Sign in as somebody whom the project's policies let in.",
    ),
    "refused": (
        REASON,
        "It is kept and still shown, and is not sent again until you decide.",
        "Decide it: rt.queue lists what was refused, and a table's .conflicts what is in conflict.",
    ),
    "slow": (
        "The server answers slowly: {reason}.",
        "Everything works, later than it should.",
        "You can continue to work; if it lasts, check your network.",
    ),
    "live": (
        CLAIMS[0],
        COMPARED,
        CLAIMS[1],
    ),
}


def sentences(health: Verdict) -> Sentences:
    """Return the four sentences of a verdict.

    >>> from notebook_rt.sync.connection.health import Health
    >>> print(*sentences(Health("healthy", "live", since_s=750.0, next_audit_s=8.0)), sep="\\n")
    Changes arrive as they happen.
    For 12 min now.
    The rows are compared with the server every now and then.
    There is nothing for you to do.
    """
    reason, templates = health.reason.rstrip("."), _SAID[health.cause]
    what, done, advice = (
        _sentence(text.format(reason=reason) if "{reason}" in text else text) for text in templates
    )
    if not any("{reason}" in text for text in templates):  # else it has them
        advice = " ".join([advice, *map(_sentence, health.needs)])
    if health.cause == "live" and health.next_audit_s is None:
        done = UNAUDITED if health.tables else NO_TABLE
    return Sentences(what, _since(health.since_s), done, advice)


def audits(health: Verdict) -> str:
    """Describe the last and the next audit, and the last one's result if the session has been healthy since.

    >>> from notebook_rt.sync.connection.health import Health
    >>> audits(Health("slow", "latency 640 ms", audited_s=12.0, next_audit_s=8.0))
    'The last audit was 12 s ago. The next audit is in 8 s.'
    """
    said = []
    if health.audited_s is not None:
        ago = f"{span(health.audited_s)} ago"
        right = health.status == "healthy" and health.all_right
        said.append(
            f"The last audit, {ago}, {CLAIMS[2]}." if right else f"The last audit was {ago}."
        )
    if health.next_audit_s is not None:
        said.append(f"The next audit is in {span(health.next_audit_s)}.")
    return " ".join(said)


def compared(found: Sequence[tuple[str, int, int, float, str]]) -> str:
    """Describe the result of a comparison of all tables in a sentence or two.

    Parameters
    ----------
    found
        For each table: its name, the numbers of rows compared and different, the seconds, and the reason
        if it could not be compared.

    >>> compared([("positions", 2000, 0, 0.5, ""), ("trades", 345, 2, 0.84, "")])
    '2,345 rows of 2 tables compared in 0.8 s: 2 rows of trades differed, and were repaired.'
    >>> compared([("positions", 0, 0, 0.0, "no result within 30 s")])
    'positions could not be compared: no result within 30 s.'
    """
    if not found:
        return "There is no table to compare."
    done = [one for one in found if not one[4]]
    said = [f"{name} could not be compared: {why.rstrip('.')}." for name, *_, why in found if why]
    if done:
        rows, seconds = sum(one[1] for one in done), max(one[3] for one in done)
        wrong = [f"{_rows(one[2])} of {one[0]}" for one in done if one[2]]
        result = (
            f"{' and '.join(wrong)} differed, and were repaired" if wrong else "no row differed"
        )
        tables = "1 table" if len(done) == 1 else f"{len(done)} tables"
        said.insert(0, f"{_rows(rows)} of {tables} compared in {seconds:.1f} s: {result}.")
    return " ".join(said)


def span(seconds: float) -> str:
    """Format a number of seconds.

    >>> [span(seconds) for seconds in (0.4, 59.6, 750, 7300, 200_000)]
    ['0 s', '60 s', '12 min', '2 h', '2 days']
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds // 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds // 3600:.0f} h"
    return f"{seconds // 86_400:.0f} days"


def _since(seconds: float) -> str:
    if seconds < SHORT:
        return "It has only just begun."
    return f"For {span(seconds)} now."


def _sentence(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _rows(count: int) -> str:
    return f"{count:,} row{'s'[: count != 1]}"
