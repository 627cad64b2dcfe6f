"""Finds the names of log events in the code: the first argument of each call of a logger, where it is a plain text."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.deploy.template import ROOT

_LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
_LOGGERS = {"log", "_log", "audit", "_quiet"}
_PASSED_ON = {"_warn", "_report"}
"""Functions that log the event they are given."""


def events_in_code() -> set[str]:
    """Return the events of all programs that run in a deployment."""
    files = [path for package in ("config", "enclave", "workers") for path in (ROOT / package).rglob("*.py")]
    return {event for path in files for event in _events(path)}


def _events(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args and _logs(node.func):
            yield from _texts(node.args[0])


def _logs(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in _PASSED_ON
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr in _PASSED_ON:
        return True
    owner = function.value
    if isinstance(owner, ast.Call):  # structlog.get_logger().info(...)
        return function.attr in _LEVELS and isinstance(owner.func, ast.Attribute) and owner.func.attr == "get_logger"
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return name in _LOGGERS and function.attr in _LEVELS


def _texts(argument: ast.expr) -> Iterator[str]:
    if isinstance(argument, ast.IfExp):
        yield from _texts(argument.body)
        yield from _texts(argument.orelse)
    elif isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        yield argument.value
