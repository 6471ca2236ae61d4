"""Mixtures: exact counts, each row as often as it should come."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from photon.core.messages import StreamState
from photon.data.prepare.writer import ShardWriter
from photon.data.read.mixture import Amount, MixedRows, epoch_counts
from photon.data.read.shards import Rows
from photon.data.read.stream import Stream
from photon.errors import DataError
from photon.run.participation import rows_notes
from photon.run.run_data import RunData


@pytest.fixture
def folders(tmp_path):
    """Folders of 10, 7 and 30 rows; the first token of a row names its folder and number."""
    found = []
    for number, rows in enumerate((10, 7, 30)):
        writer = ShardWriter(tmp_path / str(number), 4, 3000, rows_per_shard=4)
        writer.append(number * 1000 + np.arange(rows * 4 + 1))
        writer.finish({"text_bytes": rows * 8, "documents": 1})
        found.append(Rows(tmp_path / str(number)))
    return found


def times_seen(mixed: MixedRows) -> list[Counter]:
    seen = [Counter() for _ in mixed.parts]
    for row in mixed.read(np.arange(len(mixed))):
        seen[row[0] // 1000][row[0] % 1000 // 4] += 1
        assert row.tolist() == list(range(row[0], row[0] + 5))
    return seen


def test_without_amounts_every_row_comes_once(folders):
    seen = times_seen(MixedRows(folders, [Amount()] * 3, 0))
    assert [dict(c) for c in seen] == [dict.fromkeys(range(len(f)), 1) for f in folders]


@pytest.mark.parametrize(
    ("amounts", "counts"),
    [
        ([Amount(repeat=2), Amount(), Amount(choose=5)], [20, 7, 5]),
        ([Amount(repeat=0.5), Amount(repeat=1.5), Amount(choose=100)], [5, 10, 100]),
        ([Amount(proportion=1)] * 3, [16, 16, 15]),
        ([Amount(proportion=2), Amount(proportion=1), Amount(proportion=1)], [23, 12, 12]),
    ],
)
def test_counts_are_exact_and_rows_evenly_used(folders, amounts, counts):
    assert epoch_counts([10, 7, 30], amounts) == counts
    mixed = MixedRows(folders, amounts, 0)
    for seen, rows, count in zip(times_seen(mixed), folders, counts, strict=True):
        assert sum(seen.values()) == count
        assert all(seen[i] - count // len(rows) in (0, 1) for i in range(len(rows)))
    assert sum(mixed.shard_rows) == len(mixed) == sum(counts)


def test_a_mixture_is_read_by_a_stream(folders):
    mixed = MixedRows(folders, [Amount(repeat=2), Amount(), Amount(choose=5)], 0)
    stream = Stream(mixed, seed=1, client=0)
    rows, state = stream.read(StreamState(), 32)
    assert state == StreamState(epoch=1, cursor=0)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, mixed.read(np.arange(32))))
    assert mixed.manifest["text_bytes"] == 20 * 8 + 7 * 8 + 5 * 8
    weights = [2.0, 1.0, 5 / 30]
    expected = sum(
        w * np.array(f.manifest["unigram"]) for w, f in zip(weights, folders, strict=False)
    )
    np.testing.assert_allclose(mixed.manifest["unigram"], expected)


def test_the_frequencies_of_a_mixture_are_those_of_all_its_parts_or_none(folders):
    del folders[1].manifest["unigram"]
    assert "unigram" not in MixedRows(folders, [Amount()] * 3, 0).manifest


def test_rows_of_different_lengths_do_not_mix(folders, tmp_path):
    writer = ShardWriter(tmp_path / "other", 5, 3000)
    writer.append(np.arange(100))
    writer.finish({})
    with pytest.raises(DataError, match=r"rows of different lengths .4, 5. do not mix"):
        MixedRows([folders[0], Rows(tmp_path / "other")], [Amount()] * 2, 0)


def test_a_mixture_without_a_row_is_refused(folders):
    with pytest.raises(DataError, match=r"/0: repeat=0.01 of 10 rows; .*/1: .*not even one row"):
        MixedRows(folders[:2], [Amount(repeat=0.01)] * 2, 0)


@pytest.mark.parametrize("amount", [{"repeat": 1e15}, {"repeat": 1e300}, {"choose": 10**15}])
def test_an_epoch_without_an_end_is_refused(folders, amount):
    (told,) = (f"{name}={value:g} of 10 rows" for name, value in amount.items())
    with pytest.raises(DataError, match=f"/0: {re.escape(told)}: .* more than 1,048,576 times"):
        MixedRows(folders[:2], [Amount(**amount), Amount()], 0)


def test_a_folder_of_which_not_one_row_is_read_is_named(smoke, data_root):
    folders = "a:{local:client_0,proportion:0.000001},b:{local:client_1,proportion:1}"
    both = f"{{client_streams:{{{folders}}}}}"
    run = smoke(f"dataset.train.streams=[{both},{both}]")
    data = RunData.of(run.data, run.inner, run.seed)
    plain = RunData.of(smoke().data, run.inner, run.seed)
    unread, repeats = rows_notes(data, [0, 1], batch=1, reads=1.0)
    assert repeats is None
    assert unread is not None
    assert "client_0/train: proportion=1e-06 of" in unread
    assert "none of its text is read (2 folders are like that); raise it" in unread
    assert rows_notes(plain, [0, 1], batch=1, reads=1.0) == [None, None]


def test_what_is_chosen_depends_on_the_run_and_the_client(smoke, data_root):
    one = "{client_streams:{s:{local:client_0,choose:6}}}"

    def chosen(client: int, seed: int) -> list:
        keys = f"dataset.train.streams=[{one},{one}]", f"seed={seed}"
        config = smoke(f"dataset.train.root_local={data_root}", *keys)
        data = RunData.of(config.data, config.inner, config.seed)
        return data.client_rows(client).read(range(6)).tolist()

    drawn = [chosen(client, seed) for client in (0, 1) for seed in (1, 2)]
    assert chosen(1, 2) == drawn[3]
    assert all(drawn[a] != drawn[b] for a in range(4) for b in range(a))
