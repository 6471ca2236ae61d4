"""Keys of `photon prepare`: what text, which tokenizer, who gets what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from photon.config.base import Section


class PrepareConfig(Section):
    """How text becomes token rows per client."""

    source: str | None = Field(
        default=None,
        description="file or folder (.jsonl, .json, .parquet, .txt, .md; also .gz, .zst) or the "
        "name of a Hugging Face dataset; null: the embedded corpus",
    )
    name: str | None = Field(
        default=None, description="configuration of a Hugging Face dataset; of C4 the language"
    )
    text_column: str = Field(default="text", description="column that holds the text")
    source_column: str | None = Field(
        default=None,
        description="column that says where a document is from (source, language, domain); null: "
        "the folder below the root, or the file",
    )
    splits: list[str] = Field(
        default=["train", "validation"],
        description="train or train_small; validation, val_small, val_xsmall or val_xxsmall",
    )
    tokenizer: str | None = Field(
        default=None,
        description="tokenizer.json, its folder or a Hugging Face name; null: train one",
    )
    vocab_size: int = Field(default=32_000, ge=257, description="size of a tokenizer trained here")
    tokenizer_bytes: int = Field(
        default=100_000_000,
        ge=1,
        description="most training text that it is trained on: of each client's (or each file of "
        "records) the same fraction",
    )
    bos_text: str | None = Field(
        default=None, description="token before each document, unless it is the separator"
    )
    eos_text: str | None = Field(
        default=None, description="separator behind each document; null: the tokenizer's own"
    )
    wrap: bool = Field(
        default=True,
        description="rows run on over documents; false: each has its own, its tail dropped",
    )
    partition: Literal["iid", "source", "dirichlet", "size"] = Field(
        default="iid",
        description="at random; whole sources to clients; each source in Dirichlet proportions; at "
        "random, sizes by a power law",
    )
    first_client: int = Field(
        default=0,
        ge=0,
        description="number of the first client whose data this is, where each site prepares its "
        "own (photon prepare --clients)",
    )
    alpha: float = Field(default=0.5, gt=0, description="concentration of the Dirichlet draw")
    size_exponent: float = Field(default=1.0, ge=0, description="exponent of the power law")
    validation_fraction: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="share of the text for the common validation set, and of each client's for its "
        "own, where the source has no validation split; long documents give their ends",
    )
    shuffle_documents: int = Field(
        default=10_000, ge=1, description="documents of a stream that are shuffled together"
    )
    seed: int = Field(default=9176, description="address of all draws")

    @model_validator(mode="after")
    def _known_splits(self) -> PrepareConfig:
        if not self.splits:
            raise ValueError("splits is empty; name train and validation, or smaller ones")
        return self
