"""Any causal language model that `transformers` can build, behind the interface of `Decoder`."""

from __future__ import annotations

import inspect
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.errors import ConfigError, require_package
from photon.model.loss import TokenLoss, logits_loss
from photon.model.positions import require_positions

DROPOUT = ("dropout", "pdrop", "layerdrop", "drop_path", "droppath", "drop_connect")
"""In the names of entries that say how much is left out in training, be it whole layers."""


class HuggingFaceLM(nn.Module):
    """A model of `transformers`; parameter names are those of its own checkpoints.

    Args:
        llm: resolved by `read_config`, so that the whole architecture is in it.
        seed: of the new weights; None: they are not drawn, since others will take their place.

    Raises:
        ConfigError: transformers is missing, or the model cannot be trained here.
    """

    takes_layout = False

    def __init__(self, inner: Inner, seed: int | None) -> None:
        super().__init__()
        transformers = _transformers()
        with torch.random.fork_rng(devices=[]), _Undrawn() if seed is None else nullcontext():
            torch.manual_seed(seed or 0)
            config = hf_config(inner.model)
            make = transformers.AutoModelForCausalLM.from_config
            self.model = make(config, trust_remote_code=False).float()
        self.max_seq_len, self.vocab_size = inner.positions, inner.model.vocab_size
        self.z_loss = inner.z_loss
        self._refuse_learned_buffers()
        if inner.sharding and inner.sharding.activation_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def _refuse_learned_buffers(self) -> None:
        named = self.model.named_parameters(remove_duplicate=False)
        persistent = set(self.model.state_dict()) - {name for name, _ in named}
        if persistent:
            raise ConfigError(
                f"llm_config.model: {type(self.model).__name__} keeps state in buffers "
                f"({sorted(persistent)[0]}), which are never sent; choose another model"
            )

    @property
    def blocks(self) -> list[nn.Module]:
        """The repeated layers: the longest list of modules."""
        lists = [m for m in self.model.modules() if isinstance(m, nn.ModuleList)]
        return list(max(lists, key=len)) if lists else []

    @property
    def output_layer(self) -> nn.Module | None:
        """What makes logits, its matrix tied to the embedding or not; None: nobody knows."""
        return self.model.get_output_embeddings()

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, cache: Any = None
    ) -> Tensor | TokenLoss:
        """As `Decoder.forward`; the logits are made in one piece, since each model makes its own.

        Raises:
            DataError: more tokens than the model has positions.
        """
        end = tokens.shape[1] + (cache.length if cache is not None else 0)
        require_positions(end, self.max_seq_len)
        if targets is not None:
            return self.loss_of(tokens, targets)
        past = {} if cache is None else {cache.argument: cache.states}
        return self.model(input_ids=tokens, use_cache=cache is not None, **past).logits

    def loss_of(self, tokens: Tensor, targets: Tensor) -> TokenLoss:
        logits = self.model(input_ids=tokens, use_cache=False).logits
        return logits_loss(logits.flatten(0, 1), targets.flatten(), self.z_loss)

    def features(self, tokens: Tensor) -> Tensor:
        """As `Decoder.features`, but already the logits, which each model makes its own way."""
        logits = self(tokens)
        assert isinstance(logits, Tensor)
        return logits

    def project(self, features: Tensor) -> Tensor:
        return features

    def new_cache(self) -> HuggingFaceCache | None:
        """An empty cache; None for a model that keeps another kind of state."""
        known = inspect.signature(self.model.forward).parameters
        argument = next((name for name in HuggingFaceCache.ARGUMENTS if name in known), None)
        return HuggingFaceCache(self.model.config, argument) if argument else None

    def compile_blocks(self) -> None:
        for block in self.blocks:
            block.compile()

    def compile_whole(self) -> None:
        """As `Decoder.compile_whole`, in as few graphs as the model's code allows."""
        self.loss_of = torch.compile(self.loss_of)


