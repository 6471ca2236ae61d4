"""A history over nodes with keys: who has signed what, what a node can hold against a server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loopback import final_digest, nodes, over_sockets, papers, train
from photon.chain import receipts
from photon.chain.ledger import FILE, whole_lines
from photon.chain.link import Entry, Head, Link, digest_of_entries, parse_link, parsed
from photon.chain.receipts import RECEIPTS, Outbox, Receipt, ReceiptBook
from photon.chain.verify import verify_run
from photon.cli.main import run as command
from photon.config import load_config
from photon.errors import PayloadError, RoundFailed
from photon.experiment import experiment
from photon.node.hosted_run import HostedRun
from photon.wire.enrolment import read_register
from photon.wire.keys import enrol, make_authority
from photon.wire.messages import MOST_RECEIPT_BYTES, MOST_RECEIPTS, Notice
from photon.wire.signatures import Seal, fingerprint, server_seal

PLACES = {"a": [0], "b": [1]}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the server, of nodes a and b, and of a stranger."""
    folder = tmp_path_factory.mktemp("keys")
    make_authority(folder, ["localhost"])
    for name, clients in PLACES.items():
        enrol(folder, name, clients)
    return folder


def configuration(home: Path, data_root: Path, *overrides: str):
    paths = [f"dataset.train.root_local={data_root}", f"photon.saving_path={home / 'server'}"]
    return load_config(["recipe=smoke", "run_uuid=run", "photon.n_nodes=2", *paths, *overrides])


