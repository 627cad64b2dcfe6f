"""The measured configuration: complete, cross-checked, and one line that names the wrong key."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from config.enclave import MAX_CONFIG_BYTES, EnclaveConfigError, MeasuredConfig
from protocol.address import UnixAddress, VsockAddress

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
GOOD = {
    "role": "signer",
    "kms_key_arn": ARN,
    "kms_host": "kms.eu-central-1.amazonaws.com",
    "kms_ca_pem": "-----BEGIN CERTIFICATE-----",
    "kms_proxy": "vsock://3:8000",
    "listen": "vsock://any:5000",
}


def toml(fields: dict[str, Any], sections: str = "") -> bytes:
    """Write a configuration."""
    lines = [f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}" for name, value in fields.items()]
    return ("\n".join(lines) + "\n" + sections).encode()


def test_a_configuration_is_its_bytes() -> None:
    """Its hash is over what was read; what it derives follows from it."""
    data = toml(GOOD)
    measured = MeasuredConfig.parse(data)
    assert measured.sha256 == hashlib.sha256(data).digest()
    config = measured.config
    assert (config.region, config.kms_key.key_id) == ("eu-central-1", "1234abcd")
    assert (config.kms_proxy, config.listen) == (VsockAddress(3, 8000), VsockAddress(0xFFFFFFFF, 5000))
    assert (config.processes, config.allow_debug) == (0, False)


def test_unix_addresses_and_sections() -> None:
    """As on a laptop; whole numbers do for durations."""
    fields = GOOD | {"listen": "unix:///run/x"}
    config = MeasuredConfig.parse(toml(fields, "[key_cache]\nttl_s = 5\nmax_entries = 0\n")).config
    assert config.listen == UnixAddress("/run/x")
    assert (config.key_cache.ttl_s, config.key_cache.max_entries) == (5.0, 0)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_what_decides_security_has_no_default(missing: str) -> None:
    """The line names the key."""
    fields = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(EnclaveConfigError, match=f"^{missing}: field is missing$"):
        MeasuredConfig.parse(toml(fields))


@pytest.mark.parametrize(
    ("fields", "sections", "key"),
    [
        ({"role": "both"}, "", "role"),
        ({"kms_key_arn": "alias/x"}, "", "kms_key_arn"),
        ({"kms_host": "https://kms"}, "", "kms_host"),
        ({"kms_host": "KMS.example"}, "", "kms_host"),
        ({"kms_host": "kms:443"}, "", "kms_host"),
        ({"kms_ca_pem": "none"}, "", "kms_ca_pem"),
        ({"kms_ca_pem": ""}, "", "kms_ca_pem"),
        ({"kms_ca_pem": "# Autorité -----BEGIN CERTIFICATE-----"}, "", "ASCII"),
        ({"kms_proxy": "tcp://x"}, "", "kms_proxy"),
        ({"kms_proxy": 5}, "", "kms_proxy"),
        ({"listen": "vsock://any:0"}, "", "listen"),
        ({"processes": 65}, "", "processes"),
        ({"allow_debug": "true"}, "", "allow_debug"),
        ({"extra": 1}, "", "extra: unknown field"),
        ({}, "[limits]\nmax_connections = 0\n", "limits.max_connections"),
        ({}, "[limits]\nextra = 0\n", "limits.extra: unknown field"),
        ({}, "[limits]\nmax_frame_bytes = 100\n", "limits.max_frame_bytes"),
        ({}, "[attestation]\ndocument_ttl_s = 241\n", "attestation.document_ttl_s"),
        ({}, "[attestation]\ndocument_ttl_s = 200\nrecipient_key_ttl_s = 100\n", "attestation.recipient_key_ttl_s"),
        ({}, "[key_cache]\nttl_s = 0\n", "key_cache.ttl_s"),
        ({}, "[clock]\nmax_drift_s = 'x'\n", "clock.max_drift_s"),
    ],
)
def test_a_wrong_key_is_named(fields: dict[str, Any], sections: str, key: str) -> None:
    """One line, without what was given where that may be long."""
    with pytest.raises(EnclaveConfigError) as refused:
        MeasuredConfig.parse(toml(GOOD | fields, sections))
    assert key in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [b"= 1", b"\xff", b"role = 'signer'\nrole = 'signer'"])
def test_what_is_no_toml(data: bytes) -> None:
    """Said as such."""
    with pytest.raises(EnclaveConfigError, match="not TOML"):
        MeasuredConfig.parse(data)


def test_a_configuration_is_bounded() -> None:
    """Nothing is parsed beyond the limit."""
    with pytest.raises(EnclaveConfigError, match="the limit is"):
        MeasuredConfig.parse(bytes(MAX_CONFIG_BYTES + 1))
