"""What a running local stack tells its clients."""

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class StackFacts:
    """What a client of the stack needs. `nitro-local up` prints it as one JSON line."""

    endpoint_url: str
    """Of SQS, and of everything else that the emulator has."""
    dynamodb_endpoint_url: str
    region: str
    generate_queue_url: str
    generate_dead_letter_queue_url: str
    sign_queue_url: str
    sign_dead_letter_queue_url: str
    reply_queue_url: str
    table: str
    birth_table: str
    kms_endpoint_url: str
    kms_key_arn: str
    kms_ca_bundle: str
    nitro_root: str
    generator_pcr0: str
    signer_pcr0: str
    worker_config: str
    client_config: str
    pids: dict[str, int]

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(line))

    def to_environ(self) -> dict[str, str]:
        """Return the variables with which any AWS client, and `nitro-signer`, talk to this stack."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb_endpoint_url,
            "AWS_ENDPOINT_URL_KMS": self.kms_endpoint_url,
            "AWS_CA_BUNDLE": self.kms_ca_bundle,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "NITRO_SIGNER_CONFIG": self.worker_config,
            "NITRO_SIGNER_CLIENT": self.client_config,
            "GENERATE_QUEUE_URL": self.generate_queue_url,
            "SIGN_QUEUE_URL": self.sign_queue_url,
            "REPLY_QUEUE_URL": self.reply_queue_url,
            "GENERATOR_PCR0": self.generator_pcr0,
            "SIGNER_PCR0": self.signer_pcr0,
            "NITRO_ROOT": self.nitro_root,
        }