@pytest.fixture(scope="module")
def made(data_root: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds, the last of them after a restart of all."""
    home = tmp_path_factory.mktemp("signed")
    with nodes(home, data_root, PLACES, keys=keys) as sockets:
        train(configuration(home, data_root), sockets, keys=keys)
    with nodes(home, data_root, PLACES, keys=keys) as sockets:
        engine = over_sockets(sockets, keys)
        experiment.resume(home / "server" / "run", ["fl.n_rounds=3"], engine=engine)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "home"))


def faults(home: Path, *keys: Path) -> list[str]:
    kept = [home / name / "run" / RECEIPTS for name in PLACES]
    found = verify_run(home / "server" / "run", keys, kept)
    return [f"{one.what}: {one.text}" for one in found if one.verdict == "fail"]


def links_of(home: Path) -> list[Link]:
    return [parse_link(line) for line in whole_lines(home / "server" / "run" / FILE)]


def write(home: Path, links: Sequence[Link]) -> None:
    text = b"".join(link.line() + b"\n" for link in links)
    (home / "server" / "run" / FILE).write_bytes(text)


def seal_of(folder: Path) -> Seal:
    seal = server_seal(folder / "server.pem", folder / "server.key")
    assert seal is not None
    return seal


def other(link: Link, seal: Seal, **changes: str) -> Link:
    """One that says something else, and is signed."""
    head = link.head.model_copy(update={"plan": "f" * 64, "key": seal.key, **changes})
    return link.model_copy(update={"head": head}).signed_by(seal)


def rewritten(links: Sequence[Link], number: int, change: Callable[[Entry], Entry], seal: Seal):
    """A chain in which an update is another one, and all that follows from it made anew."""
    found = list(links)
    one = found[number]
    updates = [change(one.updates[0]), *one.updates[1:]]
    more = updates[0].tokens - one.updates[0].tokens
    digest = digest_of_entries([entry.hash for entry in updates])
    head = one.head.model_copy(update={"updates": digest})
    found[number] = one.model_copy(update={"updates": updates, "head": head})
    for at in range(number, len(found)):
        head = found[at].head
        changed = {"previous": found[at - 1].head.hash, "tokens": head.tokens + more,
                   "key": seal.key}  # fmt: skip
        found[at] = found[at].model_copy(update={"head": head.model_copy(update=changed)})
        found[at] = found[at].signed_by(seal)
    return found


def test_all_is_signed_and_kept(made: Path, keys: Path, capsys):
    assert faults(made, keys) == []
    run, kept = made / "server" / "run", [made / name / "run" / RECEIPTS for name in PLACES]
    given = [word for path in kept for word in ("--receipts", str(path))]
    assert command(["verify", str(run), "--keys", str(keys), *given]) == 0
    shown = capsys.readouterr().out
    assert f"4 of 4 links are signed, with the key {fingerprint(seal_of(keys).key)}" in shown
    assert "6 of 6 updates are signed, by a, b" in shown
    assert shown.count(f"{RECEIPTS}: 4 are of this chain") == 2, "the last round's as well"
    receipt = parsed(Receipt, whole_lines(kept[0])[-1])
    assert [entry.client for entry in receipt.own] == [0]
    assert len(receipt.entries) == 2, "of the other node a hash alone"


def test_keys_change_no_bit(made: Path, data_root: Path, tmp_path: Path):
    with nodes(tmp_path, data_root, PLACES) as sockets:
        plain = train(configuration(tmp_path, data_root, "fl.n_rounds=2"), sockets)
    assert final_digest(plain) == links_digest(made)
    (link,) = {link.head.key for link in links_of(tmp_path)}
    assert link == ""
    assert not (tmp_path / "a" / "run" / RECEIPTS).exists()


def links_digest(home: Path) -> str:
    """Digest of the parameters after round 2, which is still kept."""
    folder = home / "server" / "run" / "checkpoints"
    assert (folder / "round_000002.json").exists()
    (folder / "round_000003.json").rename(folder / "later")
    try:
        return final_digest(SimpleNamespace(folder=folder.parent))  # pyright: ignore
    finally:
        (folder / "later").rename(folder / "round_000003.json")


def forged_head(links: list[Link], keys: Path) -> list[Link]:
    return [links[0], links[1].model_copy(update={"signature": links[2].signature}), *links[2:]]


def unsigned_head(links: list[Link], keys: Path) -> list[Link]:
    return [*links[:2], links[2].model_copy(update={"signature": ""}), *links[3:]]


def invented_update(links: list[Link], keys: Path) -> list[Link]:
    """The server itself says another count than the node has signed."""
    more = lambda entry: entry.model_copy(update={"tokens": entry.tokens + 5})  # noqa: E731
    return rewritten(links, 2, more, seal_of(keys))


def other_container(links: list[Link], keys: Path) -> list[Link]:
    digest = {"digest": "0" * 64}
    return rewritten(links, 2, lambda entry: entry.model_copy(update=digest), seal_of(keys))


def replaced_signature(links: list[Link], keys: Path) -> list[Link]:
    """That of the other node, with its key, under this one's name."""
    other = links[2].updates[1]

    def swap(entry: Entry) -> Entry:
        fresh = entry.model_copy(update={"key": other.key})
        sign = papers(keys, "b")[0]
        return fresh.model_copy(update={"signature": sign(fresh.statement("run")).hex()})

    return rewritten(links, 2, swap, seal_of(keys))


def without_node(links: list[Link], keys: Path) -> list[Link]:
    bare = {"node": "", "key": "", "signature": ""}
    return rewritten(links, 2, lambda entry: entry.model_copy(update=bare), seal_of(keys))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (forged_head, "chain: link 1 (round 1): its signature is forged"),
        (unsigned_head, "chain: link 2 (round 2): its signature is missing"),
        (invented_update, "link 2 (round 2): update of client 0: the signature of node a is for"),
        (other_container, "link 2 (round 2): update of client 0: the signature of node a is for"),
        (replaced_signature, "link 2 (round 2): update of client 0: is not signed with the ke"),
        (without_node, "chain: link 2 (round 2): update of client 0: is signed by nobody"),
    ],
)  # fmt: skip
def test_what_nobody_has_signed_is_named(home: Path, keys: Path, tamper: Any, message: str):
    write(home, tamper(links_of(home), keys))
    (found,) = faults(home, keys)
    assert message in found


def test_a_history_made_anew_is_not_what_nodes_were_told(home: Path, keys: Path):
    """A server that says what it likes of an unsigned update, and signs it all again."""
    write(home, without_node(links_of(home), keys))
    for path in (home / "server" / "run" / "checkpoints").glob("round_*.json"):
        path.unlink()
    found = faults(home)
    assert [one for one in found if "link 2 (round 2): the server has signed" in one]
    assert sum(one.startswith("receipts: ") for one in found) == 2


def test_links_that_were_dropped_are_in_the_receipts(home: Path):
    write(home, links_of(home)[:3])
    (home / "server" / "run" / "checkpoints" / "round_000003.json").unlink()
    summary, *found = faults(home)
    assert summary.endswith("tokens, which no link has")
    assert [one.partition(": line")[2] for one in found] == [
        " 4: link 3 (round 3): is signed by the server, and not in the chain"
    ] * 2


@pytest.mark.parametrize(
    ("whose", "given", "changes", "message"),
    [
        ("stranger", True, {}, "is signed with the key .*, not with the server's: proves nothing"),
        ("stranger", False, {}, "is signed with the key .*, as no link is: proves nothing"),
        ("server", False, {"run": "other"}, "is of the run other, this one is run$"),
    ],
)
def test_a_receipt_that_anybody_can_make_accuses_nobody(home, keys, whose, given, changes, message):
    """Another head of the last link, under a fresh key or of another run."""
    make_authority(home / "stranger", ["localhost"])
    seal = seal_of(keys if whose == "server" else home / "stranger")
    path = home / "forged.jsonl"
    path.write_bytes(Receipt.of(other(links_of(home)[-1], seal, **changes), "c").line() + b"\n")
    *_, found = verify_run(home / "server" / "run", [keys] if given else [], [path])
    assert re.search(f"line 1: link 3 .round 3.: {message}", found.text)


