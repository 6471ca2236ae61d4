"""Memory that a round takes: in each of its stages the sum of named parts, and the most of these.

A part lies on the device that trains, or in the memory of the machine beside it; on a CPU these are
one. Two things are left out: files that are mapped, since the kernel can take their memory back,
and what CUDA itself takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.codec import encode, layout
from photon.core.tree import num_bytes, num_elements
from photon.model.activations import scored_rows, scoring_bytes, training_pass
from photon.training.going_on import trees_kept
from photon.training.outline import codecs_of, kept_codecs, outline_of, periods_of

Place = Literal["device", "host", "cpu"]
ByteCounts = Mapping[str, int]

PROGRAM = 280_000_000
"""Python, PyTorch, Photon, and the scratch of matrix products (measured on two cores)."""
HOLES = 0.3
"""Memory that glibc leaves unused between what each step allocates anew, as a share of that
(measured).
"""
UPDATES_IN_FLIGHT = 2
"""Updates that a process has in memory: the next client trains while one is written."""
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
    device: ByteCounts
    host: ByteCounts
    holes: int = 0

    def parts(self, place: Place) -> dict[str, int]:
        places = {"device": self.device, "host": self.host}
        whole = {**self.host, **self.device, "holes": self.holes}
        return {part: size for part, size in places.get(place, whole).items() if size}

    def total(self, place: Place) -> int:
        return sum(self.parts(place).values())


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process takes, in the stages of a round."""

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


class _Sizes:
    """Bytes of the trees of one configuration: in fp32, and as they travel.

    Attributes:
        averaged: moments that are.
        sent_update, sent_moments: encoded; none where moments are not averaged.
        lost_update: what the codec has lost of an update.
    """

    def __init__(self, inner: Inner, federation: Federation) -> None:
        self.inner, self.federation = inner, federation
        self.outline = outline = outline_of(inner, federation)
        self.whole = num_bytes(outline.params)
        self.trained = self.whole - num_bytes(outline.params_of(outline.layers.frozen))
        self.shared = num_bytes(outline.params_of(outline.layers.shared))
        self.personal = num_bytes(outline.params_of(outline.layers.personal))
        self.moments = sum(map(num_bytes, outline.moments.values()))
        averaged = {n: outline.moments[n] for n in periods_of(federation, outline.moments)}
        self.averaged = sum(map(num_bytes, averaged.values()))
        self.codecs, codecs = codecs_of(federation), kept_codecs(federation)
        sent, lost = encode(outline.params_of(outline.layers.shared), codecs.gradient)
        self.sent_update = num_bytes(sent)
        self.lost_update = num_bytes(lost) if federation.feeds_back else 0
        self.sent_moments = sum(
            num_bytes(layout(tree, codecs.of_moment(name))) for name, tree in averaged.items()
        )


def client_memory(inner: Inner, federation: Federation, rows: int) -> Memory:
    """Of a process that trains clients, one at a time.

    Args:
        inner: its architecture is read (`architecture_of`).
        rows: of one forward pass; 0: of none.

    Raises:
        ConfigError: as `outline_of`.
    """
    sizes = _Sizes(inner, federation)
    host = {"program": PROGRAM, "updates": UPDATES_IN_FLIGHT * _leaving_bytes(sizes)}
    if not sizes.codecs.moments.cast and sizes.averaged:
        host["received moments"] = sizes.averaged
    if sizes.personal:
        host["own layers"] = sizes.personal
    stages = [*_steps(sizes, host, rows), Stage("update", _trainer(sizes), host)]
    if federation.validates_clients:
        stages.append(_validation(sizes, _trainer(sizes), host))
    return Memory(tuple(stages))


def centralized_memory(inner: Inner, federation: Federation, rows: int) -> Memory:
    """Of a process of a centralised run; the arguments are those of `client_memory`."""
    sizes = _Sizes(inner, federation)
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
    sizes = _Sizes(inner, federation)
    host = {"program": PROGRAM, "state": sizes.whole * (1 + outer) + sizes.sent_moments}
    if sizes.codecs.parameters:
        host["held by clients"] = sizes.shared
    following = {}
    if sizes.codecs.moments.cast is None:
        following["next moments"] = sizes.sent_moments
    if federation.has_own_strategy:  # it may want whole trees
        following |= {"mean": sizes.shared, "next state": sizes.shared * (1 + outer)}
    return Memory((Stage("aggregation", {}, {**host, **following}), _validation(sizes, {}, host)))


