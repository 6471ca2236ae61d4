"""The recipe that benchmarks change: the quickstart's until it averaged squares.

Lines of their logs stay comparable with each other. Nothing of inner moments travels, so that it
goes with everything: asynchronous merges, fragments, privacy. `recipe: seldom averaged squares` of
`quality_arms.py` is the quickstart's own.
"""

BASE = (
    "recipe=quickstart",
    "fl.aggregate_momenta=false",
    "fl.first_moment_period=1",
    "fl.second_moment_period=1",
    "fl.compression.moments=int8",
    "fl.compression.upload=uniform:108/7",
    "fl.compression.download=uniform:76/11",
)
