"""The login's rights on one table, as far as the server has reported them; for any thread."""

from __future__ import annotations

from notebook_rt.errors import NotebookRTError
from notebook_rt.runtime.observed import ObservedTable
from notebook_rt.sync.table.discovery import described

KNOW_SECONDS = 5.0
"""How long an edit waits for what it must know about the table: its columns, the login's grants."""


class Grants:
    """See the module."""

    def __init__(self, driver: ObservedTable) -> None:
        self._driver = driver
        self._rest = driver.services.rest
        self.forget()

    def forget(self) -> None:
        """Forget the grants: there is another login."""
        self._role = self._rest.credentials.role
        """The role whose grants are known."""
        self._answered: tuple[str, ...] | None = None
        """The login's grants in the server's answer; None if the server was not asked."""

    @property
    def _known(self) -> tuple[str, ...] | None:
        return self._driver.machine.described.grants if self._answered is None else self._answered

    def allow_as_known(self, right: str) -> bool:
        """Return whether this login has the right, as far as is known; unlike `allow`, never ask the server.

        Grants of another role do not count; the server is asked when something is written.
        """
        known = self._known
        return known is None or right in known or self._role != self._rest.credentials.role

    def allow(self, right: str) -> bool:
        """Return whether this login has the right; ask the server before returning False.

        The known grants may be of another login, or older than a new grant, so the server is asked again.
        """
        known = self._answered = self._known
        if known is None or right in known:
            return True
        spec = self._driver.spec
        asked = self._rest.describe(spec.schema, (spec.table,))
        try:
            page = self._driver.thread.wait(asked, KNOW_SECONDS)
        except (NotebookRTError, TimeoutError):
            return True  # the write waits for the server, which decides
        self._role = self._rest.credentials.role
        self._answered = described(page.value, spec.table).grants
        return self._answered is None or right in self._answered
