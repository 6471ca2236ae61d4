"""Flower's SuperNode, that runs the relay of this installation and no other app.

    python -m photon.flower.supernode_process APP PORT OPTIONS_OF_FLOWER...

Whoever runs the SuperLink names the app that nodes run. Here it must hold, file by file, what this
machine would have built from its own `APP`.
"""

from __future__ import annotations

import io
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from photon.errors import PayloadError
from photon.flower.patience import Patience, pulling_soon
from photon.flower.superexec import start_superexec

ABSENT_SECONDS = 1.5
"""Longer than the server's relay takes to see who is here."""


def require_own_app(bundle: bytes, own: bytes) -> None:
    """Compare two of Flower's bundles by their files: compression may differ between machines.

    Raises:
        PayloadError: they are not the same app.
    """
    try:
        is_own = _files(bundle) == _files(own)
    except Exception:  # what zipfile and what it unpacks with raise has nothing in common
        is_own = False
    if not is_own:
        raise PayloadError(
            "the server's app is not this installation's relay, and was not run; server and node "
            "need the same version of photon"
        )


def _files(bundle: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > 1 << 20:
            raise ValueError("too large for a relay")
        return sorted((info.filename, archive.read(info)) for info in infos)


def own_client(client: type, own: bytes, patience: Patience) -> type:
    """Flower's client of a SuperLink, for a node that runs no other app.

    Args:
        own: this machine's bundle.
        patience: is told when something happens.
    """
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest

    class OwnFleetClient(client):
        def ActivateNode(self, request: Any) -> Any:  # noqa: N802 -- Flower's names
            # Were the server not to see that an earlier SuperNode of this node has gone, it would
            # wait for ever for what that one had taken and not answered.
            here = super().ActivateNode(request)
            super().DeactivateNode(DeactivateNodeRequest(node_id=here.node_id))
            time.sleep(ABSENT_SECONDS)
            return super().ActivateNode(request)

        def GetFab(self, request: Any) -> Any:  # noqa: N802
            response = super().GetFab(request)
            require_own_app(response.fab.content, own)
            return response

        def PullMessages(self, request: Any) -> Any:  # noqa: N802
            response = super().PullMessages(request)
            if response.messages_list:
                patience.something_happened()
            return response

        def PushMessages(self, request: Any) -> Any:  # noqa: N802
            patience.something_happened()
            return super().PushMessages(request)

    return OwnFleetClient


def main(app: Path, port: int, options: list[str]) -> None:
    from flwr.cli.build import build_fab_from_disk
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli.flower_supernode import flower_supernode

    own, patience = build_fab_from_disk(app), Patience()
    client = own_client(fleet_http_connection.FleetHttpClient, own, patience)
    fleet_http_connection.FleetHttpClient = client
    start_client_internal.pull_objects = pulling_soon(start_client_internal.pull_objects)
    start_client_internal.time = patience  # pyright: ignore[reportAttributeAccessIssue]
    secret = start_superexec(Path(os.environ["FLWR_HOME"]), port)
    sys.argv = ["flower-supernode", "--port", str(port), "--isolation", "process",
                "--superexec-auth-secret-file", str(secret), *options]  # fmt: skip
    flower_supernode()
    os._exit(1)  # it has lost its server: Flower's own threads would keep it here


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
