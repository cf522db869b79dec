"""`/auth/v1` of the local stack: the part of GoTrue for sign-up, sign-in and sign-out.

`routes` handles HTTP, `attributes` validates a user's attributes, `passwords` hashes passwords.
"""

from notebook_rt.local.auth.routes import add_routes

__all__ = ["add_routes"]
