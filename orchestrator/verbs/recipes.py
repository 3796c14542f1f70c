"""The sweep files that come with selmix: listed, and copied to where they are edited."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import NotFound, UsageError
from orchestrator.table import Column, sentence, table

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


@dataclass(frozen=True)
class RecipeRow:
    """A sweep file that comes with selmix, and what it asks."""

    recipe: str
    question: str


@dataclass(frozen=True, kw_only=True)
class RecipesDocument:
    """The sweep files that come with selmix, by name."""

    schema_version: int = SCHEMA_VERSION
    recipes: list[RecipeRow]


def recipes_document() -> RecipesDocument:
    """All of them, each with its question."""
    return RecipesDocument(
        recipes=[RecipeRow(name, _question(text)) for name, text in recipe_files().items()]
    )


def recipes_text(document: RecipesDocument, width: int | None) -> str:
    """One row per recipe."""
    rows = [(row.recipe, row.question) for row in document.recipes]
    columns = (Column("recipe"), Column("question"))
    return table(columns, rows, width) + "\n" + sentence("selmix cp NAME writes NAME.yaml here", width)


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
