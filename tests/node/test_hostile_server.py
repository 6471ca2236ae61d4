"""A server that means ill, against a node's real service: it chooses no file, no host, no code."""

from __future__ import annotations

import http.server
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from photon.config import Config, load_config
from photon.config.between.travel import TRAVELS, ignored, taken, travel_digest, travelling
from photon.config.explain.reference import all_keys
from photon.config.resolve import resolve
from photon.config.schema import Machine
from photon.container.container import write_container
from photon.data.prepare.embedded import prepare_embedded
from photon.data.read.shards import Rows
from photon.errors import ConfigError, PayloadError
from photon.flower.own_node import _own_overrides
from photon.model.build import build_model, parameters_of
from photon.node.hosted_run import data_facts
from photon.node.service import NodeService
from photon.run.preparation import prepare
from photon.run.run_data import RunData
from photon.wire.buffers import Buffers, pack
from photon.wire.messages import Trained, unpack_reply
from photon.wire.stores import allowed_stores, require_allowed

STREAM = "[{{client_streams: {{s: {{local: {}}}}}}}]"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Data of clients 0 and 1 on one machine, and a second data set beside it."""
    config = load_config(["recipe=smoke"])
    root = tmp_path_factory.mktemp("data") / "mine"
    prepare_embedded(root, config.data.embedded, 2, config.inner.row_length)
    shutil.copytree(root, root.parent / "other")
    return root


@pytest.fixture
def opened(monkeypatch) -> set[str]:
    """Folders of rows that were opened, from the data's own parent."""
    seen: set[str] = set()
    make = Rows.__init__

    def note(self: Rows, folder: Path, *arguments: Any) -> None:
        seen.add("/".join(folder.resolve().parts[-3:]))
        make(self, folder, *arguments)

    monkeypatch.setattr(Rows, "__init__", note)
    return seen


class Ill:
    """A node that hosts client 0, and what a server can say to it."""

    def __init__(self, root: Path, home: Path, *own: str) -> None:
        self.keys = ["recipe=smoke", f"dataset.train.root_local={root}", "run_uuid=r",
                     f"photon.saving_path={home / 'server'}"]  # fmt: skip
        self.home = home
        paths = [f"dataset.train.root_local={root}", f"photon.saving_path={home / 'node'}"]
        mine = load_config([*paths, "photon.workers=0", "photon.threads=1", *own])
        self.service = NodeService("n", [0], mine, home / "socket", None, lambda line: None)

    def config(self) -> Config:
        config = resolve(load_config(self.keys), cores=1, accelerator=0, run_uuid="r")
        return prepare(config, lambda line: None)[0]

    def says(
        self,
        keys: dict[str, Any] | None = None,
        base: dict[str, Any] | None = None,
        upload: dict[str, Any] | None = None,
        asked: dict[str, Any] | None = None,
        without: str | None = None,
    ) -> Trained:
        """The node's answer to an instruction that is sound but for what is given or left out."""
        config = self.config()
        data = RunData.of(config.data, config.inner, config.seed)
        params = parameters_of(build_model(config.inner, config.seed))
        path = self.home / "base"
        parts = {f"params/{name}": value for name, value in params.items()}
        ticket = {"via": "inline", **write_container(path, parts, {}).to_json()}
        sent = {**sent_of(config), "fl.aggregate_momenta": False, **(keys or {})}
        if without is not None:
            del sent[without]
        fields = {
            "run": "r", "round": 1, "client": 0, "first_step": 0, "local_steps": 1,
            "base_digest": ticket["digest"], "last_accepted": 0, **(asked or {}),
        }  # fmt: skip
        body = {
            "kind": "train", "run": "r", "round": 1, "config": sent,
            "config_digest": _digest(sent), "data": data_facts(data),
            "base": {**ticket, "data": Buffers(path.read_bytes()), **(base or {})},
            "instructions": [fields], "upload": {0: upload or {"via": "inline"}},
        }  # fmt: skip
        message = pack({"nonce": b"n" * 16, "body": body})
        return unpack_reply(message, self.service.answer(message), Trained, None)[1]


