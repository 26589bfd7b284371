"""Speed of the attack engine against breaching 0.1.2, on one machine, in one run.

    python3 -m venv .venv/peer && .venv/peer/bin/pip install --editable . breaching==0.1.2
    .venv/peer/bin/python benchmarks/attack.py --compile lenet

Both attack 32-pixel crops of photographs, with the same network, cosine distance, total variation, signed Adam and
single precision, and with the labels given. What is measured, and how to read it, is in README.md, whose tables this
script writes.
"""

import argparse
import json
import os
import platform
import re
import time
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import cache
from importlib.metadata import version
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import torch
from skimage import data
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.flop_counter import FlopCounterMode

import semsim.attack.inversion
from semsim.attack.engine import recorded
from semsim.attack.inversion import invert
from semsim.core.seeds import available_cores, generator
from semsim.metrics.pairs import psnr
from semsim.core.classifiers import build_classifier
from semsim.attack.sharing import share_gradient
from semsim.core.tasks import WORKER_SETTINGS

HERE = Path(__file__).parent
CORES = available_cores()
JUDGED = 4  # the peer attacks the first so many images, and on these the PSNR of both is taken
STEPS, TV, STEP_SIZE = 300, 1e-4, 0.1  # our preset's, in pixels from 0 to 1, starting from uniform noise
RATE_STEPS = {
    "lenet": 400,
    "resnet20": 40,
    "resnet20-4": 16,
}  # steps over which a rate is measured; 10 for other networks
PUBLISHED_STEPS = 4_800  # of the attack's paper; the peer's own number is 24,000
NAMES = {"lenet": "LeNetZhu", "resnet20": "ResNet20", "resnet20-4": "ResNet20-4", "convnet64": "ConvNet64"}


# What both attack


def photographs(images):
    "Crops of four photographs in turn, (images,3,32,32) in [0,1]; repeated after 32."
    crops = []
    for photograph in (data.astronaut, data.coffee, data.chelsea, data.rocket):
        pixels = torch.tensor(photograph()).permute(2, 0, 1)[None] / 255
        strip = interpolate(pixels, scale_factor=128 / pixels.shape[-2], mode="bilinear", antialias=True)[
            0, :, 32:96, :128
        ]
        crops.append(strip.unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).flatten(0, 1))
    crops = torch.stack(crops, 1).flatten(0, 1)
    return crops[torch.arange(images) % len(crops)]


def case(arch, rows):
    "A network, some of the images, and their gradients."
    model = build_classifier(arch, init="torch" if arch == "lenet" else "")
    images, labels = photographs(max(rows) + 1)[rows], torch.tensor(rows) % 10
    return model, images, share_gradient(model, images, labels)


class Normalised(torch.nn.Module):
    "Our network as the peer wants it: normalised images in, the same parameters and buffers in the same order."

    def __init__(self, model):
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        for name in ("mean", "std"):
            self.register_buffer(name, getattr(model, name).clone())

    def forward(self, images):
        return self.head(self.backbone(images))


def check_gradient(arch):
    "Make sure that both sides see the same gradient of the same image."
    model, images, shared = case(arch, [0])
    loss = cross_entropy(Normalised(model)((images - model.mean) / model.std), shared.labels)
    theirs = torch.cat([one.flatten() for one in torch.autograd.grad(loss, model.parameters())])
    ours = torch.cat([rows[0].flatten() for rows in shared.gradients.values()])
    assert (theirs - ours).norm() <= 1e-5 * ours.norm(), f"the gradients of {arch} differ"


# One run of each side


def prepare(threads, precision="float32"):
    "Threads, seed and precision of one run."
    torch.set_num_threads(threads), torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


@cache
def published_attack():
    "breaching's own settings of Inverting Gradients."
    import breaching

    return breaching.get_attack_config("invertinggradients")


def peer_attack(model, settings, steps, device):
    """breaching's Inverting Gradients, with its own settings or with ours in its units, which are the model's standard
    deviations."""
    import breaching

    attack = deepcopy(published_attack())
    attack.optim.max_iterations, attack.optim.callback = steps, steps + 1
    if settings == "ours":
        deviation = model.std[0].item()
        attack.optim.step_size, attack.regularization.total_variation.scale = STEP_SIZE / deviation, TV * deviation
    setup = dict(device=torch.device(device), dtype=torch.float)
    return breaching.attacks.prepare_attack(Normalised(model), torch.nn.CrossEntropyLoss(), attack, setup)


