"""The values that travel between server and clients, and those that are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from photon.core.codec import Codecs
from photon.core.loss_scale import LossScale
from photon.core.outer import EMA, OuterState
from photon.core.parts import STAYS
from photon.core.tree import Tree
from photon.core.trust.reputation import Reputation

Moments = Mapping[str, Tree]
"""Inner-optimizer moments by name (`exp_avg`, ...), each over the parameters that have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """Position of a client in its shuffled rows: a few integers, exact at any time."""

    epoch: int = 0
    cursor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What one client does in one round.

    Attributes:
        round: the one that is open, counted from 1.
        first_step: steps of the run done before this round; the schedule counts from here.
        local_steps: optimizer steps to take.
        base_digest: digest of what the client receives and must start from.
        last_accepted: the round of this client's last accepted update, 0 if none; the client
            starts from the state that it had after that round.
        descent: of that state, see `core.held`; empty: not known, so whichever is there counts.
        evaluate: whether to score the client's own held-out part, before and after training.
        ahead: steps that the client takes from where its last round ended, before the base takes
            the place of that; 0: it begins with the base.
        part: of its pseudo-gradient, that it has in what it goes on from: see `training.going_on`.
        again: of the server's last step, that it has in it as well.
    """

    run: str
    round: int
    client: int
    first_step: int
    local_steps: int
    base_digest: str
    last_accepted: int
    descent: str = ""
    evaluate: bool = False
    ahead: int = 0
    part: float = 1.0
    again: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """What clients hold of a server's state.

    Attributes:
        params: float32.
        moments: averaged inner moments, as their codec sends them.
        averaged: the round after which each of them was averaged, or (`moment/parameter`) that of
            a parameter.
    """

    params: Tree
    moments: Moments = field(default_factory=dict)
    averaged: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What makes one broadcast of another.

    Attributes:
        before, after: digests of the two.
        params: what is to be added, encoded; parameters that it lacks stay.
        moments, averaged: those of the second that the first has not.
    """

    before: str
    after: str
    params: Tree
    moments: Moments = field(default_factory=dict)
    averaged: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an update comes from.

    Attributes:
        digest, size: of the container that it came in.
        node, key, signature: who has sent it, its public key, and its signature of what it sent;
            empty without keys.
    """

    digest: str
    size: int
    node: str = ""
    key: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A client's answer: encoded pseudo-gradient, moments if they are averaged, and counts.

    Attributes:
        gradient: global - local, as its codec sends it.
        moments: inner moments that are to be averaged, as theirs does; others stay with the client.
        num_tokens: target tokens trained on in this round; the weight in the mean.
        num_steps: optimizer steps taken.
        base_digest: digest of what training started from.
        metrics: `train_loss` and other numbers of the round.
        state_lost: whether the client had to start from a fresh state.
        covers: clients of whose updates this is the weighted mean; empty: of `client` alone.
        origin: where it comes from, as whoever has it knows; it does not travel.
    """

    run: str
    round: int
    client: int
    gradient: Tree
    moments: Moments
    num_tokens: int
    num_steps: int
    base_digest: str
    metrics: Mapping[str, float]
    state_lost: bool = False
    covers: tuple[int, ...] = ()
    origin: Origin | None = field(default=None, compare=False, repr=False, metadata=STAYS)

    @property
    def clients(self) -> tuple[int, ...]:
        """Clients whose training it carries."""
        return self.covers or (self.client,)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a client has no update; one may come all the same, from another attempt.

    Attributes:
        error: as it was met on this machine, for a run that ends with it.
    """

    client: int
    reason: str
    error: Exception | None = None


Arrival: TypeAlias = Update | Failure | None
"""What engines yield; None: nothing else has come, which is the time to see what the clock says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientState:
    """What a client keeps between rounds.

    Attributes:
        round, descent: after which this was the state, 0 before the first; see `core.held`.
        stream: position in the data.
        moments: inner moments; none of those that have travelled or are reset.
        optimizer_step: steps that the moments have seen (AdamW's bias correction).
        loss_scale: of fp16.
        layers: parameters of the client's own.
        residual: what the codec lost of the pseudo-gradient.
        ahead: parameters that the client goes on from; empty where each round begins with the base.
        told: what it was told of them, where it goes on with some of the server's last step.
    """

    round: int
    stream: StreamState
    moments: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    optimizer_step: int = 0
    loss_scale: LossScale = field(default_factory=LossScale)
    layers: Tree = field(default_factory=dict)
    residual: Mapping[str, Tensor] = field(default_factory=dict)
    ahead: Tree = field(default_factory=dict)
    told: Tree = field(default_factory=dict)
    descent: str = ""


