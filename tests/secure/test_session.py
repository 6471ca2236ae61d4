"""A session against sums in whole numbers of Python, with clients that drop out at every phase."""

from __future__ import annotations

import contextlib
import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from photon.errors import PayloadError, RoundFailed
from photon.secure import fixed_point, masks, session
from photon.secure.fixed_point import TOKENS, form, limbs, pieces, plain_mean, restored
from photon.secure.here import Here, Own
from photon.secure.member import Member, mask_numbers
from photon.secure.session import summed
from photon.secure.shares import factors, joined
from photon.secure.terms import PublicKeys, Terms

REACHES = {"pseudo-gradient": 0.5, "exp_avg": 2.0, "exp_avg_sq": 1.0}
MOST = 1 << 34
CLIENTS = (0, 3, 4, 7, 9)


def terms(**changed) -> Terms:
    usual = Terms(
        session="ab" * 16, run="r", round=3, base_digest="d" * 64, clients=CLIENTS, cohort=5,
        threshold=3, most_tokens=MOST, reaches=REACHES,
    )  # fmt: skip
    return replace(usual, **changed)


def own(client: int) -> Own:
    draw = torch.Generator().manual_seed(client)

    def tree(size: float) -> dict[str, torch.Tensor]:
        return {
            "w": (torch.rand(3, 5, generator=draw) * 2 - 1) * size,
            "b": (torch.rand(7, generator=draw) * 2 - 1) * size,
        }

    squares = {name: value.square() * 1e-9 for name, value in tree(1.0).items()}
    trees = {"pseudo-gradient": tree(0.5), "exp_avg": tree(1e-3), "exp_avg_sq": squares}
    return Own(trees, MOST - 1000 * client)


OWN = {client: own(client) for client in CLIENTS}


class Leaving(Here):
    """Clients of this process, of which some stop answering after a phase."""

    def __init__(self, own, after: dict[str, tuple[int, ...]] | None = None) -> None:
        super().__init__(own)
        self.after, self.heard = after or {}, {}

    def _left(self, phase, found):
        self.heard[phase] = found
        phases = ("agree", "share", "mask", "reveal")
        gone = {c for p, lost in self.after.items() if phases.index(p) <= phases.index(phase)
                for c in lost}  # fmt: skip
        return {client: value for client, value in found.items() if client not in gone}

    def agree(self, terms):
        return self._left("agree", super().agree(terms))

    def share(self, keys):
        return self._left("share", super().share(keys))

    def mask(self, sealed):
        return self._left("mask", super().mask(sealed))

    def reveal(self, clients, survivors):
        return self._left("reveal", super().reveal(clients, survivors))


def exact_mean(clients, cohort: int = 5) -> dict[str, dict[str, list[float]]]:
    """The mean of the rounded numbers by rational arithmetic, rounded once more at the end."""
    found: dict[str, dict[str, list[float]]] = {}
    total = sum(OWN[client].tokens for client in clients)
    for tree, reach in REACHES.items():
        bits = 64 if tree == "exp_avg_sq" else 32
        levels = 2 ** (bits - 1) // cohort - 1
        levels -= levels % 2 ** max(0, bits - 53)
        for leaf in ("w", "b"):
            sums = [0] * OWN[0].trees[tree][leaf].numel()
            for client in clients:
                share = OWN[client].tokens / MOST
                for i, x in enumerate(OWN[client].trees[tree][leaf].flatten().tolist()):
                    sums[i] += round(x * (share * (levels / reach)))
            unit = Fraction(reach) / levels * MOST / total
            found.setdefault(tree, {})[leaf] = [float(s * unit) for s in sums]
    return found


def require_mean(result, clients) -> None:
    assert result.clients == tuple(clients)
    assert result.tokens == sum(OWN[client].tokens for client in clients)
    same = plain_mean(
        [OWN[c].trees for c in clients], [OWN[c].tokens for c in clients], MOST, REACHES, 5
    )
    for tree, leaves in exact_mean(clients).items():
        for leaf, numbers in leaves.items():
            mean = result.mean[tree][leaf]
            assert mean.shape == OWN[0].trees[tree][leaf].shape
            assert np.array_equal(mean.flatten().numpy(), same[tree][leaf])
            expected = torch.tensor(numbers, dtype=torch.float64)
            assert torch.allclose(mean.flatten().double(), expected, rtol=2e-7, atol=1e-30)


