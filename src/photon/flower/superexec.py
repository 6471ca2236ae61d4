"""The process of Flower that starts the relays: it proves by a secret who has started it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from photon.machine.private_files import write_private

SECRET = "superexec.secret"
LEAVE_SECONDS = 5.0
"""That a process has to end by itself, which may be ending anyway: a node takes leave then."""


def start_superexec(folder: Path, port: int) -> Path:
    """Start a SuperExec that takes its tasks from a port of this machine; ends with this process,
    and this process with it, since without one nothing is done: whoever watches starts both anew.

    Returns:
        The file of its secret, for the process that listens there.
    """
    secret = folder / SECRET
    secret.unlink(missing_ok=True)
    write_private(secret, secrets.token_bytes(32))
    command = [sys.executable, "-m", "photon.flower.superexec_process"]
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # its threads would be lost in a fork
    process = subprocess.Popen([*command, str(port), str(secret), str(os.getpid())], env=alone)
    threading.Thread(target=_end_with, args=(process,), daemon=True).start()
    return secret


def _end_with(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    time.sleep(LEAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_SECONDS)
    os._exit(1)
