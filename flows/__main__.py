"""`python -m flows`."""

from flows.commands.app import app

if __name__ == "__main__":
    app()
