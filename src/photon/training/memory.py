"""What the stages of a round take: the sum of named parts, the most of all stages.

A part lies on the device that trains, or in the memory of the machine beside it; on a CPU these are
one. What is counted cannot be taken back by the kernel: files that are mapped are left out, and
what CUDA itself takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.codec import layout
from photon.core.tree import num_bytes, num_elements
from photon.model.activations import scoring_bytes, training_pass
from photon.training.outline import Outline, codec_of, outline_of

Place = Literal["device", "host", "cpu"]
Parts = Mapping[str, int]

PROGRAM = 280_000_000
"""Python, PyTorch, Photon, and the scratch of matrix products (measured on two cores)."""
HOLES = 0.3
"""Of what each step allocates anew: what glibc leaves unused in between (measured)."""


_SHARDED = ("weights", "gradients", "moments")


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a round and the bytes it takes, by what they are.

    Attributes:
        device: where the model is.
        host: in the memory of the machine, beside it.
        holes: between the blocks of the device's part where that is a CPU.
    """

    name: str
    device: Parts
    host: Parts
    holes: int = 0

    def parts(self, place: Place) -> dict[str, int]:
        places = {"device": self.device, "host": self.host}
        whole = {**self.host, **self.device, "holes": self.holes}
        return {part: size for part, size in places.get(place, whole).items() if size}

    def total(self, place: Place) -> int:
        return sum(self.parts(place).values())


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process."""

    stages: tuple[Stage, ...]

    def highest(self, place: Place) -> Stage:
        return max(self.stages, key=lambda stage: stage.total(place))

    def peak(self, place: Place) -> int:
        return self.highest(place).total(place)

    def split_over(self, devices: int) -> Memory:
        """Of each of the devices that share weights, gradients and moments (FSDP2)."""

        def share(stage: Stage) -> Stage:
            own = {k: v // devices if k in _SHARDED else v for k, v in stage.device.items()}
            return replace(stage, device=own)

        return Memory(tuple(map(share, self.stages)))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes in fp32 of the trees of one configuration."""

    inner: Inner
    federation: Federation
    this: Outline
    whole: int
    trained: int
    shared: int
    personal: int
    moments: int

    @classmethod
    def of(cls, inner: Inner, federation: Federation) -> _Sizes:
        this = outline_of(inner, federation)

        def size(names: Iterable[str]) -> int:
            return num_bytes({name: this.params[name] for name in names})

        layers, whole = this.layers, num_bytes(this.params)
        moments = sum(map(num_bytes, this.moments.values()))
        return cls(inner, federation, this, whole, whole - size(layers.frozen), size(layers.shared),
                   size(layers.personal), moments)  # fmt: skip

    @property
    def is_short(self) -> bool:
        """Whether what travels is shorter than fp32, so that its other form is a copy."""
        return self.federation.compression != "fp32"

    @property
    def travelling_moments(self) -> int:
        if not self.federation.averages_moments:
            return 0
        codec = codec_of(self.federation)
        return sum(num_bytes(layout(tree, codec)) for tree in self.this.moments.values())


def client_memory(inner: Inner, federation: Federation, rows: int) -> Memory:
    """Of a process that trains clients, one at a time.

    Args:
        inner: its architecture is read (`architecture_of`).
        rows: of one forward pass; 0: of none.

    Raises:
        ConfigError: as `outline_of`.
    """
    sizes = _Sizes.of(inner, federation)
    host = {"program": PROGRAM}
    if sizes.is_short and federation.averages_moments:
        host["received moments"] = sizes.moments
    if sizes.personal:
        host["own layers"] = sizes.personal
    update = {"copy": sizes.whole + sizes.moments, "update": _update_bytes(sizes)}
    stages = [*_steps(sizes, host, rows), Stage("update", _trainer(sizes), {**host, **update})]
    if federation.validates_clients:
        stages.append(_validation(sizes, _trainer(sizes), host))
    return Memory(tuple(stages))


def centralized_memory(inner: Inner, federation: Federation, rows: int) -> Memory:
    """Of a process of a centralised run; the arguments are those of `client_memory`."""
    sizes = _Sizes.of(inner, federation)
    host, trainer = {"program": PROGRAM}, _trainer(sizes)
    copy = {**host, "copy": sizes.whole + sizes.moments}
    return Memory((
        *_steps(sizes, host, rows),
        Stage("checkpoint", trainer, copy),
        _validation(sizes, trainer, host),
    ))  # fmt: skip