def test_the_sum_is_the_plain_one_bit_for_bit():
    result = summed(terms(), Leaving(OWN), OWN[0].trees)
    require_mean(result, CLIENTS)


def test_where_all_count_alike_their_tokens_say_how_many_there_are_and_nothing_else():
    """As where each had one token of one: bit for bit; a third of the tokens changes nothing."""
    few = {client: own._replace(tokens=own.tokens // (1 + client)) for client, own in OWN.items()}
    left = [client for client in CLIENTS if client != 3]
    found = summed(terms(alike=True), Leaving(few, {"mask": (3,)}), OWN[0].trees)
    same = plain_mean([OWN[c].trees for c in left], [1] * 4, 1, REACHES, 5)
    assert found.tokens == sum(few[client].tokens for client in left)
    for tree, leaves in same.items():
        for leaf, numbers in leaves.items():
            assert np.array_equal(found.mean[tree][leaf].flatten().numpy(), numbers)


@pytest.mark.parametrize("phase", ["agree", "share", "mask", "reveal"])
@pytest.mark.parametrize("lost", [(0,), (9,), (3, 7)])
def test_who_drops_out_at_any_phase_does_not_spoil_the_sum(phase, lost):
    result = summed(terms(), Leaving(OWN, {phase: lost}), OWN[0].trees)
    left = CLIENTS if phase == "reveal" else [c for c in CLIENTS if c not in lost]
    require_mean(result, left)


def test_one_may_drop_out_at_every_phase():
    many = tuple(range(8))
    some = {client: OWN[CLIENTS[client % 5]] for client in many}
    leaving = Leaving(some, {"share": (1,), "mask": (2,), "reveal": (3,)})
    result = summed(terms(clients=many, cohort=8, threshold=5), leaving, OWN[0].trees)
    assert result.clients == (0, 3, 4, 5, 6, 7)


@pytest.mark.parametrize("phase", ["agree", "share", "mask", "reveal"])
def test_below_the_threshold_the_session_ends_and_names_it(phase):
    parties = Leaving(OWN, {phase: (0, 4, 9)})
    with pytest.raises(RoundFailed, match="of 2 clients, 3 are needed"):
        summed(terms(), parties, OWN[0].trees)
    if phase != "reveal":
        assert "reveal" not in parties.heard  # nobody has been asked for a share


def test_fewer_shares_than_the_threshold_open_nothing():
    """All that a server has with t - 1 answers: no set of them fits what was committed to."""
    parties = Leaving(OWN)
    result = summed(terms(threshold=4), parties, OWN[0].trees)
    told = parties.heard["reveal"]
    keys = parties.heard["agree"]
    for few in itertools.chain(*(itertools.combinations(CLIENTS, n) for n in (1, 2, 3))):
        secret = joined({h: told[h][0] for h in few}, factors(tuple(few)))
        assert secret is None or masks.commitment(secret) != keys[0].commitment
    enough = joined({h: told[h][0] for h in CLIENTS[:4]}, factors(tuple(CLIENTS[:4])))
    assert masks.commitment(enough) == keys[0].commitment
    assert result.clients == CLIENTS


def test_a_masked_update_is_another_in_every_session_and_near_none_of_its_numbers():
    first, second = Leaving(OWN), Leaving(OWN)
    for parties in (first, second):
        summed(terms(), parties, OWN[0].trees)
    for client in CLIENTS:
        one, two = (p.heard["mask"][client]["pseudo-gradient"] for p in (first, second))
        bare = mask_numbers(OWN[client].trees, OWN[client].tokens, terms(), [], _memory)
        assert (one != two).all()
        assert (one != bare["pseudo-gradient"]).all()


def _memory(tree, count, kind):
    return np.empty(count, kind)


def test_masks_are_spread_over_the_whole_ring():
    """Chi-squared of 256 bins of a mask of a million numbers, at one part in a thousand."""
    numbers = np.zeros(1 << 20, "<u4")
    masks.add(masks.Mask(bytes(range(32)), 1), 5, numbers)
    bins = np.bincount(numbers >> 24, minlength=256)
    assert ((bins - 4096) ** 2 / 4096).sum() < 330.5
    again = numbers.copy()
    masks.add(masks.Mask(bytes(range(32)), -1), 5, again)
    assert not again.any()
    masks.add(masks.Mask(bytes(range(32)), 1), 6, again)
    assert (again != numbers).mean() > 0.999  # no two pieces share a stream


def test_threads_and_pieces_change_no_bit(monkeypatch):
    whole = summed(terms(), Leaving(OWN), OWN[0].trees)
    monkeypatch.setattr(fixed_point, "PIECE", 4)
    with ThreadPoolExecutor(3) as pool:
        parties = Leaving(OWN, {"mask": (4,)})
        parties.pool = pool
        require_mean(summed(terms(), parties, OWN[0].trees, pool), (0, 3, 7, 9))
        parties = Leaving(OWN)
        parties.pool = pool
        parts = summed(terms(), parties, OWN[0].trees, pool)
    assert len(pieces(OWN[0].trees)) == 3 * 6
    for tree in REACHES:
        for leaf in ("w", "b"):
            assert torch.equal(whole.mean[tree][leaf], parts.mean[tree][leaf])


@pytest.mark.parametrize("clients", [2, 3, 32, 4096])
@pytest.mark.parametrize("tree", ["pseudo-gradient", "exp_avg_sq"])
def test_the_sum_of_the_largest_numbers_does_not_wrap(clients, tree):
    its, kind = fixed_point.scale(tree, 0.25, clients), fixed_point.ring(tree)
    for sign in (1, -1):
        row = fixed_point.quantised(np.full(3, 0.25 * sign, np.float32), 1.0, its, kind)
        total = np.zeros(3, kind)
        for _ in range(clients):
            total += row
        mean = restored(total, 1 / clients, its)
        assert mean == pytest.approx(0.25 * sign, rel=1e-4 if clients > 100 else 1e-6)


def test_counts_of_tokens_add_up_beyond_32_bits():
    some = [1, 2**16, 2**33 + 5, 2**50]
    assert fixed_point.counted(sum(limbs(count) for count in some)) == sum(some)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 0.51])
