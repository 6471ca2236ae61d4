"""What Weights & Biases is told of a run: by the configuration, else by its own variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from photon.config.tracking import WandbSetup
from photon.errors import ConfigError

VARIABLES = {
    "mode": "WANDB_MODE",
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "tags": "WANDB_TAGS",
    "name": "WANDB_NAME",
    "id": "WANDB_RUN_ID",
    "resume": "WANDB_RESUME",
}
"""Each stands in for a key that has its default. W&B's process reads all others by itself."""
_OLD_MODES = {"dryrun": "offline", "run": "online"}


def effective_setup(setup: WandbSetup | None, environment: Mapping[str, str]) -> WandbSetup | None:
    """What W&B is told; None for a run that it does not see.

    Raises:
        ConfigError: a variable holds what W&B would not take.
    """
    if setup is None:
        return None
    fields = WandbSetup.model_fields
    for key, variable in VARIABLES.items():
        value = _value(key, environment)
        if value and getattr(setup, key) == fields[key].default:
            setup = _replaced(setup, key, value, variable)
    return None if setup.mode == "disabled" else setup.but(mode=setup.mode or "online")


def _value(key: str, environment: Mapping[str, str]) -> Any:
    value = environment.get(VARIABLES[key])
    if key == "mode":
        is_off = environment.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on")
        return "disabled" if is_off else value and _OLD_MODES.get(value, value)
    if key == "tags" and value:
        return [tag.strip() for tag in value.split(",") if tag.strip()]
    return value


def _replaced(setup: WandbSetup, key: str, value: Any, variable: str) -> WandbSetup:
    try:
        return WandbSetup.model_validate({**setup.model_dump(), key: value})
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(
            f"{variable}={value}: {reason}; unset it, or set wandb.setup.{key}"
        ) from error


def init_arguments(setup: WandbSetup, run: str, suffix: str) -> dict[str, Any]:
    """Arguments of `wandb.init`, with the run's name where the setup has none.

    Args:
        suffix: of the name, `server` or `centralised`; the id has none.
    """
    given = setup.model_dump()
    given["id"] = setup.id or run
    given["name"] = f"{setup.name or run}_{suffix}"
    if setup.tags is None:
        given["tags"] = [f"run_uuid_{run}"[:64]]  # longer ones are refused
    return given
