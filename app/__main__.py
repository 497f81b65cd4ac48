"""`python -m gemkit.app`: the command line where the script `gemkit` is not on the path."""

from gemkit.app.cli import main

main()
