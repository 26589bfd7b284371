"""Scoring speed against a loop over files, as the paper's code has it: the same pairs, on the same machine, in turns.

    python benchmarks/metrics.py

The loop reads two files, computes MSE, PSNR and SSIM with scikit-image on 8-bit values and LPIPS with AlexNet on images
enlarged to 256 pixels, and goes to the next pair. semsim scores the same files under the protocol `paper2309`, which
must give the same values, and under `standard`, at the images' own size. What is written: `benchmarks/metrics.json` and
the tables of `benchmarks/README.md`.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data as photographs
from skimage.io import imread
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torchvision.transforms import Compose, Resize, ToTensor

from attack import CORES, HERE, markdown, number, processor, write_readme
from semsim.core.seeds import generator
from semsim.core.files import to_tensor, write_image
from semsim.metrics.features import LpipsVectors
from semsim.metrics.scoring import score

COLUMNS = {
    "paper2309": [f"paper2309/{name}" for name in ("mse", "psnr", "ssim", "lpips[alex]")],
    "standard": ["mse", "psnr", "ssim", "lpips[alex]"],
}
COPIES = 14  # reconstructions of each original, as in the paper's study


def write_pairs(folder, count):
    "Crops of photographs, 32 pixels wide, and noisy copies of each; a manifest of them."
    pictures = [photographs.astronaut(), photographs.chelsea(), photographs.coffee(), photographs.rocket()]
    random, rows = generator("benchmark of metrics"), []
    for row in range(count):
        picture = pictures[row % len(pictures)]
        top, left = (int(torch.randint(0, side - 160, (), generator=random)) for side in picture.shape[:2])
        original = F.interpolate(to_tensor(picture[top : top + 160, left : left + 160])[None], (32, 32), mode="area")[0]
        write_image(original, folder / f"{row}_ori.png")
        for copy in range(COPIES):
            noise = torch.randn(original.shape, generator=random)
            write_image((original + (0.02 + 0.02 * copy) * noise).clamp(0, 1), folder / f"{row}_{copy}.png")
            rows.append(dict(original=folder / f"{row}_ori.png", reconstruction=folder / f"{row}_{copy}.png"))
    return pd.DataFrame(rows)


@torch.no_grad()
def loop_over_files(pairs, network):
    "What the paper's code does, pair by pair."
    enlarge, rows = Compose([Resize(256), ToTensor()]), []
    for names in pairs[["original", "reconstruction"]].itertuples(index=False):
        first, second = (imread(name) for name in names)
        large = [enlarge(Image.open(name).convert("RGB"))[None] for name in names]
        rows.append(
            [
                mean_squared_error(first / 255, second / 255),
                peak_signal_noise_ratio(first, second, data_range=255),
                structural_similarity(first, second, channel_axis=-1),
                network(*large).item(),
            ]
        )
    return np.array(rows)


def table(result):
    "What README.md shows."
    rows = [
        ["loop over files", result["pairs_a_second"]["loop"], 1.0],
        *([f"semsim, {name}", result["pairs_a_second"][name], ratio] for name, ratio in result["ratios"].items()),
    ]
    machine, apart = result["machine"], max(result["largest_difference"].values())
    return "\n\n".join(
        [
            f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, PyTorch "
            f"{machine['torch']}; {result['pairs']} pairs, "
            f"{result['copies']} reconstructions for each original; medians of {result['rounds']} rounds. The values "
            f"under `paper2309` differ from the loop's by {apart:.1g} at most.",
            markdown(
                ["", "pairs a second", "ratio"],
                [[name, number(rate), number(ratio, "{:.2f}")] for name, rate, ratio in rows],
            ),
        ]
    )


def main(options):
    with TemporaryDirectory() as folder:
        pairs = write_pairs(Path(folder), options.originals)
        network = LpipsVectors("alex").lpips.to(
            memory_format=torch.contiguous_format
        )  # the package's own, as the loop has it
        runs = {
            "loop": lambda: loop_over_files(pairs, network),
            **{
                name: lambda columns=columns: score(pairs, metrics=columns)[columns].to_numpy()
                for name, columns in COLUMNS.items()
            },
        }
        values = {name: run() for name, run in runs.items()}  # the first run loads the networks
        seconds = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                begin = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begin)
    apart = np.abs(values["loop"] - values["paper2309"]).max(0)
    rates = {name: len(pairs) / median(taken) for name, taken in seconds.items()}
    ratios = {name: median(slow / fast for slow, fast in zip(seconds["loop"], seconds[name])) for name in COLUMNS}
    result = dict(
        machine=dict(processor=processor(), cores=CORES, python=platform.python_version(), torch=torch.__version__),
        pairs=len(pairs),
        copies=COPIES,
        rounds=options.rounds,
        pairs_a_second=rates,
        ratios=ratios,
        largest_difference=dict(zip(("mse", "psnr", "ssim", "lpips[alex]"), apart.tolist())),
    )
    (HERE / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
    write_readme("metrics.py", table(result))
    print(table(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=int, default=40, help="each has 14 reconstructions (default 40)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default 5)")
    main(parser.parse_args())
