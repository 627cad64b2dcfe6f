"""Prints the verdicts of `nitro-signer key verify`, and counts them."""

import time
from typing import Final

from protocol.publickey import ethereum_address
from workers.cli.output import print_facts, print_json
from workers.keys.proof_check import BirthFacts, Verdict

_PER: Final = 1000


class Tally:
    """Verdicts as they come: each as JSON, or as text the refused ones only and, of a single key, its facts."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._started_s = time.perf_counter()
        self._last: Verdict | None = None
        self.keys = 0
        self.refused = 0

    def add(self, verdict: Verdict) -> None:
        """Count a verdict, and print it where it is to be printed at once."""
        self.keys += 1
        self.refused += verdict.birth is None
        self._last = verdict
        if self._as_json:
            print_json(_as_json(verdict))
        elif verdict.birth is None:
            whose = f" {verdict.userid}" if verdict.userid else ""
            print(f"line {verdict.line}{whose}: REFUSED by check {verdict.failed_check}: {verdict.reason}")

    def print_sum(self) -> None:
        """Print what it comes to."""
        seconds = (time.perf_counter() - self._started_s) * _PER / self.keys
        if self._as_json:
            print_json(
                {
                    "keys": self.keys,
                    "valid": self.keys - self.refused,
                    "refused": self.refused,
                    "seconds_per_thousand": round(seconds, 3),
                }
            )
            return
        if self.keys == 1 and self._last is not None and self._last.birth is not None:
            _print_birth(self._last, self._last.birth)
            return
        print(f"{self.keys} keys: {self.keys - self.refused} valid, {self.refused} refused; {seconds:.2f} s a thousand")


def _as_json(verdict: Verdict) -> dict[str, object]:
    known = {"line": verdict.line, "userid": verdict.userid, "publickey": verdict.publickey}
    if verdict.birth is None:
        return {"verified": False, **known, "failed_check": verdict.failed_check, "reason": verdict.reason}
    birth = verdict.birth
    return {
        "verified": True,
        **known,
        "born_at": birth.born_at,
        "module_id": birth.module_id,
        "pcr0": birth.pcr0,
        "kms_key": birth.kms_key.model_dump(),
        "trust_root_sha256": birth.root_sha256,
    }


def _print_birth(verdict: Verdict, birth: BirthFacts) -> None:
    public_key = verdict.publickey or ""
    print("VERIFIED: this key was made inside this image")
    print_facts(
        {
            "user id": f"{verdict.userid} (what the parent asserted)",
            "public key": public_key,
            "address": ethereum_address(bytes.fromhex(public_key)),
            "born at": birth.born_at,
            "module id": birth.module_id,
            "PCR0": birth.pcr0,
            "KMS key": f"{birth.kms_key.key_id} in account {birth.kms_key.account} ({birth.kms_key.partition})",
            "trust root": f"SHA-256 {birth.root_sha256}",
        }
    )
