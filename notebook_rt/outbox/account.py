"""The owner of an operation: the project and the login under which it was made, and is sent.

A queue's file may be shared (``queue_path``); each login sees and sends only its own operations.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec


class Owner(msgspec.Struct, frozen=True):
    """One login of one project; ``str`` is its form in the file."""

    project: str
    """The project's URL."""
    login: str
    """A user's id, or the role of the key. Never a key or a token."""
    session: str = ""
    """The one session that owns it (``queue_scope="session"``); empty: all sessions of the login."""

    def __str__(self) -> str:
        # As the URL's fragment, which a project's URL does not have; a login may contain any character.
        session = f"#{self.session}" if self.session else ""
        return f"{self.project.rstrip('/')}{session} {self.login}"

    @classmethod
    def read(cls, text: str) -> Owner:
        """Return the owner that a file names; for a row of an older file, an empty one.

        >>> Owner.read(str(Owner("https://x.supabase.co", "6f1c")))
        Owner(project='https://x.supabase.co', login='6f1c', session='')
        """
        place, _, login = text.partition(" ")
        project, _, session = place.partition("#")
        return cls(project, login, session)

    @property
    def role(self) -> str:
        """The PostgreSQL role of the login's requests, unless its token names another role.

        >>> Owner("https://x.supabase.co", "6f1c").role
        'authenticated'
        """
        return self.login if self.login in ("anon", "service_role") else "authenticated"

    @property
    def description(self) -> str:
        """The owner in words. A login may choose its name: quoted, it cannot imitate other text."""
        if not self.login:
            return "an unknown login"
        session = f", session {self.session[:80]!r}" if self.session else ""
        return f"login {self.login[:80]!r} of {urlsplit(self.project).hostname}{session}"
