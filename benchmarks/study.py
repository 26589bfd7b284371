"""How far a study scales: files a minute with one and two workers, a plan of 100,000 files, and the cost of the paper's
grid.

    .venv/bin/python benchmarks/study.py workers       # about 8 minutes, on a machine that does nothing else
    .venv/bin/python benchmarks/study.py plan          # about 5 minutes
    .venv/bin/python benchmarks/study.py projection    # about 10 minutes

Each part replaces its own part of benchmarks/study.json.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from semsim.core.seeds import available_cores
from semsim.core.files import atomic_path
from semsim.study.cost import Shape, attack_seconds, training_seconds, transform_seconds
from semsim.core.classifiers import build_classifier
from semsim.study.settings import make_study, read_study
from semsim.study.study_run import StudyRun
from semsim.study.pipeline import run_study
from semsim.core.tasks import WORKER_SETTINGS, Manifest, entry_of, run_tasks

RESULTS = Path(__file__).with_suffix(".json")

# Files a minute

SMALL = dict(
    name="small", archs=["lenet", "convnet8"], variants=["none", "prune_70"], originals=40, training=dict(epochs=8),
    attacks=[dict(preset="inverting_gradients", changes=dict(steps=200, priors=[["tv", 1e-3]]))],
    annotators={role: dict(presentations=4000) for role in ("teacher", "judge")},
)  # fmt: skip


def measure_workers() -> dict:
    "One study with one worker and with two, in turn; the start of the processes is part of it."
    found = {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            results = run_study(make_study(SMALL), folder, count=count)
            seconds = time.perf_counter() - begun
            assert not results.missing
            written = Manifest(folder).written
            busy = sum(one["seconds"] for one in written.values()) / seconds / count
            rate = 60 * len(written) / seconds
            found[count] = dict(units=len(written), seconds=seconds, units_a_minute=rate, busy=busy)
            print(count, found[count], flush=True)
    return found | {"ratio": found[2]["units_a_minute"] / found[1]["units_a_minute"]}


# A plan of 100,000 files


class AtOnce(Executor):
    "An executor whose work is done when it is sent: what is left is the coordinator's own."

    def submit(self, function, *args):
        future = Future()
        future.set_result(dict(sha256="0" * 64, bytes=0, seconds=0.0))
        return future


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def large_study():
    "4,350 models of 320 digits: a plan of a little over 100,000 files."
    variants = [f"prune_{percent}" for percent in range(30, 90, 2)]
    attacks = [dict(name=f"steps-{steps}", changes=dict(steps=steps)) for steps in range(100, 129)]
    archs = ["lenet", "mlp", "convnet4", "convnet8", "resnet20"]
    return make_study(dict(name="large", archs=archs, variants=variants, attacks=attacks, originals=320))


def measure_plan() -> dict:
    "Time and memory of the coordinator, with workers that cost nothing."
    with tempfile.TemporaryDirectory() as name:
        folder, study = Path(name), large_study()
        before, begun = megabytes(), time.perf_counter()
        units = [step.task() for step in StudyRun(study, folder).steps()]
        found = dict(units=len(units), plan_seconds=time.perf_counter() - begun, plan_megabytes=megabytes() - before)
        print(found, flush=True)
        begun = time.perf_counter()
        assert run_tasks(units, AtOnce(), Manifest(folder)) == {}
        size = (folder / "manifest.jsonl").stat().st_size / 1e6
        found |= dict(schedule_seconds=time.perf_counter() - begun, peak_megabytes=megabytes(), manifest_megabytes=size)
        print(found, flush=True)
        for one in units:
            one.path.parent.mkdir(parents=True, exist_ok=True)
            one.path.write_bytes(b"x" * 10_000)
        manifest = Manifest(folder)
        for entry in manifest.written.values():
            entry["sha256"] = entry_of(units[0].path, 0)["sha256"]  # all have the same content
        begun = time.perf_counter()
        assert all(manifest.intact(one) for one in units)
        return found | dict(check_seconds=time.perf_counter() - begun, check_bytes_a_unit=10_000)


# The paper's grid

SHAPES = {  # classes, channels, side, training images
    "paper-cifar100": Shape(100, 3, 32, 50_000),
    "paper-caltech101": Shape(
        101, 3, 64, 6_941
    ),  # 80 % of 8,677 images without the background class: the paper's split is not known
    "paper-imagenette": Shape(10, 3, 112, 9_469),
    "paper-celeba": Shape(476, 3, 64, 10_000),  # the size of the paper's split is not known
    "paper-dogs": Shape(120, 3, 64, 12_000),
}
PASSES = dict(training=3, attack=7)  # forward passes of a training step and of an attack step, as counted


def forward_flops(arch, shape) -> int:
    "Floating-point operations of one image's forward pass."
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build_classifier(arch, shape.classes, shape.channels, shape.size)(shape.images(1))
    return counter.get_total_flops()


def project(name, shape) -> list:
    "What each architecture costs in one study of the grid."
    study, rows = read_study(name), []
    attack = study.attacks[0].attack
    for arch in study.archs:
        batch = study.training.batch
        transforms = [transform_seconds(one.augment, one.policy, shape) for one in study.variants]
        train = training_seconds(arch, shape, batch) + sum(transforms) / len(transforms)
        # These networks are bound by arithmetic, so a row takes as long in a narrow group.
        rows_timed = {32: 20, 64: 4, 112: 1}[shape.size]
        step = attack_seconds(arch, attack, shape, rows_timed) / rows_timed
        images, steps, flops = (
            study.training.epochs * shape.train,
            attack.steps * attack.restarts,
            forward_flops(arch, shape),
        )
        rows.append(dict(
            study=name, arch=arch, models=len(study.variants), originals=study.originals, epochs=study.training.epochs,
            train=shape.train, steps=steps, train_seconds_an_image=train, attack_seconds_an_image_step=step,
            forward_gflop=flops / 1e9, classifier_hours=images * train / 3600,
            attack_hours_a_model=study.originals * steps * step / 3600,
            classifier_pflop=PASSES["training"] * images * flops / 1e15,
            attack_pflop_a_model=PASSES["attack"] * study.originals * steps * flops / 1e15,
        ))  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def project_all() -> list:
    "What every study of the grid costs."
    return [row for name, shape in SHAPES.items() for row in project(name, shape)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["workers", "plan", "projection"])
    part = parser.parse_args().part
    for name, value in WORKER_SETTINGS.items():
        os.environ.setdefault(name, value)
    measured = {"workers": measure_workers, "plan": measure_plan, "projection": project_all}[part]()
    processor = platform.processor() or platform.machine()
    machine = dict(cores=available_cores(), processor=processor, torch=torch.__version__)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with atomic_path(RESULTS) as temporary:
        temporary.write_text(json.dumps(known | {part: measured, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
