"""`python -m faas` is `faas`."""

from faas.cli.main import main

main()
