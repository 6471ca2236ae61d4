"""Where a client begins, by numbers that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch

from photon.config.federation import Federation
from photon.config.llm import OptimizerConfig
from photon.core.messages import ClientState, Instruction, StreamState
from photon.server.rules import rules_of
from photon.training.fragments import Fragments, fragments_of
from photon.training.going_on import (
    again,
    arrival,
    beginning,
    going_on_from,
    moments_arriving,
    own_part,
)


def instruction(number: int = 2, ahead: int = 0) -> Instruction:
    return Instruction(
        run="r", round=number, client=0, first_step=0, local_steps=4, base_digest="",
        last_accepted=number - 1, ahead=ahead,
    )  # fmt: skip


def after(number: int, **ahead: float) -> ClientState:
    own = {name: torch.tensor([float(value)]) for name, value in ahead.items()}
    return ClientState(round=number, stream=StreamState(), ahead=own)


BASE = {"a": torch.tensor([10.0]), "b": torch.tensor([20.0]), "frozen": torch.tensor([5.0])}


def values(tree) -> dict[str, float]:
    return {name: float(value) for name, value in tree.items()}


def test_without_steps_ahead_a_client_begins_with_the_base():
    begun = beginning(instruction(), BASE, after(1, a=1, b=2), {"a", "b"})
    assert begun.params == BASE, "the very tensors"
    assert begun.giving_way == {}


def test_what_was_not_merged_goes_on_and_what_was_is_mixed():
    begun = beginning(instruction(), BASE, after(1, a=1, b=2), {"a"}, alpha=0.25)
    assert values(begun.params) == {"a": 0.25 * 1 + 0.75 * 10, "b": 2, "frozen": 5}


def test_the_base_takes_the_place_of_what_training_began_with():
    """Two steps of -0.5 from one's own 1, then the base of 10: 10 - 2 x 0.5; half of the way with
    alpha of a half.
    """
    begun = beginning(instruction(ahead=2), BASE, after(1, a=1, b=2), {"a"})
    assert values(begun.params) == {"a": 1, "b": 2, "frozen": 5}
    moved = 1 - 2 * 0.5
    assert moved + values(arrival(begun, BASE))["a"] == 10 - 2 * 0.5
    assert moved + values(arrival(begun, BASE, alpha=0.5))["a"] == 0.5 * (10 - 1.0) + 0.5 * moved


@pytest.mark.parametrize("before", [after(1, a=1, b=2), ClientState(round=0, stream=StreamState())])
def test_who_was_away_or_is_new_begins_with_the_base(before):
    begun = beginning(instruction(number=3, ahead=2), BASE, before, {"a", "b"}, alpha=0.5)
    assert values(begun.params) == values(BASE)
    assert begun.giving_way == {}


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [("delayed", [0.5, 0.75, 0.875]), ("eager", [0.5, 0.875, 0.875 + (1.375 - 1.0625) / 2])],
)
def test_a_staleness_of_one_by_hand(overlap, expected):
    """Two clients whose losses are (x - a)^2 / 2 take one step of 0.5 a round; the server averages.

    Round 1 from 0: ends 2 and -1, mean 0.5. Delayed ones begin round 2 at their ends, step to 3 and
    -1.5, so by 1 and -0.5 from 0.5: mean 0.75. They then go on from 1.5 and 0, step by 1.25 and -1
    from 0.75: 0.875. Eager ones begin round 2 at half of their ends: 1 and -0.5, step to 2.5 and
    -1.25, so by 1.5 and -0.75 from 0.5: mean 0.875. They then know 0.5 and have half of their 1.5
    and -0.75: 1.25 and 0.125, step by 1.375 and -1.0625 from 0.875.
    """
    federation = Federation(n_total_clients=2, strategy_name="FEDAVG", overlap=overlap)  # pyright: ignore
    part = own_part(federation)
    optima, base = (4.0, -2.0), 0.0
    states = [ClientState(round=0, stream=StreamState())] * 2
    served = []
    for number in (1, 2, 3):
        told, ends = {"a": torch.tensor([base])}, []
        for client, optimum in enumerate(optima):
            task = instruction(number, ahead=1 if number > 1 else 0)
            begun = beginning(task, told, states[client], {"a"})
            x = begun.params["a"] - 0.5 * (begun.params["a"] - optimum)
            x = x + arrival(begun, told).get("a", 0.0)
            ends.append(x)
            states[client] = after(number, a=float(going_on_from(told["a"], x, part)))
        base = float(sum(ends) / 2)
        served.append(base)
    assert served == expected


def test_momentum_takes_clients_to_where_the_server_will_be():
    """A pseudo-gradient that is always 1, a rate of 0.7 and a momentum of 0.9. The server's step of
    round n is 7 (1 - 0.9^n); from 1 and 6/7 of the step before that is 0.3 x 0.9^(n - 1) away.
    """
    federation = Federation(
        n_total_clients=2,
        overlap="delayed",
        strategy_name="FEDMOM",
        strategy_kwargs={"server_learning_rate": 0.7, "server_momentum": 0.9},
    )  # pyright: ignore
    share = again(federation)
    assert share == pytest.approx(6 / 7)
    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    outer = torch.optim.SGD([x], lr=0.7, momentum=0.9)
    last, away = None, []
    for _ in range(60):
        told = x.detach().clone()
        start = going_on_from(told, told - 1.0, 1.0, last, share)
        x.grad = torch.ones_like(x)
        outer.step()
        away.append(float(abs(x.detach() - start)))
        last = told
    assert away == pytest.approx([0.3 * 0.9**n for n in range(60)])


@pytest.mark.parametrize(
    ("keys", "share"),
    [
        ({"strategy_name": "FEDAVG"}, 0.0),
        ({"strategy_name": "FEDAVG", "strategy_kwargs": {"server_learning_rate": 0.5}}, 0.0),
        ({"strategy_name": "FEDADAM"}, 0.0),
        ({"overlap": "eager"}, 0.0),
        ({"overlap": "none"}, 0.0),
        ({"overlap_steps": 0}, 0.0),
        ({"fragment_alpha": 0.25}, 0.0),
        ({"strategy_name": "FEDAVGM", "strategy_kwargs": {"server_momentum": 0.5}}, 2 / 7),
        ({"strategy_name": "FEDAVG", "scaling_fn": "linear"}, 0.5),
        ({"strategy_kwargs": {"server_learning_rate": 0.5, "server_momentum": 0.9}}, 0.8),
    ],
    ids=str,
)
def test_what_is_more_than_a_mean_in_the_servers_steps_is_supposed_again(keys, share):
    """Of two clients a linear scaling makes twice the mean."""
    given = {"overlap": "delayed", "strategy_name": "NESTEROV", **keys}
    assert again(Federation(n_total_clients=2, **given)) == pytest.approx(share)


def test_the_share_follows_the_outer_rate_of_a_round():
    """It rises over ten rounds: with half of the rate there is nothing more than a mean."""
    given = {"server_learning_rate": 1.0, "server_momentum": 0.5}
    federation = Federation(
        n_total_clients=2,
        n_rounds=20,
        overlap="delayed",
        strategy_name="NESTEROV",
        strategy_kwargs=given,
        outer_schedule={"t_warmup": 10},
    )  # pyright: ignore
    shares = [again(federation, number) for number in (5, 8, 10, 11)]
    assert shares == pytest.approx([0.0, 1 - 0.5 / 0.8, 0.5, 0.5])
    assert rules_of(federation, False).again(8) == shares[1]


@pytest.mark.parametrize(("scaling", "part"), [("none", 0.25), ("sqrt", 0.5), ("linear", 1.0)])
def test_the_part_of_the_eager_is_what_the_server_takes_at_once(scaling, part):
    """Four clients, outer rate 1 without momentum: a quarter, twice that, or all."""
    given = {"strategy_name": "FEDAVG", "overlap": "eager", "scaling_fn": scaling}
    assert own_part(Federation(n_total_clients=4, **given)) == part


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_fragments_cover_each_parameter_once_and_are_even(count):
    sizes = {"embedding": 100, **{f"blocks.{i}.{k}": s for i in range(6) for k, s in
             (("norm", 4), ("qkv", 48), ("out", 16), ("up", 64), ("down", 64))}}  # fmt: skip
    groups = fragments_of(sizes, count)
    assert sorted(name for group in groups for name in group) == sorted(sizes)
    filled = [sum(sizes[name] for name in group) for group in groups]
    assert max(filled) - min(filled) <= 64, "not more than one parameter apart"
    order = list(sizes)
    assert all(list(group) == sorted(group, key=order.index) for group in groups)


def test_equal_layers_are_dealt_out_in_turn():
    groups = fragments_of({f"blocks.{i}": 8 for i in range(6)}, 3)
    assert groups == (("blocks.0", "blocks.3"), ("blocks.1", "blocks.4"), ("blocks.2", "blocks.5"))


def test_rounds_take_turns_and_whoever_was_away_gets_all_that_were_merged():
    fragments = Fragments((("a",), ("b",), ("c",)))
    assert [fragments.of_round(n) for n in (1, 2, 3, 4)] == [("a",), ("b",), ("c",), ("a",)]
    assert fragments.since(2, 3) == {"b"}
    assert fragments.since(2, 4) == {"b", "c"}
    assert fragments.since(1, 9) == {"a", "b", "c"}


STATES = {
    "exp_avg": lambda p: torch.optim.AdamW([p], lr=0.0, betas=(0.8, 0.9)),
    "exp_avg_sq": lambda p: torch.optim.AdamW([p], lr=0.0, betas=(0.8, 0.9)),
    "momentum_buffer": lambda p: torch.optim.SGD([p], lr=0.0, momentum=0.7),
}


@pytest.mark.parametrize("moment", STATES)
def test_moments_that_arrive_are_as_if_training_had_begun_with_them(moment):
    """Three steps of torch's own optimizers with the same gradients, from one start and another."""
    gradients = [torch.randn(5) for _ in range(3)]
    own, averaged = torch.rand(5), torch.rand(5)

    def after(start: torch.Tensor) -> torch.Tensor:
        parameter = torch.nn.Parameter(torch.zeros(5))
        optimizer = STATES[moment](parameter)
        for number, gradient in enumerate([torch.zeros(5), *gradients]):
            parameter.grad = gradient.clone()
            optimizer.step()
            if number == 0:  # its state is there now
                optimizer.state[parameter][moment].copy_(start)
        return optimizer.state[parameter][moment]

    config = OptimizerConfig(name="muon", betas=(0.8, 0.9), momentum=0.7)
    given = [{moment: {"a": value}} for value in (averaged, own)]
    ((*what, by),) = moments_arriving(*given, config, 3)
    assert what == [moment, "a"]
    torch.testing.assert_close(after(own) + by, after(averaged))
