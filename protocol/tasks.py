"""Starting tasks from timers and callbacks of the event loop, which may run when their group is ending already."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


def start_in(
    group: asyncio.TaskGroup, coroutine: Coroutine[Any, Any, ResultT], *, name: str
) -> asyncio.Task[ResultT] | None:
    """Start a coroutine in a group; None when the group aborts or has ended: then it is closed and never runs.

    `create_task` raises then, in a callback where nobody sees it, and before Python 3.13 leaves a coroutine un-awaited.
    """
    try:
        return group.create_task(coroutine, name=name)
    except RuntimeError:
        coroutine.close()
        return None