def test_a_client_that_diverged_leaves_by_itself(bad):
    trees = {name: {n: v.clone() for n, v in t.items()} for name, t in OWN[4].trees.items()}
    trees["pseudo-gradient"]["b"][2] = bad
    parties = Leaving({**OWN, 4: Own(trees, OWN[4].tokens)})
    require_mean(summed(terms(), parties, OWN[0].trees), (0, 3, 7, 9))
    assert "beyond the 0.5 of honest steps" in parties.lost[4]


@pytest.mark.parametrize("tokens", [0, -1, MOST + 1, 10**12])
def test_a_client_does_not_count_for_more_than_was_asked_of_it(tokens):
    parties = Leaving({**OWN, 4: Own(OWN[4].trees, tokens)})
    require_mean(summed(terms(), parties, OWN[0].trees), (0, 3, 7, 9))
    assert "at most" in parties.lost[4]


def test_one_client_that_lies_about_its_shares_is_found_out():
    class Lying(Leaving):
        def reveal(self, clients, survivors):
            told = {c: dict(its) for c, its in super().reveal(clients, survivors).items()}
            return {**told, 3: {client: bytes(33) for client in told[3]}}

    require_mean(summed(terms(), Lying(OWN, {"mask": (9,)}), OWN[0].trees), (0, 3, 4, 7))
    with pytest.raises(RoundFailed, match="no shares of client 0 fit together"):
        summed(terms(threshold=5), Lying(OWN), OWN[0].trees)


