"""What the login may do to one table, as far as the server has said; for any thread."""

from __future__ import annotations

from notebook_rt.errors import NotebookRTError
from notebook_rt.runtime.observed import ObservedTable
from notebook_rt.sync.table.discovery import described

KNOW_SECONDS = 5.0
"""How long an edit waits for what it must know of the table: its columns, the login's grants."""


class Grants:
    """See the module."""

    def __init__(self, driver: ObservedTable) -> None:
        self._driver = driver
        self._rest = driver.services.rest
        self.forget()

    def forget(self) -> None:
        """There is another login."""
        self._role = self._rest.credentials.role
        """Whose grants are known."""
        self._answered: tuple[str, ...] | None = None
        """What this login may do, as the server said when it was asked; None: it was not."""

    @property
    def _known(self) -> tuple[str, ...] | None:
        return self._driver.machine.described.grants if self._answered is None else self._answered

    def allow_as_known(self, right: str) -> bool:
        """Whether this login may write so, as far as is known: unlike `allow` it never asks.

        What is known of another role says nothing, and is asked for when something is written.
        """
        known = self._known
        return known is None or right in known or self._role != self._rest.credentials.role

    def allow(self, right: str) -> bool:
        """Whether this login may write so, as far as anybody says; waits before it says no.

        What was learnt may be of another login, or older than a grant, so that the server is asked again.
        """
        known = self._answered = self._known
        if known is None or right in known:
            return True
        spec = self._driver.spec
        asked = self._rest.describe(spec.schema, (spec.table,))
        try:
            page = self._driver.thread.wait(asked, KNOW_SECONDS)
        except (NotebookRTError, TimeoutError):
            return True  # the write waits for the server, and for its word
        self._role = self._rest.credentials.role
        self._answered = described(page.value, spec.table).grants
        return self._answered is None or right in self._answered
