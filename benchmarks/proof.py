"""How well the attacks and defences of step 1 work: the tables behind nbs/results/gradient_inversion.ipynb.

    .venv/bin/python benchmarks/proof.py FOLDER

FOLDER holds CIFAR-10 as images, in train/CLASS and test/CLASS. Each table is written as soon as it is finished, with its settings, and
is not computed again while it is there; `--small` takes few images and steps, to see that all works, and `--into` writes elsewhere.
"""

import argparse
import json
import platform
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from skimage import data as photographs

from semsim.attack import invert
from semsim.core import atomic_path, generator, to_pil, to_tensor, write_table
from semsim.data import load_dataset, pick
from semsim.defenses import training_input
from semsim.metrics import psnr, score
from semsim.models import build_classifier
from semsim.policies import aligned_psnr
from semsim.share import infer_labels, label_accuracy, share_gradient
from semsim.study import workers
from semsim.train import train_classifier

PICTURES = ("astronaut", "cat", "coffee", "rocket", "camera", "immunohistochemistry", "retina", "coins", "hubble_deep_field", "brick")


@dataclass(frozen=True)
class Budget:
    "How much is computed."

    images: int = 100  # photographs of CIFAR-10 for the published comparison
    seeds: int = 5  # of untrained weights
    steps: int = 600  # of Inverting Gradients on LeNet
    starts: int = 10  # photographs, weights and starts of DLG
    outer: int = 120  # steps of L-BFGS
    few: int = 16  # photographs attacked in each defended model
    few_steps: int = 300  # of Inverting Gradients there
    few_epochs: int = 20  # of its training
    deep: int = 16  # photographs attacked in ResNet20
    deep_steps: int = 300  # of Inverting Gradients on ResNet20
    epochs: int = 40  # of LeNet's training
    deep_epochs: int = 8  # of ResNet20's


SMALL = Budget(images=8, seeds=2, steps=40, starts=2, outer=4, few=4, few_steps=40, few_epochs=1, deep=2, deep_steps=3, epochs=1, deep_epochs=1)


def attacked(model, images, labels, steps, seed=0, **options):
    "Inverting Gradients on each image by itself."
    return invert(share_gradient(model, images, labels, **options), steps=steps, width=16, seed=seed).images


@lru_cache
def trained(folder, arch, epochs, augment="crop", policy="", defense=""):
    "A classifier trained on the folder's training images."
    return train_classifier(load_dataset(folder), arch, epochs, augment, policy, defense, lr=0.1 if arch == "resnet20" else 0.05, batch=64)


