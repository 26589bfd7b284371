"""One run of a test for each notebook, and commands that do not wait for their imports."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import pytest

# Set before anything loads torch, and for every process that a test starts: small networks on few cores lose most of
# their time to spinning threads, and pytest-xdist has a test for each core already.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"


def notebooks():
    "The paths of all notebooks that nbdev would see."
    paths = sorted(path.relative_to(NBS) for path in NBS.rglob("*.ipynb"))
    return [NBS / path for path in paths if not any(part[0] in "._" for part in path.parts)]


def copy_of(folder, *names):
    "Files and folders of the repository, in another folder, without what runs leave in them."
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            )
        else:
            shutil.copy(ROOT / name, folder)


def said(output):
    "What an output of a cell says: printed text, a table (whose plain form depends on the window), another result."
    data = {"text/plain": output.get("text", ""), **output.get("data", {})}
    return "".join(data.get("text/html") or data["text/plain"])


def pytest_generate_tests(metafunc):
    "One parameter for each notebook."
    if "notebook" in metafunc.fixturenames:
        metafunc.parametrize("notebook", notebooks(), ids=lambda path: path.relative_to(NBS).as_posix())


# Commands

ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive", "COLUMNS": "200"}
PROGRAM = "from semsim.cli import main; main()"
Ended = namedtuple("Ended", "code out err")

# Imports once what every command needs, then runs each command in a fork of itself.
SERVER = """
import json, os, resource, signal, sys, traceback
import torch, semsim.study.report, semsim.metrics.semsim, semsim.study.pipeline, semsim.study.train
from semsim.cli import main
torch.set_num_threads(1)
for line in sys.stdin:
    wanted = json.loads(line)
    if isinstance(wanted, int): # wait for the process of that number
        print(os.waitstatus_to_exitcode(os.waitpid(wanted, 0)[1]), flush=True)
        continue
    arguments, folder, out, err, largest = wanted
    if (child := os.fork()) == 0:
        os.chdir(folder)
        for number, name in ((1, out), (2, err)): os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        signal.alarm(300)
        if largest: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        sys.argv, code = ["semsim", *arguments], 0
        try: main()
        except SystemExit as end: code = end.code or 0
        except BaseException: traceback.print_exc(); code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code) # tearing a torch interpreter down takes seconds
    print(child, flush=True)
"""


def start(code, *arguments, **options):
    "Python in a process group of its own, which hears Ctrl-C even if the tests were started in the background."
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(arguments, env=ENV, text=True, start_new_session=True, preexec_fn=hear, **options)


def end(process):
    "Leave nothing of its group behind."
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def server():
    process = start(SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(wanted):
        print(json.dumps(wanted), file=process.stdin, flush=True)
        return int(process.stdout.readline())

    yield ask
    end(process)


@pytest.fixture
def begin(server, tmp_path, tmp_path_factory):
    "Starts a command in an empty `tmp_path`: its number, and a function that waits for its end. `largest`: of files."

    def run(*arguments, largest=0):
        out, err = (tmp_path_factory.mktemp("output") / name for name in ("out", "err"))
        number = server([[*map(str, arguments)], *map(str, (tmp_path, out, err)), largest])
        return number, lambda: Ended(server(number), out.read_text(), err.read_text())

    return run


@pytest.fixture
def semsim(begin):
    "Runs a command in `tmp_path`."
    return lambda *arguments, **options: begin(*arguments, **options)[1]()


# Chromium


@pytest.fixture(scope="module")
def browser():
    "Debian's Chromium. (While it is there an event loop runs in this thread, which other modules' tests may not find.)"
    from chromium import CHROMIUM
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
