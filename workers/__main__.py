"""`python -m workers` is the command `nitro-signer`."""

from workers.cli import main

if __name__ == "__main__":
    main()
