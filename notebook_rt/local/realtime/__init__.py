"""Supabase Realtime over one local PostgreSQL: Phoenix channels, changes, broadcast, presence.

`routes.add_routes(app, context)` puts the websocket, the broadcast endpoints and the switches for
tests on the local stack's application. What goes out is what the real server was seen to send
(`docs/design/wire.md`, the transcripts in `tests/wire/`); how it is made is not: changes are streamed from
PostgreSQL as they commit, where the real server polls.
"""
