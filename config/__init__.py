"""Settings of the parent's programs and of the enclave, logging set-up, and KMS key policies."""
