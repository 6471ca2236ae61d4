"""What the documents say is true."""

from __future__ import annotations

import re
from pathlib import Path

import photon
from photon.config.compose import as_overrides

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_round_in_the_readme_is_the_real_code():
    code = (ROOT / "src/photon/core/round.py").read_text()
    shown = next(block for block in blocks("python") if "outer_step" in block)
    for line in shown.strip().splitlines():
        assert line.split("  #")[0].strip(" .") in code


def test_the_python_example_runs(monkeypatch, tmp_path, data_root):
    source = next(block for block in blocks("python") if "photon.train(" in block)
    train = photon.train
    small = {"recipe": "smoke", "dataset.train.root_local": data_root}
    monkeypatch.setattr(photon, "train", lambda keys: train(small | keys), raising=False)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(source, namespace)
    assert namespace["result"].federated.val_loss > 0
    assert len(namespace["losses"]) == 4
    assert namespace["result"].rounds == 6


def test_the_examples_of_the_python_page_run(monkeypatch, tmp_path, data_root):
    page = (ROOT / "docs/reference/python.md").read_text()
    train = photon.train
    small = ["recipe=smoke", f"dataset.train.root_local={data_root}"]
    monkeypatch.setattr(
        photon, "train", lambda keys: train([*small, *as_overrides(keys)]), raising=False
    )
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec("".join(re.findall(r"```python\n(.*?)```", page, re.S)), namespace)
    assert namespace["again"].folder.name == "again"
    assert [namespace[name].rounds for name in ("result", "again")] == [4, 2]


def test_the_reference_of_the_configuration_is_up_to_date():
    from photon.config.explain.reference import reference

    written = (ROOT / "docs/reference/configuration.md").read_text()
    assert written == reference(), "photon config --reference > docs/reference/configuration.md"


def test_the_version_is_stated_once():
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{photon.__version__}"' in project


def test_the_ranges_in_the_readme_are_those_of_the_results():
    page = (ROOT / "docs/results.md").read_text()
    ranges = re.findall(r"[\d.]+ \.\. [\d.]+", README)
    assert len(ranges) > 5
    assert not [one for one in ranges if one not in page]


def test_every_path_in_the_readme_exists():
    for path in re.findall(r"`((?:src|scripts|docs|benchmarks|tests)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path


def test_every_test_that_a_page_names_is_there():
    text = (ROOT / "docs/concepts/privacy.md").read_text()
    named = re.findall(r"`(\w+/test_\w+\.py): (test_\w+)`", text)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)
