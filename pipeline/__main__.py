"""`python -m pipeline` is `tamis`."""

from pipeline.cli import main

main()
