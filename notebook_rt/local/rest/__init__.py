"""`/rest/v1` of the local stack: the part of PostgREST that this package, its notebooks and
`supabase-py` in daily use need.

`parse` reads the query string into the values of `query`, `compose` writes the SQL, `transact` runs it as the
caller, `routes` handles HTTP; `request` and `body` read the rest of a request, `catalog` and `openapi` read
PostgreSQL's catalog, `errors` contains the refusals.
"""

from notebook_rt.local.rest.routes import add_routes

__all__ = ["add_routes"]
