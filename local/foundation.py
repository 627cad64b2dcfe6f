"""What has to be there before an enclave of a local stack is started: KMS key, measured configurations, key policy.

In the order of a deployment: the key's ARN is measured into the images, then their PCR0 goes into the key's policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from config.keypolicy import AllowedImages
from local.enclave import measure_enclave
from local.kms import Credentials, KmsAccount, ensure_key, provision_roles
from local.layout import Layout
from local.measured_configs import MeasuredConfigInputs, write_toml
from local.nitro_authority import NitroAuthority
from local.tls import kms_tls
from protocol.messages import Role

REGION: Final = "us-east-1"
ACCOUNT: Final = "000000000000"


@dataclass(frozen=True, slots=True)
class Foundation:
    """The key, the images that its policy admits, and the credentials of their instances."""

    kms_key_arn: str
    pcr0: Mapping[Role, bytes]
    credentials: Mapping[Role, Credentials]


def lay_foundation(layout: Layout, *, now_s: float) -> Foundation:
    """Make what is missing in a state folder, and admit the images of the code as it is now."""
    layout.nitro_root.write_bytes(NitroAuthority.in_folder(layout.nitro, now_s=now_s).certificate_pem)
    account = KmsAccount(layout.kms, region=REGION, account=ACCOUNT)
    key_arn = ensure_key(account, now_s=now_s)
    inputs = MeasuredConfigInputs(key_arn, kms_tls(layout.kms, REGION, now_s=now_s).ca_bundle.read_text())
    pcr0 = {role: _write_image(layout, role, inputs) for role in Role}
    access = provision_roles(
        account,
        key_arn,
        generator_images=AllowedImages((pcr0[Role.GENERATOR].hex(),)),
        signer_images=AllowedImages((pcr0[Role.SIGNER].hex(),)),
    )
    return Foundation(key_arn, pcr0, {Role.GENERATOR: access.generator, Role.SIGNER: access.signer})


def _write_image(layout: Layout, role: Role, inputs: MeasuredConfigInputs) -> bytes:
    """Write the measured configuration of an enclave; return the PCR0 of what it makes of the code."""
    text = write_toml(inputs, role, listen=layout.enclave_address(role), kms_proxy=layout.proxy_address(role))
    layout.enclave_config(role).write_text(text)
    return measure_enclave(text.encode()).pcr0
