"""The trust roots of real hardware. Nothing uses one unless it is handed over by name."""

from typing import Final

from protocol.attestation.chain import TrustRoot

AWS_NITRO_ROOT_G1: Final = TrustRoot(bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"))
"""AWS Nitro Enclaves root G1 of the aws partition, valid from 2019-10-28 to 2049-10-28. The user guide of AWS Nitro
Enclaves prints the fingerprint under "Verifying the root of trust" (AWS_NitroEnclaves_Root-G1.zip)."""
