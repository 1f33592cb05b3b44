"""`python -m tfmoe.cli`."""

from tfmoe.cli.app import app

if __name__ == "__main__":
    app()