def client_disk(inner: Inner, federation: Federation, kept: int) -> int:
    """Most bytes of a client's folder: the answers of so many rounds and of the one that is being
    written; and what an open round would resume from, the last and the one that replaces it.
    """
    sizes = _Sizes(inner, federation)
    answer, open_round = _leaving_bytes(sizes), sizes.whole + sizes.moments
    return (kept + 1) * answer + 2 * open_round


def in_one_process(client: Memory, server: Memory) -> Memory:
    """Of a process that trains clients and serves, one after the other."""
    trainer = next(stage for stage in client.stages if stage.name == "update")
    state = {"state": server.stages[0].host["state"]}
    stages = [replace(stage, host={**stage.host, **state}) for stage in client.stages]
    for stage in server.stages:
        host = {**trainer.host, **stage.host}
        stages.append(replace(stage, device={**trainer.device, **stage.device}, host=host))
    return Memory(tuple(stages))


def _trainer(sizes: _Sizes) -> dict[str, int]:
    return {"weights": sizes.whole, "gradients": sizes.trained, "moments": sizes.moments}


def _steps(sizes: _Sizes, host: ByteCounts, rows: int) -> list[Stage]:
    """The passes of a step, then the optimizer's; a gradient is whole after the first pass."""
    inner, outline = sizes.inner, sizes.outline
    hidden = {
        n: p for n, p in outline.params.items() if p.dim() >= 2 and n not in outline.embeddings
    }
    one = training_pass(inner, rows, _blocks_that_keep(sizes), num_elements(hidden))
    before = sizes.trained if 0 < rows < inner.batch_rows else 0
    # The gradient of the embedding's table, which comes last.
    table = 4 * inner.model.vocab_size * inner.model.d_model if rows else 0
    return [
        _step(sizes, host, "forward", gradients=before + one.output_gradient,
              activations=one.kept, logits=one.loss),
        _step(sizes, host, "backward", gradients=sizes.trained,
              activations=max(one.last, table)),
        _step(sizes, host, "step", gradients=sizes.trained, step=_step_bytes(sizes)),
    ]  # fmt: skip


def _step(sizes: _Sizes, host: ByteCounts, name: str, **new: int) -> Stage:
    """A stage that allocates some parts anew, in every step."""
    return Stage(name, {**_trainer(sizes), **new}, host, int(HOLES * sum(new.values())))


def _validation(sizes: _Sizes, device: ByteCounts, host: ByteCounts) -> Stage:
    inner = sizes.inner
    logits = scoring_bytes(inner, scored_rows(inner))
    return Stage("validation", {**device, "logits": logits}, host)


def _blocks_that_keep(sizes: _Sizes) -> int:
    """Blocks from the first that holds, or follows, a trained parameter."""
    layers, count = sizes.outline.layers, sizes.inner.model.n_layers
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
    frozen, name = set(sizes.outline.layers.frozen), sizes.inner.optimizer.name
    trained = {n: p for n, p in sizes.outline.params.items() if n not in frozen}
    matrices = {n: p for n, p in trained.items() if p.dim() >= 2}
    if name == "adopt":
        return 2 * num_bytes(matrices)
    hidden = [4 * p.numel() for n, p in matrices.items() if n not in sizes.outline.embeddings]
    if name == "muon":
        return 4 * max(hidden, default=0)
    return max((4 * p.numel() for p in trained.values()), default=0) if name == "sgd" else 0


def _leaving_bytes(sizes: _Sizes) -> int:
    """What a client sends and keeps of a round: it is on the host until it is written."""
    fl = sizes.federation
    seldom = {fl.first_moment_period, fl.second_moment_period} != {1}
    kept = fl.keeps_optimizer and (seldom or not fl.averages_moments or fl.goes_on)
    sent = sizes.sent_update + sizes.lost_update + sizes.sent_moments
    ahead = sizes.shared * trees_kept(fl)
    return sent + sizes.personal + ahead + (sizes.moments if kept else 0)
