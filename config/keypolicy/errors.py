"""The one exception of this package."""


class PolicyError(ValueError):
    """A policy that IAM or KMS would not take, or that this package cannot evaluate. The text names the place."""
