"""Gives every test that takes a `notebook` one run for each notebook of the project."""

import os
from pathlib import Path

# Set before anything loads torch, and for every process that a test starts: small networks on few cores lose most of their
# time to spinning threads, and pytest-xdist has a test for each core already.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

NBS = Path(__file__).resolve().parents[1] / "nbs"


def pytest_generate_tests(metafunc):
    "One parameter for each notebook that nbdev would see."
    if "notebook" in metafunc.fixturenames:
        names = sorted(path.relative_to(NBS) for path in NBS.rglob("*.ipynb"))
        names = [name for name in names if not any(part[0] in "._" for part in name.parts)]
        metafunc.parametrize("notebook", [NBS / name for name in names], ids=[name.as_posix() for name in names])