@pytest.mark.parametrize("liars", [(0, 1), (0, 4), (2, 6), (3, 7)])
def test_so_many_honest_ones_as_are_needed_are_found_among_liars(liars):
    class Lying(Leaving):
        def reveal(self, clients, survivors):
            told = {c: dict(its) for c, its in super().reveal(clients, survivors).items()}
            return {
                c: {of: bytes([of, *bytes(32)]) for of in its} if c in liars else its
                for c, its in told.items()
            }

    every = {client: own(client) for client in range(8)}
    of = terms(clients=tuple(every), cohort=8, threshold=5)
    found = summed(of, Lying(every), every[0].trees)
    assert found.clients == tuple(every)


def test_where_there_are_many_ways_to_choose_shares_they_are_drawn():
    found = list(session._choices(list(range(40)), 30))
    assert found[0] == list(range(30))
    assert len(found) == session.MOST_TRIED + 40
    assert all(any(liar not in each for each in found[:40]) for liar in range(40))
    assert all(len(set(each)) == 30 and set(each) <= set(range(40)) for each in found)
    assert len({frozenset(each) for each in found}) > 900
    assert list(session._choices([3, 5, 7], 2)) == [(3, 5), (3, 7), (5, 7)]


def test_a_masked_update_of_other_masks_is_no_sum():
    class Lying(Leaving):
        def mask(self, sealed):
            made = dict(super().mask(sealed))
            made[3] = {**made[3], TOKENS: made[3][TOKENS] + np.uint32(1 << 20)}
            return made

    with pytest.raises(RoundFailed, match="no sum"):
        summed(terms(), Lying(OWN), OWN[0].trees)


def begun(clients=CLIENTS, **changed):
    members = {c: Member(terms(clients=clients, **changed), c) for c in clients}
    keys = {c: member.keys for c, member in members.items()}
    sealed = {c: member.share(keys) for c, member in members.items()}
    got = {c: {o: sealed[o][c] for o in clients if o != c} for c in clients}
    return members, keys, got


def test_a_client_answers_one_question_and_never_gives_both_shares_of_another():
    members, _, got = begun()
    members[0].masked_by(got[0])
    first = members[0].reveal([0, 3, 4])
    assert members[0].reveal([4, 3, 0]) == first
    for other in ([0, 3, 4, 7], [0, 3, 7], CLIENTS):
        with pytest.raises(PayloadError, match="other survivors already"):
            members[0].reveal(other)


@pytest.mark.parametrize(
    ("survivors", "reason"),
    [((0, 3), "too few"), ((3, 4, 7), "none of its clients"), ((0, 3, 4, 8), "none of its")],
)
def test_a_client_does_not_answer_for_too_few_or_for_strangers(survivors, reason):
    members, _, got = begun()
    members[0].masked_by(got[0])
    with pytest.raises(PayloadError, match=reason):
        members[0].reveal(survivors)


def test_a_client_takes_the_keys_and_the_shares_of_a_session_once():
    members, keys, got = begun()
    with pytest.raises(PayloadError, match="have come already"):
        members[0].share(keys)
    members[0].masked_by(got[0])
    assert members[0].masked_by(got[0])  # a message that came twice
    with pytest.raises(PayloadError, match="have come already"):
        members[0].masked_by({c: got[0][c] for c in (3, 4)})


def test_keys_and_shares_that_are_not_right_are_refused():
    member, other = Member(terms(), 0), Member(terms(), 3)
    keys = {0: member.keys, 3: other.keys}
    with pytest.raises(PayloadError, match="too few"):
        member.share(keys)
    with pytest.raises(PayloadError, match="not those of the session"):
        member.share({**keys, 5: other.keys})
    with pytest.raises(PayloadError, match="not those of the session"):
        member.share({**keys, 0: other.keys, 4: Member(terms(), 4).keys})
    with pytest.raises(PayloadError, match="too few"):  # the same client twice
        member.share({**keys, 4: other.keys})
    bad = other.keys._replace(sealing=bytes(32))
    with pytest.raises(PayloadError, match="no secret"):
        member.share({**keys, 3: bad, 4: Member(terms(), 4).keys})


