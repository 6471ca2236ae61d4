"""A node's way to its server: a SuperNode, and what the user is told while there is no contact."""

from __future__ import annotations

import time
from pathlib import Path

from photon.errors import ConfigError, RoundFailed
from photon.flower.superlink import NodeKeys, SuperNode
from photon.machine.address import split_address
from photon.machine.private_files import keep_from_git
from photon.machine.probe import REFUSED, find_trouble, tls_context
from photon.machine.waiting import Waiting
from photon.node.service import NodeService
from photon.say import Say
from photon.wire.keys import RESERVED
from photon.wire.knock import find_key_trouble

MAX_FAILURES, LONGEST_PAUSE, STEADY_SECONDS = 25, 30.0, 60.0
"""A SuperNode that ends is started anew after 1, 2, 4 .. 30 s; for some ten minutes, unless it has
lived for a minute in between."""
LOOK_SECONDS = 2.0
"""Between two looks at a server that does not answer."""


def find_node_keys(folder: Path, name: str) -> NodeKeys:
    """The files of `photon keys` on a node.

    Raises:
        ConfigError: one is missing, or the authority's is no certificate.
    """
    keys = NodeKeys(folder / "ca.pem", folder / f"{name}.key")
    if keys.key.is_file():
        keep_from_git(folder)
    if not keys.authority.is_file():
        raise ConfigError(
            f"{keys.authority}: no such file; copy it here from the server's folder of `photon "
            "keys`, or name its folder with --keys"
        )
    if not keys.key.is_file():
        stems = {path.stem for path in folder.glob("*.key")} - set(RESERVED)
        others = ", ".join(sorted(stems))
        raise ConfigError(
            f"{keys.key}: no such file; `photon keys add {name} --clients ...` makes it on the "
            "server: copy it here, or name its folder with --keys"
            + (f"; or is this node --name {others}?" if others else "")
        )
    try:
        tls_context(keys.authority)
    except OSError as error:  # nothing that the server does can mend it
        raise ConfigError(
            f"{keys.authority}: not a certificate ({error.strerror or error}); copy it here once "
            "more from the server's folder of `photon keys`"
        ) from None
    return keys


class Connection:
    """A SuperNode that is started once the server answers, and anew when it ends or hangs.

    Args:
        server: HOST:PORT.
        path: of the service's socket.
    """

    def __init__(
        self,
        server: str,
        path: Path,
        keys: NodeKeys | None,
        service: NodeService,
        say: Say,
    ) -> None:
        self.server, self.path, self.service, self.say = server, path, service, say
        self.folder, self.waiting = service.home, Waiting(say)
        self._keys = keys
        self._supernode: SuperNode | None = None
        self._started = self._looked = -LONGEST_PAUSE
        self._failures, self._heard, self._is_greeted = 0, 0, False
        self.folder.mkdir(parents=True, exist_ok=True)

    def tend(self) -> bool:
        """Start the SuperNode if it is not at work, and say what is awaited; never asks to stop.

        Raises:
            RoundFailed: it has ended too often, and never lived long.
        """
        if self._supernode is not None and not self._supernode.is_at_work():
            self._let_go(self._supernode)
        if self._supernode is None:
            self._start()
        elif self._supernode.has_lost_server():
            self._reaches_server()
        elif self._has_been_greeted():
            self.waiting.is_over()
        elif not self._failures:
            self.waiting.tell(f"for {self.server} to greet this node; it answers")
        return False

    def close(self) -> None:
        """Let the last answers go, which may say that the node leaves, and end."""
        if self._supernode is not None:
            self._supernode.settle()
            self._supernode.close()

    def _start(self) -> None:
        pause = min(2.0**self._failures, LONGEST_PAUSE) if self._failures else 0.0
        if time.monotonic() - self._started < pause or not self._reaches_server():
            return
        self._started, self._heard, self._is_greeted = time.monotonic(), self.service.heard, False
        self._supernode = SuperNode(self.folder, self.server, self.path, self._keys)

    def _let_go(self, supernode: SuperNode) -> None:
        supernode.close()
        lived = time.monotonic() - self._started
        self._supernode = None
        self._failures = 1 if lived > STEADY_SECONDS else self._failures + 1
        trouble = f"for {self.server}: {supernode.trouble()}"
        if self._failures > MAX_FAILURES:
            raise RoundFailed(f"no contact: waited {trouble}")
        if self._failures > 1:  # the first may come of a server that is just starting, or ending
            self.waiting.tell(trouble)

    def _reaches_server(self) -> bool:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        address, keys = split_address(self.server), self._keys
        trouble = find_trouble(*address, keys and keys.authority)
        if trouble is None and keys is not None:
            trouble = find_key_trouble(*address, keys.authority, keys.key)
        self._looked = time.monotonic()
        if trouble is not None:
            self.waiting.tell(self._awaited(trouble))
        return trouble is None

    def _awaited(self, trouble: str) -> str:
        """A server that nobody answers for has ended, where its last round was trained here."""
        if self.service.came_to is not None and trouble.startswith(REFUSED):
            run, last, rounds = self.service.came_to
            where = f"{run} came to round {last} of {rounds} here"
            if last >= rounds:
                return f"for the next run on {self.server}: {where}, and its server has ended"
            return f"for {self.server}: {trouble}; {where}"
        return f"for {self.server}: {trouble}"

    def _has_been_greeted(self) -> bool:
        if not self._is_greeted and self.service.heard > self._heard:
            self._is_greeted = True
            self.say(f"greeted     by {self.server}; trains when it is asked")
        return self._is_greeted
