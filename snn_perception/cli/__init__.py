"""The commands. Each module's ``main(argv) -> int`` parses, calls one function below this layer, and prints.

A command is a console script (see setup.py) and a word after ``python -m snn_perception``; the table serves the latter.
"""

from __future__ import annotations

# Name -> (module, one line for the list).
COMMANDS: dict[str, tuple[str, str]] = {
    "convert": ("snn_perception.cli.convert", "turn a recording or an author's weights into this project's form"),
    "inspect": ("snn_perception.cli.inspect", "tell what a recording holds: events, times, rates, losses, digest"),
    "plugins": ("snn_perception.cli.plugins", "list components and options, or count a model's size and operations"),
    "replay": ("snn_perception.cli.replay", "run a detector over a recording, window by window"),
}