def test_another_server_is_not_believed(home: Path, keys: Path, tmp_path: Path):
    """A chain that somebody has made and signed with a key of his own."""
    make_authority(tmp_path / "other", ["localhost"])
    write(home, rewritten(links_of(home), 1, lambda entry: entry, seal_of(tmp_path / "other")))
    (found,) = faults(home, keys)
    assert "chain: link 1 (round 1): is signed with the key " in found
    assert "not with the server's" in found


def test_an_update_that_is_not_signed_does_not_count(
    data_root: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Replies are signed, the update is another's: as if it was changed on the node's way."""
    stranger = papers(keys, "a")[0]
    honest = HostedRun._signatures

    def signatures(self: HostedRun, done: Any, tickets: Any) -> dict[int, bytes]:
        if done and done[0].client == 1:
            self = replace(self, sign=stranger)
        return honest(self, done, tickets)

    monkeypatch.setattr(HostedRun, "_signatures", signatures)
    lines: list[str] = []
    config = configuration(tmp_path, data_root, "fl.n_rounds=1")
    with nodes(tmp_path, data_root, PLACES, keys=keys) as sockets, pytest.raises(RoundFailed):
        train(config, sockets, lines, keys=keys)
    told = "client 1 on node b: its update is not signed with the key enrolled for its name"
    assert [line for line in lines if told in line]
    assert [link.head.round for link in links_of(tmp_path)] == [0]


def only(lines: list[bytes], notice: Notice) -> Notice:
    return notice.model_copy(update={"receipts": lines})


class TestReceiptBook:
    @pytest.fixture
    def notice(self, made: Path, keys: Path) -> Notice:
        """All that node a is told of the run."""
        outbox = Outbox(made / "server" / "run", seal_of(keys).certificate)
        found = outbox.notice("run", "a")
        assert found is not None
        return found

    @pytest.fixture
    def book(self, keys: Path, tmp_path: Path) -> Callable[[], ReceiptBook]:
        self.said: list[str] = []
        trust = papers(keys, "a")[1]
        return lambda: ReceiptBook(tmp_path, "run", "a", trust, self.said.append)

    def test_it_keeps_each_once(self, book, notice: Notice, tmp_path: Path):
        first = book()
        first.take(only(notice.receipts[:3], notice))
        first.take(notice)
        kept = (tmp_path / RECEIPTS).read_bytes()
        assert kept == b"".join(line + b"\n" for line in notice.receipts)
        book().take(notice)
        assert (tmp_path / RECEIPTS).read_bytes() == kept
        assert not self.said

    def test_a_gap_is_noted(self, book, notice: Notice):
        book().take(only(notice.receipts[:1], notice))
        book().take(only(notice.receipts[3:], notice))
        assert self.said == ["receipts    none of links 1 to 2 has come"]

    def test_another_history_is_refused_and_kept(self, book, notice, home, keys, tmp_path):
        """After a restart of the node too; whoever has both lines can prove it."""
        book().take(notice)
        run = home / "server" / "run"
        lines = links_of(home)
        write(home, [*lines[:3], other(lines[3], seal_of(keys))])
        anew = Outbox(run, seal_of(keys).certificate).notice("run", "a")
        for _ in range(2):
            with pytest.raises(
                PayloadError, match=r"link 3 \(round 3\): the server's history has b"
            ):
                book().take(anew)
        kept = [parsed(Receipt, line).head for line in whole_lines(tmp_path / RECEIPTS)]
        assert [one.number for one in kept] == [0, 1, 2, 3, 3]
        assert len({one.hash for one in kept}) == 5

    def test_a_history_that_does_not_follow_is_refused(self, book, notice, home, keys):
        book().take(only(notice.receipts[:3], notice))
        write(home, invented_update(links_of(home), keys))
        link = Receipt.of(links_of(home)[3], "a").line()
        for again in (one for _ in range(2) for one in 2 * [book()]):
            with pytest.raises(PayloadError, match=r"follows \w+, this node was told \w+"):
                again.take(only([link], notice))

    @pytest.mark.parametrize("what", ["tokens", "entry", "signature", "run", "key", "stranger"])
    def test_what_is_forged_is_refused(self, book, notice, keys, what: str, tmp_path: Path):
        receipt = json.loads(notice.receipts[1])
        seal, message = seal_of(keys), "its signature is forged"
        match what:
            case "tokens":
                receipt["own"][0]["tokens"] += 1
                message = "the update of client 0 is not in it"
            case "entry":
                receipt["entries"].reverse()
                message = "its entries are not those that its hash is of"
            case "signature":
                receipt["signature"] = json.loads(notice.receipts[0])["signature"]
            case "run":
                receipt["head"]["run"], message = "other", "is of the run other"
            case "key":
                receipt["head"]["key"] = ""
                message = r"is signed with the key , not with the server's"
            case _:
                make_authority(tmp_path / "other", ["localhost"])
                seal, message = seal_of(tmp_path / "other"), "not signed by this authority"
        line = json.dumps(receipt, sort_keys=True, separators=(",", ":")).encode()
        forged = notice.model_copy(update={"receipts": [line], "certificate": seal.certificate})
        with pytest.raises(PayloadError, match=message):
            book().take(forged)
        assert not (tmp_path / RECEIPTS).exists()

    def test_garbage_is_refused(self, book, notice: Notice):
        for line in (b"", b"{}", b"\xff", notice.receipts[1][:-1], notice.receipts[1] + b" "):
            with pytest.raises(PayloadError, match="receipt"):
                book().take(only([line], notice))
        with pytest.raises(PayloadError, match="certificate"):
            book().take(notice.model_copy(update={"certificate": b"no"}))

    def test_it_has_an_end(self, book, notice: Notice, home, keys, tmp_path: Path, monkeypatch):
        """Which is said once; heads are remembered all the same, without a proof on disk."""
        monkeypatch.setattr(receipts, "MOST_KEPT_BYTES", len(notice.receipts[0]))
        one, path = book(), tmp_path / RECEIPTS
        for line in notice.receipts:
            one.take(only([line], notice))
        assert len(whole_lines(path)) == 1
        assert self.said == [f"receipts    {path} is full: from link 1 on none is kept"]
        line = Receipt.of(other(links_of(home)[3], seal_of(keys)), "a").line()
        with pytest.raises(PayloadError, match=r"rewritten.* is full, without both; move it away"):
            one.take(only([line], notice))
        book().take(only(notice.receipts[2:], notice))
        assert self.said[1:] == [f"receipts    {path} is full: from link 2 on none is kept"]


def test_a_node_is_told_the_newest_of_many(made: Path, keys: Path, tmp_path: Path):
    """No more links than a message takes, and no more bytes; then only those that are new."""
    one, seal = links_of(made)[1], seal_of(keys)
    many = [one.model_copy(update={"head": one.head.model_copy(update={"number": n})})
            for n in range(200)]  # fmt: skip
    (tmp_path / FILE).write_bytes(b"".join(link.line() + b"\n" for link in many))
    outbox = Outbox(tmp_path, seal.certificate)
    notice = outbox.notice("run", "a")
    assert notice is not None
    assert len(notice.receipts) == MOST_RECEIPTS
    assert sum(map(len, notice.receipts)) <= MOST_RECEIPT_BYTES
    assert parsed(Receipt, notice.receipts[-1]).head.number == 199
    outbox.was_told("a", notice)
    assert outbox.notice("run", "a") is None
    with open(tmp_path / FILE, "ab") as file:
        head = one.head.model_copy(update={"number": 200})
        file.write(one.model_copy(update={"head": head}).line() + b"\n" + b'{"torn')
    notice = outbox.notice("run", "a")
    assert notice is not None
    assert [parsed(Receipt, line).head.number for line in notice.receipts] == [200]


def test_a_damaged_line_is_left_out_of_what_a_node_is_told(keys: Path, tmp_path: Path):
    """A server goes on with it, and `photon verify` names it."""
    seal, none = seal_of(keys), {"updates": digest_of_entries([]), "refused": "0" * 64}
    about = {"previous": "", "run": "run", "kind": "round", "step": 0, "tokens": 0, "state": {}}
    heads = [Head(number=n, round=n, key=seal.key, **about, **none) for n in range(4)]
    lines = [Link(head=head).signed_by(seal).line() for head in heads]
    lines[1] = lines[1].replace(b"round", b"r\0und")
    (tmp_path / FILE).write_bytes(b"".join(line + b"\n" for line in lines))
    notice = Outbox(tmp_path, seal.certificate).notice("run", "a")
    assert notice is not None
    assert [parsed(Receipt, line).head.number for line in notice.receipts] == [0, 2, 3]


def test_the_register_names_the_keys_of_the_chain(made: Path, keys: Path):
    register = read_register(keys / "nodes.json")
    for entry in links_of(made)[1].updates:
        assert entry.key == register.key_of(entry.node)