def sent_of(config: Config) -> dict[str, Any]:
    """What a server with this configuration sends of it."""
    return travelling(config.model_dump(mode="json"))


def _digest(sent: dict[str, Any]) -> str:
    try:
        return travel_digest(sent)
    except ConfigError:
        return "0" * 16


@pytest.fixture
def ill(root, tmp_path) -> Iterator[Callable[..., Ill]]:
    made: list[Ill] = []

    def make(*own: str, data: Path = root) -> Ill:
        made.append(Ill(data, tmp_path, *own))
        return made[-1]

    yield make
    for one in made:
        one.service.close()


def test_an_honest_server_has_the_node_s_own_clients_trained(ill, opened):
    """The oracle of the others: nothing else of the message is at fault."""
    trained = ill().says()
    assert trained.failed == {}
    assert list(trained.updates) == [0]
    assert {name for name in opened if "client_" in name} == {"mine/client_0/train"}


FOREIGN = {
    "dataset.train.streams": [{"client_streams": {"s": {"local": "client_1"}}}],
    "dataset.val.streams": [{"client_streams": {"s": {"local": "client_1"}}}],
    "dataset.train": {"root_local": "/"},
    "dataset.train.root_local": "/etc",
    "dataset.train.root_remote": "file:///etc",
    "photon.saving_path": "/tmp/elsewhere",
    "photon.transport_hosts": ["evil.example"],
    "photon.fewest_masked": None,
    "photon.device": "cuda:7",
    "fl.strategy_name": "os:system",
    "pretrained_model_path": "/etc",
    "llm_config.model.pretrained_model_name_or_path": "/etc",
    "llm_config.model.config_overrides": {"trust_remote_code": True},
    "s3_comm_config": {"bucket_name": "theirs"},
    "icl_tasks_config": {"root_dir": "/etc"},
    "use_wandb": True,
    "llm_config": {"loggers": {"wandb": {}}},
    "no.such.key": 1,
}


@pytest.mark.parametrize("key", FOREIGN)
def test_a_key_of_the_node_s_own_is_refused_by_name(ill, opened, key):
    with pytest.raises(PayloadError, match=f"{key}: is this node's own"):
        ill().says({key: FOREIGN[key]})
    assert not opened, "and nothing was read"


def test_only_streams_of_the_node_s_own_are_read(ill, root, opened):
    """The owner may say that its client 0 reads what lies in another folder below its root."""
    own = f"dataset.train.streams={STREAM.format('client_1')}"
    assert ill(own).says().failed == {}
    assert {name for name in opened if "client_" in name} == {"mine/client_1/train"}


@pytest.mark.parametrize(
    "local", ["../other/client_1", "client_0/../../other/client_1", "/etc", ".."]
)
def test_no_stream_leads_out_of_the_root(local):
    with pytest.raises(ConfigError, match="must be a folder below root_local"):
        load_config([f"dataset.train.streams={STREAM.format(local)}"])


HF = {
    "name": "hf_causal_lm", "model_type": "gpt2", "vocab_size": 64, "n_positions": 32, "n_embd": 16,
    "n_layer": 1, "n_head": 2,
}  # fmt: skip
ELSEWHERE = {
    "auto_map": {"AutoModelForCausalLM": "theirs--code.Model"},
    "_name_or_path": "theirs",
    "_attn_implementation": "sdpa",
    "attn_implementation": "flash_attention_2",
    "quantization_config": {"quant_method": "gptq"},
    "activation_function": "theirs/kernel",
    "text_config": {"deep": [{"auto_map": "x"}]},
    "label": "../weights",
}


