"""The entry point of the command line: ``tightbound`` and ``python -m tightbound``."""

from tightbound.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
