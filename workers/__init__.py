"""The parent instance: queue workers, key store, enclave clients, vsock-proxy and the `nitro-signer` command."""
