"""The settings of a client of a local stack."""

from pathlib import Path

from local.layout import Layout
from local.resources import QueueUrls

_TEMPLATE = """\
# The settings of a client of a local stack. Written by nitro-local; changes are overwritten.
region = "{region}"
generate_queue_url = "{queues.generate}"
sign_queue_url = "{queues.sign}"
deadline_s = 200  # a laptop may have much else to do

[trust]
root = "{root}"
generator_pcr0 = ["{generator_pcr0}"]
"""


def write_client_config(layout: Layout, *, region: str, queues: QueueUrls, generator_pcr0: bytes) -> Path:
    """Write the file and return its path."""
    text = _TEMPLATE.format(region=region, queues=queues, root=layout.nitro_root, generator_pcr0=generator_pcr0.hex())
    layout.client_config.write_text(text)
    return layout.client_config
