"""The sweep files that come with selmix: listed, and copied to where they are edited."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator.errors import NotFound, UsageError
from orchestrator.table import table

FOLDERS = ("recipes", "ablations")  # beside the files at the top


def recipe_files() -> dict[str, str]:
    """Name -> text of every shipped sweep file, by name."""
    home = resources.files("sweeps")
    found = [*home.iterdir(), *(file for folder in FOLDERS for file in home.joinpath(folder).iterdir())]
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in sorted(found, key=lambda file: file.name)
        if file.name.endswith(".yaml")
    }


def recipes_document() -> dict[str, Any]:
    """What each of them asks, told by its first line."""
    rows = [{"recipe": name, "question": _question(text)} for name, text in recipe_files().items()]
    return {"schema_version": 1, "recipes": rows}


def recipes_text(document: dict[str, Any]) -> str:
    """One line a recipe."""
    rows = [(row["recipe"], row["question"]) for row in document["recipes"]]
    return table(("recipe", "question"), rows) + "\nselmix cp NAME writes NAME.yaml here"


def copy_recipe(name: str, folder: Path) -> Path:
    """Write a recipe into a folder.

    Raises:
        NotFound: there is no such recipe. UsageError: a file of its name exists there.
    """
    files = recipe_files()
    if name not in files:
        raise NotFound(f"no recipe {name!r}; `selmix ls --recipes` lists them")
    target = folder / f"{name}.yaml"
    if target.exists():
        raise UsageError(f"{target}: exists; remove it, or copy into another folder")
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(files[name], encoding="utf-8")
    return target


def _question(text: str) -> str:
    """The comment at the top up to its question mark, in one line."""
    lines = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    words = " ".join(lines).removeprefix("Question:").strip()
    return words.partition("?")[0] + "?" if "?" in words else lines[0]