def server_memory(inner: Inner, federation: Federation, outer: int) -> Memory:
    """Of a process that serves and validates.

    Args:
        outer: trees that the outer optimizer keeps.
    """
    sizes = _Sizes.of(inner, federation)
    host = {"program": PROGRAM, "state": sizes.whole * (1 + outer) + sizes.travelling_moments}
    following = {
        "mean": sizes.shared,
        "next state": sizes.shared * (1 + outer) + sizes.travelling_moments,
    }
    return Memory((Stage("aggregation", {}, {**host, **following}), _validation(sizes, {}, host)))


def in_one_process(client: Memory, server: Memory) -> Memory:
    """Of a process that trains clients and serves, one after the other."""
    trainer = next(stage for stage in client.stages if stage.name == "update")
    stays = {k: v for k, v in trainer.host.items() if k not in ("copy", "update")}
    state = {"state": server.stages[0].host["state"]}
    stages = [replace(stage, host={**stage.host, **state}) for stage in client.stages]
    for stage in server.stages:
        host = {**stays, **stage.host}
        if stage.name == "validation":  # the clients' trainer still has what it began with
            host["state before"] = trainer.device["weights"]
        stages.append(replace(stage, device={**trainer.device, **stage.device}, host=host))
    return Memory(tuple(stages))


def _trainer(sizes: _Sizes) -> dict[str, int]:
    return {"weights": sizes.whole, "gradients": sizes.trained, "moments": sizes.moments}


def _steps(sizes: _Sizes, host: Parts, rows: int) -> list[Stage]:
    """The passes of a step, then the optimizer's; a gradient is whole after the first pass."""
    inner, this = sizes.inner, sizes.this
    hidden = {n: p for n, p in this.params.items() if p.dim() >= 2 and n not in this.embeddings}
    one = training_pass(inner, rows, _blocks_that_keep(sizes), num_elements(hidden))
    before = sizes.trained if 0 < rows < inner.batch_rows else 0
    table = (
        4 * inner.model.vocab_size * inner.model.d_model if rows else 0
    )  # of the embedding, last
    return [
        _step(sizes, host, "forward", gradients=before + one.output_gradient,
              activations=one.kept, logits=one.loss),
        _step(sizes, host, "backward", gradients=sizes.trained,
              activations=max(one.last, table)),
        _step(sizes, host, "step", gradients=sizes.trained, step=_step_bytes(sizes)),
    ]  # fmt: skip


def _step(sizes: _Sizes, host: Parts, name: str, **new: int) -> Stage:
    """A stage that allocates some parts anew, in every step."""
    return Stage(name, {**_trainer(sizes), **new}, host, int(HOLES * sum(new.values())))


def _validation(sizes: _Sizes, device: Parts, host: Parts) -> Stage:
    inner = sizes.inner
    logits = scoring_bytes(inner, inner.validation_rows)
    return Stage("validation", {**device, "logits": logits}, host)


def _blocks_that_keep(sizes: _Sizes) -> int:
    """Blocks from the first that holds, or follows, a trained parameter."""
    layers, count = sizes.this.layers, sizes.inner.model.n_layers
    trained = set(layers.names) - set(layers.frozen)
    return count - min((_place(name, count) for name in trained), default=count)


def _place(name: str, blocks: int) -> int:
    """The first block whose output depends on a parameter of our own decoder; 0 if not known."""
    if name.startswith(("norm.", "head.")):
        return blocks
    number = name.removeprefix("blocks.").partition(".")[0]
    return int(number) if number.isdigit() else 0


def _step_bytes(sizes: _Sizes) -> int:
    """What the optimizer takes beside moments: of all matrices (ADOPT), or of one."""
    frozen, name = set(sizes.this.layers.frozen), sizes.inner.optimizer.name
    trained = {n: p for n, p in sizes.this.params.items() if n not in frozen}
    matrices = {n: p for n, p in trained.items() if p.dim() >= 2}
    if name == "adopt":
        return 2 * num_bytes(matrices)
    hidden = [4 * p.numel() for n, p in matrices.items() if n not in sizes.this.embeddings]
    if name == "muon":
        return 4 * max(hidden, default=0)
    return max((4 * p.numel() for p in trained.values()), default=0) if name == "sgd" else 0


def _update_bytes(sizes: _Sizes) -> int:
    """The difference to what was received, and what is sent; the difference in fp32 goes first."""
    if not sizes.is_short:
        return sizes.shared
    return sizes.shared // 2 + max(sizes.shared, sizes.travelling_moments)
