"""What is said of a federation beside other ways of training: more is more, and less is less."""

from __future__ import annotations

import pytest

from photon.cli.main import run
from photon.report.comparison import bytes_line, epsilon_line, loss_line
from photon.report.console import against_ddp, beside, perplexity
from photon.report.figures import draw_lines


@pytest.mark.parametrize(
    ("value", "other", "words"),
    [
        (1, 4.9, "4.9x less than DDP"),
        (2, 1, "2.0x more than DDP"),
        (1, 0.5, "2.0x more than DDP"),
        (100, 103, "as much as DDP"),
        (1, 2048, "2,048x less than DDP"),
    ],
)
def test_a_ratio_is_never_below_one(value, other, words):
    assert beside(value, other, "DDP") == words
    assert against_ddp(value, other) == words


def test_a_perplexity_takes_no_line_of_its_own():
    shown = [perplexity(value) for value in (36.24, 65331235.1, 1e160, float("inf"))]
    assert shown == ["36.2", "6.53e+07", "1e+160", "inf"]


def test_lines_of_a_comparison():
    assert loss_line(3.0, 2.0, 4.0) == (
        "federated loss is 1.500 x centralised and 0.750 x one client alone"
    )
    assert loss_line(3.0, None, 4.0) == "federated loss is 0.750 x one client alone"
    assert loss_line(3.0, None, None) is None
    assert bytes_line(1e6, 3e6, 2e6) == (
        "sent 1.0 MB up and 3.0 MB down: 2.0x more than data-parallel training (2.0 MB)"
    )
    assert bytes_line(1.0, 1.0, 0) == (
        "sent 1 B up and 1 B down; data-parallel training would have sent none"
    )
    assert bytes_line(0, 0, 5.0) is None
    assert epsilon_line(6.5731, 1e-5, None) == (
        "private: epsilon 6.573 at delta 1e-05, of all rounds together"
    )
    assert "; 20.5 for who keeps every update" in str(epsilon_line(6.5731, 1e-5, 20.5))
    assert epsilon_line(None, None, None) is None


@pytest.mark.filterwarnings("error")
def test_a_plot_of_nothing_warns_of_nothing(tmp_path):
    """Of a run whose budget admits no round."""
    assert draw_lines({}, "steps", "loss", tmp_path / "loss.png") == tmp_path / "loss.png"


@pytest.mark.parametrize(
    ("steps", "words"), [(1, "x more than it"), (512, "x less than it")], ids=["more", "less"]
)
def test_a_plan_says_which_of_the_two_sends_more(capsys, steps, words):
    """Averaged moments make a round of one step cost more than one step of data-parallel."""
    assert run(["plan", f"llm_config.local_steps={steps}"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("time of")]
    assert line.endswith(words)


def test_a_plan_of_one_client_has_no_ratio_of_bytes(capsys):
    assert run(["plan", "fl.n_total_clients=1"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("time of")]
    assert "bytes" not in line
