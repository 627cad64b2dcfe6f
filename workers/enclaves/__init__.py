"""The enclaves of this instance, as the workers see them: connections, health, credentials, calls."""
