"""The allow-list's decision and the file that it comes from."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.proxy.allowlist import AllowedService, AllowList
from workers.proxy.settings import ConfigError, parse_settings

_KMS = AllowList.of([AllowedService(address="kms.eu-central-1.amazonaws.com", port=443)])


def test_host_and_port_as_written_are_allowed() -> None:
    """A listed host is allowed on its port; names compare without regard to case, as DNS does."""
    assert _KMS.names("kms.eu-central-1.amazonaws.com", 443)
    assert _KMS.names("KMS.eu-central-1.amazonaws.com", 443)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("kms.eu-central-1.amazonaws.com", 444),
        ("xkms.eu-central-1.amazonaws.com", 443),
        ("kms.eu-central-1.amazonaws.com.evil.test", 443),
        ("amazonaws.com", 443),
    ],
)
def test_nothing_near_it_is_allowed(host: str, port: int) -> None:
    """Another port, a longer name at either end and a parent domain are refused: the match is exact."""
    assert not _KMS.names(host, port)


def test_ip_addresses_compare_by_value() -> None:
    """Two spellings of one IPv6 address are the same entry."""
    assert AllowList.of([AllowedService(address="2001:DB8:0::1", port=443)]).names("2001:db8::1", 443)


@given(st.text(string.ascii_lowercase + ".", min_size=1, max_size=20), st.integers(1, 65535))
def test_an_empty_list_allows_nothing(host: str, port: int) -> None:
    """No host and port passes an empty list."""
    empty = AllowList.of([])
    assert not empty.names(host, port)
    assert empty.hosts_of_port(port) == ()


def test_the_file_of_awss_proxy_is_read_as_it_is() -> None:
    """The format that AWS ships, flow maps in a block list, gives its entries."""
    settings = parse_settings(
        "allowlist:\n- {address: kms.us-east-2.amazonaws.com, port: 443}\n- {address: 10.0.0.1, port: 8443}\n"
    )
    assert settings.allowed.services == {("kms.us-east-2.amazonaws.com", 443), ("10.0.0.1", 8443)}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "allowlist: field is missing"),
        ("{}", "allowlist: field is missing"),
        ("allowlist: 3", "allowlist: "),
        ("allowlist: [{address: a.test}]", "allowlist.0.port: field is missing"),
        ("allowlist: [{port: 443}]", "allowlist.0.address: field is missing"),
        ("allowlist: [{address: a.test, port: '443'}]", "allowlist.0.port: "),
        ("allowlist: [{address: a.test, port: 0}]", "allowlist.0.port: "),
        ("allowlist: [{address: 'a b', port: 443}]", "allowlist.0.address: "),
        ("allowlist: [{address: a.test, port: 443, tls: true}]", "allowlist.0.tls: unknown field"),
        ("allow: []", "allow: unknown field"),
        ("allowlist: []\nlimits: {idle_timeout_s: 0}", "limits.idle_timeout_s: "),
        ("allowlist: []\nlimits: {max_connections: 0}", "limits.max_connections: "),
        ("allowlist: []\ndestinations: [{listen: 'tcp://x', host: a, port: 1}]", "destinations.0.listen: "),
        ("allowlist: []\ndestinations: [{listen: 'unix:///a', host: a, port: 1, peer_cids: []}]", "peer_cids: "),
        (
            "allowlist: []\ndestinations:\n- &d {listen: 'unix:///a', host: a, port: 1}\n- *d",
            "destinations: each needs a listen address of its own",
        ),
        ("- a\n- b", "dictionary"),
        ("a: [", "not YAML near line 1"),
        ("\0", "not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_the_key(text: str, key: str) -> None:
    """Each defect is one line that names the key."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(text)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_config_error(text: str) -> None:
    """No file content raises anything but ConfigError."""
    try:
        parse_settings(text)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right, the property is about one of them
