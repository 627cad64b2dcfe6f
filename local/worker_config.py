"""The settings of the two workers of a local stack."""

from pathlib import Path

from local.layout import Layout
from local.ports import find_port
from local.resources import BIRTH_TABLE, FREEZE_TABLE, KEY_TABLE, QueueUrls
from protocol.messages import Role

_TEMPLATE = """\
# The settings of the workers of a local stack. Written by nitro-local; changes are overwritten.
region = "{region}"
kms_key_arn = "{kms_key_arn}"

[store]
table = "{key_table}"
birth_table = "{birth_table}"
cache_records = 10000

[brakes]
table = "{freeze_table}"

[generate]
enclaves = ["{generator}"]
health_port = {generate_health}

[generate.engine]
queue_url = "{queues.generate}"
reply_queue_url = "{queues.reply}"
dead_letter_queue_url = "{queues.generate_dead_letter}"
{engine}

[sign]
enclaves = ["{signer}"]
health_port = {sign_health}

[sign.engine]
queue_url = "{queues.sign}"
reply_queue_url = "{queues.reply}"
dead_letter_queue_url = "{queues.sign_dead_letter}"
{engine}
"""

_ENGINE = """\
reply_to_allow = ["{reply_queue_url}-*"]
wait_time_s = 2
visibility_timeout_s = 30
drain_deadline_s = 15"""
"""Clients may have their replies sent to queues of their own. Shorter times than on AWS, so that a laptop's stack stops
while one watches."""


def write_worker_config(layout: Layout, *, region: str, kms_key_arn: str, queues: QueueUrls) -> Path:
    """Write the file and return its path."""
    text = _TEMPLATE.format(
        region=region,
        kms_key_arn=kms_key_arn,
        key_table=KEY_TABLE,
        birth_table=BIRTH_TABLE,
        freeze_table=FREEZE_TABLE,
        queues=queues,
        generator=layout.enclave_address(Role.GENERATOR),
        signer=layout.enclave_address(Role.SIGNER),
        generate_health=find_port(),
        sign_health=find_port(),
        engine=_ENGINE.format(reply_queue_url=queues.reply),
    )
    layout.worker_config.write_text(text)
    return layout.worker_config
