"""`nitro-signer doctor`: looks at everything that a worker needs, and says what is wrong and how to mend it."""
