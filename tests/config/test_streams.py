"""Stream files and the keys of preparation compose, and mistakes are named."""

from __future__ import annotations

import pytest

from photon.config import load_config
from photon.data.prepare.splits import SPLITS, choose_splits
from photon.errors import ConfigError

CLIENT = "dataset.train.streams=[{{client_streams:{{{}}}}}]"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("1_client_small", [[0]]),
        ("2_clients", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("4_clients", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("8_clients", [[i] for i in range(8)]),
    ],
)
def test_the_shipped_stream_files(name, parts):
    config = load_config(
        [
            "dataset=fed-c4",
            f"dataset/streams@dataset.train.streams={name}",
            f"dataset/streams@dataset.val.streams={name}",
        ]
    )
    assert config.data.train.streams == config.data.validation.streams
    found = [[s.local for s in c.streams.values()] for c in config.data.train.streams]
    assert found == [[f"c8/en/client_{i}" for i in part] for part in parts]


def test_the_centralised_set_is_the_whole_root():
    config = load_config(["dataset/streams@dataset.val.streams=centralised"])
    (client,) = config.data.validation.streams
    assert [s.local for s in client.streams.values()] == [None]
    assert config.data.train.streams is None


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ("s0:{local:a,proportion:1,repeat:2}", "proportion and repeat exclude each other"),
        ("s0:{local:a,proportion:1},s1:{local:b}", "proportion must be given for all streams"),
        ("", "client_streams is empty"),
        ("s0:{local:a,remote:b}", "remote=b differs from local=a"),
        ("s0:{local:a,keep_zip:true}", "keep_zip cannot be set for one stream"),
        ("s0:{local:a,choose:0}", "greater than or equal to 1"),
    ],
)
def test_wrong_streams_are_named(streams, message):
    with pytest.raises(ConfigError, match=message):
        load_config([CLIENT.format(streams)])


@pytest.mark.parametrize("split", ["train", "val"])
def test_streams_of_no_client_are_refused(split):
    with pytest.raises(ConfigError, match=rf"^dataset.{split}.streams: names no client; give an"):
        load_config([f"dataset.{split}.streams=[]"])


def test_an_unknown_stream_file_lists_those_there_are():
    with pytest.raises(ConfigError, match="9_clients"):
        load_config(["dataset/streams@dataset.train.streams=9_clients"])


def test_the_table_of_splits():
    table = {name: (split.part, split.samples) for name, split in SPLITS.items()}
    assert table["train_small"] == ("train", 100_000)
    assert table["val_xxsmall"] == ("validation", 100)
    assert SPLITS["train_small"].most_rows(2048) == 100_000
    assert SPLITS["train_small"].most_rows(1024) == 200_000
    train, validation = choose_splits(["val_small", "train"])
    assert (train.name, validation.name) == ("train", "val_small")
    with pytest.raises(ConfigError, match="no split 'val_tiny'; there are train, train_small"):
        choose_splits(["val_tiny"])
    with pytest.raises(ConfigError, match="train and train_small both make the train part"):
        choose_splits(["train", "train_small"])
