"""Takes the measurement of an old image out of a policy, when an upgrade is over. Works on JSON, and keeps all else."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from config.keypolicy.attestation import IMAGE_KEY, pcr_key
from config.keypolicy.errors import PolicyError
from config.keypolicy.model import Policy
from protocol.cbor import is_list, is_map

_IMAGE_KEYS: Final = frozenset({IMAGE_KEY.lower(), pcr_key(0).lower()})


def retire_image(document: Mapping[str, Any], parsed: Policy, pcr0: str) -> dict[str, Any]:
    """Return a policy that does not name an image any more.

    Args:
        document: the policy as JSON.
        parsed: the same; that it parsed is why its form needs no check here.
        pcr0: of the image, hexadecimal.

    Raises:
        PolicyError: the policy does not name the image, or a condition names no other: without a value it would hold
            for nobody or, in a Deny, for everybody.
    """
    statements = document["Statement"] if is_list(document["Statement"]) else [document["Statement"]]
    changed = [
        {**statement, **_condition_without(statement, pcr0, facts.name)}
        for statement, facts in zip(statements, parsed.statements, strict=True)
    ]
    if changed == statements:
        raise PolicyError(f"no condition names the image {pcr0}")
    return {**document, "Statement": changed}


def _condition_without(statement: Mapping[str, Any], pcr0: str, name: str) -> dict[str, Any]:
    """Return the `Condition` of a statement without the image; nothing for a statement that has none."""
    if "Condition" not in statement:
        return {}
    operators = statement["Condition"]
    return {"Condition": {operator: dict(_keys_without(keys, pcr0, name)) for operator, keys in operators.items()}}


def _keys_without(keys: Mapping[str, Any], pcr0: str, name: str) -> Iterator[tuple[str, Any]]:
    for key, values in keys.items():
        if key.lower() not in _IMAGE_KEYS or is_map(values):
            yield key, values
            continue
        old: list[Any] = list(values) if is_list(values) else [values]
        left = [value for value in old if str(value).lower() != pcr0.lower()]
        if not left:
            raise PolicyError(f"{name}: {key} names no other image")
        yield key, values if len(left) == len(old) else left
