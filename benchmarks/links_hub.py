"""A network of sites in one machine, each behind a link of its own, for programs that speak TCP.

    python benchmarks/links_hub.py      says what keeps this machine from having one, or nothing

torch's gloo connects its processes to each other by addresses that it finds itself, so no proxy
can stand between them. Here each process is in a network of its own (a namespace of the kernel)
whose only way out is a tunnel device; the hub has the other ends and passes packets on, as fast and
as late as a link would. This takes root and /dev/net/tun, no module of the kernel that shapes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import queue
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from proxy import Shape

DEVICE = "link"
PACKET = 65_000
"""Bytes of the largest packet: as large as the proxy's pieces, so that neither starts slowly."""
LOOKS_UP = 0.2
"""Seconds after which a reader sees that the hub is closed."""
NEW_NETWORK = 0x40000000
SET_TUNNEL, WITHOUT_HEADER, IS_TUNNEL = 0x400454CA, 0x1000, 0x0001
SET_FLAGS, IS_UP, SET_ADDRESS, SET_MASK, SET_PACKET = 0x8914, 0x0041, 0x8916, 0x891C, 0x8922


def address_of(site: int) -> str:
    return f"10.77.0.{site + 1}"


def own_network(site: int) -> int:
    """Move this process into a network of its own; the other end of its link.

    To be called before there are threads, which would stay where they are.

    Raises:
        OSError: it may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "no network of its own")
    end = os.open("/dev/net/tun", os.O_RDWR)
    name = DEVICE.encode()
    fcntl.ioctl(end, SET_TUNNEL, struct.pack("16sH22x", name, IS_TUNNEL | WITHOUT_HEADER))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((SET_ADDRESS, address_of(site)), (SET_MASK, "255.255.255.0")):
            place = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, struct.pack("16s16s8x", name, place))
        fcntl.ioctl(control, SET_PACKET, struct.pack("16si20x", name, PACKET))
        for device in (name, b"lo"):
            fcntl.ioctl(control, SET_FLAGS, struct.pack("16sH22x", device, IS_UP))
    return end


def refusal() -> str:
    """Why there can be no such network here; empty: there can."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    return done.stdout.strip()


class Hub:
    """Passes packets on among sites until it is closed.

    A packet takes its length over the rate on its sender's way up; `Shape.delay` later it takes
    that on its receiver's way down, at the same time where nothing else is on it.

    Attributes:
        sent: bytes of packets of each site, with their headers.
    """

    def __init__(self, ends: Mapping[int, int], shape: Shape) -> None:
        self.sent = dict.fromkeys(ends, 0)
        self._ends, self._shape = ends, shape
        self._arriving = {
            address_of(site): queue.SimpleQueue[tuple[float, bytes]]() for site in ends
        }
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=work, args=(site,), daemon=True)
                         for work in (self._take, self._deliver) for site in ends]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """To be called when the processes are gone, and before the ends are closed: a number that
        is given again would be read by the threads of this hub.
        """
        self._closed.set()
        for arriving in self._arriving.values():
            arriving.put((0.0, b""))
        for thread in self._threads:
            thread.join()

    def _seconds(self, packet: bytes) -> float:
        return len(packet) / self._shape.rate if self._shape.rate else 0.0

    def _take(self, site: int) -> None:
        free = 0.0
        while packet := self._read(self._ends[site]):
            arriving = self._arriving.get(receiver(packet))
            if arriving is None:
                continue
            self.sent[site] += len(packet)
            free = max(time.monotonic(), free) + self._seconds(packet)
            wait_until(free)
            arriving.put((free + self._shape.delay, packet))

    def _read(self, end: int) -> bytes:
        """A packet; nothing when the network is gone or the hub is closed, which wakes nobody who
        waits in `read`.
        """
        while not self._closed.is_set():
            if select.select([end], [], [], LOOKS_UP)[0]:
                try:
                    return os.read(end, PACKET + 100)
                except OSError:
                    return b""
        return b""

    def _deliver(self, site: int) -> None:
        free, arriving = 0.0, self._arriving[address_of(site)]
        while True:
            due, packet = arriving.get()
            if not packet:
                return
            free = max(due, free + self._seconds(packet))
            wait_until(free)
            try:
                os.write(self._ends[site], packet)
            except OSError:
                return


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def receiver(packet: bytes) -> str:
    """Whom it is for, by its IPv4 header; nobody where that is no such packet."""
    is_whole = len(packet) >= 20 and packet[0] >> 4 == 4
    return socket.inet_ntoa(packet[16:20]) if is_whole else ""


if __name__ == "__main__":
    try:
        own_network(0)
    except OSError as error:
        print(f"{error.strerror or error}: this takes root and /dev/net/tun")
