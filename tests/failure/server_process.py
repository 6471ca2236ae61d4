"""A server over sockets as a process of its own: python server_process.py SOCKETS OVERRIDES..."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from loopback import over_sockets
from photon.config import load_config
from photon.errors import PhotonError
from photon.experiment.experiment import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        train(
            load_config(sys.argv[2:]),
            resumes=True,
            engine=over_sockets(Path(sys.argv[1])),
            say=lambda line: print(line, flush=True),
        )
    except PhotonError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
