"""How well clients are attacked that train for several epochs and shuffle: nbs/results/attackers/fedavg.csv.

    .venv/bin/python benchmarks/fedavg.py

Clients with a few digits of 16 pixels each train an untrained LeNet in batches of two and share what changed. Each is
attacked twice with the same budget: `in turn` supposes that the client takes its images in turn, `any order` does not
know the order. The table has a row for each image, with its PSNR after the found images were matched to the originals;
`fedavg.json` holds the settings. `--small` takes few clients and steps, to see that all works, and `--into` writes
elsewhere. The attacks of the whole table took 17 minutes on one core of a busy machine.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

import tables
from semsim.attack.client import Client
from semsim.attack.inversion import invert
from semsim.attack.sharing import share_gradient
from semsim.core.classifiers import build_classifier
from semsim.core.datasets import load_dataset
from semsim.core.seeds import generator
from semsim.metrics.baseline_images import match_batches
from semsim.metrics.pairs import psnr


@dataclass(frozen=True)
class Budget:
    "How much is computed."

    clients: int = 6  # with 2 epochs of 4 images each
    steps: int = 200  # of each attack
    many: int = 2  # clients with 5 epochs of 8 images each
    seed: int = 0  # of the choice of images, the network, the orders and the starts


SMALL = Budget(clients=1, steps=3, many=1)
OPTIMISERS = {  # how clients train
    "sgd, rate 0.01": dict(local_lr=0.01),
    "sgd, rate 0.1": dict(local_lr=0.1),
    "sgd, rate 0.3": dict(local_lr=0.3),
    "sgd, rate 0.1, momentum": dict(local_lr=0.1, local_momentum=0.9),
    "sgd, rate 0.1, weight decay": dict(local_lr=0.1, local_weight_decay=0.01),
    "adam, rate 0.001": dict(local_lr=0.001, local_optimizer="adam"),
}
OBJECTIVES = {"cosine": dict(), "squared": dict(objective="squared", priors=(("tv", 1e-5),))}
BOTH = (False, "in turn"), (True, "in turn"), (True, "any order")  # whether clients shuffle, and what is supposed
TASKS = [
    *(("cosine", name, *case, 2, 4) for name in OPTIMISERS for case in BOTH),
    *(("squared", "sgd, rate 0.1", *case, 2, 4) for case in BOTH),
    *(("squared", "sgd, rate 0.1", *case, 5, 8) for case in BOTH[1:]),
]


def attacked(budget, objective, optimiser, shuffled, attack, epochs, images):
    "One attack on all clients of one kind: a row for each image."
    test, count = load_dataset("digits", size=16).test, images * (budget.clients if images == 4 else budget.many)
    chosen = test.take(torch.randperm(len(test), generator=generator("fedavg", budget.seed))[:count].tolist())
    model = build_classifier("lenet", channels=1, size=16, init="torch", seed=budget.seed)
    how = dict(local_epochs=epochs, local_batch=2, **OPTIMISERS[optimiser])
    shared = share_gradient(
        model, chosen.images, chosen.labels, batch=images, seed=budget.seed, local_shuffle=shuffled, **how
    )
    if attack == "in turn":
        shared = replace(shared, client=Client(model, shared.client.shape, **how))
    began = time.monotonic()
    found = invert(shared, steps=budget.steps, seed=budget.seed, **OBJECTIVES[objective])
    seconds = (time.monotonic() - began) / len(shared)
    values = psnr(chosen.images, match_batches(chosen.images, found.images, images)).tolist()
    known = dict(
        optimiser=optimiser, shuffled=shuffled, epochs=epochs, images_each=images, batch=2, attack=attack,
        objective=objective,
    )
    return [
        known | dict(client=n // images, image=n, label=chosen.labels[n].item(), psnr=value,
                     distance=found.losses[n // images].item(), seconds_a_client=seconds)
        for n, value in enumerate(values)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few clients and steps")
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "nbs/results/attackers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget, rows = SMALL if options.small else Budget(), []
    for task in TASKS:
        rows += attacked(budget, *task)
        print(*task, f"{pd.DataFrame(rows[-task[-1]:]).psnr.mean():.1f} dB for the last client", flush=True)
    settings = dict(budget=vars(budget), optimisers=OPTIMISERS, objectives=OBJECTIVES)
    tables.write("fedavg", pd.DataFrame(rows), options.into, **settings)
