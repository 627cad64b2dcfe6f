"""The queue engine: receives messages, hands their jobs to a handler, settles every message."""
