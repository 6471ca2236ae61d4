"""Keys of `fl`: who takes part, what clients keep and send."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from photon.config.base import Batches
from photon.config.closing import Closing
from photon.config.compression import Compression, CompressionOrName, rounds_only
from photon.config.conflicts import check_conflicts
from photon.config.merging import Merging
from photon.config.privacy import Privacy
from photon.config.update_scoring import UpdateScoring
from photon.errors import ConfigError

LARGEST_STEP = 2**31
"""More than a round has."""
MOST_MASKED = 1 << 12
"""Clients of a cohort whose updates are masked together."""


class Federation(Merging, Closing):
    """The federation: who takes part, for how long, and what becomes of their updates."""

    population: int = Field(default=8, ge=1, description="population: clients that exist")
    cohort: int | None = Field(
        default=None, ge=1, description="cohort: clients of one round; null takes all"
    )
    sampling: Literal["uniform", "by_size"] = Field(
        default="uniform",
        description="how a cohort is drawn: all clients alike, or in proportion to their rows",
    )
    availability: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="chance that a client can take part in a round, to study partial participation",
    )
    rounds: int = Field(default=24, ge=1, description="rounds of the run")
    averages_moments: bool | None = Field(
        default=None,
        description="average the clients' inner moments too, and send them back; null: unless "
        "reset_optimizer, or an inner optimizer without moments",
    )
    resets_optimizer: bool = Field(
        default=False, description="start every round with a fresh inner optimizer"
    )
    rereads_data: bool = Field(
        default=False, description="read each client's data from its beginning in every round"
    )
    restarts_schedule: bool = Field(
        default=False, description="begin the learning-rate schedule anew in every round"
    )
    forgets_clients: bool = Field(
        default=False,
        description="clients keep nothing between rounds: neither optimizer, nor position in the "
        "data, nor layers of their own",
    )
    local_steps: int | None = Field(
        alias="n_local_steps",
        default=None,
        ge=0,
        description="another name of llm_config.local_steps; 0: not given",
    )
    local_epochs: int | None = Field(
        default=None,
        ge=1,
        description="passes of each client over its own data in a round, in place of "
        "llm_config.local_steps",
    )
    steps_by_speed: bool = Field(
        default=False,
        description="clients slower than the median (of two in the middle, the slower) take fewer "
        "steps, so that most are done at about the same time; with mode=async a quarter to twice "
        "the steps, by speed; the result then depends on the clock",
    )
    frozen_layers: list[str] | None = Field(
        default=None,
        description="parameters that stay as they are: names, modules or globs, in our words or in "
        "the original's (transformer.wte)",
    )
    unfrozen_layers: list[str] | None = Field(
        default=None, description="the only parameters that are trained; named alike"
    )
    personal_layers: list[str] = Field(
        default=[],
        description="parameters that stay with their client, neither sent nor averaged; "
        "named alike",
    )
    random_layers: list[str] = Field(
        default=[],
        description="parameters that are drawn anew every random_init_freq steps; named alike",
    )
    redraw_every: Batches = Field(
        default=0,
        ge=0,
        description="local steps after which random_layers are drawn anew; 0: never",
    )
    redraws_anew: bool = Field(
        default=True,
        description="random_layers get new numbers each time; false: those of the run's start",
    )
    vocabulary: int | None = Field(
        default=None,
        ge=2,
        description="in place of llm_config.model.vocab_size, on server and clients; a warm start "
        "keeps the embeddings of the tokens that both have",
    )
    compression: CompressionOrName = Compression()
    first_moment_period: int | None = Field(
        default=1,
        ge=1,
        description="rounds from one averaging of the inner first moments to the next, with "
        "fragments turns of each; in between, and for ever where it is null, each client goes on "
        "with its own",
    )
    second_moment_period: int | None = Field(
        default=1, ge=1, description="the same, of inner second moments"
    )
    overlap: Literal["none", "delayed", "eager"] = Field(
        default="none",
        description="what a client does while its update travels: it waits; or it trains on until "
        "the server's parameters arrive, from its own and what momentum adds (delayed), or from "
        "the last of the server's with its part of the mean in them (eager)",
    )
    overlap_steps: int | None = Field(
        default=None,
        ge=0,
        description="steps of a round after which the server's parameters take the place of those "
        "that the client began with; null: all of its steps",
    )
    fragments: int = Field(
        default=1,
        ge=1,
        description="groups of parameters, of which each round sends and merges one in turn, so "
        "that one comes up every so many rounds: divide llm_config.local_steps by as much, and "
        "multiply fl.n_rounds",
    )
    fragment_alpha: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="what a client keeps of its own where the server's parameters arrive: they "
        "become alpha x its own + (1 - alpha) x the server's",
    )
    fold_updates: bool = Field(
        default=False,
        description="a node sends one weighted mean of its clients' updates, in fp32: fewer bytes "
        "between sites, no numbers of single clients; needs fl.compression.upload=bf16",
    )
    secure_aggregation: bool = Field(
        default=False,
        description="clients mask their updates, so that the server learns the weighted mean of "
        "them and no single one (docs/concepts/secure-aggregation.md)",
    )
    secure_threshold: float = Field(
        default=2 / 3,
        gt=0.5,
        le=1,
        description="part of a cohort without which nothing of a masked round is revealed, and the "
        "round fails; so many clients, together with the server, could reveal one",
    )
    max_norm_ratio: float | None = Field(
        default=5.0,
        gt=1,
        description="an update is refused if its norm is more than so many times the median of "
        "this round's and the last 32, at one learning rate; squares of moments by its square "
        "(honest runs that do not diverge: at most 2.2, over six optimizers); null: never",
    )
    max_reach: float | None = Field(
        default=1.0,
        gt=0,
        description="an update is refused, from the first round on, if its norm is more than so "
        "many times the farthest that its steps can move the parameters, which follows from "
        "learning rate, inner optimizer and clipping; null: never",
    )
    judging: UpdateScoring = UpdateScoring()
    privacy: Privacy = Privacy()
    validation_period: int | None = Field(
        default=4,
        ge=1,
        description="validate every so many rounds; null validates after the last only",
    )

    validates_clients: bool = Field(
        default=False,
        description="validate on each client's own held-out part too, with its own layers",
    )
    measures_noise: bool = Field(
        default=False, description="measure the gradient noise scale from clients and their mean"
    )
    noise_scale_beta: float = Field(
        default=0.99, ge=0, lt=1, description="decay of its averages over rounds"
    )
    unigram_metrics: bool = Field(
        default=False,
        description="validation loss and perplexity beyond those of token frequencies",
    )
    unigram_may_fail: bool = Field(
        default=False,
        description="go on where token frequencies are missing, without those metrics",
    )
    layer_norms: bool = Field(
        default=False, description="norms of pseudo-gradient and parameters of each layer by name"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Federation:
        if self.cohort_size > self.population:
            raise ValueError(
                f"n_clients_per_round={self.cohort_size} is more than "
                f"n_total_clients={self.population}"
            )
        self._check_quorum()
        self.check_mode(self.cohort_size, averages_moments=self.averages_moments is not False)
        self.check_momentum(self.is_async)
        if self.frozen_layers and self.unfrozen_layers:
            raise ValueError("frozen_layers and unfrozen_layers exclude each other; give one")
        if self.random_layers and not self.redraw_every:
            raise ValueError("random_layers are never drawn anew: set random_init_freq, e.g. 500ba")
        check_conflicts(self)
        self.privacy.check(self.population, self.needed)
        self._check_secure()
        if self.fold_updates and not rounds_only(self.compression.upload):
            raise ValueError(
                "fold_updates=true needs fl.compression.upload=bf16 beside it, in place of "
                f"{self.compression.upload}: the mean of a node travels in fp32, so that what this "
                "codec loses would save nothing"
            )
        if self.local_steps and self.local_epochs:
            raise ValueError("n_local_steps and n_local_epochs exclude each other; give one")
        self._check_personal_layers()
        self._check_going_on()
        if self.averages_moments and self.resets_optimizer:
            raise ValueError(
                "reset_optimizer=true throws away the moments that aggregate_momenta=true averages;"
                " set one of them to false"
            )
        return self

    def _check_quorum(self) -> None:
        if self.quorum is not None and self.quorum > self.cohort_size:
            raise ValueError(f"quorum={self.quorum} is more than the cohort of {self.cohort_size}")
        if self.failures_accepted >= self.cohort_size:
            raise ValueError(
                f"accept_failures_cnt={self.failures_accepted} leaves nobody of a cohort of "
                f"{self.cohort_size}"
            )
        if self.quorum and self.failures_accepted and self.quorum != self._asked_for:
            raise ValueError(
                f"quorum={self.quorum} and accept_failures_cnt={self.failures_accepted} disagree "
                f"for a cohort of {self.cohort_size}; give one of them"
            )

    def _check_secure(self) -> None:
        if not self.secure_aggregation:
            return
        if self.cohort_size < 2:
            raise ValueError(
                f"secure_aggregation=true needs two clients or more in a round, not "
                f"{self.cohort_size}: the sum of one is its update"
            )
        if self.cohort_size > MOST_MASKED:
            raise ValueError(
                f"secure_aggregation=true masks at most {MOST_MASKED:,} clients together; set "
                f"n_clients_per_round to that or less, not {self.cohort_size:,}"
            )
        if (self.quorum or self.failures_accepted) and self._asked_for < self.fewest_masked:
            raise ValueError(
                f"secure_aggregation=true: a quorum of {self._asked_for} is less than the "
                f"{self.fewest_masked} of a cohort of {self.cohort_size} that secure_threshold "
                "asks for; raise the one or lower the other"
            )

    def _check_personal_layers(self) -> None:
        if not self.personal_layers:
            return
        if self.averages_moments:
            raise ValueError(
                "personalized_layers stay with the client, so aggregate_momenta=true cannot "
                "average their moments; leave one of them out"
            )
        if self.forgets_clients:
            raise ValueError(
                "reset_checkpoint=true forgets the personalized_layers after every round; leave "
                "one of them out"
            )

    def _check_going_on(self) -> None:
        if self.overlap_steps is not None and self.overlap == "none":
            raise ValueError(
                f"overlap_steps={self.overlap_steps} has no effect with overlap=none; set it to "
                "delayed or eager"
            )
        if self.goes_on and self.forgets_clients:
            raise ValueError(
                "reset_checkpoint=true forgets what overlap, fragments and fragment_alpha go on "
                "from; leave one of them out"
            )
        periods = {self.first_moment_period, self.second_moment_period}
        if self.averages_moments and periods == {None}:
            raise ValueError(
                "aggregate_momenta=true with first_moment_period=null and second_moment_period="
                "null averages no moments; set aggregate_momenta=false"
            )

    def require_every_fragment(self) -> None:
        """Refuse a new run that is too short; one that goes on may end after what is done.

        Raises:
            ConfigError: fewer rounds than fragments.
        """
        if self.fragments > self.rounds:
            raise ConfigError(
                f"fl.fragments={self.fragments} is more than fl.n_rounds={self.rounds}: some would "
                "never be sent; give fewer fragments or more rounds"
            )

    @property
    def goes_on(self) -> bool:
        """Whether clients go on from parameters of their own."""
        return self.overlap != "none" or self.fragments > 1 or self.fragment_alpha > 0

    @property
    def averages_apart(self) -> bool:
        """Whether first and second moments are averaged in rounds of their own."""
        return self.first_moment_period != self.second_moment_period

    @property
    def most_ahead(self) -> int:
        """Most steps of a round that a client takes before the server's parameters arrive."""
        if self.overlap == "none":
            return 0
        return LARGEST_STEP if self.overlap_steps is None else self.overlap_steps

    @property
    def sends_differences(self) -> bool:
        """Whether clients get differences, in place of whole parameters: of fragments they do."""
        return self.compression.sends_differences or self.fragments > 1

    @property
    def needed(self) -> int:
        """Fewest accepted updates that close a round."""
        return 1 if self.is_async else self._asked_for

    @property
    def _asked_for(self) -> int:
        failures = self.failures_accepted
        return self.cohort_size - failures if failures or not self.quorum else self.quorum

    @property
    def fewest_masked(self) -> int:
        """Fewest clients of a cohort whose masked sum is opened: always more than half."""
        part = math.ceil(self.secure_threshold * self.cohort_size - 1e-9)
        return max(2, part, self.cohort_size // 2 + 1)

    @property
    def keeps_optimizer(self) -> bool:
        """Whether inner moments outlive a round."""
        return not (self.resets_optimizer or self.forgets_clients)

    @property
    def feeds_back(self) -> bool:
        """Whether clients keep what the upload's codec loses, if it does, and send it later."""
        return self.compression.residual_decay > 0 and not self.forgets_clients

    @property
    def cohort_size(self) -> int:
        return self.cohort or self.population
