"""Where sealed keys and their birth certificates are kept, and the proofs made from them."""
