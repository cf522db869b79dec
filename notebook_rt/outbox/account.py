"""Whose an operation is: the project and the login under which it was made, and leaves.

A queue's file may be shared (``queue_path``); who signs in sees and sends only what is their own.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec


class Owner(msgspec.Struct, frozen=True):
    """One login of one project; ``str`` is how the file has it."""

    project: str
    """The project's URL."""
    login: str
    """A user's id, or the role of the key. Never a key or a token."""
    session: str = ""
    """The one session whose it is (``queue_scope="session"``); empty: all of the login's."""

    def __str__(self) -> str:
        # As the URL's fragment, of which a project's has none; a login may have any letter in it.
        session = f"#{self.session}" if self.session else ""
        return f"{self.project.rstrip('/')}{session} {self.login}"

    @classmethod
    def read(cls, text: str) -> Owner:
        """The owner that a file names; of an older file's row, an empty one.

        >>> Owner.read(str(Owner("https://x.supabase.co", "6f1c")))
        Owner(project='https://x.supabase.co', login='6f1c', session='')
        """
        place, _, login = text.partition(" ")
        project, _, session = place.partition("#")
        return cls(project, login, session)

    @property
    def role(self) -> str:
        """The PostgreSQL role of the login's requests, unless its token names one of its own.

        >>> Owner("https://x.supabase.co", "6f1c").role
        'authenticated'
        """
        return self.login if self.login in ("anon", "service_role") else "authenticated"

    @property
    def words(self) -> str:
        """For people. A login's name is its own choice: quoted, so that it says nothing else."""
        if not self.login:
            return "an unknown login"
        session = f", session {self.session[:80]!r}" if self.session else ""
        return f"login {self.login[:80]!r} of {urlsplit(self.project).hostname}{session}"
