"""A server over sockets, for a process of its own: forked, or python server_process.py SOCKETS
OVERRIDES...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from loopback import over_sockets
from photon.config import load_config
from photon.errors import PhotonError
from photon.experiment.experiment import train


def main(sockets: Path, overrides: list[str]) -> int:
    """Its exit code."""
    try:
        train(load_config(overrides), resumes=True, engine=over_sockets(sockets), say=print)
    except PhotonError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
