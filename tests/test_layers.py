"""The architecture: imports go down, nothing unpickles, importing Photon is light."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import photon


def load_script(name: str) -> Any:
    path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rooms = load_script("rooms")
ROOT = Path(photon.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return found


def test_the_rooms_are_as_planned(capsys):
    """Imports go down, in no circle; rooms are small, and each says what it is for."""
    assert rooms.main() == 0, capsys.readouterr().err
    assert all(room.purpose for room in rooms.read_rooms().values())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"core/a.py": "import photon.run.b"}, "core imports run of a higher rank"),
        ({"model/a.py": "from photon.data import b"}, "model and data do not know each other"),
        ({"node/a.py": "from photon.server.b import c"}, "node and server do not know each other"),
        (
            {"run/a.py": "from photon.wire.b import c", "wire/b.py": "import photon.run.a"},
            "a circle: run -> wire -> run",
        ),
        ({f"hub/{n}.py": "" for n in range(21)}, "hub: has 21 files, at most 20"),
        ({"attic/a.py": ""}, "has no rank"),
    ],
)
def test_a_fault_of_the_plan_is_found(tmp_path, files, message):
    for name, text in {"core/__init__.py": "\n" * 9, **files}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert any(message in line for line in rooms.faults(rooms.read_rooms(tmp_path)))


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
    "__future__", "collections", "dataclasses", "functools", "hashlib", "math", "typing", "numpy",
    "torch", "photon",
}  # fmt: skip


def test_core_is_pure():
    for path in (ROOT / "core").rglob("*.py"):
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


SHAPES = """
import sys
from photon.config import load_config
from photon.model.build import build_model
from photon.training.outline import outline_of
for model in ("smoke", "smoke llm_config=mpt-125m"):
    config = load_config(f"recipe={model}".split())
    build_model(config.inner, 1)
    outline_of(config.inner, config.federation)
assert "torch._dynamo" not in sys.modules
"""


def test_a_server_that_trains_nothing_does_not_import_the_compiler_of_torch():
    subprocess.run([sys.executable, "-c", SHAPES], check=True, capture_output=True)


WITHOUT_EXTRAS = """
import importlib, pkgutil, sys, tomllib
extras = tomllib.load(open(sys.argv[1], "rb"))["project"]["optional-dependencies"]
for extra in set(extras) - {"test", "docs"}:
    for text in extras[extra]:
        name = text.split("[")[0].split(">")[0].split("=")[0]
        sys.modules[name.replace("-", "_")] = None
import photon
for module in pkgutil.walk_packages(photon.__path__, "photon."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError:
            print(module.name)
"""
NEED_EXTRAS = {"photon.scoring.lm_adapter", "photon.wire.keys", "photon.wire.knock"}


def test_a_plain_installation_has_all_but_what_its_extras_are_for():
    command = [sys.executable, "-c", WITHOUT_EXTRAS, ROOT.parents[1] / "pyproject.toml"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    flower = {name for name in done.stdout.split() if name.startswith("photon.flower.")}
    assert set(done.stdout.split()) - flower == NEED_EXTRAS
    assert flower


def test_public_names():
    assert set(photon.__all__) == {
        "Config", "PhotonError", "TrainResult", "load_config", "resume", "train",
    }  # fmt: skip
    for name in photon.__all__:
        assert getattr(photon, name) is not None
    assert callable(photon.train)
    with pytest.raises(AttributeError):
        _ = photon.nothing_of_that_name
