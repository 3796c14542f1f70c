"""The sweep files that come with selmix: listed, and copied to where they are edited.

A recipe is a valid sweep file for the first of its objectives. Comments of it say what differs for another one:

- at its top, ``# TAG X, Y: text`` stands instead of ``# TAG: text`` for the objectives X and Y;
- at the end of a line, ``# X, Y: VALUE`` is the line's value for X and Y;
- alone on a line, ``# X, Y: KEY: VALUE`` is a line of its own for X and Y.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import NotFound, UsageError
from orchestrator.files import write_atomically
from orchestrator.messages import closest
from orchestrator.table import Column, sentence, table

FOLDERS = ("recipes", "ablations")  # after the files at the top

OBJECTIVE_OF = {
    "head_tail": "min_head_tail_recall",
    "mean_recall_head_tail_coverage": "mean_recall_min_head_tail_coverage",
    "h_mean_head_tail_coverage": "h_mean_min_head_tail_coverage",
    "worst_group": "worst_group_recall",
}
"""Short names of recipes' objectives; all others go by their own."""

_NAMES = r"[a-z_]+(?:, [a-z_]+)*"
_TAG = re.compile(rf"# (?P<tag>[A-Z][a-z]+)(?: (?P<names>{_NAMES}))?: (?P<text>.*)")
_LINE = re.compile(rf"(?P<indent> *)# (?P<names>{_NAMES}): (?P<text>\w+: .*)")
_VALUE = re.compile(rf"(?P<key> *[\w-]+: *)(?P<own>.*?) +# (?P<names>{_NAMES}): (?P<text>.*)")


@dataclass(frozen=True)
class Recipe:
    """A sweep file that comes with selmix.

    Attributes:
        name: without its ending.
        text: of the file.
        objectives: short names that it can be copied for; empty where it stands as it is.
    """

    name: str
    text: str
    objectives: list[str] = field(default_factory=list)

    @property
    def question(self) -> str:
        """The question that the sweep answers, in one line."""
        head = self.text.partition("version:")[0]
        words = " ".join(line.lstrip("# ").strip() for line in head.splitlines())
        return words.removeprefix("Question:").partition("?")[0].strip() + "?"

    def file_for(self, objective: str | None) -> tuple[str, str]:
        """Name and text of the sweep file for one of the objectives.

        Args:
            objective: its short name or its own; None: the first one.
        Raises:
            UsageError: there is no such objective.
        """
        if not self.objectives:
            if objective is not None:
                raise UsageError(f"--objective: {self.name} stands as it is; copy it and edit its objectives")
            return self.name, self.text
        short = self._short(objective)
        name = f"{self.name}_{short}"
        head, _, body = self.text.partition("version:")
        lines = [*self._head(head, short), *self._body(f"version:{body}", short)]
        return name, "\n".join(lines) + "\n"

    def _short(self, objective: str | None) -> str:
        if objective is None:
            return self.objectives[0]
        known = {OBJECTIVE_OF.get(short, short): short for short in self.objectives}
        if objective not in self.objectives and objective not in known:
            raise UsageError(
                f"--objective: {self.name} has no {objective!r}; {closest(objective, self.objectives)}"
            )
        return known.get(objective, objective)

    def _head(self, head: str, short: str) -> list[str]:
        """The comment at the top: entries of this objective stand instead of those for all."""
        entries: list[tuple[str, str | None, list[str]]] = []
        for line in head.splitlines():
            match = _TAG.fullmatch(line)
            if match is not None:
                entries.append((match["tag"], match["names"], [f"# {match['tag']}: {match['text']}"]))
            else:
                entries[-1][2].append(line)
        own = {tag for tag, names, _ in entries if names is not None and short in names.split(", ")}
        chosen = [
            line
            for tag, names, lines in entries
            if tag != "Objectives"
            if (short in names.split(", ") if names is not None else tag not in own)
            for line in lines
        ]
        copied = f"selmix cp {self.name} --objective {short} && selmix launch {self.name}_{short}.yaml"
        return [
            re.sub(r"Run: selmix cp .*", f"Run: {copied}", line.replace("the objective", short, 1))
            if line.startswith(("# Question", "# Cost"))
            else line
            for line in chosen
        ]

    def _body(self, body: str, short: str) -> list[str]:
        is_first = short == self.objectives[0]
        lines = []
        for line in body.splitlines():
            if line == f"name: {self.name}":
                lines.append(f"name: {self.name}_{short}")
            elif line.startswith("objectives: ") and not is_first:
                lines.append(f"objectives: [{OBJECTIVE_OF.get(short, short)}]")
            elif (match := _LINE.fullmatch(line)) is not None:
                if short in match["names"].split(", "):
                    lines.append(match["indent"] + match["text"])
            elif (match := _VALUE.fullmatch(line)) is not None:
                chosen = match["text"] if short in match["names"].split(", ") else match["own"]
                lines.append(match["key"] + chosen)
            else:
                lines.append(line)
        return lines


