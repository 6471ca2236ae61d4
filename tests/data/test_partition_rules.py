"""Who gets what: exact deals of listed documents, placements of streamed ones, shares, counts."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from photon.data.apportion import apportion
from photon.data.prepare.corpus import Document
from photon.data.prepare.partition import (
    Placement,
    Rule,
    partition_documents,
    partition_stretches,
    source_shares,
)
from photon.data.prepare.routing import text_digest


def documents(count: int, sources: int = 5) -> list[Document]:
    return [Document(f"d{i}", f"s{i % sources}", f"text {i}") for i in range(count)]


def sizes_of(docs, rule) -> list[int]:
    part = partition_documents(docs, rule, validation_fraction=0.05)
    placed = [*part.validation, *(i for group in (*part.train, *part.held_out) for i in group)]
    assert sorted(placed) == list(range(len(docs)))
    return [len(t) + len(h) for t, h in zip(part.train, part.held_out, strict=True)]


def test_sizes_follow_the_power_law():
    sizes = np.array(sizes_of(documents(4000), Rule("size", 4, seed=1, exponent=1.5)))
    law = np.arange(1, 5) ** -1.5
    np.testing.assert_allclose(sizes / sizes.sum(), law / law.sum(), atol=1e-3)


def shares_by_source(docs, rule) -> np.ndarray:
    part = partition_documents(docs, rule, validation_fraction=0.01)
    table = np.zeros((rule.num_clients, 5))
    for client, indices in enumerate(part.train):
        for i in indices:
            table[client, int(docs[i].source[1:])] += 1
    return table / table.sum(axis=0)


def test_dirichlet_shares_have_the_variance_of_the_distribution():
    """Var of a component of Dir(a, ..., a) with K components: (K - 1) / (K^2 (K a + 1))."""
    docs, clients = documents(2000), 4
    for alpha in (0.5, 5.0):
        drawn = [
            shares_by_source(docs, Rule("dirichlet", clients, seed, alpha)) for seed in range(60)
        ]
        expected = (clients - 1) / (clients**2 * (clients * alpha + 1))
        assert np.var(np.stack(drawn)) == pytest.approx(expected, rel=0.2)
        assert np.mean(np.stack(drawn)) == pytest.approx(1 / clients, abs=1e-6)


def test_a_dirichlet_draw_that_leaves_a_client_empty_is_drawn_anew():
    for seed in range(20):
        sizes = sizes_of(documents(300, sources=2), Rule("dirichlet", 4, seed, alpha=0.2))
        assert min(sizes) >= 2


def sized(sizes, sources: int = 5) -> list[Document]:
    return [Document(f"d{i}", f"s{i % sources}", "x" * n) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("by", ["iid", "source", "size", "dirichlet"])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_held_out_is_the_fraction_of_every_client(by, seed):
    """Whatever the sizes are; every character of every document is in exactly one stretch."""
    draw = np.random.default_rng(seed)
    count, clients = int(draw.integers(1, 60)), int(draw.integers(1, 9))
    docs = sized(draw.lognormal(9, draw.uniform(0, 2), count).astype(int) + 2000)
    rule = Rule(by, clients, seed, alpha=5.0, exponent=0.5)
    stretches, part = partition_stretches(docs, rule, validation_fraction=0.05)
    assert part.validation == tuple(range(len(part.validation)))
    texts = [stretch.of(docs[stretch.index]) for stretch in stretches]
    size = [len(text.text) for text in texts]
    assert sum(not text.continued for text in texts) == count
    assert sum(size[i] for i in part.validation) == pytest.approx(
        0.05 * sum(d.size for d in docs), rel=0.2
    )
    for train, own in zip(part.train, part.held_out, strict=True):
        held = sum(size[i] for i in own)
        assert held == pytest.approx(0.05 * (held + sum(size[i] for i in train)), rel=0.2)
    spans = {(s.index, s.begin.share, s.end.share) for s in stretches}
    assert len(spans) == len(stretches)
    for index, document in enumerate(docs):
        own = sorted(span[1:] for span in spans if span[0] == index)
        assert own[0][0] == 0.0
        assert own[-1][1] == 1.0
        assert all(a[1] == b[0] for a, b in itertools.pairwise(own))
        assert sum(t.size for s, t in zip(stretches, texts, strict=True) if s.index == index) == (
            document.size
        )


def test_short_documents_that_are_many_stay_whole():
    stretches, _ = partition_stretches(sized([300] * 2000), Rule("iid", 4, 1),
                                       validation_fraction=0.05)  # fmt: skip
    assert len(stretches) == 2000


def test_the_common_set_leaves_something_of_every_source():
    docs = sized([500] * 30, sources=30)
    stretches, part = partition_stretches(docs, Rule("source", 30, 1), validation_fraction=0.05)
    for client, train in enumerate(part.train):
        sources = sorted({d.source for d in docs})
        assert {stretches[i].source for i in train} == {sources[client]}


def placed(rule, docs, **keys):
    placement = Placement(rule, **{"common": 0.1, "held_out": 0.2, **keys})
    return [placement.place(text_digest(d.text), d.source) for d in docs]


def test_placements_have_the_shares_that_were_asked_for():
    docs = documents(20_000)
    places = placed(Rule("iid", 4, seed=3), docs)
    share = {place: places.count(place) / len(docs) for place in set(places)}
    assert share["validation"] == pytest.approx(0.1, abs=0.01)
    for client in range(4):
        assert share[f"client_{client}/train"] == pytest.approx(0.9 * 0.8 / 4, abs=0.01)
        assert share[f"client_{client}/validation"] == pytest.approx(0.9 * 0.2 / 4, abs=0.01)


def test_the_common_set_of_a_stream_is_the_same_for_any_federation():
    docs = documents(2000)
    for rule in (Rule("iid", 8, 3), Rule("dirichlet", 3, 3, 0.1), Rule("size", 2, 3)):
        common = [place == "validation" for place in placed(rule, docs)]
        assert common == [place == "validation" for place in placed(Rule("iid", 4, 3), docs)]
    assert common != [place == "validation" for place in placed(Rule("iid", 4, 4), docs)]


def test_streamed_sources_follow_their_shares():
    docs = documents(20_000)
    shares = {f"s{i}": [1.0, 0.0] if i < 2 else [0.25, 0.75] for i in range(5)}
    keys = {"common": 0.0, "held_out": 0.0, "shares": shares}
    places = placed(Rule("source", 2, 3), docs, **keys)
    for source, (first, _) in shares.items():
        own = [p for d, p in zip(docs, places, strict=True) if d.source == source]
        assert own.count("client_0/train") / len(own) == pytest.approx(first, abs=0.02)
    unseen = set(placed(Rule("source", 8, 3), [Document("", "new", "t")] * 5, **keys))
    assert len(unseen) == 1


@pytest.mark.parametrize("clients", [1, 2, 5, 8])
def test_source_shares_balance_the_clients_with_few_sources(clients):
    sizes = {f"s{i}": 10 * i + 1 for i in range(12)} | {"empty": 0}
    shares = source_shares(sizes, clients)
    loads = sum(np.array(shares[s]) * sizes[s] for s in sizes)
    np.testing.assert_allclose(loads, sum(sizes.values()) / clients)
    for row in shares.values():
        assert sum(row) == pytest.approx(1.0)
    pieces = sum(np.count_nonzero(row) for row in shares.values())
    assert pieces <= len(sizes) + clients - 1


@pytest.mark.parametrize("seed", range(20))
def test_apportioned_counts_are_exact(seed):
    draw = np.random.default_rng(seed)
    shares, total = draw.random(draw.integers(1, 9)) + 1e-3, int(draw.integers(0, 1000))
    counts = apportion(total, shares)
    assert sum(counts) == total
    exact = shares / shares.sum() * total
    assert (np.abs(np.array(counts) - exact) < 1).all()


def test_sharing_out_sources_takes_time_in_proportion_to_the_documents():
    class Size(int):
        additions = 0

        def __radd__(self, other):
            Size.additions += 1
            return int(self) + other

    documents = [SimpleNamespace(source="abc"[i % 3], size=Size(1000)) for i in range(600)]
    partition_documents(documents, Rule("source", 2, 1), validation_fraction=0.05)
    assert Size.additions < 10 * 600
