"""Source of a user's functions: which files, their digest, kept and imported from there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.build.own_source import (
    changed_modules,
    functions_in,
    imported_from,
    own_module,
    own_modules,
    read_sources,
    roots_of,
    write_sources,
)
from orchestrator.spec.checks import load_spec
from selmix.user_code import load_function
from tests.command import SMOKE

MAIN = "import json\nfrom math import sqrt\n\nimport kept_beside\n\n\ndef goal(c):\n    return kept_beside.VALUE\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path whose modules are forgotten afterwards."""
    before = set(sys.modules)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.syspath_prepend(str(home))
    yield home
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(home: Path, value: int = 1) -> None:
    (home / "kept_goal.py").write_text(MAIN)
    (home / "kept_beside.py").write_text(f"VALUE = {value}\n")
    (home / "kept_other.py").write_text("")


def test_a_module_comes_with_what_it_imports_of_the_users_and_nothing_else(home: Path) -> None:
    write(home)
    module = own_module("kept_goal")
    assert module is not None
    assert (module.main, sorted(module.files)) == ("kept_goal.py", ["kept_beside.py", "kept_goal.py"])
    assert roots_of(["kept_goal:goal", "kept_goal:other"]) == [home]
    # A function of an installed package, of ours, or without a file has no source to keep.
    assert own_modules(["torch:sum", "selmix.metrics:accuracy", "sys:exit"]) == []
    assert roots_of(["torch:sum", "selmix.metrics:accuracy", "sys:exit"]) == []


def test_a_package_is_followed_through_relative_and_late_imports(home: Path) -> None:
    deep = home / "kept_package" / "deep"
    deep.mkdir(parents=True)
    (deep.parent / "__init__.py").write_text("")
    (deep / "__init__.py").write_text("from . import used\n")
    (deep / "used.py").write_text("def f():\n    from ..above import X\n    return X\n")
    (deep.parent / "above.py").write_text("X = 1\n")
    (deep.parent / "unused.py").write_text("")
    module = own_module("kept_package.deep")
    assert module is not None
    assert sorted(module.files) == [
        "kept_package/__init__.py", "kept_package/above.py", "kept_package/deep/__init__.py",
        "kept_package/deep/used.py",
    ]  # fmt: skip
    assert module.main == "kept_package/deep/__init__.py"


def test_the_digest_is_that_of_the_contents(home: Path) -> None:
    write(home)
    first = own_modules(["kept_goal:goal"])
    (home / "kept_other.py").write_text("changed = True\n")
    assert own_modules(["kept_goal:goal"])[0].digest == first[0].digest
    records = [first[0].record("source")]
    assert (records[0].file, records[0].main) == ("source/kept_goal.py", "kept_goal.py")
    assert changed_modules(records, first) == []
    # What it imports is part of it.
    write(home, value=2)
    (changed,) = changed_modules(records, own_modules(["kept_goal:goal"]))
    assert changed.startswith(f"kept_goal ({first[0].digest[:19]} -> sha256:")
    assert changed_modules(records, []) == [f"kept_goal ({first[0].digest[:19]} -> not found)"]


def test_kept_files_are_imported_whatever_has_their_names_now(home: Path, tmp_path: Path) -> None:
    write(home)
    modules = own_modules(["kept_goal:goal"])
    write_sources(tmp_path / "kept", modules[0].files)
    source = modules[0].record("kept")
    assert read_sources(tmp_path / "kept", source) == modules[0].files
    write(home, value=2)
    sys.modules.pop("kept_goal", None)
    sys.modules.pop("kept_beside", None)
    importlib.invalidate_caches()
    assert load_function("kept_goal:goal")(None) == 2
    path, now = list(sys.path), sys.modules["kept_goal"]
    with imported_from(tmp_path / "kept", [source]):
        assert load_function("kept_goal:goal")(None) == 1
    assert (sys.path, sys.modules["kept_goal"]) == (path, now)
    assert load_function("kept_goal:goal")(None) == 2
    with imported_from(tmp_path / "nowhere", []):
        assert sys.path == path


def test_kept_files_that_are_not_those_of_the_record_name_their_module(home: Path, tmp_path: Path) -> None:
    write(home)
    (module,) = own_modules(["kept_goal:goal"])
    write_sources(tmp_path / "kept", module.files)
    source = module.record("kept")
    (tmp_path / "kept" / "kept_beside.py").write_text("VALUE = 3\n")
    wrong = read_sources(tmp_path / "kept", source)
    assert isinstance(wrong, str)
    assert wrong.startswith(
        f"module kept_goal: {tmp_path}/kept/kept_goal.py: must have the recorded digest sha256:"
    )
    (tmp_path / "kept" / "kept_beside.py").unlink()
    missing = read_sources(tmp_path / "kept", source)
    assert isinstance(missing, str)
    assert missing.startswith(
        f"module kept_goal: {tmp_path}/kept/kept_beside.py: must be readable: No such file"
    )


def test_functions_are_those_of_c_each_once() -> None:
    resolved = load_spec(SMOKE).resolved() | {
        "objectives": ["a:f", "min_recall"], "model": {"name": "nets:net"}, "selection": {"metric": "a:f"},
        "constraints": [{"metric": "b:g"}],
    }  # fmt: skip
    assert functions_in(resolved) == ["a:f", "b:g"]