def test_shares_that_were_changed_on_the_way_are_refused():
    members, _, got = begun()
    changed = bytearray(got[0][3])
    changed[7] ^= 1
    with pytest.raises(PayloadError, match="not sealed"):
        members[0].masked_by({**got[0], 3: bytes(changed)})
    with pytest.raises(PayloadError, match="not sealed"):
        members[0].masked_by({**got[0], 3: got[0][4], 4: got[0][3]})
    with pytest.raises(PayloadError, match="without keys"):
        members[0].masked_by({**got[0], 5: got[0][3]})
    with pytest.raises(PayloadError, match="too few"):
        members[0].masked_by({3: got[0][3]})


def test_keys_that_the_server_shows_one_client_alone_make_a_sum_of_nothing():
    """Keys are bound into every mask: a client in the middle gets masks that do not cancel."""

    class Splitting(Leaving):
        def share(self, keys):
            false = {**keys, 9: Member(terms(), 9).keys}
            sent = {c: self._members[c].share(false if c == 0 else keys) for c in keys if c != 9}
            return {**sent, 9: self._members[9].share(keys)}

    parties = Splitting(OWN)
    with pytest.raises(RoundFailed):
        summed(terms(threshold=5), parties, OWN[0].trees)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"threshold": 2}, "threshold of 2"),
        ({"threshold": 6}, "below the threshold"),
        ({"cohort": 4}, "of a cohort"),
        ({"clients": (3, 3, 4, 7, 9)}, "5 clients"),
        ({"clients": (3, 4, 7)}, "client 0 is not"),
        ({"clients": (0, 3), "threshold": 3}, "below the threshold"),
        ({"reaches": {"pseudo-gradient": float("inf")}}, "scale"),
        ({"reaches": {"pseudo-gradient": 0.0}}, "scale"),
        ({"reaches": {"pseudo-gradient": float("nan")}}, "scale"),
        ({"most_tokens": 0}, "scale"),
    ],
)
def test_terms_that_a_client_does_not_take_part_in(changed, reason):
    assert reason in (terms(**changed).fault([0], 3) or "")
    assert terms().fault([0, 9], 3) is None
    assert "at least 4" in (terms().fault([0], 4) or "")
    half = terms(clients=tuple(range(8)), cohort=8, threshold=4)
    assert half.fault([0], 0) == "a threshold of 4; at least 5 are needed"
    assert replace(half, threshold=5).fault([0], 0) is None


def test_a_cohort_is_as_large_as_the_configuration_allows():
    usual = {"clients": tuple(range(4096)), "cohort": 4096, "threshold": 2731}
    assert terms(**usual).fault([0], 0) is None
    too_large = terms(**{**usual, "cohort": 4097}).fault([0], 0)
    assert too_large == "a cohort of 4,097; at most 4,096 are masked together"


def test_no_mutant_of_what_a_member_gets_does_more_than_be_refused():
    draw = random.Random(5)
    members, keys, got = begun()
    for _ in range(300):
        member = Member(terms(), 0)
        strange = {draw.choice([*CLIENTS, 5, 10**9, -1]): keys_of_nobody(draw) for _ in range(4)}
        with contextlib.suppress(PayloadError):
            member.share({**keys, 0: member.keys, **strange})
        sealed = {c: draw.randbytes(draw.randrange(120)) for c in draw.sample(CLIENTS, 3)}
        with pytest.raises(PayloadError):
            members[0].masked_by(sealed)
        members[0].masked_by(got[0])


def keys_of_nobody(draw: random.Random):
    return PublicKeys(*(draw.randbytes(32) for _ in range(3)))


def test_the_form_names_all_leaves_in_their_order():
    trees = OWN[0].trees
    turned = {**trees, "exp_avg": dict(reversed(trees["exp_avg"].items()))}
    assert form(trees) == form(OWN[3].trees) != form(turned)
