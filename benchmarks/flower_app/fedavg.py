"""Flower's FedAvg by its message API, as its examples write it; a client answers at once.

This file travels inside Flower's bundle, so it imports Flower, numpy and torch only. With
`torch = false` the client holds numpy arrays, and its process, which Flower starts for each
message, does not have to import torch.
"""

import json

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()
MOVED = np.float32(1 - 1e-4)


@client.train()
def train(message, context):
    """What training would change, changed; as many bytes go back as came."""
    given = message.content["arrays"]
    if context.run_config["torch"]:
        import torch  # noqa: F401 -- Flower's arrays want it to be there

        state = given.to_torch_state_dict()
        arrays = ArrayRecord({name: value.mul_(float(MOVED)) for name, value in state.items()})
    else:
        arrays = ArrayRecord({n: Array(a.numpy() * MOVED) for n, a in given.items()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)


@server.main()
def serve(grid, context):
    """Rounds of FedAvg; a line to the log as each ends."""
    told = context.run_config
    with open(told["shapes"], encoding="utf-8") as file:
        shapes = json.load(file)
    random = np.random.default_rng(0)
    arrays = {n: Array(random.standard_normal(s, np.float32)) for n, s in shapes.items()}

    def ended(number, arrays):
        if number:
            with open(told["log"], "a", encoding="utf-8") as log:
                log.write(json.dumps({"round": number}) + "\n")

    count = told["clients"]
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count)
    strategy.start(grid, ArrayRecord(arrays), num_rounds=told["rounds"], evaluate_fn=ended)
