"""Who trains whom: against every way of placing the clients, and against whoever is idle."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from photon.core.spread import Pace, Worker, measured, rested, spread

PACES = (1.0, 1.3, 2.0, 3.5, 6.0)


def ends_of(placed, steps, paces, ends):
    """When each worker is done, in seconds from now."""
    return [
        end + sum(steps[client] for client in own) * pace
        for own, pace, end in zip(placed, paces, ends, strict=True)
    ]


def best(steps, paces, ends):
    """When the last worker is done in the best of all ways."""
    clients = list(steps)
    ways = itertools.product(range(len(paces)), repeat=len(clients))
    return min(
        max(ends_of([[c for c, at in zip(clients, way, strict=True) if at == w]
                     for w in range(len(paces))], steps, paces, ends))
        for way in ways
    )  # fmt: skip


def whoever_is_idle(steps, paces, ends):
    """The same where clients are given in order to the worker that is idle first."""
    idle = [(end, index) for index, end in enumerate(ends)]
    for client in steps:
        end, index = heapq.heappop(idle)
        heapq.heappush(idle, (end + steps[client] * paces[index], index))
    return max(end for end, _ in idle)


def cases(count, lengths, are_busy):
    draw = random.Random(7)
    for _ in range(count):
        paces = [draw.choice(PACES) for _ in range(draw.randint(1, 3))]
        steps = {c: draw.choice(lengths) for c in range(draw.randint(1, 6))}
        works = [draw.randint(0, 9) if are_busy else 0 for _ in paces]
        gone = [draw.random() * work * pace for work, pace in zip(works, paces, strict=True)]
        workers = [Worker(Pace(p), w, g) for p, w, g in zip(paces, works, gone, strict=True)]
        ends = [w * p - g for w, p, g in zip(works, paces, gone, strict=True)]
        yield steps, paces, ends, workers


@pytest.mark.parametrize("are_busy", [False, True])
def test_equal_clients_are_placed_in_the_best_way(are_busy):
    sooner = 0
    for steps, paces, ends, workers in cases(300, [4], are_busy):
        last = max(ends_of(spread(steps, workers), steps, paces, ends))
        assert last == pytest.approx(best(steps, paces, ends))
        sooner += last < 0.99 * whoever_is_idle(steps, paces, ends)
    assert sooner > 50, "the slow keep others waiting where they take what comes"


@pytest.mark.parametrize("are_busy", [False, True])
def test_others_within_what_is_promised(are_busy):
    promised, ours, theirs = [], 0.0, 0.0
    for steps, paces, ends, workers in cases(300, [1, 2, 3, 5, 8], are_busy):
        placed = spread(steps, workers)
        assert sorted(itertools.chain(*placed)) == sorted(steps), "each once"
        last = max(ends_of(placed, steps, paces, ends))
        ratio = last / best(steps, paces, ends)
        assert ratio <= 2 - 2 / (len(paces) + 1) + 1e-9
        promised.append(ratio)
        ours, theirs = ours + last, theirs + whoever_is_idle(steps, paces, ends)
    assert sum(promised) / len(promised) < 1.03
    assert ours < 0.9 * theirs


def played(steps, believed, true):
    """When a round is over that a pool plays: asked anew whenever a worker is done."""
    now, waiting, busy = 0.0, dict(steps), {}
    while waiting or busy:
        workers = [
            Worker(Pace(pace), busy[i][0], now - busy[i][1]) if i in busy else Worker(Pace(pace))
            for i, pace in enumerate(believed)
        ]
        for index, own in enumerate(spread(waiting, workers)):
            if index not in busy and own:
                length = waiting.pop(own[0])
                busy[index] = (length, now, now + length * true[index])
        assert busy, "all are idle, and none takes the next"
        done = min(busy, key=lambda i: busy[i][2])
        now = busy.pop(done)[2]
    return now


def test_a_round_goes_as_it_was_planned():
    for steps, paces, ends, workers in cases(200, [1, 2, 3, 5, 8], False):
        planned = max(ends_of(spread(steps, workers), steps, paces, ends))
        assert played(steps, paces, paces) == pytest.approx(planned)


def test_whatever_is_believed_all_are_trained():
    draw = random.Random(3)
    for steps, paces, _, _ in cases(200, [1, 2, 3, 5, 8], False):
        believed = [draw.choice((1e-9, 1.0, 1e9)) for _ in paces]
        assert played(steps, believed, paces) <= sum(steps.values()) * max(paces)


def test_longest_first_of_equals_the_first():
    assert spread({7: 2, 3: 5, 1: 2, 0: 5}, [Worker()]) == [[3, 0, 7, 1]]
    assert spread({}, [Worker(), Worker()]) == [[], []]


def test_the_last_client_is_left_to_the_fast_one():
    """By hand: 10 steps take the busy one 3 + 10 seconds, the idle one 14, or 12."""
    fast = Worker(Pace(1.0), 10, elapsed=7.0)
    assert spread({4: 10}, [fast, Worker(Pace(1.4))]) == [[4], []]
    assert spread({4: 10}, [fast, Worker(Pace(1.2))]) == [[], [4]]


def test_nobody_waits_for_one_that_is_late():
    """It was to be done after 10 seconds. After 25 it is held for 2.5 times as slow."""
    slow = Worker(Pace(2.0))
    assert spread({4: 10}, [Worker(Pace(1.0), 10, elapsed=10.0), slow]) == [[4], []]
    assert spread({4: 10}, [Worker(Pace(1.0), 10, elapsed=25.0), slow]) == [[], [4]]
    assert spread({4: 10}, [Worker(None, 10, elapsed=25.0), Worker()]) == [[], [4]]


def test_an_unknown_worker_is_as_the_median_of_the_others():
    others = [Worker(Pace(pace)) for pace in (1.0, 2.0, 9.0)]
    lengths = [len(own) for own in spread(dict.fromkeys(range(12), 1), [Worker(), *others])]
    assert lengths == [3, 6, 3, 0]
    assert spread(dict.fromkeys(range(4), 1), [Worker(), Worker()]) == [[0, 2], [1, 3]]


def test_the_first_turn_counts_until_there_is_a_second():
    first = measured(None, 60.0)
    assert first == Pace(60.0, 1)
    assert measured(first, 2.0) == Pace(2.0, 2)
    assert measured(measured(first, 2.0), 4.0) == Pace(3.0, 3)


@pytest.mark.parametrize(("turns", "rounds"), [(1, 3), (3, 13), (50, 161)])
def test_who_was_slow_once_is_tried_again(turns, rounds):
    """Five times too slow, and left out: after ln 5 / -ln(share) rounds it takes a client."""
    pace, waited = Pace(5.0, turns), 0
    while not spread({0: 1}, [Worker(Pace(1.0)), Worker(pace)])[1]:
        pace, waited = rested(pace), waited + 1
    assert waited == rounds
