"""What makes a run of `recipe=quickstart` tiny: that it runs, not what comes of it."""

TINY_MODEL = [
    "llm_config.max_seq_len=32",
    "llm_config.eval_subset_num_batches=2",
    "llm_config.model.d_model=16",
    "llm_config.model.n_heads=2",
    "llm_config.model.n_layers=1",
    "llm_config.model.ffn_hidden_size=32",
    "llm_config.model.vocab_size=300",
    "dataset.embedded.vocab_size=300",
    "dataset.embedded.max_bytes=400000",
    "photon.workers=0",
    "photon.threads=1",
]
TINY = ["fl.n_total_clients=2", "fl.n_rounds=2", "llm_config.local_steps=2", *TINY_MODEL]
"""Keys, to come last."""
