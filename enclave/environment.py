"""Environment variables that could divert calls to KMS: a process that has one does not start."""

import re
from collections.abc import Iterable

_DIVERTING = re.compile(
    r"AWS_.*|.*_PROXY|BOTO_CONFIG|SSL_CERT_(FILE|DIR)|SSLKEYLOGFILE|OPENSSL_(CONF|MODULES|ENGINES)", re.IGNORECASE
)
"""botocore reads endpoints, credentials, CA bundles and FIPS switches from `AWS_*` and `BOTO_CONFIG`, aiohttp proxies
from `*_PROXY`; OpenSSL reads trust from `SSL_CERT_*`, what it accepts and which code it loads from `OPENSSL_*`; Python
writes TLS secrets to `SSLKEYLOGFILE`."""


class EnvironmentRefusedError(Exception):
    """The environment has a variable that could divert calls to KMS."""


def refuse_diverting_variables(names: Iterable[str]) -> None:
    """Refuse an environment by the names in it.

    Raises:
        EnvironmentRefusedError: names the variables.
    """
    found = sorted(name for name in names if _DIVERTING.fullmatch(name))
    if found:
        raise EnvironmentRefusedError(f"the environment of an enclave must not have {', '.join(found)}")