@dataclass(frozen=True, slots=True)
class Norm:
    """An accepted pseudo-gradient's size per unit of learning rate, its steps, their mean rate."""

    size: float
    steps: int
    rate: float
    fragment: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """Everything a run needs to go on: a committed round is this value and nothing else.

    `core.round.close_round` writes over the tensors of one to make the next.

    Attributes:
        round, step: rounds closed, local steps of the run done.
        params: global parameters, float32.
        outer: the outer optimizer's moments.
        held: parameters as clients hold them, of those that come as differences; empty before
            the first round, and where parameters come whole.
        difference: what was added to it last, encoded; empty where it does not follow from what
            clients held before.
        difference_from: digest of what they held before.
        moments: averaged inner moments as sent to clients; empty unless they are averaged.
        averaged: of them, as in a `Broadcast`.
        is_seeded: whether all of it follows from the run's seed, so that nobody need be told.
        last_accepted: client -> round of its last accepted update.
        descents: client -> descent of its state after that, where it is known.
        bytes_up, bytes_down: sent so far, clients to server and back.
        num_tokens, train_seconds: target tokens of all clients, wall time of all rounds so far.
        norms: of the pseudo-gradients accepted lately, oldest first: what an outlier is judged by.
        bases: round -> digest of what its clients received, of the rounds whose late updates are
            still taken.
        speeds: client -> tokens per second, as last measured.
        noise: running averages of the gradient noise scale; empty unless it is measured.
        gathered: how much of a round has been merged since momentum moved last.
        moved: how often it has, and the average of the parameters with it, by fragment.
        redrawn: the step before which layers were drawn anew last.
        reputation: what earlier rounds say of clients, where updates are scored.
        releases: what has been made public with noise, see `privacy.accounting.Release`.
        asked: updates that one client may have sent at the most, where each has noise of its own.
    """

    round: int
    step: int
    params: Mapping[str, Tensor]
    outer: OuterState
    moments: Moments = field(default_factory=dict)
    num_tokens: int = 0
    last_accepted: Mapping[int, int] = field(default_factory=dict)
    descents: Mapping[int, str] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    train_seconds: float = 0.0
    norms: tuple[Norm, ...] = ()
    bases: Mapping[int, str] = field(default_factory=dict)
    speeds: Mapping[int, float] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, Tensor] = field(default_factory=dict)
    difference: Tree = field(default_factory=dict)
    difference_from: str = ""
    averaged: Mapping[str, int] = field(default_factory=dict)
    is_seeded: bool = False
    gathered: float = 0.0
    moved: tuple[int, ...] = ()
    redrawn: int = 0
    reputation: Reputation = field(default_factory=Reputation)
    releases: tuple[tuple[float, ...], ...] = ()
    asked: int = 0

    @property
    def model(self) -> Tree:
        """What is validated and given out: the average of the rounds where one is kept."""
        return {**self.params, **self.outer.get(EMA, {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentBound:
    """What a moment of an honest client is like.

    Attributes:
        names, norm: parameters that have it, in order; most that it has.
        before: that of what clients start from; None: there is none yet.
        is_square: whether it averages squares: never negative, and with the ratios of squares.
    """

    names: tuple[str, ...]
    norm: float = math.inf
    before: float | None = None
    is_square: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the update of an honest client keeps to; what is not said is not bounded.

    Attributes:
        tokens_per_step: targets of one optimizer step.
        late_steps: most steps that a late update was asked for.
        rate: mean learning rate of the round's steps; 0: nothing can be compared.
        norm, element: the largest norm of a pseudo-gradient, the largest number in one.
        moments: those that are sent, by name.
    """

    tokens_per_step: int | None = None
    late_steps: int | None = None
    rate: float = 1.0
    norm: float = math.inf
    element: float = math.inf
    moments: Mapping[str, MomentBound] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """An open round.

    Attributes:
        cohort: all that may be asked, in ascending order.
        spares: those among them that stand in for others, in the order in which they do.
        instructions: one for each of them.
        base_digest: of the container of what is sent.
        trained: parameters that updates carry; None: all.
        sent: parameters that clients receive; None: all.
        bases: earlier rounds whose late updates are taken, with what they started from.
        bounds: what updates must keep to.
        up, down: codecs of updates, and of what clients receive.
        run: whose it is.
        fragment: number of the group that `trained` is, where rounds take turns.
    """

    round: int
    cohort: tuple[int, ...]
    instructions: Mapping[int, Instruction]
    base_digest: str
    trained: tuple[str, ...] | None = None
    sent: tuple[str, ...] | None = None
    bases: Mapping[int, str] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)
    spares: tuple[int, ...] = ()
    up: Codecs = field(default_factory=Codecs)
    down: Codecs = field(default_factory=Codecs)
    run: str = ""
    fragment: int = 0

    @property
    def members(self) -> tuple[int, ...]:
        """The cohort without its spares: as many as are averaged."""
        return tuple(client for client in self.cohort if client not in self.spares)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What happened in a round.

    Attributes:
        accepted: clients whose updates went into the mean, in cohort order.
        refused: client -> reason.
        spare: clients whose updates have come and are sound, and were not needed.
        num_tokens, num_steps: of this round: tokens summed, steps the most of any client.
        train_loss: token-weighted mean of the clients' training losses, in nats.
        gradient_norm: norm of what the pseudo-gradients were merged into.
        mean_norm: norm of their mean, the same unless `fl.aggregation` says otherwise.
        client_norms, client_cosines: per accepted client: norm, cosine to the mean.
        client_metrics: per accepted client: what its trainer measured.
        state_lost: clients that had to start from a fresh state.
        late: client -> rounds that its update was late.
        parameter_norm, outer_norms: of the parameters afterwards, of each tree of the outer state.
        gradient_layer_norms, parameter_layer_norms: both by parameter.
        cosine_to_last_step: of the angle between the mean pseudo-gradient and the last step of
            these parameters; None if that is not known.
        consensus_distance: root mean square distance of the clients' parameters from their mean.
        share: of a synchronous round's step that was taken.
        scores: per accepted client, where updates are scored: see `core.trust.scores.Score`.
        quarantined: client -> last round that it is left out of.
        taken: the accepted updates in cohort order, without their tensors.
    """

    round: int
    accepted: tuple[int, ...] = ()
    refused: Mapping[int, str] = field(default_factory=dict)
    num_tokens: int = 0
    num_steps: int = 0
    train_loss: float = 0.0
    gradient_norm: float = 0.0
    mean_norm: float = 0.0
    client_norms: Mapping[int, float] = field(default_factory=dict)
    client_cosines: Mapping[int, float] = field(default_factory=dict)
    client_metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    state_lost: tuple[int, ...] = ()
    late: Mapping[int, int] = field(default_factory=dict)
    parameter_norm: float = 0.0
    outer_norms: Mapping[str, float] = field(default_factory=dict)
    gradient_layer_norms: Mapping[str, float] = field(default_factory=dict)
    parameter_layer_norms: Mapping[str, float] = field(default_factory=dict)
    cosine_to_last_step: float | None = None
    consensus_distance: float = 0.0
    spare: tuple[int, ...] = ()
    share: float = 1.0
    scores: Mapping[int, tuple[float | None, float]] = field(default_factory=dict)
    quarantined: Mapping[int, int] = field(default_factory=dict)
    taken: tuple[Update, ...] = ()
