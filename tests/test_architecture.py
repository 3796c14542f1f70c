"""The rooms: who imports whom, where the heavy libraries stay, and no circle."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("selmix", "trainables", "orchestrator")

ORCHESTRATOR = (
    "spec", "records", "build", "search", "tracking", "results", "cluster", "run", "pins", "verbs", "api", "cli",
)  # fmt: skip
"""The rooms from the ground up: each imports the ground floor, itself, and rooms before it."""

GROUND = (
    "clock", "credentials", "documents", "errors", "files", "http_client", "messages", "progress", "provenance",
    "signals", "table",
)  # fmt: skip
"""What every room may use; it uses itself and the method alone."""

CONFINED = {
    "ray": ("trainables/", "orchestrator/run/", "orchestrator/cluster/"),
    "mlflow": ("orchestrator/tracking/",),
    "optuna": ("orchestrator/search/",),
    "sklearn": ("selmix/data/digits.py",),
    "safetensors": ("selmix/weights.py", "selmix/checkpoint_file.py"),
    "pyarrow": (
        "selmix/data/",
        "selmix/run/",
        "selmix/screen/",
        "selmix/serving/",
        "trainables/remote.py",
        "orchestrator/records/",
        "orchestrator/api/",
    ),
    "scipy": ("selmix/statistics/", "selmix/gain_fidelity.py", "selmix/baselines/linear_post.py"),
    "torchvision": ("selmix/data/", "selmix/models/"),
    "onnx": ("selmix/serving/export.py",),
    "onnxruntime": ("selmix/serving/export.py",),
}
"""Library -> where it may be imported, by the beginning of the path."""

WITHOUT_TORCH = (
    "orchestrator/records/", "orchestrator/tracking/", "orchestrator/verbs/show.py",
    "orchestrator/verbs/show_text.py", "orchestrator/verbs/ls.py",
)  # fmt: skip
"""What reads results: on a laptop, in a moment."""

TOP_OF_SELMIX = {"torch", "numpy", "selmix"}


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Dotted names that a file imports; with ``top_only`` those outside functions and TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        type_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if top_only and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or type_only):
            continue
        todo.extend(ast.iter_child_nodes(node))
    return names


def room(name: str) -> str:
    """The room of the orchestrator that a module lies in; empty on the ground floor."""
    parts = name.split(".")
    return parts[1] if len(parts) > 2 or (len(parts) == 2 and parts[1] in ORCHESTRATOR) else ""


def edges() -> Iterator[tuple[str, str]]:
    """Every import between modules of the project."""
    found = modules()
    for module, path in found.items():
        for name in imports(path):
            target = name if name in found else name.rpartition(".")[0]
            if target in found and target != module:
                yield module, target


def test_packages_import_one_way() -> None:
    order = {"selmix": 0, "trainables": 1, "orchestrator": 2}
    wrong = [
        f"{module} imports {target}"
        for module, target in edges()
        if order[module.split(".")[0]] < order[target.split(".")[0]]
    ]
    assert not wrong


def test_rooms_import_downwards() -> None:
    floor = {name: number for number, name in enumerate(ORCHESTRATOR, start=1)} | {"": 0}
    wrong = [
        f"{module} imports {target}"
        for module, target in edges()
        if module.startswith("orchestrator.") and target.startswith("orchestrator.")
        if floor[room(module)] < floor[room(target)]
    ]
    assert not wrong


def test_the_rooms_are_those_of_the_table() -> None:
    home = ROOT / "orchestrator"
    assert {path.parent.name for path in home.glob("*/__init__.py")} == set(ORCHESTRATOR)
    assert {path.stem for path in home.glob("*.py")} - {"__init__"} == set(GROUND)


def test_libraries_stay_in_their_rooms() -> None:
    wrong = [
        f"{relative} imports {name}"
        for path in modules().values()
        for relative in [path.relative_to(ROOT).as_posix()]
        for name in imports(path)
        for places in [CONFINED.get(name.split(".")[0])]
        if places is not None and not relative.startswith(places)
    ]
    assert not wrong


def test_the_method_needs_torch_and_numpy_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name} at its top"
        for module, path in modules().items()
        if module.split(".")[0] == "selmix"
        for name in imports(path, top_only=True)
        if name.split(".")[0] not in TOP_OF_SELMIX | sys.stdlib_module_names
    ]
    assert not wrong


def reached(start: str) -> set[str]:
    """All modules that importing one brings in, by imports at the top alone."""
    found = modules()
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imports(found[module], top_only=True):
            parts = name.split(".")
            todo += [p for k in range(1, len(parts) + 1) if (p := ".".join(parts[:k])) in found]
    return seen


def test_results_are_read_without_torch() -> None:
    found = modules()
    wrong = []
    for module, path in found.items():
        if path.relative_to(ROOT).as_posix().startswith(WITHOUT_TORCH):
            heavy = {"torch", "ray", "mlflow", "optuna"} - (
                {"mlflow"} if "/tracking/" in path.as_posix() else set()
            )
            for other in reached(module):
                names = {name.split(".")[0] for name in imports(found[other], top_only=True)}
                wrong += [f"{module} brings in {name} through {other}" for name in names & heavy]
    assert not wrong


def test_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for module, target in edges():
        graph[module].add(target)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for target in sorted(graph[module]):
            visit(target, (*trail, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_import_floors_are_few() -> None:
    """A module stands above all that it imports; rooms of the orchestrator are counted as one."""
    assert floors_of_rooms() <= 9


def floors_of_rooms() -> int:
    """The longest way down through the rooms of the orchestrator, a file of the ground floor being one."""
    below: dict[str, set[str]] = {}
    for module, target in edges():
        if module.startswith("orchestrator.") and target.startswith("orchestrator."):
            above, under = (room(name) or name for name in (module, target))
            if above != under:
                below.setdefault(above, set()).add(under)

    def height(name: str) -> int:
        return 1 + max((height(other) for other in below.get(name, ())), default=0)

    return max(height(name) for name in below)
