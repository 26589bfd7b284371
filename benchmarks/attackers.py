"""How much each attacker finds: the table `attackers` behind nbs/results/attackers.ipynb.

    .venv/bin/python benchmarks/attackers.py FOLDER

FOLDER holds CIFAR-10 as images, in train/CLASS and test/CLASS. Every attacker gets the same photographs, the same
networks and the same number of gradients: a group or a restart takes its share of the steps. `--choose` attacks
held-out photographs with one component of a modern attack at a time and writes the table `components`, on which the
preset `strong` was chosen; no photograph of it is attacked in the other table. The preset `gradinversion` keeps its
four starts and all steps, so it computes four times as many gradients. `--small` sees that all works.
"""

import argparse
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import pandas as pd
import torch

import tables
from semsim.attack.inversion import invert
from semsim.attack.sharing import share_gradient
from semsim.attack.training import train_classifier
from semsim.core.classifiers import build_classifier
from semsim.core.datasets import load_dataset, pick
from semsim.core.tasks import workers
from semsim.metrics.scoring import score

BASE = dict(attack="inverting_gradients", priors=(("tv", 1e-3),))  # the weight that the table `prior` chose
OPPONENT = (("tv_double_opponent", 1e-3),)
COMPONENTS = {  # what differs from the base
    "base": {},
    "tv 1e-2": dict(priors=(("tv", 1e-2),)),
    "double-opponent tv": dict(priors=OPPONENT),
    "adam": dict(optimizer="adam"),
    "soft sign": dict(optimizer="soft_signed_adam"),
    "cosine decay, warm-up": dict(decay="cosine", warmup=0.05),
    "patterned start": dict(start="patterned"),
    "coarse to fine": dict(coarse=4),
    "Langevin noise": dict(noise=0.2),
    "features": dict(features=0.1),
    "running statistics": dict(statistics=1e-3, statistics_of="running"),
    "group of 4": dict(group=4, consistency=1e-2),
    "4 restarts": dict(restarts=4),
    "coarse, soft sign": dict(coarse=4, optimizer="soft_signed_adam"),
    "coarse, soft sign, tv 1e-2": dict(coarse=4, optimizer="soft_signed_adam", priors=(("tv", 1e-2),)),
    "coarse, soft sign, tv 1e-2, cosine": dict(
        coarse=4, optimizer="soft_signed_adam", priors=(("tv", 1e-2),), decay="cosine", warmup=0.05
    ),
}
ATTACKERS = ("inverting_gradients", "strong", "gradinversion", "inversed-adam-L2")  # presets of one table
NETWORKS = ("lenet", "lenet-trained", "resnet20-0.5")


@dataclass(frozen=True)
class Budget:
    "How much is computed."

    images: int = 6  # photographs
    held: int = 4  # others, on which components are chosen
    steps: int = 200  # gradients that an attack may compute for each photograph
    choosing: int = 200  # the same, where components are chosen
    epochs: int = 20  # of the trained network


SMALL = Budget(images=2, held=2, steps=8, choosing=8, epochs=1)


@lru_cache
def network(folder, name, epochs):
    "One of `NETWORKS`."
    arch = name.removesuffix("-trained")
    if arch == name:
        return build_classifier(arch)
    return train_classifier(load_dataset(folder), arch, epochs, "crop", lr=0.05, batch=64)


def shares_of(settings):
    "Over how many starts an attack divides its steps; those that a preset has of itself are not counted."
    return settings.get("group", 1) * settings.get("restarts", 1)


def rows_of(model, chosen, steps, settings):
    "One attack on all photographs, each by itself."
    shared = share_gradient(model, chosen.images, chosen.labels)
    start = time.perf_counter()
    found = invert(shared, steps=steps // shares_of(settings), **settings)
    seconds = (time.perf_counter() - start) / len(chosen)
    scores = score(chosen.images, found.images, ["psnr", "lpips[alex]"])
    return [
        dict(image=n, distance=found.losses[n].item(), seconds=seconds, gave_up=n in found.gave_up, **row)
        for n, row in scores.iterrows()
    ]


def components(folder, budget, name, component):
    "The base with one component, on held-out photographs."
    model, test = network(folder, name, budget.epochs), load_dataset(folder).test
    settings = BASE | COMPONENTS[component]
    if "statistics" in settings and name.startswith("lenet"):
        return []  # it has no BatchNorm
    held = pick(test, 100 + budget.held)
    held = held.take(range(100, 100 + budget.held))
    return [
        dict(network=name, component=component, **row) for row in rows_of(model, held, budget.choosing, settings)
    ]


def attackers(folder, budget, name, preset):
    "One preset with the same number of gradients as the others."
    settings = dict(attack=preset)
    if name.startswith("lenet") and preset == "gradinversion":
        settings |= dict(statistics=0.0)  # it has no BatchNorm
    model, chosen = network(folder, name, budget.epochs), pick(load_dataset(folder).test, budget.images)
    settings |= dict(priors=BASE["priors"]) if preset == "inverting_gradients" else {}
    return [
        dict(network=name, accuracy=model.card.get("accuracy"), attack=preset, **row)
        for row in rows_of(model, chosen, budget.steps, settings)
    ]


TABLES = {"components": (components, COMPONENTS), "attackers": (attackers, ATTACKERS)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="CIFAR-10 as images, in train/CLASS and test/CLASS")
    parser.add_argument("--small", action="store_true", help="few images and steps")
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "nbs/results/attackers")
    parser.add_argument("--choose", action="store_true", help="the table of components instead")
    options = parser.parse_args()
    budget, table = SMALL if options.small else Budget(), "components" if options.choose else "attackers"
    torch.set_num_threads(1)
    function, names = TABLES[table]
    with workers() as pool:
        tasks = [pool.submit(function, options.folder, budget, *task) for task in product(reversed(NETWORKS), names)]
        rows = [row for task in tasks for row in task.result()]
        tables.write(table, pd.DataFrame(rows), options.into, budget=vars(budget))
