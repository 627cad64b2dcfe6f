"""Tables inside pages that are written by hand: fields of log lines, and the transitions of a job's life."""

from config.events import EVENTS
from config.fields import FIELDS
from reference.markdown import code, table
from workers.lifecycle import TRANSITIONS


def transitions_table() -> str:
    """Return the table of `docs/explanation/life-cycle.md`."""
    rows = (
        (code(state.name), code(event.name), code(after.name), code(action.name) if action else "none")
        for (state, event), (after, action) in TRANSITIONS.items()
    )
    return table(("state", "event", "next state", "action"), rows)


def logs_tables() -> dict[str, str]:
    """Return the tables of docs/metrics.md that are made, by their heading."""
    fields = ((code(name), meaning) for name, meaning in FIELDS.items())
    events = ((code(name), event.program, event.meaning) for name, event in EVENTS.items())
    return {"Fields": table(("field", "meaning"), fields), "Events": table(("event", "of", "meaning"), events)}
