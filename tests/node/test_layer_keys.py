"""Layers that are frozen, a client's own or drawn anew: against training without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_results import KEPT, PLAIN, last, records, same, state_of

import photon
from photon.config.resolve import resolve
from photon.core.messages import Broadcast, Instruction
from photon.errors import ConfigError
from photon.model.build import build_model, parameters_of
from photon.node.client_host import ClientHost
from photon.run import checkpoint
from photon.run.checkpoint import load_client_state, load_parameters
from photon.run.outer import outer_of
from photon.server.loop import initial_state
from photon.server.redrawing import redraw, redrawn
from photon.training.layers import layers_of

LAYERS = "blocks.0.*"


def kinds(lines, way: str, kind: str) -> list[int]:
    return [line["bytes_by_kind"][way][kind] for line in lines]


def test_frozen_layers_stay_and_do_not_travel(smoke):
    config = smoke("run_uuid=f", *PLAIN, KEPT, f"fl.frozen_layers=[{LAYERS}]")
    first = parameters_of(build_model(config.inner, config.seed))
    result = photon.train(config)
    params = last(result)
    frozen = [name for name in params if name.startswith("blocks.0.")]
    assert frozen
    assert all(torch.equal(params[n], first[n]) for n in frozen)
    assert not any(torch.equal(params[n], first[n]) for n in params if n not in frozen)
    trained = sum(v.numel() for n, v in params.items() if n not in frozen)
    assert kinds(records(result), "up", "gradient") == [2 * 4 * trained] * 2


def test_unfrozen_layers_are_the_rest_of_the_frozen(smoke):
    config = smoke()
    names = list(parameters_of(build_model(config.inner, 0)))
    rest = ",".join(name for name in names if not name.startswith("blocks.0."))
    frozen = photon.train(smoke("run_uuid=f", *PLAIN, f"fl.frozen_layers=[{LAYERS}]"))
    unfrozen = photon.train(smoke("run_uuid=u", *PLAIN, f"fl.unfrozen_layers=[{rest}]"))
    assert same(last(frozen), last(unfrozen))


def test_a_frozen_layer_of_a_centralised_run_stays(smoke):
    config = smoke("llm_config.max_duration=3", f"fl.frozen_layers=[{LAYERS}]")
    first = parameters_of(build_model(config.inner, config.seed))
    params = last(photon.train(config, centralized=True))
    assert all(torch.equal(params[n], first[n]) for n in params if n.startswith("blocks.0."))
    assert not torch.equal(params["norm.weight"], first["norm.weight"])


def test_layers_of_one_client_are_those_of_plain_training(smoke):
    """With one client and FedAvg, what it keeps and what it sends are together its own model, to
    the rounding of x - (x - y).
    """
    one = ["fl.n_clients_per_round=1", "fl.n_total_clients=1", *PLAIN, KEPT]
    whole = last(photon.train(smoke("run_uuid=w", *one)))
    result = photon.train(smoke("run_uuid=p", *one, f"fl.personalized_layers=[{LAYERS}]"))
    own = state_of(result, 0).layers
    assert own
    first = parameters_of(build_model(smoke().inner, smoke().seed))
    for name, value in {**last(result), **own}.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5)
        assert not torch.equal(value, first[name])


def test_personalized_layers_stay_apart_wherever_they_are_trained(smoke):
    keys = [*PLAIN, KEPT, f"fl.personalized_layers=[{LAYERS}]", "fl.split_eval=true",
            "fl.eval_period=1"]  # fmt: skip
    here = photon.train(smoke("run_uuid=h", *keys))
    there = photon.train(smoke("run_uuid=t", *keys, "photon.workers=2"))
    config = smoke()
    first = parameters_of(build_model(config.inner, config.seed))
    assert same(last(here), last(there))
    own = [state_of(here, client).layers for client in (0, 1)]
    assert all(same(own[c], state_of(there, c).layers) for c in (0, 1))
    assert not same(own[0], own[1])
    assert all(torch.equal(last(here)[name], first[name]) for name in own[0]), (
        "server has the first"
    )
    shared = sum(v.numel() for n, v in first.items() if n not in own[0])
    lines = records(here)
    assert kinds(lines, "up", "gradient") == [2 * 4 * shared] * 2
    assert kinds(lines, "down", "parameters") == [0, 2 * 4 * shared], "the first are the seed's"
    for line in lines:
        for metrics in line["client_metrics"].values():
            assert metrics["trained_val_loss"] < metrics["val_loss"], "its own part got easier"


def test_a_client_that_has_lost_its_own_layers_gets_nobody_elses(smoke, tmp_path):
    """They are not sent any more; it begins with the seeded ones."""
    keys = [*PLAIN, KEPT, f"fl.personalized_layers=[{LAYERS}]"]
    config = resolve(smoke(*keys), cores=1, accelerator=0, run_uuid="r")
    first = parameters_of(build_model(config.inner, config.seed))
    sent = {name: value for name, value in first.items() if not name.startswith("blocks.0.")}
    task = Instruction(
        run="r", round=2, client=1, first_step=0, local_steps=3, base_digest="d", last_accepted=1
    )
    node = ClientHost(config, tmp_path / "shared", torch.device("cpu"))
    node.train(replace(task, client=0, last_accepted=0), Broadcast(params=first)).result()
    after_another = node.train(task, Broadcast(params=sent)).result()
    by_itself = ClientHost(config, tmp_path / "alone", torch.device("cpu"))
    alone = by_itself.train(task, Broadcast(params=sent)).result()
    assert checkpoint.load_update(after_another).state_lost
    ours, theirs = (load_client_state(path).layers for path in (after_another, alone))
    assert same(ours, theirs), "nothing of client 0 is left"


@pytest.mark.parametrize("truly", [True, False])
def test_random_layers_are_drawn_anew_when_they_are_due(smoke, truly):
    """Every 6 steps, after two rounds of 3: the third round begins with other numbers."""
    keys = ["fl.random_layers=[norm.weight,embedding.weight]", "fl.random_init_freq=6",
            f"fl.truly_random_init={truly}", *PLAIN, "fl.n_rounds=3", "llm_config.local_steps=3",
            "llm_config.optimizer.lr=1e-12", "llm_config.optimizer.weight_decay=0",
            "llm_config.save_num_checkpoints_to_keep=9"]  # fmt: skip
    result = photon.train(smoke("run_uuid=r", *keys))
    config = smoke()
    first = parameters_of(build_model(config.inner, config.seed))
    folder = Path(result.folder) / "checkpoints"
    found = [load_parameters(folder / f"round_{n:06d}.json")["embedding.weight"] for n in range(4)]
    assert torch.allclose(found[1], first["embedding.weight"], atol=1e-9)
    again = torch.allclose(found[3], first["embedding.weight"], atol=1e-9)
    assert again is not truly
    deviation = float(first["embedding.weight"].std())
    assert float(found[3].std()) == pytest.approx(deviation, rel=0.02)
    other = load_parameters(folder / "round_000003.json")["blocks.0.attention.out.weight"]
    assert torch.allclose(other, first["blocks.0.attention.out.weight"], atol=1e-9)


def test_what_is_remembered_of_a_redrawn_layer_begins_anew(smoke):
    """FedAdam's second moment starts at tau squared, not at zero; clients hold the new values."""
    config = smoke("fl.strategy_name=fedadam", "fl.strategy_kwargs.tau=0.5",
                   "fl.random_layers=[norm.weight]", "fl.random_init_freq=3")  # fmt: skip
    params = parameters_of(build_model(config.inner, 1))
    outer = outer_of(config.federation, 1)
    state = initial_state(params, outer)
    used = {key: {n: v + 7 for n, v in tree.items()} for key, tree in state.outer.items()}
    layers = layers_of(config.federation, list(params))
    fresh = parameters_of(build_model(config.inner, 2))
    told = {name: value + 1 for name, value in params.items()}
    state = replace(state, outer=used, held=told, difference=told, difference_from="d")
    found = redraw(state, layers, fresh, outer)
    assert torch.equal(found.params["norm.weight"], fresh["norm.weight"])
    assert same(found.held, {**told, "norm.weight": fresh["norm.weight"]}), "clients get it whole"
    assert (found.difference, found.difference_from) == ({}, "")
    assert float(found.outer["second"]["norm.weight"].unique()) == pytest.approx(0.25)
    assert float(found.outer["momentum"]["norm.weight"].unique()) == 0.0
    kept = found.outer["second"]["embedding.weight"]
    assert torch.equal(kept, used["second"]["embedding.weight"])


