"""Routes: files are read once, any position goes on alike, tokenizers see text of everybody."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from photon.data.prepare import hub
from photon.data.prepare.corpus import Document
from photon.data.prepare.listing import find_files
from photon.data.prepare.partition import Partition, Placement, Rule
from photon.data.prepare.readers import Columns
from photon.data.prepare.routing import ListedRoute, StreamRoute
from photon.data.prepare.sampling import training_texts
from photon.data.prepare.sources import LocalSource

TRAINING = Placement(Rule("iid", 2, 1), 0.1, 0.1)


def stream(source, block_documents=7) -> StreamRoute:
    return StreamRoute(source, TRAINING, seed=1, block_documents=block_documents)


@pytest.fixture
def source(tmp_path):
    """Three files of 25, 50 and 75 documents; it counts how often each is opened."""

    class Counting(LocalSource):
        def __init__(self, *given):
            super().__init__(*given)
            self.opened = Counter()

        def documents(self, file, start):
            self.opened[file] += 1
            return super().documents(file, start)

    for number in range(3):
        lines = [{"text": f"file {number} document {i:04}"} for i in range(25 * (number + 1))]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
    return Counting(find_files(tmp_path)[0], Columns())


def test_a_stream_opens_each_file_once_however_many_blocks_it_has(source):
    documents = list(stream(source).documents((0, 0, 0, 0)))
    assert len({routed.document.text for routed in documents}) == 150
    assert source.opened == {0: 1, 1: 1, 2: 1}


def test_a_stream_goes_on_alike_from_any_position(source):
    route = stream(source)
    whole = list(route.documents(route.start()))
    for number in range(0, 150, 11):
        assert list(route.documents(whole[number].behind)) == whole[number + 1 :]


def test_a_hub_dataset_is_opened_once(monkeypatch):
    opened: list[int] = []

    def records(self, start):
        opened.append(start)
        yield from ({"text": f"document {i}"} for i in range(start, 100))

    monkeypatch.setattr(hub.HubSource, "_stream", records)
    route = stream(hub.HubSource("c4", "en", "train", Columns()))
    assert len(list(route.documents(route.start()))) == 100
    assert opened == [0]


def test_a_tokenizer_sees_the_same_share_of_every_client():
    texts = [f"{i:09}\n" for i in range(300)]  # ten bytes each
    documents = [Document(str(i), "s", text) for i, text in enumerate(texts)]
    parts = (tuple(range(30)), tuple(range(40, 100)), tuple(range(110, 300)))
    route = ListedRoute(
        Partition(tuple(range(30, 40)), parts, ((), tuple(range(100, 110)), ())),
        documents,
        documents.__getitem__,
    )
    seen = [int(text) for text in training_texts(route, 1400, seed=1)]
    assert [len(set(seen) & set(part)) for part in parts] == [15, 30, 95]
    assert not set(seen) <= {*range(15), *range(40, 70), *range(110, 205)}  # not the first ones
    assert seen == [int(text) for text in training_texts(route, 1400, seed=1)]
    everything = sorted(training_texts(route, 10_000, seed=1))
    assert everything == [texts[i] for part in parts for i in part]


def test_a_tokenizer_sees_the_beginning_of_a_text_that_is_all_its_client_has():
    books = [Document(name, "s", name * 1000) for name in ("é", "b")]
    route = ListedRoute(Partition((), ((0,), (1,)), ((), ())), books, books.__getitem__)
    assert list(training_texts(route, 201, seed=1)) == ["é" * 50, "b" * 101]


def test_a_tokenizer_sees_every_file_of_a_stream_but_nothing_held_out(source):
    route = stream(source)
    kept = {
        routed.document.text
        for routed in route.documents(route.start())
        if routed.place.endswith("/train")
    }
    seen = list(training_texts(route, 20 * 30, seed=1))
    assert sorted(Counter(text[:6] for text in seen).values()) == [5, 10, 15]
    assert set(seen) <= kept
    assert set(training_texts(route, 10_000, seed=1)) == kept