def peer_run(arch, rows, settings, steps, threads, device):
    "breaching on one image after the other: seconds in all, and the PSNR of each."
    prepare(threads)
    model, images, shared = case(arch, rows)
    mean, std = (tuple(getattr(model, name).flatten().tolist()) for name in ("mean", "std"))
    metadata = SimpleNamespace(shape=images.shape[1:], mean=mean, std=std, modality="vision", classes=10)
    payload = [
        dict(parameters=[p.detach() for p in model.parameters()], buffers=list(model.buffers()), metadata=metadata)
    ]
    attacker, found = peer_attack(model, settings, steps, device), []
    starts = [
        (torch.rand(1, *images.shape[1:], generator=generator("start", row)) - model.mean) / model.std for row in rows
    ]
    begin = time.perf_counter()
    for n, start in enumerate(starts):
        known = dict(
            num_data_points=1,
            labels=shared.labels[n : n + 1].to(device),
            local_hyperparams=None,
            num_users=1,
            data_key="inputs",
        )
        gradients = [one[n].to(device) for one in shared.gradients.values()]
        result, _ = attacker.reconstruct(
            payload,
            [dict(gradients=gradients, buffers=None, metadata=known)],
            server_secrets={},
            initial_data=start if settings == "ours" else None,
        )
        found.append(result["data"].cpu())
    seconds = time.perf_counter() - begin
    return seconds, psnr(images, (model.mean + model.std * torch.cat(found)).clamp(0, 1)).tolist()


