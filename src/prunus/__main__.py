"""The way in from the shell: `prunus …` and `python -m prunus …`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, or say what it needs where only the library is installed."""
    try:
        from prunus.cli import main as command_line

        command_line()
    except ModuleNotFoundError as error:
        print(f"error: the command line needs {error.name}: install prunus[study]", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while the command line is imported
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
