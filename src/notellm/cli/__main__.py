"""``python -m notellm.cli``."""

from notellm.cli import main

main()
