"""The websocket: frames, topics, and the client library that carries them."""
