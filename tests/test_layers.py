"""The architecture: imports go down, nothing unpickles, importing Photon is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import photon

ROOT = Path(photon.__file__).parent
RANK = {
    "config": 0,
    "errors": 0,
    "say": 0,
    "files": 0,
    "core": 1,
    "model": 2,
    "data": 2,
    "training": 3,
    "evaluation": 3,
    "runtime": 4,
    "cli": 5,
    "comparison": 5,
    "console": 5,
    "api": 5,
    "report": 5,
    "page": 5,
    "__main__": 6,
}
STRANGERS = [{"model", "data"}, {"training", "evaluation"}]
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    own = package_of(path)
    for line, module in imported(path):
        parts = module.split(".")
        if parts[0] != "photon" or len(parts) < 2 or parts[1] not in RANK:
            continue
        other = parts[1]
        assert RANK[other] <= RANK[own], f"{path}:{line} imports {module} from a higher rank"
        assert {own, other} not in STRANGERS, f"{path}:{line}: {own} must not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_can_unpickle(path):
    for line, module in imported(path):
        assert module.split(".")[0] not in {"pickle", "cloudpickle", "dill", "shelve", "marshal"}, (
            line
        )
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            assert not (is_torch and node.func.attr in {"load", "save"}), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 400


CORE_MAY_IMPORT = {
    "__future__", "collections", "dataclasses", "hashlib", "math", "typing", "numpy", "torch",
    "photon",
}  # fmt: skip


def test_core_is_pure():
    for path in (ROOT / "core").glob("*.py"):
        for line, module in imported(path):
            assert module.split(".")[0] in CORE_MAY_IMPORT, f"{path}:{line} imports {module}"


@pytest.mark.parametrize(
    "code",
    [
        "import photon",
        "import photon.config",
        "from photon.cli.main import run; run(['--help'])",
        "from photon.cli.main import run; run(['train', '--help'])",
        "from photon.cli.main import run; assert run(['runs', '/nowhere']) == 2",
        "from photon.cli.main import run; assert run(['status', '/nowhere']) == 2",
        "from photon.cli.main import run; assert run(['watch', '/nowhere']) == 2",
    ],
)
def test_light_entry_points_do_not_import_torch(code):
    check = f"{code}\nimport sys; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


def test_public_names():
    assert set(photon.__all__) == {
        "Config", "PhotonError", "TrainResult", "load_config", "resume", "train",
    }  # fmt: skip
    for name in photon.__all__:
        assert getattr(photon, name) is not None
    assert callable(photon.train)
    with pytest.raises(AttributeError):
        _ = photon.nothing_of_that_name
