"""What AWS refuses, or the way to it, as one line of a command."""

import contextlib
from collections.abc import Generator

from workers.cli.output import fail


@contextlib.contextmanager
def aws_or_fail(command: str) -> Generator[None, None, None]:
    """End the command with one line and exit code 2 when AWS, its SDK's configuration or the way there fails."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        fail(command, str(error))
