"""Keys of the trackers outside of the run folder: Weights & Biases and TensorBoard."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from photon.config.base import NAME, PROJECT, Section

Tag = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class WandbSetup(Section):
    """What `wandb.init` is told; W&B's variables stand in for defaults. Needs `[track]`."""

    project: str = Field(
        default="photon", pattern=PROJECT, max_length=128, description="project at W&B"
    )
    group: str | None = Field(default="llm", description="group of the run")
    tags: list[Tag] | None = Field(
        default=None, description="tags of the run; null: [run_uuid_RUN]"
    )
    entity: str | None = Field(default=None, description="user or team; null: your default one")
    mode: Literal["online", "offline", "disabled"] | None = Field(
        default=None,
        description="offline writes into RUN/wandb for `wandb sync`; disabled: no W&B at all; "
        "null: WANDB_MODE, or online",
    )
    name: str | None = Field(
        default=None, description="name of the run, before _server or _centralised; null: run_uuid"
    )
    id: str | None = Field(
        default=None,
        pattern=NAME,
        max_length=128,
        description="id of the run, by which a resumed run goes on with its curves; null: run_uuid",
    )
    resume: Literal["allow", "must", "never", "auto"] | None = Field(
        default="allow", description="what becomes of a run that W&B has already"
    )
    allow_val_change: bool = Field(
        default=True, description="a resumed run may show a configuration that has changed"
    )


class Wandb(Section):
    setup: WandbSetup = WandbSetup()


class WandbLogger(Section):
    """There (`llm_config.loggers.wandb={}`), it switches W&B on like `use_wandb=true`."""

    init_kwargs: WandbSetup | None = Field(
        default=None, description="in place of wandb.setup; null: wandb.setup"
    )


class TensorboardLogger(Section):
    """There (`llm_config.loggers.tensorboard={}`), it writes RUN/tensorboard."""

    flush_interval: int = Field(
        default=10, ge=1, description="records (rounds, intervals) between two writes to the disk"
    )


class Loggers(Section):
    wandb: WandbLogger | None = None
    tensorboard: TensorboardLogger | None = None
