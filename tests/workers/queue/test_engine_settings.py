"""Settings of the engine are complete and agree with each other, or are refused with the name of the key."""

from typing import Any

import pytest
from pydantic import ValidationError

from config.engine import EngineSettings

BASE = "https://sqs.eu-west-1.amazonaws.com/111122223333"
URLS = {"queue_url": f"{BASE}/sign", "reply_queue_url": f"{BASE}/reply"}


def test_defaults_agree() -> None:
    """Two URLs are enough; every derived number is within what the others allow."""
    settings = EngineSettings.model_validate(URLS)
    assert settings.beat_interval_s == pytest.approx(58 / 3)
    assert settings.connections == 2 + 4 + 20
    assert settings.read_timeout_s > settings.wait_time_s + settings.call_timeout_s
    assert EngineSettings.model_validate({**URLS, "heartbeat_interval_s": 20.0}).beat_interval_s == 20


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"queue_url": "sign"}, "queue_url"),
        ({"queue_url": f"{BASE}/not a name"}, "queue_url"),
        ({"reply_queue_url": f"{BASE}/sign"}, "three different queues"),
        ({"dead_letter_queue_url": f"{BASE}/reply"}, "three different queues"),
        ({"reply_to_allow": ["team-*"]}, "reply_to_allow"),
        ({"pollers": 5, "slots": 4}, "pollers"),
        ({"visibility_margin_s": 31.0}, "visibility_margin_s"),
        ({"heartbeat_interval_s": 29.5}, "heartbeat_interval_s"),
        ({"heartbeat_interval_s": 0.0}, "heartbeat_interval_s"),
        ({"max_extension_s": 179}, "max_extension_s"),
        ({"max_extension_s": 43_201}, "max_extension_s"),
        ({"backoff_base_s": 301.0}, "backoff_cap_s"),
        ({"drain_deadline_s": 20.0}, "drain_deadline_s"),
        ({"wait_time_s": 0}, "wait_time_s"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], named: str) -> None:
    """Each refusal names the key that has to change."""
    with pytest.raises(ValidationError, match=named):
        EngineSettings.model_validate({**URLS, **change})


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        (f"{BASE}/reply", True),
        (f"{BASE}/team-a", True),
        (f"{BASE}/team-", True),
        (f"{BASE}/team-a.fifo", False),
        (f"{BASE}/orders.fifo", True),
        (f"{BASE}/team-a/../sign", False),
        (f"{BASE}/team-a\n", False),
        (f"{BASE}.evil.example/team-a", False),
        ("https://sqs.eu-west-1.amazonaws.com/999999999999/team-a", False),
    ],
)
def test_reply_to_patterns_match_whole_urls(url: str, *, allowed: bool) -> None:
    """`*` stands for characters of a queue's name only, never for a slash, a dot or another account."""
    patterns = [f"{BASE}/team-*", f"{BASE}/orders.fifo"]
    assert EngineSettings.model_validate({**URLS, "reply_to_allow": patterns}).allows_reply_to(url) is allowed
