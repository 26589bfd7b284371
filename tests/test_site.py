"""The site in a real browser: built as `make docs` builds it, then every page opened by a reader with a phone."""

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from chromium import needed, new_tab
from conftest import copy_of, notebooks
from filelock import FileLock

PHONE = 390
# What a page holds, once it is drawn.
FACTS = """() => ({
    width: document.documentElement.scrollWidth,
    images: [...document.images].map(
        image => [image.src.slice(0, 60), image.alt, image.naturalWidth && image.clientWidth]),
    links: [...document.links].map(link => link.href),
    ids: [...document.querySelectorAll("[id]")].map(element => element.id),
    equations: document.querySelectorAll(".math").length,
    drawn: document.querySelectorAll(".math .katex").length,
    broken: [...document.querySelectorAll(".katex-error")].map(element => element.title),
})"""
# The figure that each step is read for, by words of its alternative text.
KEY_FIGURES = {
    "index.html": "mirrored",
    "1_attack/inversion.html": "reconstructions below",
    "2_metrics/pairs.html": "degraded copies",
    "2_metrics/semsim.html": "distance and probability",
    "4_analysis/correlation.html": "rank correlations over originals",
}

pytestmark = [
    needed,
    pytest.mark.skipif(
        not shutil.which("npm") and not os.environ.get("CI"),
        reason="no npm on this machine, from which KaTeX comes: apt-get install npm",
    ),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def built(tmp_path_factory, worker_id):
    "The site's folder, built once for all workers, from a copy, so that tests can read the repository meanwhile."
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    copy = shared / "site"
    with FileLock(shared / "site.lock"):
        if not copy.exists():
            copy_of(copy, "nbs", "semsim", "tools", "benchmarks", "settings.ini")
            ended = subprocess.run(
                [sys.executable, "tools/docs.py"],
                cwd=copy,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": str(copy)},
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
    return copy / "_docs"


@pytest.fixture(scope="module")
def address(built):
    "Where the site is served."
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=built)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def pages(built, address, browser):
    "Every page, by its path: what it holds on a phone, and what the browser complained of."
    found = {}
    with new_tab(browser, width=PHONE) as tab:
        said = []
        tab.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        tab.on(
            "response",
            lambda response: said.append(f"{response.status} {response.url}") if response.status >= 400 else None,
        )
        for path in sorted(path.relative_to(built).as_posix() for path in built.rglob("*.html")):
            tab.goto(address + path, wait_until="load")
            tab.wait_for_function(
                "() => document.querySelectorAll('.math').length == 0 || document.querySelector('.math .katex')"
            )
            found[path] = tab.evaluate(FACTS) | {"said": said.copy()}
            said.clear()
    return found


def test_all_notebooks_have_a_page(pages):
    assert len(pages) >= len(notebooks()) > 50


def test_no_page_complains(pages):
    assert not {path: page["said"] for path, page in pages.items() if page["said"]}


def test_no_page_scrolls_sideways_on_a_phone(pages):
    assert not {path: page["width"] for path, page in pages.items() if page["width"] > PHONE}


def test_figures_are_shown_and_described(pages):
    images = [(path, *image) for path, page in pages.items() for image in page["images"]]
    assert len(images) > 80
    assert not [image for image in images if not image[3]], "without width"
    assert not [image for image in images if len(image[2]) < 20], "without alternative text"


def test_equations_are_drawn(pages):
    assert sum(page["equations"] for page in pages.values()) > 100
    assert not {
        path: page["broken"] for path, page in pages.items() if page["broken"] or page["drawn"] != page["equations"]
    }


def test_links_lead_somewhere(pages, built, address):
    inside = {
        (path, link.removeprefix(address))
        for path, page in pages.items()
        for link in page["links"]
        if link.startswith(address)
    }
    lost = []
    for path, link in inside:
        to, _, anchor = link.partition("#")
        to = unquote(to) or "index.html"
        if not (built / to).is_file() or (anchor and to in pages and unquote(anchor) not in pages[to]["ids"]):
            lost.append((path, link))
    assert len(inside) > 1000
    assert not sorted(lost)


@pytest.fixture
def tab(browser):
    with new_tab(browser, width=1300) as page:
        yield page


def test_search_finds_invert(tab, address):
    tab.goto(address)
    tab.fill("input[type=search]", "invert")
    result = tab.locator(".search-result[href*='inversion.html']").first
    result.wait_for()
    result.click()
    tab.wait_for_url("**/inversion.html*")
    assert tab.locator("#invert").is_visible()


@pytest.mark.parametrize("page", KEY_FIGURES)
def test_each_step_shows_its_key_figure(tab, address, page):
    tab.goto(address + page)
    figure = tab.locator(f"main img[alt*='{KEY_FIGURES[page]}']").first
    figure.scroll_into_view_if_needed()
    assert figure.is_visible() and figure.bounding_box()["width"] >= 250


def test_light_and_dark(browser, address):
    brightness = """() => {
        const rgb = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3);
        return rgb.reduce((sum, part) => sum + Number(part), 0) / 3;
    }"""
    for scheme, is_dark in (("light", False), ("dark", True)):
        with new_tab(browser, width=1300, color_scheme=scheme) as tab:
            tab.goto(address)
            assert (tab.evaluate(brightness) < 80) == is_dark
            tab.locator(".quarto-color-scheme-toggle").first.click()
            tab.wait_for_function(f"() => (({brightness})() < 80) != {str(is_dark).lower()}")


def test_sidebar_has_four_sections(tab, address):
    tab.goto(address)
    top = tab.locator("#quarto-sidebar .sidebar-menu-container > ul > li > .sidebar-item-container").all_inner_texts()
    assert [text.strip() for text in top] == ["Start", "The four steps", "Results", "Reference"]