@pytest.mark.parametrize("key", ELSEWHERE)
def test_an_architecture_names_no_code_and_no_place(key):
    entries = {k: v for k, v in HF.items() if k != "name"}
    sound = {**sent_of(Config()), "llm_config.model.name": "hf_causal_lm",
             "llm_config.model.hf_config": entries}  # fmt: skip
    config = taken(sound, Config())
    assert config.inner.model.hf_config == entries
    assert sum(p.numel() for p in build_model(config.inner, 0).parameters()) > 0
    with pytest.raises(ConfigError, match=r"hf_config\.\w+: the server's message may name no code"):
        taken({**sound, "llm_config.model.hf_config": {**entries, key: ELSEWHERE[key]}}, Config())


def test_an_architecture_comes_whole_or_not_at_all():
    own = load_config(["llm_config.model.pretrained_model_name_or_path=mine"])
    with pytest.raises(ConfigError, match="has no architecture"):
        taken({**sent_of(Config()), "llm_config.model.name": "hf_causal_lm"}, own)


@pytest.mark.parametrize(
    "asked", [{"round": "../../x"}, {"local_steps": 0}, {"client": True}, {"last_accepted": -1}]
)
def test_a_task_is_parsed(ill, asked):
    with pytest.raises(
        PayloadError, match=rf"request: train\.instructions\.0\.{next(iter(asked))}"
    ):
        ill().says(asked=asked)


def test_a_client_of_another_node_is_refused(ill, opened):
    with pytest.raises(PayloadError, match="has no data of client 1"):
        ill().says(asked={"client": 1})
    assert not opened


# ---- stores ----


