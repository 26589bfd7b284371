"""How well the attacks and defences of step 1 work: the tables behind nbs/results/gradient_inversion.ipynb.

    .venv/bin/python benchmarks/proof.py FOLDER

FOLDER holds CIFAR-10 as images, in train/CLASS and test/CLASS. Each table is written as soon as it is finished, with
its settings, and is not computed again while it is there; `--small` takes few images and steps, to see that all works,
and `--into` writes elsewhere. The table `prior` comes first: on test images that no other table attacks it chooses how
much total variation weighs.
"""

import argparse
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from skimage import data as photographs

import tables
from semsim.attack.objectives import PRESETS, attacker_objective, known_of, layer_weights, scale_of, start_of
from semsim.attack.inversion import invert
from semsim.core.seeds import generator
from semsim.core.files import atomic_path, to_pil, to_tensor
from semsim.core.datasets import load_dataset, pick
from semsim.attack.transforms import training_input
from semsim.metrics.pairs import psnr
from semsim.metrics.scoring import score
from semsim.core.classifiers import build_classifier
from semsim.attack.policy_search import aligned_psnr
from semsim.attack.sharing import share_gradient
from semsim.attack.labels import RULES, infer_labels, label_accuracy
from semsim.core.tasks import workers
from semsim.attack.training import train_classifier

PICTURES = (
    "astronaut",
    "cat",
    "coffee",
    "rocket",
    "camera",
    "immunohistochemistry",
    "retina",
    "coins",
    "hubble_deep_field",
    "brick",
)


@dataclass(frozen=True)
class Budget:
    "How much is computed."

    images: int = 100  # photographs of CIFAR-10 for the published comparison
    held: int = 16  # photographs on which the prior's weight is chosen; none of the others
    seeds: int = 5  # of untrained weights
    steps: int = 600  # of Inverting Gradients on LeNet
    starts: int = 10  # photographs, weights and starts of DLG
    outer: int = 200  # steps of L-BFGS
    few: int = 16  # photographs attacked in each network, and in each defended LeNet
    epochs: int = 40  # of LeNet's training
    few_epochs: int = 20  # of a defended LeNet's
    labelled: int = 600  # photographs whose labels are inferred
    deep: int = 16  # photographs attacked in ResNet20
    deep_steps: int = 600  # of Inverting Gradients on ResNet20; half as many where its prior is chosen
    deep_epochs: int = 8  # of its training
    weights: tuple = (1e-3, 1e-4, 1e-5, 1e-6, 0.0)  # of total variation, to choose from
    tv: dict = None  # network -> weight of total variation, from the table `prior`


SMALL = Budget(
    images=8,
    held=2,
    seeds=2,
    steps=20,
    starts=2,
    outer=4,
    few=4,
    epochs=1,
    few_epochs=1,
    labelled=60,
    deep=2,
    deep_steps=3,
    deep_epochs=1,
    weights=(1e-3, 1e-6),
)
# Architecture, PyTorch's own initial weights instead of the architecture's, and training from them.
NETWORKS = ("lenet-torch", "lenet-torch-trained", "lenet", "lenet-trained", "resnet20", "resnet20-trained")


def attacked(model, images, labels, steps, tv, seed=0, **options):
    "Inverting Gradients on each image by itself."
    return invert(
        share_gradient(model, images, labels, **options), steps=steps, priors=(("tv", tv),), width=16, seed=seed
    ).images


@lru_cache
def trained(folder, arch, epochs, init="", policy="", defense=""):
    "A classifier trained on the folder's training images."
    return train_classifier(
        load_dataset(folder),
        arch,
        epochs,
        "crop",
        policy,
        defense,
        lr=0.1 if arch == "resnet20" else 0.05,
        batch=64,
        init=init,
    )


def network(folder, budget, name, seed=0):
    "One of `NETWORKS`."
    arch, *kind = name.split("-")
    init = "torch" if "torch" in kind else ""
    if "trained" in kind:
        return trained(folder, arch, budget.deep_epochs if arch == "resnet20" else budget.epochs, init)
    return build_classifier(arch, init=init, seed=seed)


