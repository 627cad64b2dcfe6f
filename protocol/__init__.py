"""The wire between parent and enclave, and the formats that both sides share. No I/O outside channel and transport."""
