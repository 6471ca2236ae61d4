"""Keys of `fl.scoring`: what an update is worth, before it is merged."""

from __future__ import annotations

from pydantic import Field

from photon.config.base import Section


class UpdateScoring(Section):
    """Updates are scored beside each other before they are merged, and bad ones refused."""

    enabled: bool = Field(
        default=False,
        description="refuse updates that are worth less than the others of their round, that point "
        "another way, or that are copies; leave out for a while who fails repeatedly",
    )
    rows: int = Field(
        default=64,
        ge=0,
        description="rows of the server's validation text, on which the model is scored with each "
        "update and without; 0: updates are only compared with each other",
    )
    deviations: float = Field(
        default=6.0,
        gt=0,
        description="deviations (MAD) below the median of a round's scores, beyond which an update "
        "is refused",
    )
    failures: int = Field(
        default=2,
        ge=1,
        description="rounds in a row in which a client's update is refused, for whatever reason, "
        "until it is quarantined",
    )
    quarantine: int = Field(
        default=8,
        ge=1,
        description="rounds that such a client is left out of; then it takes part again, and is "
        "left out anew if it fails at once",
    )
