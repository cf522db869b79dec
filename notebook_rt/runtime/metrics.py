"""What a session counts, as the user reads it: by name, as a dict, as a DataFrame.

In: the numbers that ``project.py`` gathers from ``sync/connection/health.py`` and its own parts. Out:
these numbers as they were at one moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class SessionMetrics(Mapping[str, Any]):
    """The numbers of a session at one moment, by name: a mapping, as a dict is.

    ``status`` of the connection; ``messages`` that came over the socket; ``bytes`` received over the
    socket and HTTP; ``requests`` over HTTP, and ``requests_this_hour``; ``unknown``, frames, events,
    statuses and keys of a newer server that were ignored; ``messages_this_hour`` delivered to the
    session (changes, broadcasts, presence: what counts toward a plan) and ``messages_a_month`` in hours
    like this
    one; ``peak_messages_per_s``, received and sent a second in the busiest 5 s of the last minute,
    and ``peak_presence_messages_per_s``, those of presence; ``sent_this_hour``, broadcasts and
    presence calls; ``bytes_in_this_hour`` and ``bytes_out_this_hour``, over the socket and HTTP;
    ``audit_share``, ``poll_share`` and ``heads_share`` (whether messages of the database were lost) of
    the bytes that came over HTTP this hour, from 0 to 1 (None where nothing came); the ``channels``
    that are joined, and the ``tables`` (queries, too) and ``rooms`` (`Channel`) that are open;
    ``uptime_s``, seconds connected in all; ``disconnects``; ``retries`` to connect; ``events``,
    changes applied, and ``events_per_s`` over the last ten seconds; ``gaps`` opened;
    ``reconciliations``; ``audits``, and ``drift``, the rows that they found otherwise than the
    server has them and repaired, counted since `connect`, each as often as it was found so, without
    those that a change on its way explained; ``next_audit_s``, seconds until the next audit of a table, and
    ``audited_s``, since the audit that lies furthest back (None where there is none);
    ``callback_errors``; ``last_error``, its text. ``latency_…_ms`` is the heartbeat's way there and
    back and ``lag_…_ms`` the time from a commit to its change being applied, by the server's clock
    as its answers tell it, each as ``avg``, ``p50``, ``p95`` and ``p99``, in milliseconds; None
    before the first.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def as_dict(self) -> dict[str, Any]:
        """All of them; a dict of the caller's own."""
        return dict(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def df(self) -> pd.DataFrame:
        """One row a metric, index its name, column ``value``."""
        import pandas as pd

        return pd.DataFrame({"value": pd.Series(self._values, dtype=object)})

    def __repr__(self) -> str:
        return f"SessionMetrics({self._values!r})"

    def _repr_html_(self) -> str:
        return str(self.df.to_html())
