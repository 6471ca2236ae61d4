"""Prints the newest run of a 125m model below a folder; nothing if there is none."""

import json
import sys
from pathlib import Path

runs = []
for path in Path(sys.argv[1]).glob("*/config.json"):
    checkpoints = list((path.parent / "checkpoints").glob("*.json"))
    name = str(json.loads(path.read_text())["llm_config"]["name"])
    if name.endswith("125m") and checkpoints:
        runs.append((max(file.stat().st_mtime for file in checkpoints), path.parent))
if runs:
    print(max(runs)[1])
