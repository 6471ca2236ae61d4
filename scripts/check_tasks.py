"""Counts the Eval Gauntlet's task files below a folder; names what is missing or malformed."""

import sys
from pathlib import Path

from photon.config import load_config
from photon.errors import DataError
from photon.evaluation.tasks import find_file, read_rows

root, missing, rows = Path(sys.argv[1]), [], 0
tasks = load_config(["icl_tasks_config=tasks_v0.3"]).scoring.tasks or []
for task in tasks:
    try:
        rows += len(read_rows(find_file(root, task.dataset_uri), task))
    except DataError as error:
        missing.append(f"{task.label}: {error}".removesuffix("; set icl_tasks_config.root_dir"))
print(f"{len(tasks) - len(missing)} of {len(tasks)} tasks, {rows:,} rows in {root}")
print("".join(f"missing     {line}\n" for line in missing), end="", file=sys.stderr)
sys.exit(2 if missing else 0)
