"""Settings of workers, enclaves and clients, from the models that read them."""

import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from config.enclave import EnclaveConfig
from config.worker import WorkerSettings
from protocol.address import UnixAddress, VsockAddress
from protocol.attestation import TrustRoot
from reference.markdown import code, table, texts_of_fields
from workers.client.settings import ClientSettings

_WORKER: Final = """\
# Settings of the workers

One TOML file, named by `--config` or `NITRO_SIGNER_CONFIG`. An unknown key is an error. `nitro-signer config check`
says whether a file can be used. A variable overrides a key: `NITRO_SIGNER_SIGN__ENGINE__SLOTS=200` is
`sign.engine.slots`. AWS's own variables (`AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL_SQS` and so on) work as in
every AWS tool.

Durations carry their unit in their name. The tables `[generate]` and `[sign]` have the same keys; one of them has to be
there.

"""

_ENCLAVE: Final = """\
# Settings of an enclave

A TOML file inside the image, hence in PCR0: whoever trusts the measurement trusts this file. The parent cannot change
any of it. An unknown key is an error, and an enclave with a bad file stays up, takes no work, and says `bad_config`.

"""

_CLIENT: Final = """\
# Settings of a client

A TOML file for `load_client_settings`, named by `--client` or `NITRO_SIGNER_CLIENT` for commands, or the same as a
value in code. What each of them is for: [The Python client](../client.md).

"""

_BOUNDS: Final = {Ge: "≥ ", Gt: "> ", Le: "≤ ", Lt: "< "}


def worker_page() -> str:
    """Return the page of the workers' settings."""
    return _WORKER + _tables(WorkerSettings, leave_out="generate")


def enclave_page() -> str:
    """Return the page of the measured configuration."""
    return _ENCLAVE + _tables(EnclaveConfig)


def client_page() -> str:
    """Return the page of a client's settings."""
    return _CLIENT + _tables(ClientSettings)


def _tables(model: type[BaseModel], leave_out: str = "") -> str:
    return "\n".join(_sections(model, "", leave_out))


def _sections(model: type[BaseModel], path: str, leave_out: str) -> Iterator[str]:
    """Yield the table of a model's own keys, then those of the models in it."""
    texts = texts_of_fields(model)
    inner = {name: found for name, field in model.model_fields.items() if (found := _inner(field.annotation))}
    rows = [
        (code(name), _kind(field), _default(field), texts[name])
        for name, field in model.model_fields.items()
        if name not in inner
    ]
    heading = f"`[{path}]`" if path else "Above every table"
    about = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    if rows:
        yield f"## {heading}\n\n{about}\n\n{table(('key', 'value', 'default', 'meaning'), rows)}"
    for name, found in inner.items():
        if name != leave_out:
            yield from _sections(found, f"{path}.{name}".lstrip("."), leave_out)


def _inner(annotation: Any) -> type[BaseModel] | None:
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _parts(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)
    return (annotation,)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default is None or field.default_factory is not None:
        return "none"
    if isinstance(default, Enum):
        return code(str(default.value))
    if isinstance(default, tuple):
        return "none" if not default else code(", ".join(map(str, default)))
    return code(
        str(default).lower() if isinstance(default, bool) else f"{default:,}" if _is_large(default) else str(default)
    )


def _is_large(value: object) -> bool:
    return isinstance(value, int) and value >= 10_000  # noqa: PLR2004 - below, digits are read without a mark


def _kind(field: FieldInfo) -> str:
    """Return what a value may be: its form and its bounds."""
    known = [part for part in _parts(field.annotation) if part is not type(None)]
    bounds = [
        f"{sign}{_number(getattr(rule, kind.__name__.lower()))}"
        for rule in _rules(field)
        for kind, sign in _BOUNDS.items()
        if isinstance(rule, kind)
    ]
    return " or ".join(dict.fromkeys(_form(part) for part in known)) + (f" {', '.join(bounds)}" if bounds else "")


def _rules(field: FieldInfo) -> Iterator[Any]:
    yield from field.metadata
    for part in _parts(field.annotation):
        if typing.get_origin(part) is Annotated:
            for rule in part.__metadata__:
                yield from rule.metadata if isinstance(rule, FieldInfo) else (rule,)


def _number(value: float) -> str:
    return f"{value:,}"


def _form(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    origin = typing.get_origin(kind)
    if origin is Literal:
        return " · ".join(code(str(each)) for each in typing.get_args(kind))
    if origin in {tuple, frozenset, list}:
        return f"list of {_form(typing.get_args(kind)[0])}"
    if origin is dict:
        return "table"
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        return " or ".join(dict.fromkeys(_form(part) for part in typing.get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " · ".join(code(str(each.value)) for each in kind)
    return _NAMES[kind]


_NAMES: Final[dict[Any, str]] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    bytes: "hexadecimal digits",
    VsockAddress: "address",
    UnixAddress: "address",
    TrustRoot: "`aws-nitro-g1` or a PEM file",
}
