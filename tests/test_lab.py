"""The notebooks of the four steps as people step through them: each run whole in a real JupyterLab, in Chromium."""

import json

import pytest
from chromium import free_port, jupyterlab, needed, new_tab
from conftest import NBS, ROOT, copy_of, notebooks

STEPS = [path for path in notebooks() if path.relative_to(NBS).parts[0][0] in "1234"]
READY = """() => {
    const widget = window.jupyterapp?.shell.currentWidget;
    return widget?.context?.isReady && widget.sessionContext.session?.kernel?.connectionStatus == 'connected';
}"""
RUN = "() => jupyterapp.commands.execute('notebook:run-all-cells')"
# After a run: the number of code cells, the number of those that ran, the errors, and where the last figure is.
STATE = """() => {
    const cells = jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map(cell => cell.toJSON());
    const code = cells.filter(cell => cell.cell_type == 'code' && cell.source.length);
    const outputs = code.flatMap(cell => cell.outputs);
    return {
        cells: code.length,
        ran: code.filter(cell => cell.execution_count).length,
        errors: outputs.filter(output => output.output_type == 'error')
            .map(output => output.ename + ': ' + output.evalue),
        widgets: outputs.filter(output => output.data?.['application/vnd.jupyter.widget-view+json']).length,
        figure: cells.findLastIndex(cell => cell.outputs?.some(output => output.data?.['image/png'])),
    };
}"""

COUNTING = """import time
from semsim.core.seeds import progress
for _ in progress(range(4), 'count'): time.sleep(1)
print('done')"""

pytestmark = needed


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab on a copy of the notebooks, opened as `make lab` opens it; its address."
    folder, port = tmp_path_factory.mktemp("lab") / "nbs", free_port()
    copy_of(folder.parent, "nbs")
    for name in ("semsim", "benchmarks"):
        (folder.parent / name).symlink_to(ROOT / name)
    cell = dict(cell_type="code", id="count", execution_count=None, metadata={}, outputs=[], source=COUNTING)
    kernel = dict(name="python3", display_name="Python 3", language="python")
    (folder / "progress.ipynb").write_text(
        json.dumps(dict(cells=[cell], metadata={"kernelspec": kernel}, nbformat=4, nbformat_minor=5))
    )
    with jupyterlab(folder, port, "--expose-app-in-browser", "--LabApp.default_url=/lab/tree/index.ipynb"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def tab(browser):
    with new_tab(browser, width=1200) as page:
        page.set_default_timeout(120_000)
        yield page


def test_lab_opens_on_the_index(lab, tab):
    tab.goto(f"{lab}/?token=secret")
    tab.wait_for_selector(".jp-NotebookPanel .jp-RenderedMarkdown h1:has-text('semsim')")
    assert "How much would a person recognise" in tab.locator(".jp-NotebookPanel").inner_text()


def test_progress_is_text(lab, tab):
    "A bar shows while a step runs, as text, and is gone afterwards."
    tab.goto(f"{lab}/doc/tree/progress.ipynb?token=secret")
    tab.wait_for_function(READY)
    tab.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
    tab.wait_for_selector(".jp-OutputArea-output pre:has-text('count:')")
    tab.wait_for_selector(".jp-OutputArea-output pre:has-text('done')")
    assert "count:" not in tab.locator(".jp-OutputArea").inner_text()
    assert not tab.evaluate(STATE)["widgets"]


@pytest.mark.parametrize("step", STEPS, ids=lambda path: path.name)
def test_step_runs_whole(lab, tab, step):
    tab.set_default_timeout(400_000)
    tab.goto(f"{lab}/doc/tree/{step.relative_to(NBS).as_posix()}?token=secret")
    tab.wait_for_function(READY)
    tab.evaluate(RUN)
    state = tab.evaluate(STATE)
    assert not state["errors"]
    assert 0 < state["cells"] == state["ran"]
    assert not state["widgets"] or step.name == "04_widget.ipynb"
    if state["figure"] >= 0:
        tab.evaluate("index => jupyterapp.shell.currentWidget.content.scrollToItem(index, 'center')", state["figure"])
        figure = tab.locator(f".jp-Cell[data-windowed-list-index='{state['figure']}'] .jp-OutputArea img").last
        figure.scroll_into_view_if_needed()
        assert figure.is_visible() and figure.evaluate("image => image.naturalWidth") > 100
    tab.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
