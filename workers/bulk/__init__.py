"""Many jobs from a file: read line by line, sent in batches, resumable without a double."""
