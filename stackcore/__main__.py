"""``python -m stackcore``: the command line."""

from stackcore.cli import main

if __name__ == "__main__":
    main()
