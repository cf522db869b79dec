"""Supabase Realtime over one local PostgreSQL: Phoenix channels, changes, broadcast, presence.

`routes.add_routes(app, context)` puts the websocket, the broadcast endpoints and the switches for
tests on the local stack's application. It sends the frames that were recorded from the real server
(`docs/design/wire.md`, the transcripts in `tests/wire/`), but produces them in another way: changes are
streamed from PostgreSQL as they commit, whereas the real server polls.
"""
