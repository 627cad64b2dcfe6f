"""Fields of log lines and events, from the closed lists that the code has."""

from config.fields import FIELDS
from reference.markdown import code, table


def logs_tables() -> dict[str, str]:
    """Return the tables of docs/metrics.md that are made, by their heading."""
    return {"Fields": table(("field", "meaning"), ((code(name), meaning) for name, meaning in FIELDS.items()))}
