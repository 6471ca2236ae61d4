"""The command: one clear line and a documented exit code for every mistake."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import photon.__main__
from photon.cli.main import COMMANDS, ELSEWHERE, run
from photon.data.read.shards import Rows
from photon.data.tokenizer import load_tokenizer
from photon.run import checkpoint
from photon.run.run_folder import read_run


@pytest.fixture
def photon_command(data_root, tmp_path, capsys, monkeypatch):
    """Runs a command line in the test's folder; gives exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def smoke_arguments(data_root) -> list[str]:
    return ["train", "recipe=smoke", f"dataset.train.root_local={data_root}", "run_uuid=r"]


PREPARE_A_TEXT = ("prepare", "--source", "a.txt", "--train-tokenizer", "vocab_size=270", "--out",
                  "mine", "fl.n_total_clients=2", "llm_config.max_seq_len=32")  # fmt: skip


def interrupt(*_):
    raise KeyboardInterrupt


def complaints(err: str) -> list[str]:
    """Lines on standard error that are no progress."""
    return [line for line in err.splitlines() if line.startswith("photon:")]


def validation_text(run: str) -> str:
    """The first row of the common validation set, a space between two words."""
    config = read_run(Path(run))[0]
    row = Rows(Path(str(config.data.train.root)) / "validation").read([0])[0]
    return " ".join(load_tokenizer(Path(run) / "tokenizer.json").decode(row.tolist()).split())


