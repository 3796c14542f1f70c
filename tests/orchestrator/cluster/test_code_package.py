"""Package of a sweep's code: the same bytes for the same files, our code and the user's, and nothing beside it."""

from __future__ import annotations

import io
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.build.own_source import references_in
from orchestrator.cluster import code_package as module
from orchestrator.cluster.code_package import own_files, pack, sweep_package, user_files
from orchestrator.errors import PreflightError
from orchestrator.spec.checks import load_spec
from tests.command import SMOKE

NAMES = st.text("ab/._é ", min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=20), max_size=4), st.randoms(use_true_random=False))
def test_a_package_is_that_of_its_files_in_any_order(contents: dict[str, bytes], random: object) -> None:
    items = list(contents.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    first, second = pack(contents), pack(dict(items))
    assert (first.digest, first.content) == (second.digest, second.content)
    with zipfile.ZipFile(io.BytesIO(first.content)) as archive:
        assert archive.namelist() == sorted(contents) == list(first.names)
        assert {name: archive.read(name) for name in contents} == contents
        # Ray restores permissions when it unpacks: a node must be able to read the files.
        assert all(stat.filemode(info.external_attr >> 16)[-9:] == "rw-r--r--" for info in archive.infolist())


def test_a_package_of_ours_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OURS", ("selmix", "no_such_package"))
    with pytest.raises(PreflightError, match=r"^package: no_such_package must be installed as files"):
        own_files()


def test_references_are_those_of_the_model_the_objectives_the_metric_and_the_bounds() -> None:
    plain = load_spec(SMOKE).resolved()
    assert references_in(plain) == []
    assert references_in(plain | {"model": {"name": "nets:net"}, "objectives": ["min_recall", "goals:goal"]}) == [
        "nets:net", "goals:goal",
    ]  # fmt: skip
    judged = {
        "selection": {"metric": "goals:judge"},
        "constraints": [{"metric": "goals:bound"}, {"metric": "recall"}],
    }
    goals = ["goals:goal", "goals:judge", "goals:bound"]
    assert references_in(plain | {"objectives": ["goals:goal"]} | judged) == goals


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path whose modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_nested_module_brings_all_of_its_package_under_names_that_import_alike(home: Path) -> None:
    deep = home / "own_models" / "nets"
    deep.mkdir(parents=True)
    for path in (
        deep.parent / "__init__.py",
        deep / "__init__.py",
        deep / "small.py",
        deep.parent / "notes.txt",
    ):
        path.write_text("")
    (deep / ".hidden").mkdir()
    (deep / ".hidden" / "x.py").write_text("")
    expected = {"own_models/__init__.py", "own_models/nets/__init__.py", "own_models/nets/small.py"}
    for module_name in ("own_models", "own_models.nets", "own_models.nets.small"):
        assert set(user_files(module_name)) == expected, module_name
    names = sweep_package(b"file", ["own_models.nets.small:net", "own_models:x"]).names
    assert expected | {"sweep.yaml"} <= set(names)


def test_a_single_module_brings_no_file_that_would_not_import_alike(home: Path) -> None:
    """The folder of a module may be a home folder, with anything else below it on sys.path."""
    (home / "lib").mkdir()
    (home / "lib" / "own_helper.py").write_text("")
    (home / "own_beside.py").write_text("")
    (home / "own_goal.py").write_text(
        "import sys\nsys.path.insert(0, __file__[:-11] + 'lib')\nimport own_helper, own_beside\n"
    )
    try:
        assert set(user_files("own_goal")) == {"own_goal.py", "own_beside.py"}
    finally:
        sys.path.remove(str(home / "lib"))
