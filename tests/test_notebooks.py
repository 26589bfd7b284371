"""Every notebook runs from top to bottom, all of its code cells, each in a process of its own."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import nbdev.test as runner
import pytest
from chromium import CHROMIUM
from conftest import NBS, ROOT, notebooks, said
from test_lab import STEPS


class RememberingShell(runner.CaptureShell):
    "A shell that remembers what each cell put out."

    shown = []

    def run(self, *args, **kwargs):
        found = super().run(*args, **kwargs)
        RememberingShell.shown.append(texts(found))
        return found


def texts(outputs):
    "What the outputs of a cell say, if it draws nothing."
    outputs = outputs or []
    if any("image/png" in output.get("data", {}) for output in outputs):
        return ""
    return "".join(map(said, outputs)).strip()


def run(path):
    "What went wrong when the notebook ran, or None."
    runner.CaptureShell = RememberingShell
    passed, _ = runner.test_nb(path, basepath=ROOT)
    cells = [cell for cell in runner.NBProcessor(path).nb.cells if cell.cell_type == "code"]
    if not passed:
        return f"{path.name} failed"
    if not 0 < len(RememberingShell.shown) == len(cells):
        return f"{path.name}: {len(RememberingShell.shown)} of {len(cells)} code cells ran"
    if path.parent.name == "results" or path.stem == "map":  # read from files, so it must show what they hold now
        for cell, now in zip(cells, RememberingShell.shown):
            if now != texts(cell.outputs):
                return f"{path.name}, cell {cell.id}: shows\n{texts(cell.outputs)}\nbut the stored results give\n{now}"


def run_and_exit(notebook, log):
    "Run a notebook with its output in a file, and end this process: with 0 if all went well."
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    try:
        wrong = run(Path(notebook))
        print(wrong or "", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        wrong = True
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(bool(wrong))  # tearing a torch interpreter down takes seconds


def serve():
    "Run each notebook named on standard input in a fork that has loaded the large libraries, and nothing of semsim."
    import matplotlib.pyplot, pandas, torch  # noqa: E401, F401

    for line in sys.stdin:
        if (child := os.fork()) == 0:
            run_and_exit(*line.rstrip("\n").split("\t"))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


@pytest.fixture(scope="module")
def server():
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()


# Where there is a browser, the notebooks of the four steps run in JupyterLab instead: see test_lab.py.
HERE = [path for path in notebooks() if not CHROMIUM or path not in STEPS]


@pytest.mark.parametrize("path", HERE, ids=lambda path: path.relative_to(NBS).as_posix())
def test_notebook_runs(path, server, tmp_path):
    print(path, tmp_path / "log", sep="\t", file=server.stdin, flush=True)
    assert server.stdout.readline() == "0\n", (tmp_path / "log").read_text()[-5000:]


if __name__ == "__main__":
    serve()