def photograph(name, side=32):
    "A photograph of scikit-image, cut square and shrunk."
    picture = to_tensor(getattr(photographs, name)()).expand(3, -1, -1)
    edge = min(picture.shape[1:])
    top, left = ((length - edge) // 2 for length in picture.shape[1:])
    square = picture[None, :, top : top + edge, left : left + edge]
    return F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


# The tables. Each is a function of what is to be done, which workers run, and a list of it.


def labels_of(folder, budget, arch, training):
    "Labels read off gradients: the share that is right."
    test = load_dataset(folder).test
    count = budget.images - budget.images % 8
    chosen = test.take(torch.randperm(len(test), generator=generator("labels"))[:count].tolist())  # so that batches repeat classes
    model = trained(folder, arch, budget.few_epochs) if training == "trained" else build_classifier(arch)
    rows = []
    for batch in (1, 2, 4, 8):
        shared = share_gradient(model, chosen.images, chosen.labels, reveal=["batch_size"], batch=batch)
        for rule in ("bias", "rows"):
            right = label_accuracy(infer_labels(shared, rule), chosen.labels, batch)
            rows.append(dict(arch=arch, training=training, batch=batch, rule=rule, n=len(chosen), right=right))
    return rows


def labels_tasks(budget):
    return [("lenet", "untrained"), ("convnet16", "untrained"), ("resnet20", "untrained"), ("lenet", "trained")]


def dlg_of(folder, budget, number, attack, init):
    "Deep Leakage from Gradients on one photograph, one start."
    image = photograph(PICTURES[number])
    model = build_classifier("lenet", mean=[0.0] * 3, std=[1.0] * 3, init=init, seed=number)  # pixels as they are, as in the paper
    shared = share_gradient(model, image, torch.tensor([number]), reveal=["batch_size"])
    found = invert(shared, attack, seed=number, steps=budget.outer, precision="float64")
    row = dict(picture=PICTURES[number], seed=number, attack=attack, init=init, psnr=psnr(image, found.images).item(),
               label_right=found.labels.item() == number, distance=found.losses.item(), steps=found.card["steps_taken"][0])
    return [row | dict(pixels=found.images[0].mul(255).round().int().flatten().tolist())]


def dlg_tasks(budget):
    return list(product(range(budget.starts), ("dlg", "idlg"), ("uniform",))) + list(product(range(budget.starts), ("dlg",), ("torch",)))


def inverting_gradients_of(folder, budget, seed):
    "Inverting Gradients on an untrained LeNet, with what a guess would reach beside it."
    data = load_dataset(folder)
    chosen = pick(data.test, budget.images)
    found = attacked(build_classifier("lenet", init="torch", seed=seed), chosen.images, chosen.labels, budget.steps, seed)
    guesses = {"grey": torch.full_like(found, 0.5), "mean image": data.train.images.mean(0).expand_as(found)}
    columns = {"reconstruction": psnr(chosen.images, found).tolist()} | {name: psnr(chosen.images, guess).tolist() for name, guess in guesses.items()}
    return [dict(seed=seed, image=n, **{name: values[n] for name, values in columns.items()}) for n in range(len(chosen))]


def inverting_gradients_tasks(budget):
    return [(seed,) for seed in range(budget.seeds)]


def trained_untrained_of(folder, budget, arch, training):
    "The same attack on the same images, before and after training."
    count, steps = (budget.deep, budget.deep_steps) if arch == "resnet20" else (budget.few, budget.steps)
    chosen = pick(load_dataset(folder).test, count)
    if training == "trained": model = trained(folder, arch, budget.deep_epochs if arch == "resnet20" else budget.epochs)
    else: model = build_classifier(arch, init="" if arch == "resnet20" else "torch")
    values = psnr(chosen.images, attacked(model, chosen.images, chosen.labels, steps)).tolist()
    return [dict(arch=arch, training=training, accuracy=model.card.get("accuracy"), image=n, psnr=value) for n, value in enumerate(values)]


def trained_untrained_tasks(budget):
    return list(product(("resnet20", "lenet"), ("untrained", "trained")))


def policies_of(folder, budget, policy):
    "An attack on transformed and on plain images; against what was sent, the original, and the original after the best shift."
    chosen = pick(load_dataset(folder).test, budget.few)
    model = trained(folder, "lenet", budget.few_epochs, policy=policy)
    transformed = training_input(chosen.images, "none", policy, generator("sent", policy))
    rows = []
    for sent, images in (("transformed", transformed), ("plain", chosen.images)):
        found = attacked(model, images, chosen.labels, budget.few_steps)
        for shown, pictures in (("reconstruction", found), ("what was sent", images), ("another image's reconstruction", found.roll(1, 0))):
            columns = dict(against_sent=psnr(images, pictures).tolist(), against_original=psnr(chosen.images, pictures).tolist(),
                           aligned=aligned_psnr(pictures, chosen.images).tolist())
            rows += [dict(policy=policy or "none", accuracy=model.card["accuracy"], sent=sent, shown=shown, image=n,
                          **{name: values[n] for name, values in columns.items()}) for n in range(len(chosen))]
    return rows


def policies_tasks(budget):
    return [("",), ("3-1-7",), ("43-18-18",), ("3-1-7+43-18-18",)]


def defenses_of(folder, budget, defense):
    "What a gradient defence costs and what it hides, at training, at sharing and at both."
    chosen, rows = pick(load_dataset(folder).test, budget.few), []
    for where in ("training", "sharing", "both") if defense else ("nowhere",):
        model = trained(folder, "lenet", budget.few_epochs, defense="" if where == "sharing" else defense)
        found = attacked(model, chosen.images, chosen.labels, budget.few_steps, defense=defense if where in ("sharing", "both") else "")
        scores = score(chosen.images, found, ["psnr", "lpips[alex]"])
        rows += [dict(defense=defense or "none", where=where, accuracy=model.card["accuracy"], image=n, **row) for n, row in scores.iterrows()]
    return rows


def defenses_tasks(budget):
    return [(defense,) for defense in ("", "prune_70", "prune_95", "gaussian_1e-3", "gaussian_1e-2", "laplace_1e-3", "laplace_1e-2", "dpsgd_1_0.1")]


TABLES = {  # name: (what one task computes, the tasks)
    "dlg": (dlg_of, dlg_tasks),
    "inverting_gradients": (inverting_gradients_of, inverting_gradients_tasks),
    "trained_untrained": (trained_untrained_of, trained_untrained_tasks),
    "policies": (policies_of, policies_tasks),
    "defenses": (defenses_of, defenses_tasks),
    "labels": (labels_of, labels_tasks),
}


def run(name, folder, budget, task):
    "One task of a table, in a worker."
    return TABLES[name][0](folder, budget, *task)


def show_dlg(table, path):
    "The photographs of DLG and what came back, as one picture; the table without their pixels."
    pixels = {key: torch.tensor(one).view(3, 32, 32) / 255 for key, one in zip(zip(table.attack, table.init, table.seed), table.pixels)}
    rows = [torch.cat([photograph(PICTURES[seed])[0] for seed in sorted(table.seed.unique())], 2)]
    for attack, init in (("dlg", "uniform"), ("idlg", "uniform"), ("dlg", "torch")):
        rows.append(torch.cat([pixels[attack, init, seed] for seed in sorted(table.seed.unique())], 2))
    with atomic_path(path) as temporary: to_pil(torch.cat(rows, 1)).save(temporary)
    return table.drop(columns="pixels")


def write(name, rows, into, budget):
    "A table and how it was made."
    table = pd.DataFrame(rows)
    if name == "dlg": table = show_dlg(table, into / "dlg.png")
    settings = dict(budget=vars(budget), torch=torch.__version__, python=platform.python_version(), machine=platform.machine())
    with atomic_path(into / f"{name}.json") as temporary: temporary.write_text(json.dumps(settings, indent=1) + "\n")
    write_table(table.round(4), into / f"{name}.csv")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="CIFAR-10 as images, in train/CLASS and test/CLASS")
    parser.add_argument("--small", action="store_true", help="few images and steps")
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "nbs/results/gradient_inversion")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    options = parser.parse_args()
    budget = SMALL if options.small else Budget()
    with workers() as pool:
        for name in options.tables:
            if (options.into / f"{name}.csv").exists(): continue
            futures = [pool.submit(run, name, options.folder, budget, task) for task in TABLES[name][1](budget)]
            write(name, [row for future in futures for row in future.result()], options.into, budget)
            print(f"{name}: written", flush=True)
