"""The command line, `python -m flows`: one module a group of commands."""
