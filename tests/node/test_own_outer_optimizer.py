"""An outer optimizer of one's own: named, scheduled, and with arguments by any name."""

from __future__ import annotations

import re

import pytest

import photon
from loopback import final_digest
from photon.errors import ConfigError, MismatchedCheckpoint
from photon.run.outer import outer_of


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_to_be_found:make", "No module named 'nowhere_to_be_found'"),
        ("math:nothing", "has no attribute 'nothing'"),
        ("math:sqrt", "keyword argument"),
        ("builtins:dict", "must give a photon.core.outer.OuterOptimizer, gave dict"),
    ],
)
def test_an_own_outer_optimizer_that_is_none_is_named_before_the_run(
    smoke, tmp_path, name, message
):
    with pytest.raises(ConfigError, match=re.escape(message)):
        photon.train(smoke(f"fl.strategy_name={name}", "run_uuid=own"))
    assert not (tmp_path / "runs" / "own").exists()


def test_an_own_outer_optimizer_is_scheduled_and_gives_the_bits_of_ours(
    smoke, tmp_path, monkeypatch
):
    (tmp_path / "own_nesterov.py").write_text(
        "from photon.core.outer import sgd\n"
        "def make(*, lr, server_momentum):\n"
        "    return sgd(lr=lr, momentum=server_momentum, nesterov=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    keys = ["fl.strategy_kwargs.server_learning_rate=0.5", "fl.outer_schedule.name=linear",
            "fl.strategy_kwargs.server_momentum=0.6"]  # fmt: skip
    ours = photon.train(smoke("fl.strategy_name=nesterov", "run_uuid=ours", *keys))
    own = photon.train(smoke("fl.strategy_name=own_nesterov:make", "run_uuid=own", *keys))
    assert final_digest(own) == final_digest(ours)


def test_an_own_outer_optimizer_takes_arguments_by_any_name(smoke, tmp_path, monkeypatch):
    (tmp_path / "own_rho.py").write_text(
        "from photon.core.outer import sgd\n"
        "def make(*, lr, rho=0.9):\n"
        "    return sgd(lr=lr, momentum=rho, nesterov=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name, rate = "fl.strategy_name=own_rho:make", "fl.strategy_kwargs.server_learning_rate=0.5"
    own = photon.train(smoke(name, rate, "fl.strategy_kwargs.rho=0.6", "run_uuid=own"))
    same = ["fl.strategy_name=nesterov", "fl.strategy_kwargs.server_momentum=0.6"]
    ours = photon.train(smoke(*same, rate, "run_uuid=ours"))
    assert final_digest(own) == final_digest(ours)
    longer = [photon.resume(run.folder, {"fl.n_rounds": 3}) for run in (own, ours)]
    assert final_digest(longer[0]) == final_digest(longer[1])
    with pytest.raises(MismatchedCheckpoint, match=r"fl\.strategy_kwargs\.rho: may not change"):
        photon.resume(own.folder, {"fl.strategy_kwargs.rho": 0.7})
    with pytest.raises(
        ConfigError,
        match=r"kwargs\.rhoo: is no argument of .*; it takes server_learning_rate, rho$",
    ):
        photon.train(smoke(name, "+fl.strategy_kwargs.rhoo=0.6"))
    with pytest.raises(ConfigError, match=r"rho: Input should be a valid number"):
        smoke(name, "fl.strategy_kwargs.rho=much")
    with pytest.raises(ConfigError, match=r"kwargs\.rho is no argument of NESTEROV; it takes"):
        smoke("fl.strategy_kwargs.rho=0.6")


def test_an_own_outer_optimizer_has_all_its_learning_rates_scheduled(smoke, tmp_path, monkeypatch):
    """The third of four rounds of a linear fall to zero in the fifth: 2 / 5."""
    (tmp_path / "own_rates.py").write_text(
        "from photon.core.outer import sgd\n"
        "def make(**given):\n"
        "    make.given = given\n"
        "    return sgd(lr=given['lr'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    kwargs = "fl.strategy_kwargs."
    config = smoke(
        "fl.strategy_name=own_rates:make", "fl.n_rounds=4", "fl.outer_schedule.name=linear",
        f"{kwargs}server_learning_rate=0.5", f"{kwargs}eta=0.1", f"{kwargs}tau=0.01",
    )  # fmt: skip
    outer_of(config.federation, 3)
    import own_rates  # pyright: ignore[reportMissingImports]

    assert own_rates.make.given == pytest.approx({"lr": 0.2, "eta": 0.04, "tau": 0.01})
