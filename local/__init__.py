"""Stand-ins for a laptop and for tests: real cryptography under local keys. Nothing of the product imports it."""
