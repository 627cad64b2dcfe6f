"""Reads a CloudFormation template and renders it for given parameters: as much of the language as ours use."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLOUDFORMATION = ROOT / "deploy" / "cloudformation"

ACCOUNT = "111122223333"
REGION = "eu-central-1"
_PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": "stack",
    "AWS::URLSuffix": "amazonaws.com",
}
_NO_VALUE = object()


class _Loader(yaml.SafeLoader):
    """Knows the short forms: `!Ref x` is {"Ref": x}, `!Sub x` is {"Fn::Sub": x}."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    else:
        raise TypeError(type(node))
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".")
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)


def load(name: str) -> dict[str, Any]:
    """Return a template of `deploy/cloudformation` with its functions in long form."""
    value = yaml.load((CLOUDFORMATION / name).read_text(), _Loader)  # noqa: S506 - derives from SafeLoader
    assert isinstance(value, dict)
    return value


class Rendered:
    """A template with parameters filled in. Imports and attributes of resources are made up from their names."""

    def __init__(self, name: str, parameters: Mapping[str, str]) -> None:
        self._template = load(name)
        self._values: dict[str, Any] = dict(_PSEUDO)
        for parameter, declared in self._template["Parameters"].items():
            value = parameters.get(parameter, declared.get("Default"))
            assert value is not None, f"{parameter} has no value"
            is_list = "List" in declared["Type"]
            self._values[parameter] = str(value).split(",") if is_list else str(value)
        self.resources: dict[str, dict[str, Any]] = {
            resource: self._resolve(body)
            for resource, body in self._template["Resources"].items()
            if "Condition" not in body or self._condition(body["Condition"])
        }

    def properties(self, resource: str) -> dict[str, Any]:
        """Return the properties of one resource."""
        found = self.resources[resource]["Properties"]
        assert isinstance(found, dict)
        return found

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the properties of all resources of a type, by their logical name."""
        return {name: body["Properties"] for name, body in self.resources.items() if body["Type"] == kind}

    def arn(self, resource: str) -> str:
        """Return the made-up ARN of a resource."""
        body = self._template["Resources"][resource]
        match body["Type"]:
            case "AWS::IAM::Role":
                return f"arn:aws:iam::{ACCOUNT}:role/{resource}"
            case "AWS::KMS::Key":
                return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
            case kind:
                service = kind.split("::")[1].lower()
                return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"

    def _condition(self, name: str) -> bool:
        return bool(self._resolve(self._template["Conditions"][name]))

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            items = [self._resolve(item) for item in value]
            return [item for item in items if item is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function in {"Ref", "Condition"} or function.startswith("Fn::"):
                return self._call(function.removeprefix("Fn::"), argument)
        resolved = {name: self._resolve(inner) for name, inner in value.items()}
        return {name: inner for name, inner in resolved.items() if inner is not _NO_VALUE}

    def _call(self, function: str, argument: Any) -> Any:  # noqa: C901, PLR0911 - one row a function
        match function, argument:
            case "Ref", "AWS::NoValue":
                return _NO_VALUE
            case "Ref", str(name):
                return self._values.get(name, name)
            case "Condition", str(name):
                return self._condition(name)
            case "If", [condition, yes, no]:
                return self._resolve(yes if self._condition(condition) else no)
            case "GetAtt", [resource, "Arn"]:
                return self.arn(resource)
            case "GetAtt", [resource, attribute]:
                return f"{resource}.{attribute}"
            case "Base64", _:
                return self._resolve(argument)
            case "ImportValue", _:
                return str(self._resolve(argument)).removeprefix(f"{self._values.get('FoundationStack')}-")
            case (("Not" | "Equals" | "And" | "Or" | "Join" | "Split"), list()):
                return self._combine(function, self._resolve(argument))
            case "Sub", str(text):
                return self._substitute(text, {})
            case "Sub", [text, names]:
                return self._substitute(text, self._resolve(names))
        raise AssertionError(f"{function} is not known here")

    @staticmethod
    def _combine(function: str, items: list[Any]) -> Any:
        match function:
            case "Not":
                return not items[0]
            case "Equals":
                return items[0] == items[1]
            case "And":
                return all(items)
            case "Or":
                return any(items)
            case "Join":
                return items[0].join(items[1])
            case _:
                return items[1].split(items[0])

    def _substitute(self, text: str, names: Mapping[str, Any]) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name in names:
                return str(names[name])
            resource, dot, attribute = name.partition(".")
            if dot:
                return str(self._call("GetAtt", [resource, attribute]))
            return str(self._values.get(name, name))

        return re.sub(r"\$\{([^}!]+)\}", value, text)