def test_layers_are_drawn_once_however_few_steps_a_round_has(smoke):
    """What was drawn is trained, not drawn again in the round after, nor after a skipped one."""
    run = resolve(smoke("fl.random_layers=[norm.weight]", "fl.random_init_freq=1000"), cores=1,
                  accelerator=0, run_uuid="r")  # fmt: skip
    params = parameters_of(build_model(run.inner, 1))
    layers, drawn = layers_of(run.federation, list(params)), []
    state = initial_state(params, outer_of(run.federation, 1))
    for number, step in enumerate([960, 1000, 1040, 1080, 1080, 2020, 2060], start=1):
        before = replace(state, round=number, step=step)
        state = redrawn(run, before, layers)
        if state is not before:
            drawn.append(step)
    assert drawn == [1000, 2020]


def test_a_run_stopped_at_a_redraw_goes_on_with_the_same_numbers(smoke, tmp_path):
    keys = ["fl.random_layers=[embedding.weight]", "fl.random_init_freq=3", *PLAIN]
    whole = photon.train(smoke("run_uuid=w", *keys, "fl.n_rounds=3"))
    half = photon.train(smoke("run_uuid=h", *keys, "fl.n_rounds=3"))
    checkpoint_folder = Path(half.folder) / "checkpoints"
    (checkpoint_folder / "round_000003.json").unlink()
    assert same(last(photon.resume(half.folder)), last(whole))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["fl.frozen_layers=[nothing.like.it]"], "'nothing.like.it' matches no parameter"),
        (["fl.unfrozen_layers=[blocks.9*]"], "fl.unfrozen_layers: 'blocks.9*' matches no"),
        (["fl.frozen_layers=['*']"], "leave nothing to average"),
        (["fl.unfrozen_layers=[]"], "leave nothing to average"),
        (["fl.frozen_layers=[a]", "fl.unfrozen_layers=[b]"], "exclude each other"),
        (["fl.random_layers=[norm.weight]"], "set random_init_freq"),
        (["fl.personalized_layers=[norm.weight]", "fl.aggregate_momenta=true"], "cannot average"),
        (["fl.personalized_layers=[norm.weight]", "fl.reset_checkpoint=true"], "forgets the"),
        (["fl.personalized_layers=[norm.weight]", "fl.frozen_layers=[norm.*]"], "is frozen too"),
        (["fl.personalized_layers=[norm.weight]", "fl.random_layers=[norm.*]",
          "fl.random_init_freq=3"], "is random too"),
    ],
)  # fmt: skip
def test_layer_keys_that_cannot_be_had(smoke, tmp_path, keys, message):
    with pytest.raises(ConfigError) as caught:
        photon.train(smoke("run_uuid=r", *keys))
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists(), "nothing was begun"
