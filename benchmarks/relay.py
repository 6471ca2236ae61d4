"""Processor time of a message in the node's relay, against an empty Flower app.

    python benchmarks/relay.py [--messages 20] [--kilobytes 1 4000]

Two federations beside each other on this machine, without TLS: one with Photon's relay and a
service that answers, one whose app returns an empty message. They get the same messages in turns.
A process is forked for each message; its time is what the SuperNode's processes have reaped. A
line of each size goes to benchmarks/results/relay.jsonl.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

from records import RESULTS, append

from photon.flower import link as flower
from photon.flower.link import FlowerLink
from photon.flower.superlink import APP, SuperNode
from photon.machine import frames
from photon.machine.address import free_port
from photon.machine.interrupt import StopRequest
from photon.wire.buffers import Buffers
from photon.wire.enrolment import Register

LOG = RESULTS / "relay.jsonl"
TICK = os.sysconf("SC_CLK_TCK")
EMPTY = """
@client.query()
def nothing(message, context):
    return Message(_record(b""), reply_to=message)


@server.main()
"""


def answer_all(path: Path) -> None:
    """A service that answers every message with as many bytes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(8)

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                body = frames.receive_bytes(connection, 1 << 30)
                if body is not None:
                    frames.send_bytes(connection, body)

    threading.Thread(target=serve, daemon=True).start()


def empty_app(folder: Path) -> Path:
    """Flower's bundle with the node's relay taken out."""
    shutil.copytree(APP, folder)
    code = (folder / "relay.py").read_text()
    head, _, rest = code.partition("@client.query()")
    (folder / "relay.py").write_text(head + EMPTY.lstrip() + rest.partition("@server.main()\n")[2])
    return folder


class Federation:
    """A SuperLink, a SuperNode, and a way to send one message."""

    def __init__(self, home: Path, app: Path, sockets: Path) -> None:
        home.mkdir()
        path, port = sockets / f"{home.name}.sock", free_port()
        answer_all(path)
        before = children_of(os.getpid())
        flower.APP = app
        self.link = FlowerLink(home / "link", "127.0.0.1", port, None, Register(None), print,
                               StopRequest())  # fmt: skip
        links = children_of(os.getpid()) - before
        self.node = SuperNode(home, f"127.0.0.1:{port}", path, None, app)
        own = children_of(os.getpid()) - before - links
        parents = {pid: stat(pid) for pid in own}
        self.roots = {pid for pid, of in parents.items() if of and int(of[1]) not in own}
        while not self.link.addresses():
            time.sleep(0.2)

    def send(self, body: bytes) -> float:
        """Processor seconds of the app's process for one message."""
        before = sum(map(reaped, self.roots))
        name = self.link.send(self.link.addresses()[0], Buffers(body))
        while not any(found == name and answer is not None
                      for found, answer in self.link.answers(1.0)):  # fmt: skip
            pass
        deadline = time.monotonic() + 20
        while (spent := sum(map(reaped, self.roots)) - before) == 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        return spent

    def close(self) -> None:
        self.node.close()
        self.link.close()


def stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def children_of(pid: int) -> set[int]:
    """All processes below one."""
    parents = {int(p.name): stat(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found, new = set(), {pid}
    while new:
        new = {child for child, fields in parents.items() if fields and int(fields[1]) in new}
        found |= new
    return found


def reaped(root: int) -> float:
    """Processor seconds of the ended children of a process and of all below it."""
    total = 0
    for pid in {root} | children_of(root):
        fields = stat(pid)
        total += int(fields[13]) + int(fields[14]) if fields else 0
    return total / TICK


def in_turns(
    federations: dict[str, Federation], body: bytes, messages: int
) -> dict[str, list[float]]:
    """Processor seconds of each message; the other one is first in every other turn."""
    spent: dict[str, list[float]] = {name: [] for name in federations}
    for turn in range(messages):
        for name in sorted(federations, reverse=turn % 2 == 1):
            spent[name].append(federations[name].send(body))
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20)
    parser.add_argument("--kilobytes", type=float, nargs="+", default=[1.0, 4000.0])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        home = Path(folder)
        apps = {"photon": APP, "empty": empty_app(home / "app")}
        found = {name: Federation(home / name, app, Path(sockets)) for name, app in apps.items()}
        try:
            for federation in found.values():
                federation.send(b"x")  # the first message brings the bundle
            for kilobytes in arguments.kilobytes:
                body = bytes(int(kilobytes * 1000))
                spent = in_turns(found, body, arguments.messages)
                ours, empty = (statistics.median(spent[name]) for name in apps)
                print(f"{kilobytes:g} kB: photon {ours:.2f} s, empty {empty:.2f} s of processor "
                      f"time a message: {ours / empty:.2f} (bar 1.5)", flush=True)  # fmt: skip
                append(LOG, {"kilobytes": kilobytes, "photon_seconds": ours,
                             "empty_seconds": empty, "ratio": ours / empty,
                             "messages": arguments.messages})  # fmt: skip
        finally:
            for federation in found.values():
                federation.close()


if __name__ == "__main__":
    main()
