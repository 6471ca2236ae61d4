"""The process of Flower that starts the relays: it proves by a secret who has started it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from photon.machine.private_files import write_private

SECRET = "superexec.secret"


def start_superexec(folder: Path, port: int) -> Path:
    """Start a SuperExec that takes its tasks from a port of this machine; ends with this process.

    Returns:
        The file of its secret, for the process that listens there.
    """
    secret = folder / SECRET
    secret.unlink(missing_ok=True)
    write_private(secret, secrets.token_bytes(32))
    command = [sys.executable, "-m", "photon.flower.superexec_process"]
    subprocess.Popen([*command, str(port), str(secret), str(os.getpid())])
    return secret
