"""How long an annotator waits between a key and the next picture: the labelling page in Chromium, 200 digits answered
by keyboard.

    python benchmarks/labelling.py

Writes benchmarks/labelling.json. Nobody looks at the pictures here: what is measured is the time that the page itself
takes of the 15 minutes in which 200 are to be answered.
"""

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import sync_playwright

from semsim.core.seeds import generator
from semsim.core.files import atomic_path
from semsim.core.datasets import load_dataset, pick
from semsim.core.folders import write_reconstructions

ITEMS, MINUTES = 200, 15
# Times of keys and of pictures that can be seen, taken in the page itself.
WATCH = """() => {
    const root = document.querySelector(".semsim-annotate");
    window.keys = []; window.seen = [];
    root.addEventListener("keydown", () => window.keys.push(performance.now()), true);
    const note = () => { if (root.dataset.seen) window.seen.push(performance.now()); };
    new MutationObserver(note).observe(root, { attributeFilter: ["data-seen"] });
}"""


def make_folder(folder):
    "Digits under noise, as two models' reconstructions."
    digits = load_dataset("digits", size=32)
    originals = pick(digits.test, ITEMS)
    for model in ("one", "two"):
        noise = torch.randn(originals.images.shape, generator=generator("labelling", model))
        write_reconstructions(folder / model, originals, (originals.images + 0.4 * noise).clamp(0, 1))
    (folder / "classes.txt").write_text("\n".join(digits.classes))


def measure(folder):
    "Milliseconds from a key to the next picture, one for each of 200 answers."
    command = [
        sys.executable,
        "-c",
        "from semsim.cli import main; main()",
        "annotate",
        str(folder),
        "--annotator",
        "benchmark",
        "--no-browser",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            address = next(line for line in server.stdout if line.startswith("Label at ")).split()[-1]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector('.semsim-annotate[data-seen="0"]')
            page.evaluate(WATCH)
            for position in range(ITEMS):
                page.wait_for_selector(f'.semsim-annotate[data-seen="{position}"]')
                page.keyboard.press(str(position % 10))
            page.wait_for_selector(f'.semsim-annotate[data-seen="{ITEMS}"]')
            keys, seen = page.evaluate("[window.keys, window.seen]")
            browser.close()
        finally:
            server.kill()
    assert len(keys) == len(seen) == ITEMS
    return np.subtract(seen, keys)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make_folder(Path(scratch))
        waits = measure(Path(scratch))
    found = dict(
        items=ITEMS,
        median_ms=round(float(np.median(waits)), 1),
        p95_ms=round(float(np.quantile(waits, 0.95)), 1),
        largest_ms=round(float(waits.max()), 1),
        seconds_of_200=round(float(waits.sum()) / 1000, 1),
        seconds_left_for_a_picture=round((60 * MINUTES - waits.sum() / 1000) / ITEMS, 2),
        machine=platform.processor() or platform.machine(),
    )
    with atomic_path(Path(__file__).with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
