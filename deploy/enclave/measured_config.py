# ruff: noqa: INP001 - a script, part of no package
"""Writes the measured configuration of an image to standard output, after checking it as the enclave will.

    python deploy/enclave/measured_config.py generator arn:aws:kms:eu-central-1:111122223333:key/… > enclave.toml

The same arguments give the same bytes.
"""

import argparse
import re
import sys
from pathlib import Path
from string import Template
from typing import Final

from config.enclave import EnclaveConfigError, MeasuredConfig
from protocol.messages import Role
from protocol.statement import region_of_arn

HERE: Final = Path(__file__).parent
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----", re.DOTALL)
_SUFFIXES: Final = {"aws-cn": "amazonaws.com.cn"}
"""DNS suffix of a partition, where it is not amazonaws.com (botocore's endpoints.json)."""


def render(role: Role, kms_key_arn: str, ca_bundle: str) -> str:
    """Return the TOML text.

    Raises:
        EnclaveConfigError: what comes out could not be used by an enclave.
    """
    try:
        region = region_of_arn(kms_key_arn)
    except (ValueError, IndexError) as error:
        raise EnclaveConfigError(f"kms_key_arn: {error}") from error
    partition = kms_key_arn.split(":")[1]
    text = Template((HERE / "enclave.toml.in").read_text()).substitute(
        role=role,
        kms_key_arn=kms_key_arn,
        kms_host=f"kms.{region}.{_SUFFIXES.get(partition, 'amazonaws.com')}",
        kms_ca_pem="\n".join(_CERTIFICATE.findall(ca_bundle)),
    )
    MeasuredConfig.parse(text.encode())
    return text


def main() -> int:
    """Print the file, or what is wrong with the arguments."""
    parser = argparse.ArgumentParser(description="Print the measured configuration of an enclave image.")
    parser.add_argument("role", choices=[role.value for role in Role])
    parser.add_argument("kms_key_arn", help="the ARN of the KMS key: output KeyArn of the foundation stack")
    parser.add_argument("--ca-bundle", type=Path, default=HERE / "amazon-roots.pem", help="who may speak for KMS")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(render(Role(arguments.role), arguments.kms_key_arn, arguments.ca_bundle.read_text()))
    except (OSError, EnclaveConfigError) as error:
        sys.stderr.write(f"measured_config: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
