"""Imports point one way, heavy libraries stay where they belong, and no module imports itself in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("selmix", "trainables", "orchestrator")
ALLOWED = {
    "selmix": {"selmix"},
    "trainables": {"selmix", "trainables"},
    "orchestrator": {"selmix", "trainables", "orchestrator"},
}
# library -> the files that may import it, by path prefix; anywhere else it is an error
CONFINED = {
    "ray": (
        "trainables/",
        "orchestrator/search.py",
        "orchestrator/execution.py",
        "orchestrator/cluster.py",
        "orchestrator/nodes.py",
        "orchestrator/faults.py",
    ),
    "mlflow": ("orchestrator/tracking.py",),
    "optuna": ("orchestrator/space.py", "orchestrator/study.py"),
    "sklearn": ("selmix/data/digits.py",),
    "safetensors": ("selmix/weights.py",),
    "scipy": ("selmix/binomial.py",),
    "torchvision": ("selmix/data/", "selmix/models/"),
}
TOP_OF_SELMIX = {"torch", "numpy", "selmix"}


def modules() -> dict[str, Path]:
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


def test_imports_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for module, path in modules().items()
        for name in imports(path)
        if name.split(".")[0] in PACKAGES and name.split(".")[0] not in ALLOWED[module.split(".")[0]]
    ]
    assert not wrong


def test_libraries_stay_in_their_files() -> None:
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
    import sys

    wrong = [
        f"{path.relative_to(ROOT)} imports {name} at its top"
        for module, path in modules().items()
        if module.split(".")[0] == "selmix"
        for name in imports(path, top_only=True)
        if name.split(".")[0] not in TOP_OF_SELMIX | sys.stdlib_module_names
    ]
    assert not wrong


def test_no_import_cycle() -> None:
    found = modules()
    graph: dict[str, set[str]] = {}
    for module, path in found.items():
        targets = {name if name in found else name.rpartition(".")[0] for name in imports(path)}
        graph[module] = {target for target in targets if target in found and target != module}
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


def test_no_module_is_too_long_to_read() -> None:
    longest = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in modules().values()}
    assert not {name: lines for name, lines in longest.items() if lines > 300}
