"""The measured configurations of the two stand-in enclaves."""

from dataclasses import dataclass
from typing import Final

from protocol.address import Address
from protocol.messages import Role

KMS_HOST: Final = "localhost"
"""The name in the attesting KMS's certificate. The port is not measured: the proxy knows it."""


@dataclass(frozen=True, slots=True)
class MeasuredConfigInputs:
    """What the two configurations have in common."""

    kms_key_arn: str
    kms_ca_pem: str


def write_toml(inputs: MeasuredConfigInputs, role: Role, *, listen: Address, kms_proxy: Address) -> str:
    """Return the text of one configuration. The same inputs give the same text, hence the same PCR0."""
    return f"""\
# The measured configuration of the {role} enclave of a local stack. Written by nitro-local; changes are overwritten.
role = "{role}"
kms_key_arn = "{inputs.kms_key_arn}"
kms_host = "{KMS_HOST}"
kms_proxy = "{kms_proxy}"
listen = "{listen}"
processes = 1
kms_ca_pem = \"\"\"
{inputs.kms_ca_pem.strip()}
\"\"\"
"""
