"""`python -m tintype` is the command `tintype`."""

from tintype.cli import main

main()
