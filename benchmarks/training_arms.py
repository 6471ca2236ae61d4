"""What `train_step.py` runs side by side: our step and its peers, our model and a minimal one."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from minimal_transformer import MinimalTransformer
from torch import nn

from photon.config.llm import Inner, LrSchedule, OptimizerConfig, SchedulerConfig, Schedulers
from photon.config.model import ModelConfig
from photon.data.read.stream import JoinedStream, Stream
from photon.model.build import build_model
from photon.training.loop import Trainer

WARM_UP = 1
RATE, BETAS, DECAY, THRESHOLD = 1e-3, (0.9, 0.95), 0.1, 1.0


@dataclass(frozen=True)
class Size:
    name: str
    layers: int
    width: int
    heads: int
    hidden: int
    vocab: int
    length: int
    rows: int
    steps: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


SMALL = Size("small", 2, 128, 4, 352, 2048, 128, 8, steps=10)
LARGE = Size("large", 4, 256, 4, 704, 8192, 256, 8, steps=2)
FAMILIES = ("llama", "mpt")


class Seconds(NamedTuple):
    cpu: float
    wall: float

    @staticmethod
    def now() -> Seconds:
        return Seconds(time.process_time(), time.perf_counter())

    def since(self, before: Seconds) -> Seconds:
        return Seconds(self.cpu - before.cpu, self.wall - before.wall)


Arm = Callable[[int], Seconds]
"""What so many steps cost, after one that warms up; short, so that a disturbance meets both."""


class InMemoryRows:
    """Random tokens behind the interface of `photon.data.read.shards.Rows`."""

    def __init__(self, count: int, length: int, vocab: int) -> None:
        self.tokens = np.random.default_rng(0).integers(0, vocab, (count, length + 1))
        self.shard_rows = [count]

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.tokens[indices]


def rows_of(size: Size) -> InMemoryRows:
    return InMemoryRows(16 * size.rows, size.length, size.vocab)


def timed(step: Callable[[], None]) -> Arm:
    def measure(steps: int) -> Seconds:
        for _ in range(WARM_UP):
            step()
        before = Seconds.now()
        for _ in range(steps):
            step()
        return Seconds.now().since(before)

    return measure


# Arms: the step


def llm_of(family: str, size: Size) -> Inner:
    model = ModelConfig(
        name="llama" if family == "llama" else "mpt_causal_lm",
        d_model=size.width,
        n_heads=size.heads,
        n_layers=size.layers,
        vocab_size=size.vocab,
        ffn_hidden_size=size.hidden,
        ffn_act="gelu_tanh",
    )
    schedule = LrSchedule(t_warmup=0, t_max=1_000_000, t_cooldown=0)
    return Inner(
        model=model,
        max_seq_len=size.length,
        optimizer=OptimizerConfig(name="adamw", lr=RATE, betas=BETAS, weight_decay=DECAY),
        scheduler=SchedulerConfig(schedulers=Schedulers(lr=schedule)),
        compile=False,
        global_train_batch_size=size.rows,
    )


def trainer_on(inner: Inner, rows: InMemoryRows, device: torch.device) -> tuple:
    """A trainer at its first step and the stream that it reads."""
    stream = JoinedStream([Stream(rows, seed=0, client=0)])
    trainer = Trainer(inner, 0, device)
    trainer.state = replace(trainer.state, streams=stream.start())
    return trainer, stream


def our_step(family: str, size: Size) -> Arm:
    trainer, stream = trainer_on(llm_of(family, size), rows_of(size), torch.device("cpu"))

    def measure(steps: int) -> Seconds:
        trainer.train(stream, WARM_UP)
        before = Seconds.now()
        trainer.train(stream, steps)
        return Seconds.now().since(before)

    return measure


def adamw(model: nn.Module) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, betas=BETAS, fused=True)


def bare_loop(family: str, size: Size) -> Arm:
    """What one writes by hand around the same module."""
    model, tokens = build_model(llm_of(family, size), 0), rows_of(size).tokens
    optimizer = adamw(model)
    batches = itertools.cycle(np.split(tokens, len(tokens) // size.rows))

    def step() -> None:
        batch = torch.from_numpy(next(batches))
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), THRESHOLD)
        optimizer.step()
        optimizer.zero_grad()

    return timed(step)


def hugging_face_model(family: str, size: Size) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    if family == "llama":
        config = transformers.LlamaConfig(
            vocab_size=size.vocab,
            hidden_size=size.width,
            intermediate_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            max_position_embeddings=size.length,
            tie_word_embeddings=True,
        )
        return transformers.LlamaForCausalLM(config)
    config = transformers.GPT2Config(
        vocab_size=size.vocab,
        n_positions=size.length,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.GPT2LMHeadModel(config)


def hugging_face_trainer(family: str, size: Size) -> Arm:
    """`transformers.Trainer`; the callback leaves out its set-up and the first steps.

    `shift_labels` gives it T inputs and T targets a row, as the other arms have.
    """
    import transformers

    class Clock(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.ticks: list[Seconds] = []

        def on_step_end(self, args, state, control, **kwargs) -> None:
            self.ticks.append(Seconds.now())

    model = hugging_face_model(family, size)
    tokens = torch.from_numpy(rows_of(size).tokens)
    rows = [{"input_ids": r[:-1], "labels": r[1:], "shift_labels": r[1:]} for r in tokens]
    folder = tempfile.mkdtemp()

    def measure(steps: int) -> Seconds:
        clock = Clock()
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=WARM_UP + steps,
            per_device_train_batch_size=size.rows,
            optim="adamw_torch_fused",
            learning_rate=RATE,
            adam_beta2=BETAS[1],
            weight_decay=DECAY,
            max_grad_norm=THRESHOLD,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[clock])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return clock.ticks[-1].since(clock.ticks[WARM_UP - 1])

    return measure


# Arms: the model, forward and backward


def our_model(family: str, size: Size) -> Arm:
    model = build_model(llm_of(family, size), 0)
    batch = torch.from_numpy(rows_of(size).tokens[: size.rows])

    def step() -> None:
        model.zero_grad()
        loss = model(batch[:, :-1], batch[:, 1:])
        (loss.objective / size.tokens).backward()

    return timed(step)


def minimal_of(family: str, size: Size) -> MinimalTransformer:
    return MinimalTransformer(
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        vocab=size.vocab,
        length=size.length,
        hidden=size.hidden if family == "llama" else None,
    )


def minimal_model(family: str, size: Size) -> Arm:
    model = minimal_of(family, size)
    model.load_state_dict(build_model(llm_of(family, size), 0).state_dict())
    batch = torch.from_numpy(rows_of(size).tokens[: size.rows])

    def step() -> None:
        model.zero_grad()
        logits = model(batch[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()

    return timed(step)
