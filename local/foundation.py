"""What has to be there before an enclave of a local stack is started: KMS key, measured configurations, key policy.

In the order of a deployment: the key's ARN is measured into the images, then their PCR0 goes into the key's policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from config.keypolicy import AllowedImages
from local.enclave_platform import EnclavePlatform
from local.kms import Credentials, KmsAccount, ensure_key, provision_roles
from local.layout import Layout
from local.measured_configs import MeasuredConfigInputs, write_toml
from local.measurements import Measurements
from local.nitro_authority import NitroAuthority
from local.tls import kms_tls
from protocol.messages import Role

REGION: Final = "us-east-1"
ACCOUNT: Final = "000000000000"


@dataclass(frozen=True, slots=True)
class Foundation:
    """The key, the images that its policy admits, and the credentials of their instances."""

    kms_key_arn: str
    images: Mapping[Role, Measurements]
    credentials: Mapping[Role, Credentials]

    @property
    def pcr0(self) -> Mapping[Role, bytes]:
        """What tells the images apart."""
        return {role: image.pcr0 for role, image in self.images.items()}


def lay_foundation(layout: Layout, platform: EnclavePlatform, *, now_s: float) -> Foundation:
    """Make what is missing in a state folder, and admit the images of the code as it is now."""
    layout.nitro_root.write_bytes(NitroAuthority.in_folder(layout.nitro, now_s=now_s).certificate_pem)
    account = KmsAccount(layout.kms, region=REGION, account=ACCOUNT)
    key_arn = ensure_key(account, now_s=now_s)
    inputs = MeasuredConfigInputs(key_arn, kms_tls(layout.kms, REGION, now_s=now_s).ca_bundle.read_text())
    images = {role: _write_image(layout, platform, role, inputs) for role in Role}
    access = provision_roles(
        account,
        key_arn,
        generator_images=AllowedImages((images[Role.GENERATOR].pcr0.hex(),)),
        signer_images=AllowedImages((images[Role.SIGNER].pcr0.hex(),)),
    )
    return Foundation(key_arn, images, {Role.GENERATOR: access.generator, Role.SIGNER: access.signer})


def _write_image(layout: Layout, platform: EnclavePlatform, role: Role, inputs: MeasuredConfigInputs) -> Measurements:
    """Write the measured configuration of an enclave; return the measurements of what it makes of the code."""
    addresses = platform.measured_addresses(layout, role)
    text = write_toml(inputs, role, listen=addresses.listen, kms_proxy=addresses.kms_proxy)
    layout.enclave_config(role).write_text(text)
    return platform.make_image(layout, role)
