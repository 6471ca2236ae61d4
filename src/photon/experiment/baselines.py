"""What a federation is compared with: its data-parallel twin, and one client by itself."""

from __future__ import annotations

from typing import Any

from photon.config.schema import Config
from photon.machine.device import num_cores


def baselines(config: Config) -> dict[str, dict[str, Any]]:
    """The baselines that a configuration asks for, as changes of its keys.

    The centralised twin joins the cohort's batches, so it sees the same number of tokens in the
    same number of steps; the control is one client with its own batch and its own learning rate.
    """
    steps = config.total_steps
    shared = {
        "llm_config.max_duration": steps,
        "photon.workers": 0,
        "photon.threads": num_cores(),
        "compare.centralized": False,
        "compare.alone": False,
        "use_wandb": False,  # one run of Photon is one run there
        "llm_config.loggers.wandb": None,
    }
    batch = config.inner.batch_rows
    wanted: dict[str, dict[str, Any]] = {}
    if config.compare.centralized:
        joined = batch * config.federation.cohort_size
        wanted["centralized"] = {
            "run_uuid": "centralized",
            "llm_config.global_train_batch_size": joined,
            "llm_config.device_train_microbatch_size": "auto",
        }
    if config.compare.alone:
        wanted["alone"] = {
            "run_uuid": "alone",
            "centralized.stream_id": 0,
            "llm_config.optimizer.lr": config.compare.alone_learning_rate
            or config.inner.optimizer.lr,
        }
    return {label: {**shared, **changes} for label, changes in wanted.items()}
