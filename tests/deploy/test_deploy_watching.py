"""One list of events, fields, metrics and alarms: in the code, the templates, the dashboard and the documentation."""

import json
import re
from typing import Any

import pytest

from config.events import EVENTS
from config.fields import FIELDS
from protocol.errors import ErrorCode
from protocol.messages import NotReadyReason
from tests.deploy.log_events import events_in_code
from tests.deploy.template import ROOT, Rendered
from tests.deploy.test_deploy_policies import SERVICE
from workers.proxy.metrics import NAMESPACE, DestinationMetrics, embedded_metrics
from workers.service import telemetry
from workers.stage_times import Stage

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def service() -> Rendered:
    """Give the service stack with its optional parts."""
    return Rendered("service.yaml", SERVICE)


def table(heading: str) -> list[str]:
    """Return the names in the first column of the tables of a section of docs/metrics.md."""
    text = (DOCS / "metrics.md").read_text()
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section is not None
    return re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE)


def test_fields() -> None:
    """The documented fields are those that a log line may have."""
    assert table("Fields") == list(FIELDS)


def test_events() -> None:
    """The listed and documented events are those that the code writes."""
    assert set(EVENTS) == events_in_code(), "config/events.py has every event; then run: make reference"
    assert table("Events") == list(EVENTS)


def made_metrics(service: Rendered) -> set[str]:
    """Return the metrics of all metric filters."""
    filters = service.of_type("AWS::Logs::MetricFilter").values()
    return {change["MetricName"] for body in filters for change in body["MetricTransformations"]}


def test_metrics(service: Rendered) -> None:
    """The documented metrics are those that the template makes from logs."""
    assert set(table("Metrics")) == made_metrics(service)


def proxy_metrics() -> set[str]:
    """Return the names of the embedded metrics of the proxy."""
    line = json.loads(embedded_metrics("d", DestinationMetrics("d").counts(), 0, [1.0], 0))
    return {metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}


def worker_metrics() -> set[str]:
    """Return the names of the embedded metrics of a worker."""
    snapshot = telemetry.Snapshot(
        answered=0,
        failures={},
        settled={},
        record_cache_hits=0,
        record_cache_misses=0,
        in_flight=0,
        credentials_left_s=1.0,
        times_ms={stage: [1.0] for stage in Stage},
        enclaves={},
    )
    line = json.loads(telemetry.WorkerReport("sign").take(snapshot, 0))
    return {metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}


def all_metrics(service: Rendered) -> dict[str, set[str]]:
    """Return our metrics by namespace."""
    return {"NitroSigner": made_metrics(service), NAMESPACE: proxy_metrics(), telemetry.NAMESPACE: worker_metrics()}


def test_metrics_of_a_worker() -> None:
    """The documented metrics of a worker are those that it writes; one for each error code stands as one line."""
    codes = {f"Failed_{code}" for code in ErrorCode}
    assert worker_metrics() >= codes
    assert set(table("Metrics of a worker")) == worker_metrics() - codes | {"Failed_CODE"}


def test_metrics_of_the_proxy() -> None:
    """The documented metrics of the proxy are those that it writes."""
    text = (DOCS / "vsock-proxy.md").read_text()
    section = text[text.index("\n## Metrics\n") : text.index("\n## Compared\n")]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == proxy_metrics()


def test_filters_look_for_what_is_written(service: Rendered) -> None:
    """Every pattern asks for an event of the code, by fields that exist, with codes and reasons of the closed sets."""
    known = {
        "event": events_in_code(),
        "code": {code.value for code in ErrorCode},
        "reason": {reason.value for reason in NotReadyReason},
    }
    for name, body in service.of_type("AWS::Logs::MetricFilter").items():
        if body["LogGroupName"] == "trail":
            continue
        asked = re.findall(r'\$\.(\w+) = "(\w+)"', body["FilterPattern"])
        assert asked, name
        for field, value in asked:
            assert field in FIELDS, name
            assert value in known[field], name


def test_alarms_watch_metrics_that_exist(service: Rendered) -> None:
    """An alarm on a metric of ours names one that is made; each alarm has its section in the runbook."""
    ours = all_metrics(service)
    alarms = service.of_type("AWS::CloudWatch::Alarm")
    for name, body in alarms.items():
        if body.get("Namespace") in ours:
            assert body["MetricName"] in ours[body["Namespace"]], name
    headings = re.findall(r"^### (\w+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(name.removesuffix("Alarm") for name in alarms)


def dashboard_metrics(metrics: list[list[Any]]) -> list[tuple[str, str]]:
    """Return namespace and name of each line of a widget, with its abbreviations (. and ...) written out."""
    full: list[list[Any]] = []
    for line in metrics:
        before = full[-1] if full else []
        if line[0] == "...":
            short = [part for part in line[1:] if not isinstance(part, dict)]
            line = before[: len(before) - len(short)] + short  # noqa: PLW2901 - what it stands for
        full.append([before[i] if part == "." else part for i, part in enumerate(line)])
    return [(line[0], line[1]) for line in full]


def test_dashboard(service: Rendered) -> None:
    """The dashboard is JSON, and its widgets show metrics that exist."""
    (dashboard,) = service.of_type("AWS::CloudWatch::Dashboard").values()
    body = json.loads(dashboard["DashboardBody"])
    ours = all_metrics(service)
    shown: set[str] = set()
    for widget in body["widgets"]:
        for namespace, metric in dashboard_metrics(widget["properties"]["metrics"]):
            if namespace in ours:
                assert metric in ours[namespace]
                shown.add(metric)
            else:
                assert namespace in {"AWS/SQS", "AWS/AutoScaling"}
    assert made_metrics(service) <= shown
    by_code = {f"Failed_{code}" for code in ErrorCode}
    assert worker_metrics() - by_code - {"InFlight", "EnclaveSignatures", "EnclaveKeys"} <= shown


def test_queries_ask_for_fields_that_exist(service: Rendered) -> None:
    """Saved queries name fields and events of ours."""
    events = events_in_code()
    for name, body in service.of_type("AWS::Logs::QueryDefinition").items():
        text = body["QueryString"]
        wanted = re.search(r"^fields (.*)$", text, re.MULTILINE)
        for field in wanted[1].split(", ") if wanted else ():
            assert field == "@timestamp" or field in FIELDS, name
        for field in re.findall(r"(?:filter|sum\(|max\()\s*(\w+)", text):
            assert field in FIELDS, name
        for quoted in re.findall(r'event = "(\w+)"', text):
            assert quoted in events, name
        if listed := re.search(r"event in \[(.*?)\]", text):
            assert set(re.findall(r'"(\w+)"', listed[1])) <= events, name
