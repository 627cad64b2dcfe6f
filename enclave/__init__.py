"""What is measured: everything that runs inside a Nitro Enclave, and nothing else."""
