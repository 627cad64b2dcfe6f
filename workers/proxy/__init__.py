"""A vsock-proxy: relays an enclave's connections to a few allowed TCP destinations and sees only their bytes."""
