"""What carrying payloads costs: rounds, memory, transports, the relay; and damaged payloads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proof_parts import commands_of
from records import Record, current

from page.section import Claim, Logs, Section, table

VIAS = ("inline", "shm", "s3")
TRANSPORTS = {"shared memory, taken over": 4.0, "shared memory, put aside on disk": 4.0}
"""Arms of `transport.py file` that are claimed -> the most plain copies."""


def section(logs: Logs) -> Section:
    rounds = current(logs("network"), "part", "megabytes", "via")
    memory = current(logs("server_memory"), "megabytes", "clients", "via")
    processes = current(logs("process_memory"), "transport", "megabytes")
    relay = current(logs("relay"), "kilobytes")
    carried = current(logs("transport"), "part", "arm")
    mutants = current(logs("fuzz"), "what")
    nodes = current(logs("scale"), "nodes")
    claims = [*_of_rounds(rounds), *_of_memory(memory), *_of_processes(processes),
              *_of_transports(carried), *_of_relay(relay)]  # fmt: skip
    tables = [
        rounds_table(rounds), memory_table(memory), processes_table(processes),
        nodes_table(nodes), transport_table(carried), store_table(carried), peak_table(carried),
        mutants_table(mutants),
    ]  # fmt: skip
    return Section(
        title="Network",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of(*PARTS),
        records=[*rounds, *memory, *processes, *relay, *carried, *mutants, *nodes],
        claims=claims,
        tables=[one for one in tables if one],
        about="network",
    )


def _of_rounds(records: Sequence[Record]) -> list[Claim]:
    beyond = [1e3 * one["beyond_seconds"] for one in records if one["part"] == "floor"]
    words = "a round of the local engine beyond its fsyncs, two clients and a tiny step"
    flower = [one["beside_seconds"] for one in records if one["part"] == "flower"]
    return [
        Claim(words, beyond, 50, form=".0f", unit=" ms"),
        Claim("a round over Flower with TLS beside its training, two nodes and a tiny step", flower,
              form=".1f", unit=" s"),
    ]  # fmt: skip


def _of_memory(records: Iterable[Record]) -> list[Claim]:
    groups: dict[float, list[float]] = {}
    for one in records:
        groups.setdefault(one["megabytes"], []).append(one["payloads"])
    return [
        Claim(f"memory of a server, {size:g} MB, by clients and transport, in payloads", found, 3.5,
              form=".2f", each="case")
        for size, found in groups.items()
    ]  # fmt: skip


def _of_processes(records: Sequence[Record]) -> list[Claim]:
    """What the server takes beyond a run with hardly any payload."""
    if not records:
        return []
    least = min(records, key=lambda one: one["megabytes"])
    bare = least["peaks"]["server"]
    return [
        Claim(f"the same of a whole run over Flower, {one['megabytes']:.0f} MB {one['transport']}, "
              "in payloads",
              [(one["peaks"]["server"] - bare) / one["megabytes"]], 3.5, form=".2f")
        for one in records if one is not least
    ]  # fmt: skip


def _of_transports(records: Sequence[Record]) -> list[Claim]:
    by_arm = {arm: [one["ratio"] for one in records if one["arm"] == arm] for arm in TRANSPORTS
              if any(one.get("arm") == arm for one in records)}  # fmt: skip
    speeds = [1 / one["ratio"] for one in records if one["part"] == "store"]
    return [
        *(Claim(f"a payload through {arm}, in plain copies", found, TRANSPORTS[arm], form=".2f")
          for arm, found in by_arm.items()),
        Claim("object store, put and get: speed over bare `obstore`", speeds, 0.7, at_least=True,
              form=".2f"),
        Claim("object store, the get alone: speed over bare `obstore`",
              [one["plain"]["get"] / one["spans"]["get"] for one in records
               if one["part"] == "store"], 0.7, at_least=True, form=".2f"),
    ]  # fmt: skip


def _of_relay(records: Iterable[Record]) -> list[Claim]:
    words = "processor time of a message in the node's relay over an empty Flower app"
    found = [one["ratio"] for one in records]
    return [Claim(words, found, 1.5, form=".2f", each="size")]


def rounds_table(records: Iterable[Record]) -> str:
    """Seconds of a round without training."""
    sizes: dict[float, dict[str, float]] = {}
    for one in records:
        if one["part"] == "rounds":
            sizes.setdefault(one["megabytes"], {})[one["via"]] = one["seconds"]
    rows = [
        [f"{size:g}", *(f"{found[via]:.3g}" if via in found else "" for via in VIAS)]
        for size, found in sizes.items()
    ]
    head = ["MB of an update, two nodes, no training", *(f"s a round, {via}" for via in VIAS)]
    return table(head, rows) if rows else ""


def memory_table(records: Iterable[Record]) -> str:
    rows = [
        [f"{one['megabytes']:g}", one["via"], str(one["clients"]), f"{one['payloads']:.2f}",
         f"{one['round_seconds']:.1f}" if "round_seconds" in one else ""]
        for one in records
    ]  # fmt: skip
    head = ["MB of an update", "via", "clients", "server, payloads", "s a round"]
    return table(head, rows) if rows else ""


def nodes_table(records: Iterable[Record]) -> str:
    """Real processes, one client each, all of them on this machine."""
    rows = [
        [str(one["nodes"]), f"{one['first_round_seconds']:.0f}", f"{one['round_seconds']:.1f}",
         *(f"{one[f'{whose}_megabytes']:.0f}" for whose in ("server", "node", "all"))]
        for one in records
    ]  # fmt: skip
    head = ["node processes", "s until the first round's end", "s a round", "MB of the server",
            "of a node", "of all"]  # fmt: skip
    return table(head, rows) if rows else ""


def processes_table(records: Sequence[Record]) -> str:
    """Most anonymous memory of each program, in MB."""
    kinds = list(dict.fromkeys(kind for one in records for kind in one["peaks"]))
    rows = [
        [one["transport"], f"{one['megabytes']:.0f}",
         *(f"{one['peaks'][kind]:.0f}" if kind in one["peaks"] else "" for kind in kinds)]
        for one in records
    ]  # fmt: skip
    return table(["over Flower", "MB of an update", *kinds], rows) if rows else ""


def transport_table(records: Iterable[Record]) -> str:
    rows = [
        [one["arm"], f"{one['ratio']:.2f} ({one['ratio_min']:.2f} .. {one['ratio_max']:.2f})",
         _spans(one.get("spans")), _spans(one.get("plain")), f"{one['load']:.1f}"]
        for one in records if one["part"] == "file"
    ]  # fmt: skip
    head = ["a payload of 500 MB by way of", "plain copies", "of it", "a plain copy", "load before"]
    return table(head, rows) if rows else ""


def store_table(records: Iterable[Record]) -> str:
    rows = [
        [one["arm"], _spans(one["spans"]), _spans(one["plain"]), f"{1 / one['ratio']:.2f}",
         f"{one['plain']['get'] / one['spans']['get']:.2f}", f"{one['load']:.1f}"]
        for one in records if one["part"] == "store"
    ]  # fmt: skip
    head = ["object store (moto on loopback)", "ours", "bare `obstore`", "speed", "get alone",
            "load before"]  # fmt: skip
    return table(head, rows) if rows else ""


def _spans(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    return " + ".join(f"{name} {seconds:.2f}" for name, seconds in found.items()) + " s"


def peak_table(records: Iterable[Record]) -> str:
    rows = [
        [one["arm"], f"{one['own_megabytes']:.0f}", f"{one['mapped_megabytes']:.0f}"]
        for one in records if one["part"] == "memory"
    ]  # fmt: skip
    head = ["peak beyond what was there, of 500 MB", "MB of its own", "MB with mapped files"]
    return table(head, rows) if rows else ""


NOTHING_CAME = ("refused", "failed", "at fault", "another secret")
"""Ends of the fuzzers' outcomes: not read; a client's failure; found by a hash; of no use."""


def mutants_table(records: Iterable[Record]) -> str:
    rows = [
        [one["what"], f"{one['mutants']:,}", *(f"{share:,}" for share in outcomes(one))]
        for one in records
    ]
    head = ["mutants of", "tried", "refused", "read"]
    return table(head, rows) if rows else ""


def outcomes(record: Record) -> tuple[int, int]:
    """Mutants of which nothing came, and the others; how an outcome ends says which."""
    found = record["outcomes"].items()
    refused = sum(number for what, number in found if what.endswith(NOTHING_CAME))
    return refused, record["mutants"] - refused


PARTS = ("network", "memory of a server", "memory of large models", "scale", "memory of programs",
         "relay", "transport", "fuzz")  # fmt: skip
"""Of the proof."""
MEASURED = """
What it costs to carry payloads: rounds of a server and two nodes without any training; peak
anonymous memory (what the kernel cannot take back) of a server and of each program of a federation
over Flower with TLS; transports beside the plain operation that each cannot do without, in turns; a
message in the node's relay beside an empty Flower app; damaged payloads. What is read of a damaged
payload is exactly what was sent; what is read of the codecs' mutants are sound numbers of the
declared length, since a code that is changed is another number; what is read of messages, links and
shares is in its one form, and a share that was changed gives no secret back.
"""
MISLEADS = """
Everything is on one machine: loopback and a local S3 server stand for links, and no round trip
takes any time. The object store's gain is all in the put, since that server is slow to join the
parts of a multipart upload; the get alone is slower than the bare one, because ours verifies what
has come. The empty Flower app answers with nothing, ours with as many bytes as it gets, which is
most of a message of megabytes since no process is started for one. A server puts an update that
comes through shared memory aside on disk, to keep its memory flat in the number of clients: two
copies and two hashes. Of the programs' memory, the SuperLink's and SuperNode's is Flower's own.
Memory of a mapped file is the kernel's to take back. The memory of a server is that of plain
FedAvg, which keeps nothing but the parameters, with updates in fp32: a momentum is another payload.
Not measured: a real object store, tensors on an accelerator.
"""
