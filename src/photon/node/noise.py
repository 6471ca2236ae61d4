"""The noise that this site's clients add to their updates, from a key that stays here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from photon.config.federation import Federation
from photon.core.messages import Instruction
from photon.core.tree import Tree
from photon.machine.private_files import own_key
from photon.privacy.noise import KEY_BYTES
from photon.privacy.share import Share, share_for
from photon.privacy.terms import share_deviation
from photon.training.loop import PARAMS, Trainer

KEY = Path("privacy", "node.key")
"""In the folder of a run."""


def share_of(
    federation: Federation,
    folder: Path,
    instruction: Instruction,
    base: Tree,
    trainer: Trainer,
    due: Collection[str],
) -> Share | None:
    """What is to be done to the update of a trainer; None: it goes as it is.

    Args:
        folder: of the run on this machine.
        base: parameters that the client has been told of.
        due: names of the parameters whose pseudo-gradient is sent.
    """
    clip = federation.privacy.clip_norm
    if clip is None or not federation.privacy.is_by_clients:
        return None
    params = {name: value for name, value in trainer.params.items() if name in due}
    leaves = (
        (name, base[name].to(value.device) - value)
        for _, name, value in trainer.whole({PARAMS: params})
    )
    key = own_key(folder / KEY, KEY_BYTES)
    address = f"{instruction.run} {instruction.round} {instruction.client}"
    return share_for(leaves, clip, share_deviation(federation), key, address)
