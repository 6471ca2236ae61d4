"""The recipe of `gate.py`, `compression.py`, `modes.py` and `poison.py`: 24 rounds of 16 steps.

It was the quickstart's until its rounds became half as long. The lines of these logs stay
comparable with each other; what they say was not measured with shorter rounds.
"""

from base_recipe import BASE

LONG_ROUNDS = (
    *BASE,
    "fl.n_rounds=24",
    "fl.eval_period=4",
    "fl.strategy_kwargs.server_learning_rate=0.7",
    "fl.compression.upload=uniform:107/7",
    "fl.compression.download=uniform:75/11",
    "llm_config.local_steps=16",
    "llm_config.optimizer.lr=0.018",
    "compare.alone_learning_rate=0.012",
)
