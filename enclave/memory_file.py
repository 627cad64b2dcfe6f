"""A file that exists only in the memory of this process, for libraries that take nothing but a path."""

import os
from pathlib import Path
from typing import Self


class MemoryFile:
    """An anonymous file (memfd_create(2)) with fixed content, sealed by having no name that others could write to."""

    def __init__(self, name: str, content: bytes) -> None:
        self._fd = os.memfd_create(name)
        with os.fdopen(os.dup(self._fd), "wb") as file:
            file.write(content)

    @property
    def path(self) -> Path:
        """A path that works inside this process while the file is open."""
        return Path(f"/proc/self/fd/{self._fd}")

    def close(self) -> None:
        """Let the memory go."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
