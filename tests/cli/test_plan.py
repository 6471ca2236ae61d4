"""`photon plan`: what is asked comes out, with its units."""

from __future__ import annotations

import json

import pytest

from photon.cli.main import run
from photon.report.console import duration

MODEL = ["llm_config=mpt-125m", "fl.aggregate_momenta=false", "fl.n_total_clients=8",
         "fl.n_rounds=10", "llm_config.local_steps=100"]  # fmt: skip
BF16 = "fl.compression=bf16"
"""Two bytes a number up, and four down: to be counted by hand."""


def plan(capsys, *arguments: str) -> dict:
    assert run(["plan", *MODEL, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_training_refuses_is_not_planned(capsys):
    """Where averaging moments is left open, as it is by default."""
    keys = ["recipe=smoke", "fl.staleness_exponent=1", "fl.second_moment_period=2"]
    assert run(["plan", *keys]) == 2
    assert "second_moment_period=2" in capsys.readouterr().err


def test_rounds_that_send_not_every_fragment_are_not_planned(capsys):
    assert run(["plan", "recipe=smoke", "fl.fragments=3", "fl.n_rounds=2"]) == 2
    assert "fl.fragments=3 is more than fl.n_rounds=2" in capsys.readouterr().err


def test_by_hand(capsys):
    links = ["--bandwidth", "1Gbit", "--latency", "0", "--floor", "5"]
    speed = ["--tokens-per-second", "524288", "llm_config.global_train_batch_size=256",
             "--memory-speed", "20GB"]  # fmt: skip
    facts = plan(capsys, *links, *speed, "--price", "2", BF16)
    size = 125_311_488
    assert facts["update_bytes"] == {
        "up": 2 * size, "most_up": 2 * size, "down": 4 * size, "first_down": 4 * size
    }  # fmt: skip
    assert facts["step_seconds"] == pytest.approx(1.0), "256 rows of 2048 tokens"
    assert facts["tokens"] == 10 * 100 * 8 * 256 * 2048
    federated, twin = facts["federated"], facts["data_parallel"]
    assert federated["exchange_seconds"] == pytest.approx(5 + 8 * 6 * size / 125e6)
    assert federated["round_bytes"] == 8 * 6 * size
    spent = federated["device_seconds"]
    assert spent == pytest.approx({
        "train": 100.0, "load": (4 + 8) * size / 20e9, "encode": (8 + 2 + 8) * size / 20e9,
        "write": 0.0, "aggregate": (8 * 2 + 2 * 8 + 4) * size / 20e9,
        "wait": federated["exchange_seconds"],
    })  # fmt: skip
    assert federated["round_seconds"] == pytest.approx(sum(spent.values()))
    assert federated["utilization"] == pytest.approx(100 / sum(spent.values()))
    assert federated["seconds"] == pytest.approx(10 * federated["round_seconds"])
    assert federated["cost"] == pytest.approx(federated["seconds"] / 3600 * 8 * 2)
    assert (twin["rounds"], twin["compute_seconds"]) == (1000, pytest.approx(1.0))
    assert twin["exchange_seconds"] == pytest.approx(2 * 2 * size * 7 / 8 / 125e6)


def test_writing_counts_where_it_takes_longer_than_training(capsys):
    """An update in bf16 and two moments in fp32 take 125 s, of which 100 are hidden."""
    speed = ["--tokens-per-second", "524288", "llm_config.global_train_batch_size=256", BF16]
    facts = plan(capsys, *speed, "--disk-speed", f"{10 * 125_311_488 / 125:.0f}B")
    assert facts["federated"]["device_seconds"]["write"] == pytest.approx(25.0)
    assert run(["plan", *MODEL, *speed]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("devices"))
    assert line.startswith("devices   busy 6")
    assert "a round: train 100 s, load 0.15 s, encode 0.226 s, aggregate 0.451 s, wait" in line


def test_it_says_what_it_assumes(capsys):
    assert run(["plan", *MODEL]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(
        "assumes H100s at 40% of their peak, links of 125.0 MB a second, memory of 10.0 GB and "
        "disks of 1.0 GB a second; not this machine"
    )
    assert "21,000 tokens a second" in plan(capsys, "--tokens-per-second", "21000")["assumed"]


@pytest.mark.parametrize(
    "keys", [(), ("fl.overlap=delayed",), ("fl.overlap=eager", "fl.overlap_steps=3")]
)
def test_the_steps_it_names_reach_the_target(capsys, keys):
    """However many steps it is asked with: the more there are, the more of a round overlaps."""
    needed = plan(capsys, "--target", "0.8", *keys)["target"]["local_steps"]
    for steps, reached in ((needed, True), (needed - 1, False)):
        facts = plan(capsys, f"llm_config.local_steps={steps}", *keys)
        assert (facts["federated"]["utilization"] >= 0.8) == reached


def test_several_devices_of_a_client_hide_nothing_of_an_exchange(capsys):
    """Nobody trains on them until the base has come."""
    keys = ("photon.devices_per_client=2", "photon.workers=1")
    plain, ahead = (plan(capsys, *keys, *more) for more in ((), ("fl.overlap=delayed",)))
    one = plan(capsys, "fl.overlap=delayed")["federated"]["exchange_seconds"]
    assert ahead["federated"]["exchange_seconds"] == plain["federated"]["exchange_seconds"] > one


def test_sites_send_one_update_each(capsys):
    flat = plan(capsys, "--floor", "0")["federated"]
    nested = plan(capsys, "--floor", "0", "--sites", "2", "--site-bandwidth", "100Gbit")[
        "federated"
    ]
    assert nested["round_bytes"] == flat["round_bytes"] / 4
    assert nested["exchange_seconds"] < flat["exchange_seconds"] / 3.5


def test_a_device_at_a_share_of_its_peak(capsys):
    full = plan(capsys, "--mfu", "0.5")["step_seconds"]
    assert plan(capsys, "--mfu", "0.25")["step_seconds"] == pytest.approx(2 * full)
    assert plan(capsys, "--mfu", "0.5", "--device", "A100")["step_seconds"] == pytest.approx(
        full * 989 / 312
    )
    two = plan(capsys, "--mfu", "0.5", "photon.devices_per_client=2")
    assert (two["step_seconds"], two["devices"]) == (pytest.approx(full / 2), 16)


def test_what_does_not_fit_is_said_before_it_is_tried(capsys):
    assert plan(capsys, "--device-memory", "80GB")["fits_device"] is True
    assert run(["plan", "llm_config=mpt-7b", "--device-memory", "80GB"]) == 0
    assert "does not fit: a device has 80.0 GB, of which 80% may be filled" in (
        capsys.readouterr().out
    )
    sharded = ["llm_config.fsdp_config={}", "photon.devices_per_client=8"]
    assert run(["plan", "llm_config=mpt-7b", *sharded, "--device-memory", "80GB"]) == 0
    assert "does not fit" not in capsys.readouterr().out


def test_people_get_a_table(capsys):
    assert run(["plan", *MODEL, "--price", "2.5"]) == 0
    out = capsys.readouterr().out
    for words in ("data-parallel", "utilization", "cost", "time of federated training: ",
                  "memory    device", "memory of a client on a CPU", "forward",
                  "aggregation"):  # fmt: skip
        assert words in out


def test_the_parts_of_memory_add_up(capsys):
    facts = plan(
        capsys, "llm_config.device_train_microbatch_size=2", "fl.frozen_layers=[embedding]"
    )
    highest = {
        who: max(sum(parts.values()) for parts in stages.values())
        for who, stages in facts["memory_parts"].items()
    }
    assert highest["client"] == facts["memory_bytes"]["cpu"]
    assert highest["server"] == facts["memory_bytes"]["server"]
    table = 4 * 50368 * 768
    trained = 4 * 125_311_488 - table
    update = facts["memory_parts"]["client"]["update"]
    assert update["weights"] == 4 * 125_311_488
    assert (update["gradients"], update["moments"]) == (trained, 2 * trained)


def test_room_to_spare_is_asked_of_a_device_too(capsys):
    need = plan(capsys)["memory_bytes"]["device"]
    for share, room in ((0.81, False), (0.79, True)):
        size = f"{need / share / 1e6:.0f}MB"
        assert plan(capsys, "--device-memory", size)["fits_device"] is room


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bandwidth", "10"], "'10': write a number and a unit, as in 1Gbit"),
        (["--bandwidth", "100Mbps"], "'100Mbps': b may be bits or bytes: write Mbit or MB, as in"),
        (["--bandwidth", "0Gbit"], "'0Gbit': write more than zero, as in 1Gbit"),
        (["--device", "X9"], "--device X9: no such entry; there are B200"),
        (["--sites", "9"], "--sites 9: only 8 clients take part"),
        (["llm_config.local_steps=2ep"], "needs local steps in batches or tokens, not epochs"),
        (["fl.n_local_epochs=1"], "needs local steps in batches or tokens, not epochs"),
    ],
)
def test_mistakes_have_an_answer(arguments, message, capsys):
    assert run(["plan", "fl.n_total_clients=8", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.0123 s"), (90, "90 s"), (600, "10 min"), (7200, "2 h"), (864000, "10 d")],
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_noise_that_drowns_what_is_learned_is_told(capsys):
    """11,194 deviations of 125 million numbers, over 8 clients."""
    assert run(["plan", *MODEL, "fl.privacy.clip_norm=1"]) == 0
    assert "is 1399 times as long as the updates of its 8 clients" in " ".join(
        capsys.readouterr().out.split()
    )


def test_it_says_what_it_does_not_count(capsys):
    assert plan(capsys)["not_counted"] == []
    (merges,) = plan(capsys, "fl.mode=async", "fl.buffer=2")["not_counted"]
    assert "fl.mode=async" in merges
    (away,) = plan(capsys, "fl.n_clients_per_round=2")["not_counted"]
    assert "missed rounds" in away
    whole = ("fl.n_clients_per_round=2", "fl.compression=fp32")
    assert plan(capsys, *whole)["not_counted"] == []
    (parts,) = plan(capsys, *whole, "fl.fragments=2")["not_counted"]
    assert "missed rounds" in parts
    assert run(["plan", *MODEL, "fl.mode=async"]) == 0
    assert "\nnot counted: fl.mode=async" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["-5", "nan", "inf", "x"])
@pytest.mark.parametrize("option", ["--tokens-per-second", "--latency", "--floor", "--price"])
def test_numbers_that_nothing_can_have_are_refused(capsys, option, number):
    assert run(["plan", *MODEL, option, number]) == 2
    assert f"{option}': '{number}': must be a number, " in capsys.readouterr().err


def test_nobody_trains_no_tokens_a_second(capsys):
    assert run(["plan", *MODEL, "--tokens-per-second", "0"]) == 2
    assert "more than 0" in capsys.readouterr().err
    assert run(["plan", *MODEL, "--latency", "0"]) == 0
