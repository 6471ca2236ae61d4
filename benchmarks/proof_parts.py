"""The parts of `proof.py`: what each measures with, and how it is tried out.

A section of docs/results.md shows the commands of its parts, so that what is shown is what is run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the proof.

    Attributes:
        commands: scripts of this folder with their arguments, one after the other.
        smoke: the same, tiny, with nothing kept; empty: it cannot be tiny.
        without: why there is no smoke.
        needs: a module that is not in the test extras.
    """

    name: str
    commands: tuple[str, ...]
    smoke: str = ""
    without: str = ""
    needs: str = ""


PROCESSES = "it is real processes and seconds of their waiting"
PARTS = (
    Part("gate",
         ("gate.py grid --seeds 1", "gate.py gate --seeds 1 2 3", "gate.py recipes --seeds 1",
          "gate.py broken --seeds 1"),
         "gate.py gate --smoke"),
    Part("compression",
         ("compression.py run uniform:107 uniform:50/15 --seeds 1 2 3",
          "compression.py run --seeds 1", "compression.py run topk --rounds 200 --seeds 1",
          'compression.py run "fragments 4" --rounds 200 --seeds 1',
          "compression.py run smoothed --rounds 200",
          "compression.py run uniform:107 uniform:50/15 --local-steps 32 64 --seeds 1",
          'compression.py run "kept: uniform:50/15" --local-steps 256 --rounds 12',
          "compression.py run uniform:107 uniform:50/15 --splits source --seeds 1"),
         without="the smoke of modes runs the same with other keys"),
    Part("quality",
         ("quality.py tune centralised alone FedAvg DiLoCo FedAdam recipe", "quality.py run",
          'quality.py run "recipe: seldom averaged squares" "recipe: average of rounds"',
          'quality.py run "overlap: 1 step + seldom averaged squares" '
          '"overlap: 1 step, fragments 2 + seldom averaged squares" '
          '"fragments 2 + seldom averaged squares"',
          "quality.py run centralised --steps 3072 --rates 0.012",
          'quality.py run "average of many rounds + seldom averaged squares" --steps 3072 '
          "--rates 0.018/1",
          "quality.py run recipe DiLoCo --clients 2 4 8 16",
          "quality.py run recipe DiLoCo --local-steps 4 8 16 32 64 128",
          "quality.py run recipe DiLoCo FedAvg FedAdam alone --splits iid source"),
         "quality.py --smoke"),
    Part("scaling", ("scaling.py tune", "scaling.py run", "scaling.py plan --price 2.5"),
         "scaling.py --smoke"),
    Part("modes", ("modes.py run",), 'modes.py run "fragments 2" --seeds 1 --smoke'),
    Part("waiting", ("waiting.py run links", "waiting.py run uneven"), without=PROCESSES),
    Part("links", ("links.py run",), without=PROCESSES),
    Part("train_step", ("train_step.py cpu --pairs 9 --save",),
         without="tests/benchmarks/test_train_step.py runs it", needs="accelerate"),
    Part("peers", ("peers.py rounds", "peers.py diloco"), "peers.py --smoke"),
    Part("peers: trainer", ("peers.py trainer",),
         without="tests/benchmarks/test_train_step.py runs it", needs="accelerate"),
    Part("codec", ("codec.py",), "codec.py --smoke"),
    Part("round", ("round.py --moments reset averaged", "close.py"),
         without="tests/benchmarks/test_round_benchmark.py runs it"),
    Part("aggregation", ("aggregation.py",),
         "aggregation.py --smoke --threads 1 --codecs int4 --rules mean krum"),
    Part("poison", ("poison.py",), without="tests/benchmarks/test_poison.py runs it"),
    Part("secure",
         ("secure.py --clients 8", "secure.py --clients 8 --lost 2", "secure.py --clients 32",
          "secure.py --clients 32 --lost 8"),
         "secure.py --smoke"),
    Part("simulate", ("simulate.py",), without=PROCESSES),
    Part("data",
         ("data.py prepare", "data.py read", "data.py resume", "data.py wait",
          "data.py download"),
         "data.py read --smoke"),
    Part("network", ("network.py rounds", "network.py floor", "network.py flower"),
         "network.py rounds --smoke"),
    Part("memory of a server",
         ("server_memory.py --megabytes 200 --clients 2 16",
          "server_memory.py --megabytes 60 --clients 2 16"),
         without=PROCESSES),
    Part("memory of large models",
         ("server_memory.py --megabytes 4000 --clients 2 --via inline",), without=PROCESSES),
    Part("scale", ("scale.py nodes",), "scale.py nodes --smoke"),
    Part("many clients", ("scale.py clients",), without="photon simulate has tests of its own"),
    Part("memory of programs",
         ("process_memory.py", "process_memory.py --widths 1024 --transport shm"),
         without=PROCESSES),
    Part("relay", ("relay.py",), without=PROCESSES),
    Part("transport",
         ("transport.py file", "transport.py store", "transport.py memory"),
         "transport.py file --smoke"),
    Part("fuzz", tuple(f"fuzz_{what}.py --count 1000000" for what in (
        "container", "codecs", "facts", "history", "secure")),
         "fuzz_container.py --count 500"),
    Part("plan", ("plan.py --rounds 4 --local-steps 2 --rates 1MB 2MB",), without=PROCESSES),
    Part("memory", ("memory.py",), without="its smallest run is of real size"),
)  # fmt: skip
"""In their order. What else is to be measured is a line here, and a section of the page."""


def commands_of(*names: str) -> list[str]:
    """Of these parts, in the order of the names."""
    by_name = {part.name: part.commands for part in PARTS}
    return [command for name in names for command in by_name[name]]
