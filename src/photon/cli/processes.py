"""Which of a job's processes speaks."""

import os


def is_first_process() -> bool:
    """Whether this is the first, or the only, process of a `torchrun` job."""
    return os.environ.get("RANK", "0") == "0"