def test_train_then_generate(photon_command, smoke_arguments, tmp_path):
    code, out, err = photon_command(
        *smoke_arguments, "compare.centralized=true", "compare.alone=true", "--quiet"
    )
    assert (code, err) == (0, "")
    for word in (
        "federated",
        "centralised",
        "one client alone",
        "unigram model",
        "bits/byte",
        "x centralised",
        "x less than data-parallel training (",
    ):
        assert word in out
    (shown,) = [line for line in out.splitlines() if line.startswith("sample: ")]
    *command, prompt = shlex.split(out.splitlines()[-1].partition("photon ")[2])
    assert command == ["generate", "runs/r"]
    assert shown.startswith(f"sample: {prompt!r}"[:-1])
    assert validation_text("runs/r").startswith(prompt)
    code, text, _ = photon_command(*command, prompt, "--max-new-tokens", "2")
    assert (code, text.startswith(prompt)) == (0, True)
    assert (tmp_path / "runs/r/loss.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "runs/r/summary.json").read_text())
    assert summary["federated"]["val_loss"] > 0
    code, text, _ = photon_command("generate", "runs/r", "def f(", "--max-new-tokens", "5")
    assert code == 0
    assert text.startswith("def f(")
    newest = checkpoint.newest_checkpoint(Path("runs/r/checkpoints"))
    arguments = ("generate", str(newest), "def f(", "--max-new-tokens", "5")
    assert photon_command(*arguments)[1] == text
    assert photon_command("generate", "runs/r", "", "--max-new-tokens", "3")[0] == 0


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_progress_goes_to_standard_error_in_plain_lines(
    photon_command, smoke_arguments, options, monkeypatch
):
    """As a job under nohup or in Slurm shows it, whatever FORCE_COLOR asks of terminals."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, err = photon_command(*smoke_arguments, *options)
    assert code == 0
    folder, *lines = err.splitlines()
    assert folder.endswith("run folder runs/r")
    assert [line[:11] for line in lines] == ["round   1/2", "round   2/2"]
    for word in ("loss", "val", "ppl", "bpb", "tok/s", "x less than DDP", " s", " left"):
        assert word in lines[0]
    assert err.replace("\n", "").isprintable()
    assert out.startswith("{" if options else "r: validation on the common set")


def test_json_output_is_the_summary(photon_command, smoke_arguments, tmp_path):
    code, out, err = photon_command(*smoke_arguments, "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "runs/r/summary.json").read_text())


def test_centralized_and_resume(photon_command, smoke_arguments, tmp_path):
    code, out, _ = photon_command(*smoke_arguments, "--centralized", "llm_config.max_duration=4ba")
    assert code == 0
    assert "centralised" in out
    assert "federated" not in out
    code, _, err = photon_command("train", "--resume", "runs/r", "llm_config.max_duration=3ba")
    assert code == 2
    assert "llm_config.max_duration: may be lowered to the 4 that are done" in err
    code, _, _ = photon_command("train", "--resume", "runs/r", "llm_config.max_duration=6ba")
    assert code == 0
    assert json.loads((tmp_path / "runs/r/summary.json").read_text())["centralized"]["steps"] == 6


def test_prepare_then_train_by_source(photon_command):
    keys = (
        "recipe=smoke",
        "dataset.embedded.partition=source",
        "dataset.embedded.max_bytes=1500000",
    )
    code, out, _ = photon_command("prepare", "--out", "mine", *keys)
    assert code == 0
    assert "folder      mine" in out
    assert photon_command("prepare", "--out", "mine", *keys)[0] == 0
    code, _, err = photon_command("prepare", "--out", "mine", "recipe=smoke", keys[2])
    assert code == 2
    assert "prepared with partition=source, asked for partition=iid" in err
    code, _, err = photon_command("train", "recipe=smoke", "dataset.train.root_local=mine")
    assert code == 0, err


def test_config_shows_what_overrides_compose(photon_command):
    code, out, _ = photon_command("config", "fl.n_rounds=3", "recipe=smoke")
    assert code == 0
    assert "n_rounds: 3" in out
    code, out, _ = photon_command("config", "--keys")
    assert "fl.strategy_kwargs.server_momentum" in out


LONG = "long" * 75
"""No file can have this name."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "fl.n_roundz=3"], "did you mean 'fl.n_rounds'"),
        (["train", "fl.n_rounds=many"], "fl.n_rounds: Input should be a valid integer"),
        (["train", "dataset.train.root_local=/no/such/folder"], "/no/such/folder: no prepared"),
        (["train", "--resume", "runs/none"], "runs/none: no run here"),
        (["train", "photon.device=cuda:7"], "photon.device=cuda:7: PyTorch sees"),
        (["train", "photon.device=toaster"], "photon.device=toaster: not a device"),
        (["generate", "runs/none", "x"], "runs/none: no such run folder or checkpoint"),
        (
            ["train", "recipe=smoke", "dataset.embedded.max_bytes=90000", "fl.n_total_clients=8"],
            "too small for 8 clients",
        ),
        (
            ["prepare", "recipe=smoke", "dataset.embedded.vocab_size=60000"],
            "fewer than vocab_size=60000",
        ),
        (["prepare", "--out", __file__, "recipe=smoke"], "holds no prepared data"),
        (["generate", __file__, "x"], "no such run folder or checkpoint"),
        (["train", f"run_uuid={LONG}"], "run_uuid: String should have at most 128 characters"),
        (["train", "--resume", LONG], "no run here"),
        (["train", "recipe=smoke", f"photon.restore_run_uuid={LONG}"], "no such run folder"),
        (["train", f"dataset.train.root_local={LONG}"], "File name too long"),
        (["prepare", "--source", LONG], "File name too long"),
        (["status", LONG], "no run here, nor can one have so long a name"),
        (["traim"], "did you mean 'train'?; see `photon --help`"),
        (["resume", "runs/a"], "no command 'resume'; did you mean 'train --resume RUN'?"),
        (["data", "shw", "x"], "see `photon data --help`"),
        (["train", "--resum", "x"], "Did you mean '--resume'?; see `photon train --help`"),
        (
            ["train", "--fl.n_rounds=3"],
            "No such option '--fl.n_rounds'; a key is set without dashes: fl.n_rounds=VALUE; see",
        ),
        (["evaluate", "runs/none", "--seed=3"], "a key is set without dashes: seed=VALUE; see"),
        (["runs", "--seed", "3"], "No such option '--seed'; see `photon runs --help`"),
        (["stop"], "Missing argument 'RUN'; see `photon stop --help`"),
        (["completion", "bsh"], "'bsh' is not one of 'bash', 'zsh', 'fish'; see"),
        (["train", "--resume", "x", "--centralized"], "leave --centralized out"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(photon_command, tmp_path, arguments, message):
    code, out, err = photon_command(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert len(complaints(err)) == 1
    assert "folder" not in out
    assert not list(tmp_path.glob("runs/*/checkpoints/*"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fl.n_total_clients=3", "prepared for 2 clients"),
        ("llm_config.model.vocab_size=299", "299; set llm_config.model.vocab_size=300"),
    ],
)
def test_data_that_does_not_fit_the_model(photon_command, smoke_arguments, override, message):
    code, _, err = photon_command(*smoke_arguments, override)
    assert code == 2
    assert message in err


TINY = (
    "llm_config.model.d_model=16", "llm_config.model.n_heads=2", "llm_config.model.n_layers=1",
    "llm_config.global_train_batch_size=2", "llm_config.local_steps=2", "fl.n_rounds=1",
    "llm_config.eval_subset_num_batches=1", "photon.workers=0", "photon.threads=1",
)  # fmt: skip
"""A small model that says nothing of the data."""


def test_training_takes_from_the_data_what_is_not_given(photon_command, data_root, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"{i} and {i * i}" for i in range(6000)))
    code, _, err = photon_command(
        "prepare", "--source", "text.txt", "--tokenizer", str(data_root / "tokenizer.json"),
        "--out", "mine", "fl.n_total_clients=3", "llm_config.max_seq_len=24",
    )  # fmt: skip
    assert code == 0, err
    code, _, err = photon_command("train", "dataset.train.root_local=mine", "run_uuid=a", *TINY)
    assert code == 0, err
    assert (
        "from data   llm_config.max_seq_len=24, llm_config.model.vocab_size=300, "
        "fl.n_total_clients=3\n"
    ) in err
    config = json.loads((tmp_path / "runs/a/config.json").read_text())
    assert config["fl"]["n_total_clients"] == 3
    assert config["llm_config"]["model"]["vocab_size"] == 300
    assert config["llm_config"]["max_seq_len"] == 24
    given = ("fl.n_total_clients=2", "llm_config.max_seq_len=64", "llm_config.model.vocab_size=320")
    code, _, err = photon_command(
        "train", "dataset.train.root_local=mine", "run_uuid=b", *TINY, *given
    )
    assert code == 0, err
    assert "from data" not in err
    config = json.loads((tmp_path / "runs/b/config.json").read_text())
    assert config["fl"]["n_total_clients"] == 2
    assert config["llm_config"]["max_seq_len"] == 64
    summary = json.loads((tmp_path / "runs/b/summary.json").read_text())
    assert summary["federated"]["tokens"] == 2 * 2 * 2 * 64  # clients, steps, rows, tokens


def test_data_too_small_for_longer_rows_is_refused_before_training(
    photon_command, smoke_arguments, tmp_path
):
    code, _, err = photon_command(*smoke_arguments, "llm_config.max_seq_len=200000")
    assert code == 2
    assert "too little text for one row of 200000 tokens; lower llm_config.max_seq_len" in err
    assert not (tmp_path / "runs").exists()


def test_a_lone_number_of_clients_is_refused(photon_command, tmp_path):
    (tmp_path / "text.txt").write_text("text")
    code, _, err = photon_command("prepare", "--source", "text.txt", "--clients", "8")
    assert code == 2
    assert "--clients 8: write 0-7 for 8 clients, or 8-8 for client number 8 alone" in err


@pytest.mark.parametrize(
    "option",
    [
        ("--train-tokenizer", "vocab_size=300"),
        ("--tokenizer", "tokenizer.json"),
        ("--partition", "size"),
        ("--clients", "4-5"),
    ],
)
def test_an_option_of_a_source_is_refused_without_one(photon_command, tmp_path, option):
    code, _, err = photon_command("prepare", "recipe=smoke", *option)
    assert code == 2
    assert f"{option[0]}: the embedded corpus is prepared for all clients, by the keys of" in err
    assert not (tmp_path / "data").exists()


def test_a_key_of_a_source_has_a_note_without_one(photon_command):
    key = "dataset.prepare.vocab_size=300"
    code, _, err = photon_command("prepare", "--out", "out", "recipe=smoke", key)
    assert code == 0
    assert f"{key}: has no effect here: the embedded corpus" in err


TRAINED, OWN = ("--train-tokenizer", "vocab_size=300"), ("--clients", "4-5")


@pytest.mark.parametrize(
    ("option", "override", "key"),
    [
        (TRAINED, "dataset.prepare.tokenizer=none.json", "dataset.prepare.tokenizer"),
        (TRAINED, "dataset.prepare.vocab_size=400", "dataset.prepare.vocab_size"),
        (TRAINED, "dataset.prepare.vocab_size=300", None),
        (OWN, "fl.n_total_clients=8", "fl.n_total_clients"),
        (OWN, "++dataset.prepare.first_client=3", "dataset.prepare.first_client"),
        (OWN, "dataset.prepare={first_client: 3}", "dataset.prepare.first_client"),
        (OWN, "fl.n_total_clients=2", None),
        (("--partition", "size"), "dataset.prepare.partition=iid", "dataset.prepare.partition"),
        (("--source", "b.txt"), "dataset.prepare.source=c.txt", "dataset.prepare.source"),
        (("--partition", "size"), "dataset=fed-c4", None),
    ],
)
def test_an_option_beside_its_key_says_the_same(photon_command, tmp_path, option, override, key):
    (tmp_path / "text.txt").write_text("\n".join(f"{i} and {i * i}" for i in range(6000)))
    source = () if "--source" in option else ("--source", "text.txt")
    trained = () if option == TRAINED else TRAINED
    command = ("prepare", "--out", "out", *source, *trained, "llm_config.max_seq_len=24")
    code, _, err = photon_command(*command, *option, override, "fl.n_clients_per_round=2")
    assert code == (0 if key is None else 2), err
    if key is not None:
        assert f"{option[0]} and {override} say two things of {key}; give one" in err
    assert (tmp_path / "out").exists() == (key is None)


def test_a_source_that_a_key_names_has_the_options_of_one(photon_command, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"{i} and {i * i}" for i in range(6000)))
    keys = ("dataset.prepare.source=text.txt", "llm_config.max_seq_len=24")
    code, out, err = photon_command("prepare", "--out", "out", *TRAINED, *OWN, *keys)
    assert code == 0, err
    assert "for clients 4-5" in out


def test_damaged_runs_are_named(photon_command, smoke_arguments, tmp_path):
    assert photon_command(*smoke_arguments)[0] == 0
    no_data = [word for word in smoke_arguments if "root_local" not in word]
    code, out, err = photon_command(*no_data)
    assert code == 2
    assert "already holds a run" in err
    assert "corpus" not in out + err, "it is said before any data is made"
    assert not (tmp_path / "data").exists()
    newest = checkpoint.newest_checkpoint(tmp_path / "runs/r/checkpoints")
    text = newest.read_text()
    newest.write_text(text.replace('"round": 2', '"round": 1'))
    for arguments in (
        ("train", "--resume", "runs/r", "fl.n_rounds=3"),
        ("generate", "runs/r", "x"),
    ):
        code, _, err = photon_command(*arguments)
        assert code == 2
        assert "the manifest is not what was written" in err
    newest.write_text(text)
    (tmp_path / "runs/r/config.json").write_text("{")
    code, _, err = photon_command("train", "--resume", "runs/r")
    assert code == 2
    assert "unreadable config.json" in err


def test_a_full_disk_is_one_line(photon_command, smoke_arguments, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        code, _, err = photon_command(*smoke_arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert "cannot write" in err
    assert len(complaints(err)) == 1


def test_interrupted_preparation_says_how_it_goes_on(photon_command, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("It rained on the hills, and then it did not. " * 400)
    with monkeypatch.context() as patch:
        patch.setattr("photon.data.prepare.text.train_tokenizer", interrupt)
        code, _, err = photon_command(*PREPARE_A_TEXT)
    assert (code, complaints(err)) == (130, ["photon: interrupted; the same command goes on"])
    assert photon_command(*PREPARE_A_TEXT)[0] == 0


def test_divergence_has_its_own_exit_code(photon_command, smoke_arguments):
    code, _, err = photon_command(
        *smoke_arguments, "llm_config.optimizer.lr=1e30", "llm_config.optimizer.name=adamw"
    )
    assert code == 3
    assert "the training loss is" in err


def test_internal_errors_hide_the_traceback_unless_asked(photon_command, monkeypatch):
    from photon.config import compose

    def fault(overrides):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(compose, "check_overrides", fault)
    code, _, err = photon_command("config")
    assert code == 1
    assert err == "photon: internal error: ZeroDivisionError: boom (--debug shows where)\n"
    with pytest.raises(ZeroDivisionError):
        photon_command("--debug", "config")


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "photon", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("photon, version")


def test_ctrl_c_while_the_command_is_loaded_is_one_line(monkeypatch, capsys):
    class Loading(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "photon.cli.main", Loading("main"))
    with pytest.raises(SystemExit) as ended:
        photon.__main__.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "photon: interrupted\n"


def test_a_warning_is_one_line_and_the_run_goes_on(photon_command, smoke_arguments):
    arguments = ("--quiet", "llm_config.scheduler.schedulers.lr.t_max=3")
    code, _, err = photon_command(*smoke_arguments, *arguments)
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("photon: warning: the schedule ends at t_max=3, the run at step")


def test_a_reader_that_goes_away_costs_nothing(smoke_arguments, tmp_path):
    """`2>&1 | head -1`: the run ends as it would have, with all its files."""
    command = " ".join([sys.executable, "-m", "photon", *smoke_arguments, "run_uuid=piped"])
    done = subprocess.run(["bash", "-c", f"{command} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"],
                          capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    folder = next(tmp_path.rglob("piped/summary.json")).parent
    assert (folder / "loss.png").exists()


def test_a_text_that_is_not_there_is_said_before_anything_is_scored(photon_command, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").touch()
    for name, reason in {
        "texts": "is a folder; name the files in it",
        "latin.txt": "no UTF-8 at byte 3; convert the file to UTF-8",
        "empty.txt": "is empty; give a file with text",
    }.items():
        code, _, err = photon_command("evaluate", "runs/any", "--text", str(tmp_path / name))
        assert code == 2
        assert f"--text {tmp_path / name}: {reason}" in err
        assert err.count("\n") == 1
    code, out, err = photon_command("evaluate", "runs/any", "--text", str(tmp_path / "no.txt"))
    assert (code, out) == (2, "")
    assert "no.txt: no such file" in err


def test_what_other_tools_call_a_command_leads_to_one_that_is_there():
    assert not ELSEWHERE.keys() & COMMANDS.keys()
    assert {words.split()[0] for words in ELSEWHERE.values()} <= COMMANDS.keys()