def shipped_file(name: str) -> Path | None:
    """File of the sweep that comes with selmix under this name; None where there is none."""
    home = Path(str(resources.files("sweeps")))
    paths = (folder / f"{name}.yaml" for folder in (home, *(home / each for each in FOLDERS)))
    return next((path for path in paths if path.is_file()), None)


def where_listed(name: str, known: Iterable[str]) -> str:
    """Advice where no sweep file comes with selmix under a name: the closest of those that do, and where they are."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}`selmix ls --recipes` lists them"


def recipes() -> dict[str, Recipe]:
    """Every shipped sweep file by name: small ones to start with, those of the field's data sets, ablations."""
    home = resources.files("sweeps")
    made = {}
    for folder in (home, *(home.joinpath(name) for name in FOLDERS)):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if not file.name.endswith(".yaml"):
                continue
            name, text = file.name.removesuffix(".yaml"), file.read_text(encoding="utf-8")
            listed = " ".join(re.findall(r"(?m)^# Objectives: (.*(?:\n#      .*)*)", text))
            names = re.sub(r"\n#\s+", " ", listed.partition(";")[0])
            made[name] = Recipe(name, text, [each for each in names.split(", ") if each])
    return made


@dataclass(frozen=True)
class RecipeRow:
    """A sweep file that comes with selmix.

    Attributes:
        recipe: its name.
        question: that it answers.
        objectives: short names that it can be copied for; empty where it stands as it is.
    """

    recipe: str
    question: str
    objectives: list[str]


@dataclass(frozen=True, kw_only=True)
class RecipesDocument:
    """The sweep files that come with selmix, by name."""

    schema_version: int = SCHEMA_VERSION
    recipes: list[RecipeRow]


def recipes_document() -> RecipesDocument:
    """All of them, each with its question."""
    return RecipesDocument(
        recipes=[RecipeRow(name, each.question, each.objectives) for name, each in recipes().items()]
    )


def recipes_text(document: RecipesDocument, width: int | None) -> str:
    """Names, with question and objectives below each."""
    rows = [(row.recipe,) for row in document.recipes]
    notes = [
        [row.question, *([f"objectives: {', '.join(row.objectives)}"] if row.objectives else [])]
        for row in document.recipes
    ]
    advice = "selmix cp RECIPE [--objective X] writes the sweep file here, for the first objective where none is named"
    return table((Column("recipe"),), rows, width, notes) + "\n" + sentence(advice, width)


def copy_recipe(name: str, folder: Path, objective: str | None = None) -> Path:
    """Write a recipe into a folder.

    Args:
        name: of the recipe; with an objective at its end (``cifar10_lt_min_recall``) it means that one.
        folder: to write into; it is made.
        objective: that the sweep is for; None: the first one of the recipe.
    Returns:
        Path of the sweep file.
    Raises:
        NotFound: there is no such recipe.
        UsageError: it has no such objective, or a file of its name exists there.
        PreflightError: the folder cannot be written.
    """
    known = recipes()
    recipe = known.get(name)
    if recipe is None:
        # The name of one recipe may begin that of another: the longest one is meant.
        begun = [each for each in known.values() if name.startswith(f"{each.name}_") and each.objectives]
        recipe = max(begun, key=lambda each: len(each.name), default=None)
        short = "" if recipe is None else name.removeprefix(f"{recipe.name}_")
        if recipe is None or short not in recipe.objectives or objective not in (None, short):
            raise NotFound(f"no recipe {name!r}; {where_listed(name, known)}")
        objective = short
    stem, text = recipe.file_for(objective)
    target = folder / f"{stem}.yaml"
    if target.exists():
        raise UsageError(f"{target}: exists; remove it, or copy into another folder")
    write_atomically(target, text.encode(), "copy into another folder")
    return target
