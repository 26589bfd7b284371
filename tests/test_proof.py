"""The script behind the page on gradient inversion, in small, on a folder of made images."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from semsim.core.files import to_pil
from semsim.core.datasets import load_dataset, pick

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def digits_as_photographs(tmp_path_factory):
    "A folder as CIFAR-10 is kept, of coloured digits."
    folder, digits = tmp_path_factory.mktemp("photographs"), load_dataset("digits")
    for name, split, count in (("train", digits.train, 60), ("test", digits.test, 30)):
        chosen = pick(split, count)
        for number, (image, label) in enumerate(zip(chosen.images, chosen.labels.tolist())):
            path = folder / name / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil(image.expand(3, -1, -1)).save(path)
    return folder


def run(folder, into):
    command = [sys.executable, ROOT / "benchmarks" / "proof.py", folder, "--small", "--into", into]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_every_table_is_written_once_and_says_what_the_page_reads(digits_as_photographs, tmp_path):
    first = run(digits_as_photographs, tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")}
    stored = {path.stem: pd.read_csv(path) for path in (ROOT / "nbs/results/gradient_inversion").glob("*.csv")}
    assert {name: list(table) for name, table in tables.items()} == {
        name: list(table) for name, table in stored.items()
    }
    assert set(tables) == {path.stem for path in tmp_path.glob("*.json")} and (tmp_path / "dlg.png").exists()
    single = tables["labels"].query("batch == 1 and rule in ('infer', 'bias')")
    assert len(single) == 12 and (single.right == 1).all()
    labels = tables["labels"]
    assert (labels.low <= labels.right).all() and (labels.right <= labels.high).all()
    assert (labels.low < labels.high).all()
    policies = tables["policies"]
    assert (policies.aligned >= policies.against_original - 1e-3).all()
    assert (
        policies.query("sent == 'transformed' and shown == 'what was sent' and policy == '3-1-7'")
        .against_original.lt(20)
        .all()
    )
    assert run(digits_as_photographs, tmp_path).stdout == ""
