"""The scripts with the original's names, run as users run them."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from photon.data.read.shards import Rows
from photon.data.tokenizer import train_tokenizer

SCRIPT = Path(__file__).parents[1] / "scripts" / "convert_c4_dataset.sh"


def bash(command: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", command, "bash"],
        cwd=cwd,
        env={**os.environ, "PHOTON_PYTHON": sys.executable, "SCRIPT": str(SCRIPT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def c4(tmp_path: Path) -> Path:
    """A folder of C4's shape: gzipped JSON lines with text, timestamp and url."""
    folder = tmp_path / "c4"
    folder.mkdir()
    for split, count in (("train", 200), ("validation", 150)):
        name = f"c4-{split}.00000-of-00001.json.gz"
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            for number in range(count):
                text = f"{split} {number} " + "the wind in the tall grass of the steppe " * 10
                record = {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": f"x/{number}"}
                file.write(json.dumps(record) + "\n")
    tokenizer = train_tokenizer(["the wind in the tall grass of the steppe train 0123456789"], 270)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return folder


def test_c4_becomes_the_originals_tree(c4, tmp_path):
    done = bash(
        'bash "$SCRIPT" --project_path out --source c4 dataset.prepare.tokenizer=tokenizer.json '
        "llm_config.max_seq_len=32",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    root = tmp_path / "out" / "fed-c4" / "c8" / "en"
    rows = [
        len(Rows(root / f"client_{client}" / part))
        for client in range(8)
        for part in ("train", "validation")
    ]
    assert min(rows) > 0
    assert len(rows) == 16


@pytest.mark.parametrize("how", ['bash "$SCRIPT"', '. "$SCRIPT"'])
def test_dry_run_prints_the_command_and_leaves_the_shell_alone(how, tmp_path):
    command = f'set -- --project_path P --dry-run; {how} "$@"; echo "$? $- $(pwd)"; false; echo on'
    done = bash(command, tmp_path)
    lines = done.stdout.splitlines()
    assert "-m photon prepare --source c4 --out P/fed-c4/c8/en" in lines[0]
    code, flags, folder = lines[1].split()
    assert (code, folder, lines[2]) == ("0", str(tmp_path), "on")
    assert "e" not in flags


@pytest.mark.parametrize("arguments", ["--project_path", "--nonsense", "--dry-run en"])
def test_mistakes_are_one_line(arguments, tmp_path):
    done = bash(f'bash "$SCRIPT" {arguments}', tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["fed_125m_example.sh", "install_env.sh"])
def test_a_source_is_refused_where_no_text_is_read(name, tmp_path):
    done = bash(f'bash "{SCRIPT.parent}/{name}" --dry-run --source x', tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"{name}: unknown argument --source (--help shows them)\n"


SCRIPTS = SCRIPT.parent
LAUNCHERS = {
    "centralised_training.sh": "-m photon train --centralized",
    "cen_125m_example.sh": "-m photon train --centralized",
    "photon_llm_125M.sh": "-m photon server --listen",
    "photon_llm_125M_client_only.sh": "-m photon node --server",
    "fed_125m_example.sh": "-m photon server --listen",
}


ALL = sorted(path.name for path in SCRIPTS.glob("*.sh"))
WRAPPERS = (
    "system_setup.sh", "install_env.sh", "convert_c4_dataset.sh", "prepare_eval_dataset.sh",
    "photon_llm_125M.sh", "photon_llm_125M_client_only.sh", "fed_125m_example.sh",
    "cen_125m_example.sh", "centralised_training.sh", "eval_gauntlet_only.sh",
    "eval_125m_example.sh",
)  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_shellcheck_has_nothing_to_say(name):
    command = [Path(sys.executable).with_name("shellcheck"), "--severity=warning", "--shell=bash"]
    done = subprocess.run(
        [*command, "--exclude=SC1090,SC1091,SC2034,SC2317", SCRIPTS / name],
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_short(name):
    assert len((SCRIPTS / name).read_text().splitlines()) <= 30


@pytest.mark.parametrize("how", ["bash", "."])
@pytest.mark.parametrize("name", WRAPPERS)
def test_help_is_the_header(name, how, tmp_path):
    done = bash(f'{how} "{SCRIPTS / name}" --help; echo "code $?"; {LEFT}', tmp_path)
    assert f"bash scripts/{name}" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["code 0", "0"]
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh"])
def test_help_installs_nothing(name, tmp_path):
    copy = tmp_path / "scripts" / name
    copy.parent.mkdir()
    shutil.copy(SCRIPTS / name, copy)
    done = bash(f'bash "{copy}" --help', tmp_path)
    header = copy.read_text().partition("set -")[0].splitlines()[1:]
    assert done.stdout.splitlines() == [line.removeprefix("# ") for line in header]
    assert done.stderr == ""


LEFT = (
    "compgen -A function -A variable | grep -i photon | "
    "grep -Evc 'PHOTON_(PYTHON|REQUIRE_CHROMIUM)'"
)


def launched(name: str, how: str, cwd: Path, variables: str = "") -> subprocess.CompletedProcess:
    run = f'set -- -p P --dry-run fl.n_rounds=2; {variables} {how} "{SCRIPTS / name}" "$@"'
    return bash(f'{run}; echo "$? $- $(pwd)"; false; echo on; {LEFT}', cwd)


@pytest.mark.parametrize("how", ["bash", "."])
@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_print_their_command_and_leave_the_shell_alone(name, how, tmp_path):
    done = launched(name, how, tmp_path)
    lines = done.stdout.splitlines()
    assert LAUNCHERS[name] in lines[0]
    assert lines[0].rstrip().endswith("fl.n_rounds=2")
    code, flags, folder = lines[1].split()
    assert (code, folder, lines[2]) == ("0", str(tmp_path), "on")
    assert "e" not in flags
    assert lines[3] == "0", "the script leaves no variable and no function"


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("arguments", ["--project_path", "--nonsense"])
def test_mistakes_of_launchers_are_one_line(name, arguments, tmp_path):
    done = bash(f'bash "{SCRIPTS / name}" {arguments}', tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_the_published_example_composes_to_its_published_numbers(tmp_path):
    """Eight clients, 320 rounds of 128 steps, the schedule over 40960: whatever the launcher passes
    is known here."""
    from photon.config import load_config

    done = launched("fed_125m_example.sh", "bash", tmp_path, "RUN_UUID=mine")
    words = done.stdout.splitlines()[0].replace("\\", "").split()
    overrides = [word for word in words if "=" in word or word.startswith("~")]
    config = load_config(overrides[:-1])
    assert (config.name, config.inner.name) == ("mine", "mpt-125m")
    assert (config.federation.population, config.federation.rounds, config.total_steps) == (
        8,
        320,
        40960,
    )
    schedule = config.inner.schedules.schedulers.lr
    assert (schedule.t_max, schedule.t_warmup, schedule.alpha_f) == (40960, 800, 0.1)
    assert config.inner.optimizer.name == "adopt"
    assert config.federation.outer_arguments == {
        "server_learning_rate": 1.0,
        "server_momentum": 0.0,
    }
    assert not config.federation.resets_optimizer
    assert config.data.train.streams is not None
    assert len(config.data.train.streams) == 8


def test_variables_of_the_original_are_read_or_explained(tmp_path):
    variables = "export DRIVER_API_ADDRESS=x RAY_PORT=1 FLEET_API_ADDRESS=[::]:5 SAVE_PATH=/S;"
    done = launched("photon_llm_125M.sh", "bash", tmp_path, variables)
    assert "--listen \\[::\\]:5" in done.stdout
    assert "photon.saving_path=/S" in done.stdout
    assert "FLEET_API_ADDRESS" in done.stderr
    assert "no Ray" in done.stderr


def composed(name: str, tmp_path: Path, arguments: str = ""):
    """The configuration that a centralised script asks for."""
    from photon.config import load_config

    done = bash(f'bash "{SCRIPTS / name}" -p P --dry-run {arguments}', tmp_path)
    words = done.stdout.replace("\\", "").split()
    return load_config([word for word in words if "=" in word or word.startswith("~")])


def test_the_centralised_twin_sees_the_tokens_of_the_federation(tmp_path):
    twin = composed("cen_125m_example.sh", tmp_path).inner
    federated = load_federated(tmp_path)
    assert twin.max_steps == federated.total_steps == 40960
    assert twin.batch_rows == 8 * federated.inner.batch_rows
    for key in ("optimizer", "schedules", "algorithms", "row_length", "model"):
        assert getattr(twin, key) == getattr(federated.inner, key), key


def load_federated(tmp_path: Path):
    from photon.config import load_config

    done = launched("fed_125m_example.sh", "bash", tmp_path)
    words = done.stdout.splitlines()[0].replace("\\", "").split()
    return load_config([w for w in words if "=" in w or w.startswith("~")][:-1])


def test_the_published_centralised_settings(tmp_path):
    inner = composed("cen_125m_example.sh", tmp_path, "--original").inner
    schedule = inner.schedules.schedulers.lr
    assert (inner.max_steps, inner.batch_rows) == (5120, 256)
    assert schedule.name == "constant_with_sqrt_cooldown_with_warmup"
    assert (schedule.t_warmup, schedule.t_cooldown, schedule.alpha_f) == (100, 240, None)
    assert inner.optimizer.name == "decoupled_adamw"
    assert inner.algorithms.gradient_clipping is None


@pytest.mark.parametrize("size", ["125M", "350m", "760m", "1B", "3b", "7b"])
def test_every_size_trains_its_preset(size, tmp_path):
    assert composed("centralised_training.sh", tmp_path, size).inner.name == f"mpt-{size.lower()}"


@pytest.mark.parametrize(
    ("variables", "processes"),
    [("", 3), ("CUDA_VISIBLE_DEVICES=0,2", 2), ("CUDA_VISIBLE_DEVICES=1", 1),
     ("CUDA_VISIBLE_DEVICES=", 1)],
)  # fmt: skip
def test_one_process_trains_on_each_gpu_that_may_be_used(variables, processes, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nfor n in 0 1 2; do echo GPU $n: X; done\n")
    tool.chmod(0o755)
    script = SCRIPTS / "centralised_training.sh"
    shell = f'unset CUDA_VISIBLE_DEVICES; {variables} PATH="{tmp_path}:$PATH" bash'
    done = bash(f'{shell} "{script}" --dry-run', tmp_path)
    assert (f"--nproc-per-node {processes} " in done.stdout) == (processes > 1)
    assert ("torch.distributed" in done.stdout) == (processes > 1)


@pytest.mark.parametrize("name", ["fed_125m_example.sh", "cen_125m_example.sh"])
def test_a_project_may_lie_below_a_folder_with_a_blank(name, tmp_path):
    done = bash(f'bash "{SCRIPTS / name}" -p "/my data" --dry-run', tmp_path)
    words = shlex.split(done.stdout)
    for key in ("dataset.train.root_local", "dataset.val.root_local"):
        assert f"{key}=/my data/fed-c4" in words


def test_a_size_that_does_not_exist_is_one_line(tmp_path):
    done = bash(f'bash "{SCRIPTS}/centralised_training.sh" 13b', tmp_path)
    assert done.returncode == 2
    assert "unknown argument 13b (sizes are 125m" in done.stderr


SETUP = f'bash "{SCRIPTS}/system_setup.sh"'


def test_the_setup_leaves_credentials_alone(tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\nmine = 1\n")
    (tmp_path / ".netrc").write_text("machine other")
    keys = f"HOME={tmp_path} AWS_ACCESS_KEY_ID=k AWS_SECRET_ACCESS_KEY=s WANDB_API_KEY=w"
    done = bash(f"{keys} {SETUP} --yes --only aws,wandb", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".aws/credentials").read_text() == "[default]\nmine = 1\n"
    netrc = (tmp_path / ".netrc").read_text()
    assert netrc.startswith("machine other\n")
    assert "machine api.wandb.ai" in netrc
    again = bash(f"{keys} {SETUP} --yes --only wandb", tmp_path)
    assert "nothing to do" in again.stdout
    assert (tmp_path / ".netrc").read_text() == netrc


def test_the_setup_writes_credentials_that_are_missing(tmp_path):
    keys = f"HOME={tmp_path} AWS_ACCESS_KEY_ID=k AWS_SECRET_ACCESS_KEY=s"
    assert bash(f"{keys} {SETUP} --yes --only aws", tmp_path).returncode == 0
    path = tmp_path / ".aws/credentials"
    assert "aws_access_key_id = k" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_the_setup_asks_and_can_be_told_what_to_do(tmp_path):
    home = f"HOME={tmp_path} WANDB_API_KEY=w"
    refused = bash(f"{home} {SETUP} --only wandb </dev/null", tmp_path)
    assert "left out" in refused.stdout
    assert not (tmp_path / ".netrc").exists()
    checked = bash(f"{home} {SETUP} --check --only wandb,aws", tmp_path)
    assert checked.returncode == 1
    assert "wandb: missing" in checked.stdout
    assert bash(f"{SETUP} --only nonsense", tmp_path).returncode == 2
    dry = bash(f"{home} {SETUP} --dry-run --only wandb", tmp_path)
    assert "would add" in dry.stdout
    assert not (tmp_path / ".netrc").exists()


def test_a_python_that_is_named_is_taken_or_refused(tmp_path):
    find = f'. "{SCRIPTS}/environment.sh"; find_python'
    assert bash(f"PHOTON_PYTHON='{sys.executable}'; {find}", tmp_path).stdout.strip() == (
        sys.executable
    )
    done = bash(f"PHOTON_PYTHON=/no/such; {find}", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "PHOTON_PYTHON=/no/such: needs Python 3.11" in done.stderr


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ("", "runs/quickstart"),
        ("fl.n_rounds=4 run_uuid=mine", "runs/mine"),
        ("photon.saving_path=/else where", "/else where/quickstart"),
    ],
)
def test_the_quickstart_shows_the_run_that_it_has_trained(words, folder, tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    stubs = "PYTHON=./stub\ninstall() { :; }\nsay() { :; }\n"
    (tmp_path / "scripts/environment.sh").write_text(stubs)
    (tmp_path / "stub").write_text('#!/bin/sh\necho "$@" >>said\n')
    (tmp_path / "stub").chmod(0o755)
    words = f'"{words}"' if "else where" in words else words
    done = bash(f"bash scripts/quickstart.sh {words}", tmp_path)
    trained, shown = (tmp_path / "said").read_text().splitlines()
    assert trained.split()[-1] == f"run_uuid={Path(folder).name}"
    assert shown == f"-m photon report {folder}"
    assert done.returncode == 0


def test_a_shell_with_a_search_path_for_folders_finds_the_scripts_of_this_checkout(tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    done = bash(f"CDPATH={tmp_path} bash scripts/install_env.sh --dry-run", tmp_path)
    assert shlex.split(done.stdout) == [
        "bash", f"{tmp_path}/scripts/install.sh", "[flower,s3]"
    ]  # fmt: skip


def test_an_environment_is_installed_by_one_command(tmp_path):
    done = bash(f'bash "{SCRIPTS}/install_env.sh" --dry-run', tmp_path)
    assert "scripts/install.sh \\[flower" in done.stdout