def stamped(evaluate, compile, device, stamps):
    "The engine's `recorded`, which also notes when each evaluation is over."
    replay = recorded(evaluate, compile)

    def timed(*inputs):
        found = replay(*inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        return found

    return timed


def our_run(arch, rows, variant, steps, threads, device, snapshots=()):
    """The engine on all images at once: seconds in all, seconds after the first evaluation, and the PSNR of each image
    at each snapshot."""
    prepare(threads, variant["precision"])
    semsim.attack.inversion.RECORD_FROM, stamps = 1, []  # so that few steps are computed as many would be
    semsim.attack.inversion.recorded = lambda evaluate, compile: stamped(evaluate, compile, device, stamps)
    model, images, shared = case(arch, rows)
    begin = time.perf_counter()
    found = invert(
        shared,
        steps=steps,
        width=len(rows),
        units="pixel",
        start="uniform",
        priors=(("tv", TV),),
        lr=STEP_SIZE,
        snapshots=snapshots,
        device=device,
        compile=variant["compiled"],
        precision=variant["precision"],
        channels_last=variant["channels_last"],
    )
    end = time.perf_counter()
    return end - begin, end - stamps[0], {step: psnr(images, kept).tolist() for step, kept in found.snapshots.items()}


# The limit


def forward_flops(arch):
    "Floating-point operations of one forward pass of one image."
    model = build_classifier(arch)
    with FlopCounterMode(display=False) as counter:
        model(photographs(1))
    return counter.get_total_flops()


def product_speed(device):
    """Floating-point operations a second of one thread, or one GPU, that multiplies large matrices: about as fast as it
    gets."""
    torch.set_num_threads(1)
    size = 8192 if device == "cuda" else 1024
    factor, seconds = torch.rand(size, size, device=device), []
    for _ in range(20):
        begin = time.perf_counter()
        (factor @ factor)[0, 0].item()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / median(seconds)


# Several processes at once


def processes(count, settings=None):
    "Processes that do timed work, all started with these settings in their environment."
    workers = [ProcessPoolExecutor(1, get_context("spawn")) for _ in range(count)]
    with patch.dict(os.environ, settings or {}):
        [worker.submit(int).result() for worker in workers]
    return workers


def together(workers, function, arch, parts, *arguments):
    """A run on each part of the images, each part in a process of its own: the longest of each time, and what was
    found, part by part."""
    futures = [worker.submit(function, arch, part, *arguments) for worker, part in zip(workers, parts)]
    *seconds, found = zip(*(future.result() for future in futures))
    return *map(max, seconds), found


def spread(images, processes):
    "Image numbers for each process."
    return [list(range(first, images, processes)) for first in range(min(images, processes))]


def peer_rate(workers, arch, parts, steps, threads, device):
    "Image-iterations a second of the peer, what a run of one step takes left out."
    short, long = (together(workers, peer_run, arch, parts, "ours", count, threads, device)[0] for count in (1, steps))
    return sum(map(len, parts)) * (steps - 1) / (long - short)


def our_rate(workers, arch, parts, variant, steps, device):
    "Image-iterations a second of the engine after the first step, which records."
    _, seconds, _ = together(workers, our_run, arch, parts, variant, steps, 1, device)
    return sum(map(len, parts)) * (steps - 1) / seconds


def medians(rounds):
    """The median over rounds of each number; of ratios too, each taken within its round, as the machine's speed changes
    between rounds."""
    return {name: None if value is None else median(one[name] for one in rounds) for name, value in rounds[0].items()}


# What is asked


def compare_rates(teams, arch, variants, many, steps, options):
    "Image-iterations a second of the peer, and of each of our variants."
    theirs = lambda parts, threads: peer_rate(teams["peer"], arch, parts, steps, threads, options.device)
    one_each, rounds = [[row] for row in range(len(many))], [[] for _ in variants]
    for _ in range(options.rounds):
        peer, by_hand = theirs([[0]], CORES), theirs(one_each, 1)
        for variant, rows in zip(variants, rounds):
            one, all_of_them = (
                our_rate(teams["ours"], arch, parts, variant, steps, options.device) for parts in ([[0]], many)
            )
            rows.append(
                dict(
                    peer=peer,
                    peer_by_hand=by_hand,
                    ours_1=one,
                    ours_many=all_of_them,
                    ratio_1=one / peer,
                    ratio_many=all_of_them / peer,
                    ratio_many_by_hand=all_of_them / by_hand,
                )
            )
    return [variant | medians(rows) for variant, rows in zip(variants, rounds)]


def judged_psnr(parts, found):
    "The mean PSNR of the images that both sides attack."
    return sum(value for rows, values in zip(parts, found) for row, value in zip(rows, values) if row < JUDGED) / JUDGED


def our_race(workers, arch, variant, many, steps, device):
    "Seconds an image for set-up and for the steps after the first, and the PSNR at each snapshot."
    snapshots, images = tuple(range(steps, 0, -max(1, steps // 60)))[::-1], sum(map(len, many))
    seconds, searching, found = together(workers, our_run, arch, many, variant, steps, 1, device, snapshots)
    curve = {step: judged_psnr(many, [part[step] for part in found]) for step in snapshots}
    return dict(setup_seconds=(seconds - searching) / images, searching_seconds=searching / images, curve=curve)


def verdict(goal, race):
    "A goal, and what ours took to get there; None if it never did."
    curve, steps = race["curve"], max(race["curve"])
    step = next((step for step, value in curve.items() if value >= goal["peer_psnr"]), None)
    ours = None if step is None else race["setup_seconds"] + race["searching_seconds"] * (step - 1) / (steps - 1)
    return goal | dict(
        our_steps=steps,
        our_psnr=curve[steps],
        step_reached=step,
        our_seconds=ours,
        ratio=ours and goal["peer_seconds"] / ours,
    )


def peer_by_hand(workers, arch, settings, steps, device):
    "breaching in one process a core: seconds an image, and the mean PSNR."
    parts = spread(ceil(JUDGED / len(workers)) * len(workers), len(workers))  # all processes have as much to do
    seconds, found = together(workers, peer_run, arch, parts, settings, steps, 1, device)
    return seconds / sum(map(len, parts)), judged_psnr(parts, found)


def peer_goal(workers, arch, steps, device):
    "breaching with our settings, as its user runs it: the PSNR to reach, and its seconds an image."
    seconds, found = together(workers, peer_run, arch, [list(range(JUDGED))], "ours", steps, CORES, device)
    by_hand, _ = peer_by_hand(workers, arch, "ours", steps, device)
    return dict(peer_psnr=sum(found[0]) / JUDGED, peer_seconds=seconds / JUDGED, peer_seconds_by_hand=by_hand)


def published_goal(workers, arch, steps, rate, device):
    "breaching with the settings it was published with; its seconds are the steps over its rate."
    by_hand, final = peer_by_hand(workers, arch, "published", steps, device)
    return dict(peer_psnr=final, peer_seconds=steps / rate, peer_seconds_by_hand=by_hand)


def compare_races(teams, arch, variants, many, rate, options):
    "Seconds an image until the peer's final PSNR, with our settings and with those that the peer was published with."
    steps, device, goals, races = options.cap(STEPS), options.device, [], [[] for _ in variants]
    for _ in range(options.race_rounds):
        goals.append(peer_goal(teams["peer"], arch, steps, device))
        for variant, runs in zip(variants, races):
            runs.append(our_race(teams["ours"], arch, variant, many, steps, device))
    rows = [
        dict(settings="ours", peer_steps=steps, **variant, **medians(list(map(verdict, goals, runs))))
        for variant, runs in zip(variants, races)
    ]
    if arch in options.published:
        count = options.cap(PUBLISHED_STEPS)
        goal = published_goal(teams["peer"], arch, count, rate, device)
        rows += [
            dict(settings="published", peer_steps=count, **variant, **medians([verdict(goal, race) for race in runs]))
            for variant, runs in zip(variants, races)
        ]
    return rows


def compare(teams, arch, variants, options):
    "All rows of one network."
    many = spread(options.width, len(teams["ours"]))
    teams["peer"][0].submit(check_gradient, arch).result()
    firsts = []
    for variant in variants:  # imports and compilation, which are not timed below
        firsts.append(
            sum(
                together(teams["ours"], our_run, arch, parts, variant, 2, 1, options.device)[0]
                for parts in (many, [[0]])
            )
        )
    peer_by_hand(teams["peer"], arch, "ours", 2, options.device)
    rates = compare_rates(teams, arch, variants, many, options.cap(RATE_STEPS.get(arch, 10)), options)
    races = compare_races(teams, arch, variants, many, rates[0]["peer"], options) if arch in options.races else []
    flops = forward_flops(arch)
    rates = [
        dict(
            network=arch,
            **row,
            first_seconds=first,
            forward_flops=flops,
            flops=7 * flops * row["ours_many"],
            peer_flops=8 * flops * row["peer"],
        )
        for row, first in zip(rates, firsts)
    ]
    return rates, [dict(network=arch, **row) for row in races]


# What is written


def processor():
    "The processor's name."
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def machine(device):
    "What the numbers were measured on."
    gpu = dict(gpu=torch.cuda.get_device_name()) if device == "cuda" else {}
    return dict(
        cpu=processor(),
        cores=CORES,
        **gpu,
        system=platform.machine(),
        python=platform.python_version(),
        torch=torch.__version__,
        breaching=version("breaching"),
    )


def number(value, form="{:.3g}"):
    "A number for a table, or a dash for none."
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else form.format(value)


def named(row):
    "A network and how ours computed."
    extras = {"compiled": row["compiled"], "channels last": row["channels_last"], "TF32": row["precision"] == "tf32"}
    return ", ".join([NAMES.get(row["network"], row["network"]), *(word for word, said in extras.items() if said)])


def markdown(heads, rows):
    "A table."
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in [heads, ["---"] * len(heads), *rows])


def report(result):
    "The tables of one JSON file."
    where, many = result["machine"], result["images"]
    rates = [
        [
            named(row),
            *(number(row[name]) for name in ("peer", "peer_by_hand", "ours_1", "ours_many")),
            *(number(row[name], "{:.2f}") for name in ("ratio_1", "ratio_many", "ratio_many_by_hand")),
            *(number(row[name] / 1e9) for name in ("peer_flops", "flops")),
        ]
        for row in result["rates"]
    ]
    races = [
        [
            named(row),
            f"{row['settings']}, {row['peer_steps']:,} steps",
            number(row["peer_psnr"], "{:.2f}"),
            number(row["our_psnr"], "{:.2f}"),
            number(row["step_reached"], "{:d}"),
            *(number(row[name]) for name in ("peer_seconds", "peer_seconds_by_hand", "our_seconds")),
            number(row["ratio"], "{:.2f}"),
        ]
        for row in result["races"]
    ]
    heads = [
        "network",
        "breaching",
        "breaching, by hand",
        "semsim, 1 image",
        f"semsim, {many} images",
        "ratio, 1 image",
        f"ratio, {many} images",
        f"ratio, {many} images, by hand",
        "breaching, GFLOP/s",
        f"semsim, {many} images, GFLOP/s",
    ]
    race_heads = [
        "network",
        "breaching's settings",
        "its PSNR, dB",
        "our final PSNR, dB",
        "our step there",
        "breaching, s an image",
        "by hand, s an image",
        "semsim, s an image",
        "ratio",
    ]
    return "\n\n".join(
        [
            f"{where.get('gpu', where['cpu'])}, {where['cores']} cores, Python {where['python']}, PyTorch "
            f"{where['torch']}, "
            f"breaching {where['breaching']}; medians of {result['rounds']} rounds of rates, {result['race_rounds']} "
            "of seconds. "
            f"Products of large matrices reach {where['product_flops'] / 1e9:.0f} GFLOP/s on all cores together.",
            "Image-iterations a second:",
            markdown(heads, rates),
            "Seconds an image until breaching's final PSNR:",
            markdown(race_heads, races),
        ]
    )


def write_readme(script, tables):
    "Put a script's tables into their place in README.md."
    readme = HERE / "README.md"
    place = rf"(?s)(<!-- {script} -->\n).*(<!-- end of {script} -->)"
    readme.write_text(re.sub(place, lambda found: f"{found[1]}\n{tables}\n\n{found[2]}", readme.read_text()))


def write_tables():
    "Put the tables of all JSON files here into README.md."
    write_readme(
        "attack.py", "\n\n".join(report(json.loads(path.read_text())) for path in sorted(HERE.glob("attack*.json")))
    )


def parse_options():
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NAMES))
    parser.add_argument(
        "--races", nargs="*", default=["lenet", "resnet20"], help="networks whose seconds to a PSNR are measured"
    )
    parser.add_argument(
        "--published",
        nargs="*",
        default=["lenet"],
        help="those of them that are measured against published settings too",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of the rates")
    parser.add_argument("--race-rounds", type=int, default=3, help="of the seconds to a PSNR")
    parser.add_argument(
        "--compile",
        nargs="*",
        default=[],
        help="networks that are measured with torch.compile too; needs a C++ compiler",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--width", type=int, help="images that ours attacks at once; 32, or 256 on a GPU")
    parser.add_argument("--steps", type=int, help="no more steps than this, to try the script")
    parser.add_argument("--table", action="store_true", help="only write README.md's tables again")
    options = parser.parse_args()
    options.width = options.width or (256 if options.device == "cuda" else 32)
    options.cap = lambda count: min(count, options.steps or count)
    return options


def variants_of(arch, options):
    "How ours computes."
    plain = dict(compiled=False, precision="float32", channels_last=False)
    kinds = [plain] + [plain | dict(compiled=True)] * (arch in options.compile)
    faster = [plain | dict(channels_last=True), plain | dict(channels_last=True, precision="tf32")]
    return kinds + faster * (options.device == "cuda")


def main(options, cache):
    "Measure, network by network; what is compiled is kept in a folder that is empty at first."
    count = 1 if options.device == "cuda" else CORES
    teams = dict(peer=processes(count), ours=processes(count, WORKER_SETTINGS | dict(TORCHINDUCTOR_CACHE_DIR=cache)))
    result = dict(
        machine=machine(options.device),
        rounds=options.rounds,
        race_rounds=options.race_rounds,
        images=options.width,
        judged=JUDGED,
        rates=[],
        races=[],
    )
    speeds = [worker.submit(product_speed, options.device) for worker in teams["ours"]]
    result["machine"]["product_flops"] = sum(speed.result() for speed in speeds)
    for arch in options.networks:
        rates, races = compare(teams, arch, variants_of(arch, options), options)
        result["rates"] += rates
        result["races"] += races
        print(*map(json.dumps, rates + races), sep="\n", flush=True)
        (HERE / ("attack_cuda.json" if options.device == "cuda" else "attack.json")).write_text(
            json.dumps(result, indent=1) + "\n"
        )


if __name__ == "__main__":
    options = parse_options()
    if not options.table:
        with TemporaryDirectory() as cache:
            main(options, cache)
    write_tables()
