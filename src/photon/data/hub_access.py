"""The Hugging Face hub from here: whether it answers, and single files of it."""

from __future__ import annotations

from pathlib import Path

from photon.errors import DataError

TIMEOUT_SECONDS = 10.0


def why_unreachable() -> str | None:
    """Why the hub cannot be asked now; None if it answers, or is not to be asked.

    It is asked once: the hub's own library asks six times in 24 s before it gives up.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception as error:  # of whatever library carries it
        return f"{constants.ENDPOINT} cannot be reached: {first_line(error)}"
    return None


def hub_file(name: str, file: str) -> Path:
    """A file of a repository of the hub: fetched, or the copy that an earlier call left here.

    Raises:
        DataError: neither is to be had.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        if (reason := why_unreachable()) is None:
            return Path(hf_hub_download(name, file))
        kept = try_to_load_from_cache(name, file)
    except Exception as error:  # of whatever library carries it
        raise DataError(first_line(error)) from error
    if isinstance(kept, str):
        return Path(kept)
    raise DataError(reason)


def first_line(error: Exception) -> str:
    """What an error of another library says, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
