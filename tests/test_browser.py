"""Labelling in a real browser: Chromium opens the page and JupyterLab, an annotator answers by keyboard, and things go
wrong on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
import uvicorn
from chromium import free_port, jupyterlab, needed, new_tab
from conftest import ENV, PROGRAM
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from semsim.annotate.session import Session, answers_path
from semsim.annotate.page import annotation_app, listen
from semsim.core.seeds import generator
from semsim.core.datasets import load_dataset, pick
from semsim.core.folders import write_reconstructions

SCREENSHOTS = os.environ.get("SEMSIM_SCREENSHOTS")  # a folder: keep the pictures for the notebooks

pytestmark = needed


@pytest.fixture
def tab(browser):
    with new_tab(browser) as page:
        yield page


def make_folder(folder, classes=None, originals=40):
    "Digits, and what two models leak of them."
    digits = load_dataset("digits", size=16)
    chosen = pick(digits.test, originals)
    for number, model in enumerate(("leaky", "safe")):
        noise = torch.randn(chosen.images.shape, generator=generator("browser", model))
        write_reconstructions(folder / model, chosen, (chosen.images + (0.15 + 0.35 * number) * noise).clamp(0, 1))
    (folder / "classes.txt").write_text("\n".join(classes or digits.classes), encoding="utf-8")
    return folder


@contextmanager
def annotate(folder, annotator, *options):
    "`semsim annotate` in a process of its own, and the address that it prints."
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "annotate",
        str(folder),
        "--annotator",
        annotator,
        "--no-browser",
        *options,
    ]
    process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Label at "):
                break
        else:
            raise AssertionError(f"no address: {said}")
        yield process, said[-1].removeprefix("Label at ").strip()
    finally:
        process.kill()
        process.wait()


@contextmanager
def served(folder, annotator, **options):
    "The same page from a thread of this process, which need not load everything again, and its address."
    session = Session(folder, annotator, **options)
    with listen(session, free_port()) as listening:
        server = uvicorn.Server(uvicorn.Config(annotation_app(session, "secret"), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs=dict(sockets=[listening]), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/?token=secret"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
            session.log.close()


def planned(position):
    "What the test's annotator answers at a position: a class, or at every fifth that they cannot recognise it."
    return -1 if position % 5 == 4 else position * 7 % 10


def press(page, position, key=None):
    "Answer the picture at a position by keyboard, once it can be seen."
    page.wait_for_selector(f'.semsim-annotate[data-seen="{position}"]')
    page.keyboard.press(key or ("Space" if planned(position) < 0 else str(planned(position))))


def label(page, start, stop):
    for position in range(start, stop):
        press(page, position)
    saved(page, stop)


def saved(page, count):
    page.wait_for_function(
        "count => document.querySelector('.semsim-count').textContent.startsWith(`${count} of`)", arg=count
    )


def lines_of(folder, annotator, protocol="name"):
    return [
        json.loads(line) for line in answers_path(folder, annotator, protocol).read_text(encoding="utf-8").splitlines()
    ]


def check_file(folder, annotator, count, undone):
    "The file holds the plan, each answer once and in order, and the one that was taken back."
    plan, *lines = lines_of(folder, annotator)
    standing, taken_back = [], []
    for line in lines:
        if "undo" in line:
            assert standing[-1]["id"] == line["undo"]
            taken_back.append(standing.pop()["answer"])
        else:
            standing.append(line)
    assert [f"{line['role']}:{line['item']}" for line in standing] == plan["plan"][:count]
    assert [line["answer"] for line in standing] == [planned(position) for position in range(count)]
    assert taken_back == undone
    assert {line["annotator"] for line in lines} == {annotator}
    assert all(line["milliseconds"] >= 0 and line["protocol"] == "name" and line["version"] for line in standing)
    assert len({line["id"] for line in lines}) == len(lines)


def test_page(browser, tab, tmp_path):
    "Thirty items by keyboard, one taken back, a reload and a killed server in the middle."
    folder = make_folder(tmp_path)
    with annotate(folder, "ann") as (process, address):
        tab.goto(address)
        label(tab, 0, 6)
        press(tab, 6, "9")  # a slip
        saved(tab, 7)
        tab.keyboard.press("Backspace")
        saved(tab, 6)
        label(tab, 6, 12)
        tab.reload()
        label(tab, 12, 18)
        if SCREENSHOTS:
            tab.locator(".semsim-annotate").screenshot(path=f"{SCREENSHOTS}/annotate_page.png")
        process.send_signal(signal.SIGKILL)
        process.wait()
        press(tab, 18)  # nobody is there to hear it
        tab.wait_for_selector(".semsim-wrong:has-text('Not saved')")
        assert len(lines_of(folder, "ann")) == 1 + 20  # the plan, 19 answers and an undo
    with annotate(folder, "ann") as (process, address):
        tab.goto(address)  # the browser kept the answer
        saved(tab, 19)
        label(tab, 19, 30)
        assert "30 of 46" in tab.locator(".semsim-count").text_content()
    check_file(folder, "ann", 30, [9])


def test_to_the_end(tab, tmp_path):
    "At the end the annotator sees their consistency, and may still take back the last answer."
    folder = make_folder(tmp_path, originals=10)
    with served(folder, "ann") as address:
        tab.goto(address)
        label(tab, 0, 12)
        tab.wait_for_selector(".semsim-finished")
        text = tab.locator(".semsim-pictures").text_content()
        assert "10 reconstructions answered" in text and "the same answer the second time" in text
        tab.click("text=Undo")
        saved(tab, 11)
        label(tab, 11, 12)
    check_file(folder, "ann", 12, [planned(11)])


def test_mouse_and_pairs(tab, tmp_path):
    "The other protocol, by mouse: the original stands beside the reconstruction."
    folder = make_folder(tmp_path, originals=6)
    with served(folder, "ann", protocol="same", every=True) as address:
        tab.goto(address)
        tab.wait_for_selector('.semsim-annotate[data-seen="0"] img >> nth=1')
        tab.click(".semsim-choice:has-text('yes')")
        press(tab, 1, "n")
        tab.wait_for_selector('.semsim-annotate[data-seen="2"]')
        tab.click("text=cannot tell")
        saved(tab, 3)
    assert [line["answer"] for line in lines_of(folder, "ann", "same")[1:]] == [1, 0, -1]


def test_type_ahead(tab, tmp_path):
    "A hundred classes: the beginning of a name and Enter; a name is text, whatever it holds."
    classes = [f"class {number}" for number in range(97)] + [
        "<script>window.hit = 1</script>",
        "<img src=x onerror=window.hit=1>",
        "maple_tree",
    ]
    folder = make_folder(tmp_path, classes)
    with served(folder, "ann") as address:
        tab.goto(address)
        for count, (typed, keys) in enumerate(
            [
                ("map", ["Enter"]),
                ("tree", ["Enter"]),
                ("class 1", ["ArrowDown", "Enter"]),
                ("<scr", ["Enter"]),
                ("", ["Space"]),
            ],
            1,
        ):
            tab.wait_for_selector(f'.semsim-annotate[data-seen="{count - 1}"]')
            tab.keyboard.type(typed)
            for key in keys:
                tab.keyboard.press(key)
            saved(tab, count)
        assert tab.locator(".semsim-choice", has_text="<script>window.hit = 1</script>").count() == 1
        assert tab.evaluate("window.hit") is None
    assert [line["answer"] for line in lines_of(folder, "ann")[1:]] == [99, 99, 10, 97, -1]


def test_two_annotators(browser, tmp_path):
    "Two at once, key by key in turn, do not mix; and they see other models of the same originals."
    folder = make_folder(tmp_path)
    with (
        served(folder, "ann") as one,
        served(folder, "bo") as other,
        new_tab(browser) as left,
        new_tab(browser) as right,
    ):
        left.goto(one)
        right.goto(other)
        for position in range(10):
            press(left, position)
            press(right, position)
        saved(left, 10)
        saved(right, 10)
    for annotator in ("ann", "bo"):
        check_file(folder, annotator, 10, [])
    seen = [
        {key for key in lines_of(folder, annotator)[0]["plan"] if key.startswith("item:")}
        for annotator in ("ann", "bo")
    ]
    assert (
        len(seen[0]) == len(seen[1]) == 40 and len(seen[0] & seen[1]) == 4
    )  # one original in ten is shown alike to all


def test_second_tab_is_refused(browser, tab, tmp_path):
    "A second tab waits until the first is closed, then goes on."
    folder = make_folder(tmp_path)
    with served(folder, "ann") as address:
        with new_tab(browser) as first:
            first.goto(address)
            label(first, 0, 2)
            tab.goto(address)
            tab.wait_for_selector("text=ann is labelling in another tab")
            label(first, 2, 4)
        label(tab, 4, 6)
    check_file(folder, "ann", 6, [])


def test_second_process_is_refused(tmp_path):
    "The command is refused in one line while a kernel, here this process, has the annotator's file open."
    session = Session(make_folder(tmp_path, originals=4), "ann")
    command = [sys.executable, "-c", PROGRAM, "annotate", str(tmp_path), "--annotator", "ann", "--no-browser"]
    ended = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120)
    session.log.close()
    assert ended.returncode == 2 and "open in another process" in ended.stderr and len(ended.stderr.splitlines()) == 1


def run_cell(page):
    "Run the notebook's only cell; until its kernel is connected JupyterLab ignores the request, so repeat it."
    page.wait_for_selector(".jp-Cell .jp-InputArea-editor")
    for _ in range(30):
        try:
            page.click(".jp-Cell .jp-InputArea-editor", timeout=2000)
        except PlaywrightTimeout:
            continue
        page.keyboard.press("Control+Enter")
        try:
            page.wait_for_selector(".jp-InputPrompt:has-text('[*]')", timeout=2000)
        except PlaywrightTimeout:
            continue
        page.wait_for_selector(".semsim-annotate[data-position]", timeout=120_000)
        return page.click(".semsim-question")
    raise AssertionError("the cell does not run")


def press_unheard(page, position):
    "Answer while there is no kernel or server, until the page says that the answer was not saved."
    for _ in range(10):
        try:
            page.click(".semsim-question", timeout=5000)
            press(page, position)
            return page.wait_for_selector(".semsim-wrong:has-text('Not saved')", timeout=10_000)
        except PlaywrightTimeout:
            continue
    raise AssertionError("the page does not say that an answer was not saved")


def test_jupyterlab(tab, tmp_path):
    "The same thirty items in JupyterLab: one taken back, a reload, a killed kernel and a killed server in the middle."
    folder, port = make_folder(tmp_path / "work" / "digits"), free_port()
    source = (
        "import os\nprint(os.getpid())\nfrom semsim.annotate import LabellingWidget\nLabellingWidget('digits', 'ann')"
    )
    cell = dict(cell_type="code", id="label", execution_count=None, metadata={}, outputs=[], source=source)
    kernel = dict(name="python3", display_name="Python 3", language="python")
    (tmp_path / "work" / "label.ipynb").write_text(
        json.dumps(dict(cells=[cell], metadata={"kernelspec": kernel}, nbformat=4, nbformat_minor=5))
    )
    address = f"http://127.0.0.1:{port}/doc/tree/label.ipynb?token=secret"
    # "The kernel has died", "connection lost": dismissed whenever one is in the way of a click.
    tab.add_locator_handler(tab.locator(".jp-Dialog"), lambda dialog: dialog.locator("button").last.click())
    with jupyterlab(tmp_path / "work", port) as server:
        tab.goto(address)
        run_cell(tab)
        label(tab, 0, 6)
        press(tab, 6, "9")
        saved(tab, 7)
        tab.keyboard.press("Backspace")
        saved(tab, 6)
        if SCREENSHOTS:
            tab.screenshot(path=f"{SCREENSHOTS}/annotate_jupyterlab.png")
        label(tab, 6, 12)
        tab.reload()
        run_cell(tab)
        label(tab, 12, 15)
        os.kill(int(tab.locator(".jp-OutputArea-output pre").first.text_content()), signal.SIGKILL)
        press_unheard(tab, 15)
        run_cell(tab)  # in the kernel that JupyterLab started anew; the browser kept the answer
        saved(tab, 16)
        label(tab, 16, 20)
        server.kill()
        server.wait()
        press_unheard(tab, 20)
    with jupyterlab(tmp_path / "work", port):
        tab.goto(address)
        run_cell(tab)
        saved(tab, 21)
        label(tab, 21, 30)
    check_file(folder, "ann", 30, [9])
