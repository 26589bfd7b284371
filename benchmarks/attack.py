"""Speed of the attack engine against breaching 0.1.2, on one machine, in one run.

    python3 -m venv .venv/peer && .venv/peer/bin/pip install --editable . breaching==0.1.2
    .venv/peer/bin/python benchmarks/attack.py

Both attack CIFAR-sized images with the same network, the same objective (cosine over all parameters plus total variation), signed
Adam and single precision. Runs of the two are interleaved, and medians are compared. The peer attacks one image at a time: as its
user runs it, one process with all threads, and for comparison by hand in one process a core, an image each. Ours attacks one image
in one process with one thread, and 32 images in one process a core. The rates are image-iterations a second after the first step.
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

    torch.set_num_threads(threads)
    model, images, labels = case(arch, 1)
    shared = share_gradient(model, images, labels)
    attack = breaching.get_attack_config("invertinggradients")
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


def our_seconds(arch, steps, threads, images, compile):
    "Seconds that the engine takes for all images."
    torch.set_num_threads(threads)
    model, pictures, labels = case(arch, images)
    shared = share_gradient(model, pictures, labels)
    begin = time.perf_counter()
    invert(shared, steps=steps, width=images, units="sigma", start="normal", priors=(("tv", TV),), compile=compile)
    return time.perf_counter() - begin


def rate(function, arch, steps, *arguments):
    "Steps a second, what happens before the first step left out; and the seconds before."
    before = function(arch, 1, *arguments)
    return (steps - 1) / (function(arch, steps, *arguments) - before), before


def together(pool, processes, *arguments):
    "Steps a second of several processes at once, summed; and the longest time before the first step."
    rates, befores = zip(*(future.result() for future in [pool.submit(rate, *arguments) for _ in range(processes)]))
    return sum(rates), max(befores)


def compare(arch, steps, rounds, compile):
    "Medians over rounds: image-iterations a second of both, for one image and for many."
    many, measured = 32 // CORES, []
    with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
        together(pool, CORES, our_seconds, arch, 2, 1, many, compile), together(pool, CORES, our_seconds, arch, 2, 1, 1, compile)  # imports, compilation
        for _ in range(rounds):
            measured.append(dict(
                peer=together(pool, 1, peer_seconds, arch, steps, CORES)[0], peer_on_all_cores=together(pool, CORES, peer_seconds, arch, steps, 1)[0],
                ours_1=together(pool, 1, our_seconds, arch, steps, 1, 1, compile)[0], ours_32=many * together(pool, CORES, our_seconds, arch, steps, 1, many, compile)[0]))
    return {name: statistics.median(one[name] for one in measured) for name in measured[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=["lenet", "resnet20", "resnet20-4", "convnet64"])
    parser.add_argument("--compile", action="store_true", help="use torch.compile; needs a C++ compiler")
    options = parser.parse_args()
    rows = []
    for arch in options.networks:
        row = compare(arch, {"lenet": 200, "resnet20": 30}.get(arch, 8), options.rounds, options.compile)
        rows.append(dict(network=arch, compiled=options.compile, **row, ratio_1=row["ours_1"] / row["peer"], ratio_32=row["ours_32"] / row["peer"],
                         ratio_32_to_peer_on_all_cores=row["ours_32"] / row["peer_on_all_cores"]))
        print(json.dumps(rows[-1]), flush=True)
    machine = dict(machine=platform.machine(), cores=CORES, python=platform.python_version(), torch=torch.__version__)
    written = Path(__file__).with_name(f"attack{'_compiled' if options.compile else ''}.json")
    written.write_text(json.dumps(dict(machine=machine, rounds=options.rounds, rows=rows), indent=1) + "\n")
