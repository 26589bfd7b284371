"""The package on systems that lack what only Linux or POSIX has: these functions and modules are removed first."""

import subprocess
import sys

from conftest import ENV
from test_contract import MODULES

# Names that Windows lacks (macOS lacks the first two). Other libraries are imported afterwards and adapt to it.
MISSING = """
import builtins, errno, fcntl, os, signal, sys

for module, names in {
    os: "sched_getaffinity sched_setaffinity fork forkpty setsid getpgid killpg nice getloadavg statvfs "
        "O_DIRECTORY O_NOFOLLOW fchmod",
    signal: "pthread_sigmask sigwait SIGKILL SIGALRM SIGHUP SIGUSR1 alarm setitimer",
    errno: "EDQUOT",
}.items():
    for name in names.split():
        delattr(module, name)

POSIX = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
import_module, fsync, open_file = builtins.__import__, os.fsync, os.open

def import_unless_posix(name, globals=None, *rest):
    if name in POSIX and (globals or {}).get("__name__", "").partition(".")[0] == "semsim":
        raise ModuleNotFoundError(f"{name}: not on this system")
    return import_module(name, globals, *rest)

def fsync_as_windows(handle):
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "opened for reading only")
    fsync(handle)

builtins.__import__, os.fsync = import_unless_posix, fsync_as_windows
"""

WORK = """
import importlib, tempfile, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# On Windows the default encoding of texts is not UTF-8, so every file names its encoding.
warnings.filterwarnings("error", category=EncodingWarning, module=r"semsim\\.core\\.")
for name in sys.argv[1:]:
    importlib.import_module(f"semsim.{name}")

import numpy as np
import pandas as pd
from semsim import agreement, load_dataset, run_study, score
from semsim.core.files import read_table
from semsim.study.settings import make_study

digits = load_dataset("digits", size=16).test.take(range(6)).images
table = score(digits, (digits + 0.1).clamp(0, 1), metrics=["mse", "psnr"])
assert len(table) == 6 and 0 < table.mse.max() < 0.011

random = np.random.default_rng(0)
rows = [(original, model) for original in range(8) for model in ("a", "b", "c")]
frame = pd.DataFrame(rows, columns=["original", "model"]).assign(human=random.integers(0, 4, 24) / 3)
frame["psnr"] = frame.human + random.normal(size=24)
assert len(agreement(frame, "human", ["psnr"], n_resamples=20)) > 0

settings = dict(
    name="tiny", data=[dict(source="digits", size=16)], archs=["lenet"], variants=["none", "crop"], originals=4,
    training=dict(images=16, epochs=1, lr=0.05), metrics=["mse"], semsim=None,
    attacks=[dict(preset="inverting_gradients", changes=dict(steps=2))],
    annotators=dict(teacher=None, judge=dict(members=1, presentations=100, arch="convnet4", unsure=0.3)),
)
with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as executor:
    results = run_study(make_study(settings), Path(folder) / "study", executor)
    assert not results.missing, results.missing
    assert len(read_table(Path(folder) / "study/tables/scores.csv")) == 8
print("done")
"""


def test_the_package_works_without_what_windows_and_macos_lack():
    "Every module is imported; images are scored, agreement is computed, and a small study is run."
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "ignore", "-c", MISSING + WORK, *MODULES]
    result = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and result.stdout.endswith("done\n"), result.stderr[-3000:]


CAPPED = """
import sys
from semsim.core.tasks import LocalWorkers
sys.platform = "win32"
pool = LocalWorkers(100)
print(pool.count)
"""


def test_windows_allows_61_processes():
    "Python's pool refuses more there; no process starts before the first task."
    result = subprocess.run([sys.executable, "-c", CAPPED], env=ENV, capture_output=True, text=True)
    assert result.stdout == "61\n", result.stderr[-1000:]
