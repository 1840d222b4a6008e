"""Which part knows which: imports run one way, and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"compressors": set(), "energy": {"compressors"}, "dse": {"compressors", "energy"}}
"""Package -> the packages of the project it may import besides itself."""
ONLY = {
    "optuna": {"dse/study.py", "dse/worker.py", "dse/space.py", "dse/samplers.py", "dse/front_walk.py"},
    "hydra": {"dse/cli.py", "dse/schema.py", "dse/locations.py"},
    "omegaconf": {"dse/cli.py", "dse/schema.py", "dse/locations.py"},
}
FOREIGN = {
    "compressors": {"optuna", "hydra", "omegaconf", "sklearn", "pandas", "matplotlib", "rich"},
    "energy": {"optuna", "hydra", "omegaconf", "sklearn", "pandas", "matplotlib", "torch"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything a module imports, inside functions and ``TYPE_CHECKING`` too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)


def top_level(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    assert modules(package)
    forbidden = PACKAGES.keys() - PACKAGES[package] - {package} | {"tests"}
    wrong = {
        str(path.relative_to(ROOT)): bad for path in modules(package) if (bad := top_level(path) & forbidden)
    }
    assert wrong == {}


@pytest.mark.parametrize("library", ONLY)
def test_only_the_named_modules_know_the_library(library: str) -> None:
    users = {
        str(p.relative_to(ROOT)) for package in PACKAGES for p in modules(package) if library in top_level(p)
    }
    assert users
    assert users - ONLY[library] == set()


@pytest.mark.parametrize("package", FOREIGN)
def test_the_lower_packages_stay_free_of_what_is_not_theirs(package: str) -> None:
    found = {str(p.relative_to(ROOT)): top_level(p) & FOREIGN[package] for p in modules(package)}
    assert {name: libraries for name, libraries in found.items() if libraries} == {}


def test_nothing_imports_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in modules(package):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[name] = at_import_time(path)
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join((*above[above.index(name) :], name))}"
        if name in done or name not in graph:
            return
        for inner in sorted(graph[name] & graph.keys()):
            visit(inner, (*above, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def at_import_time(path: Path) -> set[str]:
    """Modules imported while ``path`` itself is imported: at module level, and not for type checkers alone."""
    found: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {_module(f"{node.module}.{alias.name}") or str(node.module) for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.Lambda):
            pending += [inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)]
    return found


def _module(name: str) -> str | None:
    """``name`` where it is a module of the project, not something defined in one."""
    path = ROOT.joinpath(*name.split("."))
    return name if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file() else None


def loaded_by(*names: str) -> set[str]:
    """Top-level modules loaded in a fresh process after importing ``names``."""
    script = f"import sys, {', '.join(names)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    return set(done.stdout.split())


def test_what_reads_a_finished_study_needs_no_torch() -> None:
    loaded = loaded_by("dse.plots", "dse.report", "dse.export", "dse.run_folder", "dse.commands.report")
    assert "torch" not in loaded
    assert "hydra" not in loaded


def test_the_command_line_answers_without_loading_anything_heavy() -> None:
    loaded = loaded_by("dse.cli")
    assert loaded & {"torch", "optuna", "hydra", "matplotlib", "numba", "sklearn", "pandas"} == set()


def test_reading_a_configuration_needs_no_torch() -> None:
    loaded = loaded_by(
        "dse.commands.sweep", "dse.commands.export", "dse.commands.evaluate", "energy.accelerators"
    )
    assert "torch" not in loaded
