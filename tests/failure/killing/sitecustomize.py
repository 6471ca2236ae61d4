"""Kills a process with -9 in the middle of what it does to files, where PHOTON_KILL says.

Python runs this at its start wherever the folder is in PYTHONPATH: in a command and in its workers.
PHOTON_KILL is JSON: `at`, an operation and a path as a pattern (`replace */round_000002.json.tmp`:
before a file takes its name; `unlink ...`; `run examined`); `thread`, the beginning of its name;
`count`, which time; `until`, patterns of files that must be there before; `half`, whether the file
is cut first; `marker`, a file that is made, so that nothing is killed twice.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch

SECONDS = 60.0


def arm(spec: dict) -> None:  # noqa: C901 - it has to stand alone
    left = [spec.get("count", 1)]

    def reached(operation: str, path: str) -> None:
        if not fnmatch(f"{operation} {path}", spec["at"]) or os.path.exists(spec["marker"]):
            return
        if not threading.current_thread().name.startswith(spec["thread"]):
            return
        left[0] -= 1
        if left[0]:
            return
        deadline = time.monotonic() + SECONDS
        while not all(map(glob.glob, spec.get("until", ()))) and time.monotonic() < deadline:
            time.sleep(0.01)
        if time.monotonic() < deadline:
            die(path)

    def die(path: str) -> None:
        if spec.get("half"):
            os.truncate(path, os.path.getsize(path) // 2)
        with open(spec["marker"], "w") as marker:
            marker.write(threading.current_thread().name)
        os.kill(os.getpid(), signal.SIGKILL)

    replace, unlink, submit = os.replace, os.unlink, ThreadPoolExecutor.submit

    def replacing(source, target, **more):
        reached("replace", os.fspath(source))
        return replace(source, target, **more)

    def unlinking(path, **more):
        reached("unlink", os.fspath(path))
        return unlink(path, **more)

    def submitting(pool, work, /, *args, **more):
        def working(*given, **named):
            reached("run", getattr(work, "__name__", ""))
            return work(*given, **named)

        return submit(pool, working, *args, **more)

    os.replace, os.unlink = replacing, unlinking
    ThreadPoolExecutor.submit = submitting


if "PHOTON_KILL" in os.environ:
    arm(json.loads(os.environ["PHOTON_KILL"]))
