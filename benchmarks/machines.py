"""The control of the machine annotators on CIFAR-10: the tables behind nbs/results/machines.ipynb.

    .venv/bin/python benchmarks/machines.py FOLDER

FOLDER holds CIFAR-10 as images, in train/CLASS and test/CLASS; a .tar.gz with these two in it will do. Attacked models,
panel A and panel B are trained on three disjoint parts of the training images, and test images are attacked. `--size`
shrinks the images, `--small` takes few images and steps, to see that all works, and `--into` writes elsewhere.
"""

import argparse
import json
import platform
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torchvision.utils import make_grid

from semsim.core.files import atomic_path, write_image, write_table
from semsim.core.datasets import divide, load_dataset, pick
from semsim.annotate.machine_annotators import as_annotator, fit_threshold
from semsim.annotate.panels import PANELS, TRAINING_SETS, accuracy_when, kept_apart, train_annotator
from semsim.annotate.control import ControlSet, control_set, label_evidence_control
from semsim.metrics.pairs import psnr
from semsim.core.classifiers import build_classifier
from semsim.core.tasks import workers
from semsim.attack.training import channel_statistics, train_classifier


@dataclass(frozen=True)
class Budget:
    "How much is computed."

    size: int = 16  # image side in pixels
    train: int = 15_000  # training images
    test: int = 2_000  # test images on which accuracy is measured
    originals: int = 40  # test images that are attacked; accuracy is measured on others
    steps: int = 150  # of each attack
    presentations: int = 48_000  # of an annotator's training, all copies and epochs counted
    epochs: tuple = (("lenet", 20), ("convnet4", 12), ("resnet20-0.25", 12))  # of the attacked models' training


SMALL = Budget(
    train=1_000,
    test=100,
    originals=4,
    steps=3,
    presentations=1_000,
    epochs=(("lenet", 1), ("convnet4", 1), ("resnet20-0.25", 1)),
)
RAISED = 0.2  # the share of clean images on which an annotator with a raised threshold may be too unsure
SHARES = {"models": 0.5, "A": 0.25, "B": 0.25}


def materials(folder, budget):
    "The data set, its disjoint parts, the originals and the images that accuracy is measured on."
    data = load_dataset(folder, budget.size)
    chosen, train = pick(data.test, budget.originals + budget.test), pick(data.train, budget.train)
    return (
        replace(data, train=train, test=chosen),
        divide(train, SHARES),
        chosen.take(range(budget.originals)),
        chosen.take(range(budget.originals, len(chosen))),
    )


def attacked(materials, budget, name):
    "One model with its control: (row of the table of models, what came back)."
    data, parts, originals, tested = materials
    arch, _, untrained = name.partition(" ")
    model = build_classifier(arch, len(data.classes), 3, budget.size, *channel_statistics(parts["models"]))
    if not untrained:
        model = train_classifier(
            replace(data, train=parts["models"], test=tested),
            arch,
            dict(budget.epochs)[arch],
            "crop+flip",
            lr=0.05,
            batch=64,
        )
    control = control_set({name: model}, originals, steps=budget.steps, priors=(("tv", 1e-3),), width=20)
    right = control.images[torch.tensor((control.items.sent == "right label").values)]
    return dict(
        model=name, accuracy=model.card.get("accuracy"), psnr=psnr(originals.images, right).mean().item()
    ), control


def trained(materials, budget, panel, lesson):
    "One annotator, and after the last training set again with a higher threshold: a list of (table row, annotator)."
    data, parts, _, tested = materials
    model = train_annotator(panel, 0, data, parts[panel], budget.presentations, lesson=lesson)
    annotators = {lesson: as_annotator(model)}
    if lesson == TRAINING_SETS[-1]:
        clean = kept_apart(parts[panel])["clean"]  # the images to which train_annotator fitted the threshold
        annotators[f"{lesson}, threshold raised"] = fit_threshold(annotators[lesson], clean.images, RAISED)
    rows = []
    for name, one in annotators.items():
        about = {key: one.card[key] for key in ("arch", "threshold", "unsure", "clean")}
        right = accuracy_when([one], tested).iloc[0].add_prefix("right, ").to_dict()
        rows.append((dict(annotator=one.name, lesson=name) | about | right, one))
    return rows


def measured(folder, budget):
    "All tables, and the reconstructions of noise."
    tasks = [(attacked, name) for name in ("resnet20-0.25", "convnet4", "lenet", "lenet untrained")]
    tasks += [(trained, panel, lesson) for lesson in reversed(TRAINING_SETS) for panel in PANELS]
    shared = materials(folder, budget)
    with workers() as pool:
        done = [pool.submit(task[0], shared, budget, *task[1:]) for task in tasks]
        results = [future.result() for future in done]
    models, controls = zip(*results[:4])
    rows, annotators = zip(*(one for some in results[4:] for one in some))
    control = ControlSet(
        torch.cat([one.images for one in controls]), pd.concat([one.items for one in controls], ignore_index=True)
    )
    answers = pd.concat(
        [label_evidence_control([one], control).assign(lesson=row["lesson"]) for row, one in zip(rows, annotators)]
    )
    noise = torch.cat([one.images[torch.tensor((one.items.sent == "noise").values)][:10] for one in controls])
    return dict(
        models=pd.DataFrame(models),
        annotators=pd.DataFrame(rows),
        answers=answers.drop(columns=["item", "kind", "time"]),
    ), noise


def unpacked(path, scratch, budget):
    "The folder in a .tar.gz, of which the first files of each class are unpacked, as many as are used."
    wanted = {"train": budget.train // 10, "test": (budget.test + budget.originals) // 10}
    with tarfile.open(path) as packed:
        for member in packed:
            part, stem = Path(member.name).parts[0], Path(member.name).stem
            if member.isfile() and int(stem) < wanted[part]:
                packed.extract(member, scratch, filter="data")
    return scratch


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="CIFAR-10 as images, or a .tar.gz of it")
    parser.add_argument("--small", action="store_true", help="few images and steps, to see that all works")
    parser.add_argument("--size", type=int, default=Budget.size, help="image side in pixels")
    parser.add_argument(
        "--into", default=Path(__file__).parents[1] / "nbs/results/machines", help="folder for the tables", type=Path
    )
    args = parser.parse_args()
    budget, start = replace(SMALL if args.small else Budget(), size=args.size), time.time()
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpacked(args.folder, scratch, budget) if Path(args.folder).is_file() else args.folder
        tables, noise = measured(folder, budget)
    for name, table in tables.items():
        write_table(table, args.into / f"{name}.csv")
    write_image(make_grid(noise, nrow=10, padding=1, pad_value=1), args.into / "noise.png")
    about = dict(
        budget=asdict(budget),
        shares=SHARES,
        seconds=round(time.time() - start),
        torch=torch.__version__,
        python=platform.python_version(),
        machine=platform.machine(),
    )
    with atomic_path(args.into / "study.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
