"""Entry point of ``python -m notellm.cli``."""

from notellm.cli import main

main()
