"""What a federation is compared with: its data-parallel twin, one client alone, and the floor."""

from __future__ import annotations

from photon.config.resolve import Run
from photon.evaluation.loss import LossReport, bytes_per_token, unigram_loss
from photon.machine.device import num_cores
from photon.run.results import Score
from photon.run.run_data import VALIDATION, RunData


def baselines(run: Run) -> dict[str, Run]:
    """The runs that a federation asks to be compared with, by their labels.

    The centralised twin joins the cohort's batches, so it sees the same number of tokens in the
    same number of steps; the control is one client with its own batch. Each may have its own
    learning rate, since what is best for one is not for the others.
    """
    inner, compare = run.inner, run.compare
    shared = run.but(
        inner={"max_steps": run.total_steps, "loggers": {"wandb": None}},
        machine={"workers": 0, "threads": num_cores()},
        compare={"centralized": False, "alone": False},
        use_wandb=False,  # one run of Photon is one run there
    )
    wanted: dict[str, Run] = {}
    if compare.centralized:
        rate = compare.centralized_learning_rate or inner.optimizer.lr
        joined = {"batch_rows": inner.batch_rows * run.federation.cohort_size}
        wanted["centralized"] = shared.but(
            name="centralized",
            inner={**joined, "microbatch_rows": "auto", "optimizer": {"lr": rate}},
        )
    if compare.alone:
        rate = compare.alone_learning_rate or inner.optimizer.lr
        wanted["alone"] = shared.but(
            name="alone", centralized={"client": 0}, inner={"optimizer": {"lr": rate}}
        )
    return wanted


def unigram_score(data: RunData, population: int) -> Score:
    """The floor: token frequencies of all clients' training text, scored on the common set."""
    validation = data.rows(VALIDATION)
    loss = unigram_loss([data.client_rows(client) for client in range(population)], validation)
    report = LossReport(loss, 0.0, 0, bytes_per_token(validation))
    return Score(val_loss=loss, perplexity=report.perplexity, bits_per_byte=report.bits_per_byte)
