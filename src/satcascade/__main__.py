"""``python -m satcascade``: the command line."""

from satcascade.cli import main

if __name__ == "__main__":
    main()
