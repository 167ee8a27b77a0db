"""``python -m pantheon``: the command line."""

from pantheon.cli import main

if __name__ == "__main__":
    main()
