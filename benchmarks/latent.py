"""What a generator as prior gains and invents: the table behind nbs/results/attackers.ipynb and 1_attack/09_latent.

    .venv/bin/python benchmarks/latent.py FOLDER

FOLDER holds CIFAR-10 as images, in train/CLASS and test/CLASS. A generator is trained on the training images. Test
photographs are then attacked through an untrained and a trained LeNet, undefended and pruned, by a search of pixels and
by a search of the generator's latents; the attack `training mean` is a guess without any gradient. `--small` takes few
images and steps, to see that all works, and `--into` writes elsewhere. One core, a few minutes.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

import tables
from semsim.attack.inversion import invert
from semsim.attack.latent import train_generator
from semsim.attack.sharing import share_gradient
from semsim.attack.training import train_classifier
from semsim.core.classifiers import build_classifier
from semsim.core.datasets import load_dataset, pick
from semsim.metrics.scoring import score


@dataclass(frozen=True)
class Budget:
    "How much is computed."

    images: int = 16  # test photographs
    latent: int = 64  # numbers that describe a photograph
    width: int = 256  # of the generator
    generator_epochs: int = 15  # of its training
    epochs: int = 10  # of LeNet's training
    steps: int = 150  # of each search
    restarts: int = 2  # of the search of latents


SMALL = Budget(images=2, latent=4, width=8, generator_epochs=1, epochs=1, steps=3, restarts=2)


def rows_of(network, defense, attack, originals, images, distances):
    "A row for each image."
    scores = score(originals, images, ["psnr", "lpips[alex]"])
    columns = {name: scores[name].tolist() for name in ("psnr", "lpips[alex]")} | dict(distance=distances)
    return [
        dict(network=network, defense=defense or "none", attack=attack, image=n)
        | {name: values[n] for name, values in columns.items()}
        for n in range(len(originals))
    ]


def compared(data, budget):
    "Both searches on the same photographs, and the guess beside them."
    chosen, rows = pick(data.test, budget.images), []
    generator = train_generator(data.train.images, budget.latent, budget.generator_epochs, width=budget.width)
    networks = {
        "untrained": build_classifier("lenet", init="torch"),
        "trained": train_classifier(data, "lenet", budget.epochs, lr=0.05, batch=64, init="torch"),
    }
    attacks = {
        "pixel": dict(attack="inverting_gradients"),
        "latent": dict(attack="latent", generator=generator, restarts=budget.restarts),
    }
    guess = data.train.images.mean(0).expand_as(chosen.images)
    for network, model in networks.items():
        for defense in ("", "prune_95"):
            shared = share_gradient(model, chosen.images, chosen.labels, defense=defense)
            for name, options in attacks.items():
                found = invert(shared, steps=budget.steps, width=16, **options)
                rows += rows_of(network, defense, name, chosen.images, found.images, found.losses.tolist())
    return rows + rows_of("none", "", "training mean", chosen.images, guess, [float("nan")] * len(chosen))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="CIFAR-10 as images, in train/CLASS and test/CLASS")
    parser.add_argument("--small", action="store_true", help="few images and steps")
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "nbs/results/attackers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget, begun = SMALL if options.small else Budget(), time.process_time()
    rows = compared(load_dataset(options.folder), budget)
    settings = dict(budget=vars(budget), seconds=round(time.process_time() - begun))
    tables.write("latent", pd.DataFrame(rows), options.into, **settings)
