"""The run files that come with this package: one for each published model, with every published setting."""

from __future__ import annotations

import difflib
from pathlib import Path

from snn_perception.errors import SnnPerceptionError

PACKAGE = Path(__file__).resolve().parents[1]


def recipe_folder() -> Path | None:
    """Return the folder of the recipes: of the repository, or of the installation; None where there is neither."""
    if (PACKAGE.parent / "setup.py").is_file():
        folder = PACKAGE.parent / "recipes"
    else:  # <prefix>/lib/pythonX.Y/site-packages/<package> has its files in <prefix>/share/<package>
        folder = Path(*PACKAGE.parts[:-4], "share", PACKAGE.name, "recipes")
    return folder if folder.is_dir() else None


def recipes() -> dict[str, Path]:
    """Return the run files by name, sorted; empty where none are installed."""
    folder = recipe_folder()
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def summary_of(path: Path) -> str:
    """Return the first line of a recipe if it is a comment: what the recipe is for."""
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline(1000)
    except (OSError, UnicodeDecodeError):
        return ""
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def find_run_file(text: str) -> Path:
    """Return the run file at a path, or else the recipe of that name.

    Raises:
        SnnPerceptionError: if there is neither.
    """
    path, known = Path(text), recipes()
    if path.is_file():
        return path
    if text in known:
        return known[text]
    close = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise SnnPerceptionError(
        f"{text}: no such run file, and no recipe of that name{hint}; recipes: {', '.join(known) or 'none installed'}"
    )