class _Undrawn(TorchFunctionMode):
    """Leaves new weights as their memory is: to draw them takes most of the time to make a model.

    The functions go by their names, since `transformers` puts its own in place of PyTorch's.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class HuggingFaceCache:
    """`transformers`' own cache.

    Args:
        config: of the model.
        argument: what the model's forward calls it.
    """

    ARGUMENTS = ("cache", "past_key_values")
    """Its names in newer and in older versions of `transformers`."""

    def __init__(self, config: Any, argument: str) -> None:
        self.argument = argument
        self.states = _transformers().DynamicCache(config=config)

    @property
    def length(self) -> int:
        return self.states.get_seq_length()


def read_config(model: ModelConfig) -> ModelConfig:
    """Put the architecture of the named folder into the configuration.

    After this the run needs the folder no more. Dropout is switched off: its masks would be drawn
    from a global generator, and pre-training does without.

    Raises:
        ConfigError: the folder is missing or holds no causal language model, an override is no
            entry of its config, or more positions are asked for than it has.
    """
    if model.hf_config:
        return model
    config = _read(model)
    positions = _first(config, "max_position_embeddings", "n_positions", "max_seq_len")
    if model.max_positions and positions and model.max_positions > positions:
        raise ConfigError(
            f"llm_config.model.max_seq_len={model.max_positions}: the model of "
            f"{model.hf_folder} has {positions} positions"
        )
    sizes = {
        "d_model": _first(config, "hidden_size", "n_embd"),
        "n_layers": _first(config, "num_hidden_layers"),
        "n_heads": _first(config, "num_attention_heads"),
        "vocab_size": _first(config, "vocab_size"),
        "max_positions": model.max_positions or positions,
        "tied": bool(getattr(config, "tie_word_embeddings", False)),
        "hf_config": _entries(config),
    }
    return model.model_copy(update={k: v for k, v in sizes.items() if v is not None})


def hf_config(model: ModelConfig) -> Any:
    """The configuration object of `transformers` that `read_config` has recorded."""
    entries = dict(model.hf_config)
    return _transformers().AutoConfig.for_model(entries.pop("model_type"), **entries)


def _read(model: ModelConfig) -> Any:
    name = model.hf_folder
    assert name is not None  # validated
    read: Any = _transformers().AutoConfig.from_pretrained
    how = {"return_unused_kwargs": True, "trust_remote_code": False}
    try:
        config, unknown = read(name, **{**model.hf_overrides, **how})
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        where = "" if Path(name).exists() else "; there is no such folder"
        raise ConfigError(
            f"llm_config.model.pretrained_model_name_or_path={name}: cannot read a config.json "
            f"there ({reason}){where}"
        ) from error
    if unknown:
        raise ConfigError(
            f"llm_config.model.config_overrides.{sorted(unknown)[0]}: is no entry of the "
            f"{config.model_type} config of {name}"
        )
    return config


def _entries(config: Any) -> dict[str, Any]:
    """All of the config as JSON values, without dropout, and without what leads elsewhere: where it
    was read from, code beside it that is never run.
    """
    entries = json.loads(config.to_json_string(use_diff=False))
    kept = {k: v for k, v in entries.items() if not k.startswith("_") and k != "auto_map"}
    return _without_dropout(kept)


def _without_dropout(entries: dict[str, Any]) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for key, value in entries.items():
        if isinstance(value, dict):
            value = _without_dropout(value)
        clean[key] = 0.0 if value and _is_dropout_rate(key, value) else value
    return clean


def _is_dropout_rate(key: str, value: Any) -> bool:
    """Whether an entry says how much is left out; a truth value only says whether it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and any(name in key for name in DROPOUT)


def _first(config: Any, *names: str) -> int | None:
    return next((value for n in names if (value := getattr(config, n, None)) is not None), None)


def _transformers():
    needed_by = "llm_config.model.name=hf_causal_lm needs the transformers package"
    require_package("transformers", "hf", needed_by)
    import transformers

    return transformers
