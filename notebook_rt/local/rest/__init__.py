"""`/rest/v1` of the local stack: the part of PostgREST that this package, its notebooks and
`supabase-py` in daily use need (issue 2).

`query` reads the query string, `compose` writes the SQL, `transact` runs it as the caller,
`routes` speaks HTTP; `catalog` and `openapi` ask PostgreSQL what it has, `errors` says no.
"""

from .routes import add_routes

__all__ = ["add_routes"]
