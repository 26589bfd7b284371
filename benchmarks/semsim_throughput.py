"""How many pairs a second SemSim scores, beside the lpips package, in one run: benchmarks/semsim_throughput.json.

    .venv/bin/python benchmarks/semsim_throughput.py

Many reconstructions of few originals, as studies have them. SemSim embeds each distinct image once, whatever the number
of pairs; the package's LPIPS takes both images of every pair through its network. Ratios are of rounds that were run
one after the other.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from pathlib import Path

import lpips
import torch

from semsim.core.seeds import generator
from semsim.core.files import atomic_path
from semsim.metrics.features import backbone
from semsim.metrics.semsim import SemSim

PAIRS, ORIGINALS, ROUNDS = 2_000, (20, 200, 2_000), 5


def peer():
    "LPIPS with AlexNet, as its user runs it."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    weights = backbone("alexnet").state_dict()
    net.net.load_state_dict({name: weights[name.split(".", 1)[1]] for name in net.net.state_dict()})

    def run(originals, reconstructions, owners):
        with torch.no_grad():
            return torch.cat(
                [
                    net(originals[own], some, normalize=True).flatten()
                    for own, some in zip(owners.split(64), reconstructions.split(64))
                ]
            )

    return run


def pairwise(metric):
    "SemSim on both images of every pair."

    def run(originals, reconstructions, owners):
        with torch.no_grad():
            return torch.cat(
                [metric(originals[own], some) for own, some in zip(owners.split(64), reconstructions.split(64))]
            )

    return run


def seconds(run, *images):
    "How long one call takes."
    start = time.perf_counter()
    run(*images)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--into", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    metric, random, rows = SemSim.load(), generator("throughput"), []
    runs = {"semsim": metric.score, "semsim, pair by pair": pairwise(metric), "lpips 0.1.4 alex": peer()}
    reconstructions = torch.rand(args.pairs, 3, 32, 32, generator=random)
    for count in ORIGINALS:
        count = min(count, args.pairs)
        images = torch.rand(count, 3, 32, 32, generator=random), reconstructions, torch.arange(args.pairs) % count
        for run in runs.values():
            run(images[0], reconstructions[:64], images[2][:64])  # warm
        rounds = [{name: seconds(run, *images) for name, run in runs.items()} for _ in range(ROUNDS)]
        for name in runs:
            ratios = [one["lpips 0.1.4 alex"] / one[name] for one in rounds]
            rows.append(
                dict(
                    metric=name,
                    originals=count,
                    pairs=args.pairs,
                    pairs_a_second=round(args.pairs / statistics.median(one[name] for one in rounds)),
                    times_lpips=round(statistics.median(ratios), 2),
                    low=round(min(ratios), 2),
                    high=round(max(ratios), 2),
                )
            )
    about = dict(
        rows=rows,
        arch=metric.card["arch"],
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        machine=platform.machine(),
    )
    with atomic_path(args.into) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
