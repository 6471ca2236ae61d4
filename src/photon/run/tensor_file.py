"""Files of tensors that others may read, if the umask lets them: safetensors' own are private."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous tensors.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    save_file(dict(tensors), path, metadata=metadata)
    follow_umask(path)


def follow_umask(path: Path) -> None:
    """Give a file the mode of a new one; asking for the umask itself would change it for all."""
    new = path.with_name(path.name + ".mode")
    new.touch()
    path.chmod(new.stat().st_mode & 0o777)
    new.unlink()
