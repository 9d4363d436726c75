"""``python -m snn_perception COMMAND ...``: every command without ROS and without installed scripts."""

from __future__ import annotations

import importlib
import sys

from snn_perception import __version__
from snn_perception.cli import COMMANDS, NODES

KNOWN = {**COMMANDS, **NODES}


def main(argv: list[str] | None = None) -> int:
    """Return the exit code of the command that the first argument names; list the commands where none is named."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"snn_perception {__version__}")
        return 0
    if arguments[0] not in KNOWN:
        print(f"error: unknown command {arguments[0]!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    module, _ = KNOWN[arguments[0]]
    code: int = importlib.import_module(module).main(arguments[1:])
    return code


def _overview() -> str:
    width = max(map(len, KNOWN))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in sorted(KNOWN.items())]
    return "\n".join(
        ["usage: python -m snn_perception COMMAND ... | --version", "", *lines, "", "COMMAND --help tells its options."]
    )


if __name__ == "__main__":
    sys.exit(main())
