"""`/auth/v1` of the local stack: the part of GoTrue that signs people up, in and out.

`routes` speaks HTTP, `attributes` reads and refuses what is said of a user, `passwords` keeps none.
"""

from notebook_rt.local.auth.routes import add_routes

__all__ = ["add_routes"]
