"""`python -m local.cli`: the same as `nitro-local`."""

from local.cli import main

main()
