"""Every notebook runs from top to bottom, all of its code cells, each notebook in a process of its own."""

import subprocess
import sys
from pathlib import Path

import nbdev.test as runner

ROOT = Path(__file__).resolve().parents[1]


class CountingShell(runner.CaptureShell):
    "A shell that counts the cells it runs."

    ran = 0

    def run(self, *args, **kwargs):
        CountingShell.ran += 1
        return super().run(*args, **kwargs)


def run(path):
    "What went wrong when the notebook ran, or None."
    runner.CaptureShell = CountingShell
    passed, _ = runner.test_nb(path, basepath=ROOT)
    cells = sum(cell.cell_type == "code" for cell in runner.NBProcessor(path).nb.cells)
    if not passed:
        return f"{path.name} failed"
    if not 0 < CountingShell.ran == cells:
        return f"{path.name}: {CountingShell.ran} of {cells} code cells ran"


def test_notebook_runs(notebook):
    result = subprocess.run([sys.executable, __file__, notebook], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-5000:]


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