class Bait(http.server.BaseHTTPRequestHandler):
    """Notes what it is asked, and sends every request on to somebody else."""

    asked: list[str]
    onward: str

    def answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        if "/moved" in self.path:
            self.send_response(302)
            self.send_header("Location", self.onward)
        else:
            self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def bait() -> Iterator[Callable[[str], tuple[str, list[str]]]]:
    """Starts servers; gives the address of each, and what it has been asked."""
    servers: list[http.server.HTTPServer] = []

    def start(onward: str = "") -> tuple[str, list[str]]:
        asked: list[str] = []
        handler = type("Own", (Bait,), {"asked": asked, "onward": onward})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}", asked

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def test_a_node_asks_no_host_that_its_owner_has_not_named(ill, bait, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    url, asked = bait()
    node, place = ill(), {"via": "s3", "urls": [f"{url}/secret?signature=abc"], "part": 1 << 20}
    for reply in (lambda: node.says(base=place), lambda: node.says(upload=place)):
        with pytest.raises(PayloadError, match=f"{url}, .*photon.transport_hosts") as refused:
            reply()
        assert "secret" not in str(refused.value)
    assert not asked


def test_a_node_asks_the_hosts_that_its_owner_has_named_and_follows_nobody(ill, bait):
    away, elsewhere = bait()
    url, asked = bait(away)
    node = ill(f"photon.transport_hosts=['{url}']")
    place = {"via": "s3", "urls": [f"{url}/moved"], "part": 1 << 20}
    for reply in (lambda: node.says(base=place), lambda: node.says(upload=place)):
        with pytest.raises(PayloadError, match=r"object store 127.0.0.1:.*302"):
            reply()
    assert set(asked) == {"GET /moved", "PUT /moved"}
    assert not elsewhere


URLS = {
    "https://s3.example.org/b/k?x=1": True,
    "https://S3.example.org:443/b": True,
    "http://10.0.0.7:9000/b": True,
    "https://other.example.org:9443/": True,
    "http://s3.example.org/b": False,
    "https://s3.example.org:8443/b": False,
    "https://10.0.0.7:9000/b": False,
    "https://other.example.org/b": False,
    "https://s3.example.org.evil.net/": False,
    "https://s3.example.org@evil.net/": False,
    "https://evil.net\\@s3.example.org/": False,
    "https://evil.net#s3.example.org/": False,
    " https://s3.example.org/": False,
    "file:///etc/passwd": False,
    "ftp://s3.example.org/": False,
    "//s3.example.org/b": False,
    "": False,
}


@pytest.mark.parametrize("url", URLS)
def test_hosts_are_compared_whole(url):
    named = ["s3.example.org", "other.example.org:9443", "http://10.0.0.7:9000"]
    stores = allowed_stores(Machine(transport_hosts=named))
    if URLS[url]:
        require_allowed({"urls": ["https://s3.example.org", url]}, stores)
    else:
        with pytest.raises(PayloadError, match=r"photon\.transport_hosts"):
            require_allowed({"urls": ["https://s3.example.org", url]}, stores)


def test_the_store_of_the_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example.org:9000/")
    assert allowed_stores(Machine()) == {("https", "store.example.org", "9000")}
    assert allowed_stores(Machine(transport_hosts=[])) == frozenset()
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert allowed_stores(Machine()) == frozenset()


@pytest.mark.parametrize("named", ["a b", "s3.example.org/bucket", "https://a.org/b/", "a.org?b"])
def test_a_store_is_named_by_its_host_alone(named):
    """Whoever names a bucket means no other one of that host, which nobody would see to."""
    with pytest.raises(ConfigError, match=re.escape(f"{named!r} is no HOST")):
        allowed_stores(Machine(transport_hosts=[named]))
    slash = allowed_stores(Machine(transport_hosts=["https://store.example.org/"]))
    assert slash == {("https", "store.example.org", "443")}


# ---- the list ----


def test_what_travels_is_the_mathematics_and_arrives(root):
    """Of a configuration without a default among what travels, each value is the server's."""
    config = load_config(["llm_config=mpt-125m", "fl.n_rounds=9", "seed=3", "run_uuid=r",
                          "photon.device=cuda", "fl.compression=fp32"])  # fmt: skip
    own = load_config([f"dataset.train.root_local={root}", "photon.device=cpu", "fl.n_rounds=2"])
    made = taken(sent_of(config), own)
    assert sent_of(made) == sent_of(config)
    assert (made.machine, made.data.train.root) == (own.machine, str(root))
    assert set(TRAVELS) <= {key for one in all_keys() for key in _above(one.key)}


@pytest.mark.parametrize("key", TRAVELS)
def test_a_message_without_a_key_that_travels_is_refused(key):
    """The node's own value in its place would be another run."""
    sent = sent_of(Config())
    del sent[key]
    with pytest.raises(ConfigError, match=f"^{key}: the server's message lacks it"):
        taken(sent, Config())


def test_a_server_that_leaves_a_key_out_gets_no_update(ill, opened):
    with pytest.raises(PayloadError, match="seed: the server's message lacks it"):
        ill().says(without="seed")
    assert not opened, "and nothing was read"


def _above(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def test_a_node_beside_the_server_is_told_what_does_not_travel(root):
    """By its command line: the folder, and streams with names that Hydra would read otherwise."""
    streams = STREAM.format("'c8/en/a b=c'")
    config = load_config([f"dataset.train.root_local={root}", "photon.device=cpu", "fl.n_rounds=2",
                          f"dataset.train.streams={streams}", "dataset.train.cache_limit=10gb",
                          "dataset.train.shuffle=false"])  # fmt: skip
    told = _own_overrides(config.values_by_key())
    assert not ignored(told)
    own = load_config(told)
    assert taken(sent_of(config), own) == config
    assert own.data.train.streams == config.data.train.streams


def test_what_a_node_is_given_in_vain_is_known():
    vain = ["llm_config=mpt-125m", "fl.n_rounds=3", "dataset.train.shuffle=false", "++seed=1",
            "use_wandb=true"]  # fmt: skip
    own = ["photon.device=cpu", "dataset.train.root_local=x", "llm_config.compile=false",
           "dataset/streams@dataset.train.streams=8_clients", "recipe=smoke",
           "dataset=fed-c4"]  # fmt: skip
    assert ignored([*vain, *own]) == vain
