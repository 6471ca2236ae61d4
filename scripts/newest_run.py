"""Prints the newest run of a 125m model below a folder; nothing if there is none."""

import json
import sys
from pathlib import Path


def model_of(config: Path) -> str:
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["llm_config"]["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""  # of no run, as an exported model's


runs = []
for path in Path(sys.argv[1]).glob("*/config.json"):
    checkpoints = list((path.parent / "checkpoints").glob("*.json"))
    if model_of(path).endswith("125m") and checkpoints:
        runs.append((max(file.stat().st_mtime for file in checkpoints), path.parent))
if runs:
    print(max(runs)[1])
