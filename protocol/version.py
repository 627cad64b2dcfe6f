"""The version of this software, as `hello` tells it. `pyproject.toml` says the same; a test compares them."""

from typing import Final

VERSION: Final = "0.1.0"
SOFTWARE: Final = f"nitro-signer/{VERSION}"
