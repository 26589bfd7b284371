"""The scripts behind the page on attackers, in small."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "nbs/results/attackers"


def run(script, *arguments):
    command = [sys.executable, ROOT / "benchmarks" / script, *arguments, "--small"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def columns(folder, name):
    return list(pd.read_csv(folder / f"{name}.csv"))


def test_clients_that_shuffle(tmp_path):
    made = run("fedavg.py", "--into", tmp_path)
    assert made.returncode == 0, made.stderr[-2000:]
    assert columns(tmp_path, "fedavg") == columns(STORED, "fedavg") and (tmp_path / "fedavg.json").exists()
