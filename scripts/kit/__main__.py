"""`python -m kit`, which scripts/kit.sh runs."""

from kit.cli import main

main()
