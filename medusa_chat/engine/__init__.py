"""The engine: messages in, chunks of a reply out; in this process (session) or in a child (process)."""
