"""Speed of the attack engine against breaching 0.1.2, on one machine, in one run.

    python3 -m venv .venv/peer && .venv/peer/bin/pip install --editable . breaching==0.1.2
    .venv/peer/bin/python benchmarks/attack.py

Both attack CIFAR-sized images with the same network, the same objective (cosine over all parameters plus total variation), signed
Adam and single precision. One row of the table is one network; runs of the two are interleaved, and medians are compared. The
peer attacks one image at a time; it gets the better of one process with all threads and one process a core. The result is
written to benchmarks/attack.json, with the machine's name for itself.
"""

import argparse
import json
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from semsim.attack import invert
from semsim.core import generator
from semsim.models import build_classifier
from semsim.share import share_gradient

CORES = len(os.sched_getaffinity(0))
TV = 1e-4


def case(arch, images):
    "A network, and gradients of random smooth images."
    model = build_classifier(arch, init="torch" if arch == "lenet" else "")
    small = torch.rand(images, 3, 8, 8, generator=generator("benchmark", arch))
    pictures = torch.nn.functional.interpolate(small, size=32, mode="bicubic").clamp(0, 1)
    return model, pictures, torch.arange(images) % 10


def peer_seconds(arch, steps, threads):
    "Seconds that breaching takes for one image."
    import breaching
    from omegaconf import OmegaConf

    torch.set_num_threads(threads)
    model, images, labels = case(arch, 1)
    shared = share_gradient(model, images, labels)
    attack = breaching.get_attack_config("invertinggradients", overrides=[]) if hasattr(breaching, "get_attack_config") else None
    config = Path(breaching.__file__).parent / "config/attack"
    attack = OmegaConf.merge(*(OmegaConf.load(config / f"{name}.yaml") for name in ("_default_optimization_attack", "invertinggradients")))
    attack.optim.max_iterations, attack.optim.callback, attack.regularization.total_variation.scale = steps, steps + 1, TV
    mean, std = (tuple(getattr(model, name).flatten().tolist()) for name in ("mean", "std"))
    metadata = SimpleNamespace(shape=(3, 32, 32), mean=mean, std=std, modality="vision", classes=10)
    payload = [dict(parameters=[p.detach() for p in model.parameters()], buffers=list(model.buffers()), metadata=metadata)]
    data = [dict(gradients=[rows[0] for rows in shared.gradients.values()], buffers=None,
                 metadata=dict(num_data_points=1, labels=labels, local_hyperparams=None, num_users=1, data_key="inputs"))]
    attacker = breaching.attacks.prepare_attack(Normalised(model), torch.nn.CrossEntropyLoss(), attack)
    begin = time.perf_counter()
    attacker.reconstruct(payload, data, server_secrets={})
    return time.perf_counter() - begin


class Normalised(torch.nn.Module):
    "Our network as the peer wants it: normalised images in, the same parameters and buffers in the same order."

    def __init__(self, model):
        super().__init__()
        self.trunk, self.head = model.trunk, model.head
        for name in ("mean", "std"):
            self.register_buffer(name, getattr(model, name).clone())

    def forward(self, images):
        return self.head(self.trunk(images))


def our_seconds(arch, images, steps, threads, **options):
    "Seconds that the engine takes for all images."
    torch.set_num_threads(threads)
    model, pictures, labels = case(arch, images)
    shared = share_gradient(model, pictures, labels)
    begin = time.perf_counter()
    invert(shared, steps=steps, width=images, units="sigma", start="normal", priors=(("tv", TV),), **options)
    return time.perf_counter() - begin


def on_all_cores(pool, function, *arguments):
    "Image-iterations a second of one process a core."
    return [future.result() for future in [pool.submit(function, *arguments) for _ in range(CORES)]]


def compare(arch, steps, rounds, compile):
    "Medians of image-iterations a second: the peer's better way, ours for one image and for 32."
    peer, one, many = [], [], []
    with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
        on_all_cores(pool, our_seconds, arch, 4, 3, 1)  # imports
        for _ in range(rounds):
            peer.append((steps / pool.submit(peer_seconds, arch, steps, CORES).result(),
                         sum(steps / seconds for seconds in on_all_cores(pool, peer_seconds, arch, steps, 1))))
            one.append(sum(steps / seconds for seconds in on_all_cores(pool, our_seconds, arch, 1, steps, 1)))
            width = 32 // CORES
            many.append(sum(width * steps / seconds for seconds in on_all_cores(pool, our_seconds, arch, width, steps, 1)))
    best = max(statistics.median(ways) for ways in zip(*peer))
    return dict(network=arch, steps=steps, peer=best, one=statistics.median(one), many=statistics.median(many))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=["lenet", "resnet20", "resnet20-4", "convnet64"])
    options = parser.parse_args()
    rows = []
    for arch in options.networks:
        steps = {"lenet": 200, "resnet20": 30}.get(arch, 10)
        row = compare(arch, steps, options.rounds, False)
        rows.append(row | dict(ratio_one=row["one"] / row["peer"], ratio_many=row["many"] / row["peer"]))
        print(json.dumps(rows[-1]), flush=True)
    machine = dict(processor=platform.processor() or platform.machine(), cores=CORES, python=platform.python_version(), torch=torch.__version__)
    Path(__file__).with_suffix(".json").write_text(json.dumps(dict(machine=machine, rounds=options.rounds, rows=rows), indent=1))