def photograph(name, side=32):
    "A photograph of scikit-image, cut square and shrunk."
    picture = to_tensor(getattr(photographs, name)()).expand(3, -1, -1)
    edge = min(picture.shape[1:])
    top, left = ((length - edge) // 2 for length in picture.shape[1:])
    square = picture[None, :, top : top + edge, left : left + edge]
    return F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


# The tables. Each is a function of what is to be done, which workers run, and a list of it.


def prior_of(folder, budget, name, tv):
    "Inverting Gradients with one weight of its prior, on images that are held out for the choice."
    steps = budget.deep_steps // 2 if name.startswith("resnet20") else budget.steps
    held = pick(load_dataset(folder).test, budget.images + budget.held)
    images, labels = held.images[budget.images :], held.labels[budget.images :]
    values = psnr(images, attacked(network(folder, budget, name), images, labels, steps, tv)).tolist()
    return [dict(network=name, tv=tv, image=budget.images + n, psnr=value) for n, value in enumerate(values)]


def prior_tasks(budget):
    return list(product(reversed(NETWORKS), budget.weights))  # the longest first


def chosen_prior(table):
    "The weight with the highest mean PSNR, for each network."
    means = table.groupby(["network", "tv"]).psnr.mean()
    return {name: means[name].idxmax() for name in NETWORKS}


def labels_of(folder, budget, arch, training, mode):
    """Labels read off gradients: the share that is right, with an interval from clients drawn again."""
    test = load_dataset(folder).test
    drawn = torch.randint(len(test), (budget.labelled,), generator=generator("labels")).tolist()
    chosen = test.take(drawn)  # with repetition, so that batches repeat classes
    model = trained(folder, arch, budget.few_epochs) if training == "trained" else build_classifier(arch)
    rows = []
    for batch in (1, 8, 30):
        whole = len(drawn) // batch * batch
        images, labels = chosen.images[:whole], chosen.labels[:whole]
        shared = share_gradient(model, images, labels, reveal=["batch_size"], batch=batch, mode=mode)
        for rule in RULES:
            inferred = infer_labels(shared, rule)
            right = [label_accuracy(*pair, batch) for pair in zip(inferred.split(batch), labels.split(batch))]
            low, high = interval_of(torch.tensor(right))
            row = dict(arch=arch, training=training, mode=mode, batch=batch, rule=rule, n=whole)
            rows.append(row | dict(right=sum(right) / len(right), low=low, high=high))
    return rows


def interval_of(shares, draws=2000):
    """95 % of the mean over clients: the bootstrap, or Wilson's interval where each share is 0 or 1, as the bootstrap
    of a hundred equal shares has no width."""
    count, mean = len(shares), shares.mean().item()
    if shares.unique().numel() > 1 and (shares % 1 != 0).any():
        drawn = torch.randint(count, (draws, count), generator=generator("clients drawn again"))
        return shares[drawn].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    z = 1.96
    middle = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
    width = z / (1 + z**2 / count) * (mean * (1 - mean) / count + z**2 / (4 * count**2)) ** 0.5
    return max(0.0, middle - width), min(1.0, middle + width)


def labels_tasks(budget):
    untrained = [("lenet", "eval"), ("convnet8", "eval"), ("resnet20-0.5", "eval"), ("convnet8", "train")]
    untrained += [("resnet20-0.5", "train")]
    return [(arch, "untrained", mode) for arch, mode in untrained] + [("lenet", "trained", "eval")]


def published_dlg(model, shared, seed, steps):
    """Images and labels found as the published code does: L-BFGS in single precision, without line search and with the
    objective as it is."""
    attack = PRESETS["dlg"]
    objective = attacker_objective(shared.client, attack, scale_of(shared.client, attack.units))
    known = known_of(shared, None, layer_weights(shared.gradients), 0)
    found = {name: tensor.requires_grad_() for name, tensor in start_of(shared, attack, True, seed, 0, 0).items()}
    optimizer = torch.optim.LBFGS(list(found.values()))

    def closure():
        optimizer.zero_grad()
        value, _ = objective(found, known)
        value.backward()
        return value

    for _ in range(steps):
        distance = optimizer.step(closure)
    return found["images"].detach().nan_to_num(0.5).clamp(0, 1), found["labels"].argmax(-1), distance.item()


def dlg_of(folder, budget, number, attack, init):
    "Deep Leakage from Gradients on one photograph, one start."
    image = photograph(PICTURES[number])
    model = build_classifier(
        "lenet", mean=[0.0] * 3, std=[1.0] * 3, init=init, seed=number
    )  # pixels as they are, as in the paper
    shared = share_gradient(model, image, torch.tensor([number]), reveal=["batch_size"])
    if attack == "published":
        images, labels, distance, steps = *published_dlg(model, shared, number, budget.outer), budget.outer
    else:
        found = invert(shared, attack, seed=number, steps=budget.outer, precision="float64")
        images, labels, distance, steps = found.images, found.labels, found.losses.item(), found.card["steps_taken"][0]
    row = dict(
        picture=PICTURES[number],
        seed=number,
        attack=attack,
        init=init,
        psnr=psnr(image, images).item(),
        label_right=labels.item() == number,
        distance=distance,
        steps=steps,
    )
    return [row | dict(pixels=images[0].mul(255).round().int().flatten().tolist())]


DLG = (("dlg", "uniform"), ("idlg", "uniform"), ("dlg", "torch"), ("published", "torch"))  # attacks, initial weights


def dlg_tasks(budget):
    return [(number, *one) for one in DLG for number in range(budget.starts)]


def inverting_gradients_of(folder, budget, seed):
    "Inverting Gradients on an untrained LeNet, with what a guess would reach beside it."
    data = load_dataset(folder)
    chosen = pick(data.test, budget.images)
    model = network(folder, budget, "lenet-torch", seed)
    found = attacked(model, chosen.images, chosen.labels, budget.steps, budget.tv["lenet-torch"], seed)
    guesses = {"grey": torch.full_like(found, 0.5), "mean image": data.train.images.mean(0).expand_as(found)}
    columns = {"reconstruction": psnr(chosen.images, found).tolist()} | {
        name: psnr(chosen.images, guess).tolist() for name, guess in guesses.items()
    }
    return [
        dict(seed=seed, image=n, **{name: values[n] for name, values in columns.items()}) for n in range(len(chosen))
    ]


def inverting_gradients_tasks(budget):
    return [(seed,) for seed in range(budget.seeds)]


def trained_untrained_of(folder, budget, name):
    "The same attack on the same images, each network with the prior that suits it."
    count, steps = (budget.deep, budget.deep_steps) if name.startswith("resnet20") else (budget.few, budget.steps)
    chosen, model = pick(load_dataset(folder).test, count), network(folder, budget, name)
    values = psnr(chosen.images, attacked(model, chosen.images, chosen.labels, steps, budget.tv[name])).tolist()
    return [
        dict(
            arch=name.split("-")[0],
            init=model.card["init"],
            training="trained" if name.endswith("-trained") else "untrained",
            tv=budget.tv[name],
            accuracy=model.card.get("accuracy"),
            image=n,
            psnr=value,
        )
        for n, value in enumerate(values)
    ]


def trained_untrained_tasks(budget):
    return [(name,) for name in reversed(NETWORKS)]


def policies_of(folder, budget, policy, name):
    """An attack on transformed and on plain images; against what was sent, the original, and the original after the
    best shift."""
    chosen = pick(load_dataset(folder).test, budget.few)
    model = (
        trained(folder, "lenet", budget.few_epochs, policy=policy)
        if name == "lenet-trained"
        else network(folder, budget, name)
    )
    transformed = training_input(chosen.images, "none", policy, generator("sent", policy))
    rows = []
    for sent, images in (("transformed", transformed), ("plain", chosen.images)):
        found = attacked(model, images, chosen.labels, budget.steps, budget.tv[name])
        for shown, pictures in (
            ("reconstruction", found),
            ("what was sent", images),
            ("another image's reconstruction", found.roll(1, 0)),
        ):
            columns = dict(
                against_sent=psnr(images, pictures).tolist(),
                against_original=psnr(chosen.images, pictures).tolist(),
                aligned=aligned_psnr(pictures, chosen.images).tolist(),
            )
            rows += [
                dict(
                    network=name,
                    policy=policy or "none",
                    accuracy=model.card.get("accuracy"),
                    sent=sent,
                    shown=shown,
                    image=n,
                    **{name: values[n] for name, values in columns.items()},
                )
                for n in range(len(chosen))
            ]
    return rows


def policies_tasks(budget):
    return list(product(("", "3-1-7", "43-18-18", "3-1-7+43-18-18"), ("lenet-torch", "lenet-trained")))


def defenses_of(folder, budget, defense, name):
    """What a gradient defence costs and what it hides: at sharing on the untrained network; at training, at sharing and
    at both on a trained one."""
    data = load_dataset(folder)
    chosen, rows = pick(data.test, budget.few), []
    places = ("sharing", "training", "both") if name == "lenet-trained" else ("sharing",)
    for where in places if defense else ("nowhere",):
        if name == "lenet-torch":
            model = network(folder, budget, name)
        else:
            model = trained(folder, "lenet", budget.few_epochs, defense="" if where == "sharing" else defense)
        found = attacked(
            model,
            chosen.images,
            chosen.labels,
            budget.steps,
            budget.tv[name],
            defense="" if where == "training" else defense,
        )
        scores = score(chosen.images, found, ["psnr", "lpips[alex]"])
        rows += [
            dict(
                network=name,
                defense=defense or "none",
                where=where,
                accuracy=model.card.get("accuracy"),
                tested=len(data.test),
                image=n,
                **row,
            )
            for n, row in scores.iterrows()
        ]
    return rows


def defenses_tasks(budget):
    names = (
        "",
        "prune_70",
        "prune_95",
        "gaussian_1e-3",
        "gaussian_1e-2",
        "laplace_1e-3",
        "laplace_1e-2",
        "dpsgd_1_0.1",
    )
    return list(product(names, ("lenet-torch", "lenet-trained")))


TABLES = {  # name: (what one task computes, the tasks)
    "prior": (prior_of, prior_tasks),
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
    pixels = {
        key: torch.tensor(one).view(3, 32, 32) / 255
        for key, one in zip(zip(table.attack, table.init, table.seed), table.pixels)
    }
    seeds = sorted(table.seed.unique())
    rows = [torch.cat([photograph(PICTURES[seed])[0] for seed in seeds], 2)]
    rows += [torch.cat([pixels[attack, init, seed] for seed in seeds], 2) for attack, init in DLG]
    with atomic_path(path) as temporary:
        to_pil(torch.cat(rows, 1)).save(temporary)
    return table.drop(columns="pixels")


def write(name, rows, into, budget):
    "A table and how it was made."
    table = pd.DataFrame(rows)
    if name == "dlg":
        table = show_dlg(table, into / "dlg.png")
    tables.write(name, table, into, budget=vars(budget))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="CIFAR-10 as images, in train/CLASS and test/CLASS")
    parser.add_argument("--small", action="store_true", help="few images and steps")
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "nbs/results/gradient_inversion")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    options = parser.parse_args()
    budget = SMALL if options.small else Budget()
    with workers() as pool:
        for name in dict.fromkeys(["prior", *options.tables]):
            if not (options.into / f"{name}.csv").exists():
                futures = [pool.submit(run, name, options.folder, budget, task) for task in TABLES[name][1](budget)]
                write(name, [row for future in futures for row in future.result()], options.into, budget)
                print(f"{name}: written", flush=True)
            if name == "prior":
                budget = replace(budget, tv=chosen_prior(pd.read_csv(options.into / "prior.csv")))
