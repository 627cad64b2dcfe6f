"""Plain boto3 on an emulator of AWS, with its CloudFormation."""

from collections.abc import Mapping
from typing import Any

import boto3

from local.foundation import REGION


class Account:
    """An account on an emulator, by its address."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self._options = {
            "endpoint_url": endpoint_url,
            "region_name": REGION,
            "aws_access_key_id": "local",
            "aws_secret_access_key": "local",
        }

    def client(self, service: str) -> Any:
        """Return a client."""
        return boto3.client(service, **self._options)

    def deploy(self, name: str, template: str, parameters: Mapping[str, str], *, update: bool = False) -> None:
        """Create or update a stack, and wait until it is complete."""
        formation = self.client("cloudformation")
        pairs = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
        call = formation.update_stack if update else formation.create_stack
        call(StackName=name, TemplateBody=template, Parameters=pairs, Capabilities=["CAPABILITY_IAM"])
        kind = "update" if update else "create"
        waiter = formation.get_waiter(f"stack_{kind}_complete")
        waiter.wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
