"""The report as a file that is sent around.

Nothing runs in it, nothing is fetched by it, hostile names stay text, and half a report never exists.
"""

import hashlib
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from semsim.analysis.reporting import verdict
from semsim.core.datasets import Split
from semsim.analysis.intervals import agreement
from semsim.study.report import write_study_page
from semsim.study import report
from semsim.study.settings import Study

EVIL = "<script>alert(1)</script>"
BREAKOUT = '" onerror="alert(1)'
FORMULA = r"net $\oops$"
MODELS = ("plain", FORMULA, BREAKOUT)
DIRECTIONS = {"mse": False, "psnr": True}
RUNS_OR_FETCHES = {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "source"}


class Page(HTMLParser):
    "A page's tags with their attributes, and its text without the style sheet."

    def __init__(self, path):
        super().__init__()
        self.source, self.tags, self.text, self.style = path.read_text(encoding="utf-8"), [], "", False
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.style = tag == "style"

    def handle_endtag(self, tag):
        self.style = False

    def handle_data(self, data):
        self.text += "" if self.style else data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def make(n=15, channels=1, recognised=None, models=MODELS):
    "Results of the shape a study has: noisier copies of random images by three models, and made-up recognition."
    rng, random = np.random.default_rng(0), torch.Generator().manual_seed(0)
    images = torch.rand(n, channels, 8, 8, generator=random)
    originals = Split(images, torch.arange(n) % 2, tuple(f"id<{row}>" for row in range(n)))
    levels = dict(zip(models, (0.1, 0.3, 0.6)))
    noise = {name: torch.randn(images.shape, generator=random) for name in levels}
    copies = {name: (images + level * noise[name]).clamp(0, 1) for name, level in levels.items()}
    shares = {name: rng.binomial(3, chance, n) / 3 for name, chance in zip(models, (0.9, 0.5, 0.2))}
    errors = {name: (copies[name] - images).square().flatten(1).mean(1).tolist() for name in models}
    about = dict(arch="a", variant="v", loss=0.0, fold=0)
    rows = []
    for name in models:
        for key, label, error, share in zip(originals.ids, originals.labels, errors[name], shares[name]):
            values = dict(mse=error, psnr=-10 * np.log10(error), recognised=share)
            rows.append(dict(model=name, original=key, label=int(label), **about, **values))
    scores = pd.DataFrame(rows)
    if recognised is not None:
        scores["recognised"] = recognised
    means = scores.groupby("model")[["recognised", "mse", "psnr"]].mean().assign(arch="a", variant="v", accuracy=0.9)
    about = scores, "recognised", list(DIRECTIONS), DIRECTIONS
    return SimpleNamespace(
        name=EVIL,
        classes=(EVIL, BREAKOUT),
        originals=originals,
        reconstructions=copies,
        scores=scores,
        models=means,
        agreement=agreement(*about, facet="all", n_resamples=20),
        metrics=list(DIRECTIONS),
        higher_is_leakier=DIRECTIONS,
        annotator="panel B (machine), <3 classifiers>",
        verdict=verdict(*about[:3], "panel B (machine), <3 classifiers>", n_resamples=20),
    )


def study_of(*parts, missing=()):
    "The whole study around results on data sets."
    return SimpleNamespace(
        study=Study(),
        parts=list(parts),
        missing=dict(missing),
        versions={"python": "3", "torch": "2"},
        hashes={"study": "0123456789abcdef"},
        command="semsim run '<b>'",
    )


def written(results, folder):
    return write_study_page(study_of(results), folder)


@pytest.fixture(scope="module")
def results():
    return make()


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    return Page(written(results, tmp_path_factory.mktemp("study")))


# What a name can do


def test_names_stay_text(page):
    assert "<script" not in page.source and "<b>'" not in page.source.split("<pre>")[1].split("</pre>")[0]
    assert EVIL in page.text and "semsim run '<b>'" in page.text and "<3 classifiers>" in page.text


def test_no_attribute_was_smuggled_in(page):
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert any(BREAKOUT in image["alt"] for image in page.all("img"))


def test_a_name_that_is_no_unicode_is_written_all_the_same(results, tmp_path):
    odd = SimpleNamespace(**{**vars(results), "classes": ("caf\udce9", "b")})
    assert "caf?" in written(odd, tmp_path).read_text(encoding="utf-8")


# What the page needs: nothing


def test_nothing_runs_and_nothing_is_fetched(page):
    assert not RUNS_OR_FETCHES & {tag for tag, _ in page.tags}
    assert {image["src"].split(":")[0] for image in page.all("img")} == {"data"}
    assert all(link["href"].startswith("#") for link in page.all("a"))
    places = {attributes.get("id") for _, attributes in page.tags}
    assert {link["href"][1:] for link in page.all("a")} <= places
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_every_image_is_there_and_described(page):
    assert len(page.all("img")) == 12 * (1 + len(MODELS)) + 3 + len(DIRECTIONS)
    assert all(image["alt"].strip() for image in page.all("img"))


def test_the_answer_stands_before_the_first_heading_of_a_section(results, page):
    head = page.text.split("How to read this")[0]
    assert all(line in head for line in results.verdict)


def test_a_panel_is_called_people_only_to_say_that_it_is_not(page):
    assert page.text.count("people") == 1 and "A panel is not people" in page.text
    assert "human" not in page.text


def test_ticks_are_the_shares_of_the_frame(results, page):
    rows = torch.linspace(0, 14, 12).round().long().tolist()
    shown = results.scores[results.scores.original.isin([results.originals.ids[row] for row in rows])]
    framed = [box for box in page.all("div") if box.get("class") == "shown recognised"]
    assert len(framed) == (shown.recognised >= 0.5).sum() > 0


def test_links_are_relative(results, tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ('a "b".csv', "scores.csv", "scores.parquet"):
        (tmp_path / "tables" / name).touch()
    links = Page(written(results, tmp_path)).all("a")
    links = [link["href"] for link in links if not link["href"].startswith("#")]
    assert links == ["../tables/a%20%22b%22.csv", "../tables/scores.csv", "../tables/scores.parquet"]


def test_every_file_is_linked_with_its_hash(results, tmp_path):
    for name in ("study.yaml", "manifest.jsonl", "reconstructions/digits/lenet none/1_0_rec.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    page = Page(written(results, tmp_path))
    linked = {link["href"] for link in page.all("a") if not link["href"].startswith("#")}
    assert linked == {"../study.yaml", "../manifest.jsonl", "../reconstructions/digits"}
    assert all((tmp_path / "report" / link).exists() for link in linked)
    assert hashlib.sha256(b"study.yaml").hexdigest()[:16] in page.text


def test_what_is_missing_is_said_first_and_listed(results, tmp_path):
    page = Page(write_study_page(study_of(results, missing={"attack <b>": "no memory <script>"}), tmp_path))
    assert "1 of its tasks are missing" in page.text.split("How to read this")[0]
    assert "no memory <script>" in page.text and not page.all("script")


def test_a_study_of_which_nothing_is_there_has_a_page(tmp_path):
    page = Page(write_study_page(study_of(missing={"everything": "not made yet"}), tmp_path))
    assert "What was run" in page.text and "not made yet" in page.text and not page.all("img")


def test_several_data_sets_have_a_table_of_all_and_sections_of_their_own(results, tmp_path):
    metric = results.agreement.metric.replace("mse", "semsim[other data]")
    changed = {"name": "other", "agreement": results.agreement.assign(metric=metric)}
    other = SimpleNamespace(**{**vars(results), **changed})
    page = Page(write_study_page(study_of(results, other), tmp_path))
    table = page.text.split("Agreement by data set")[1].split("What the attacker recovered")[0]
    assert "semsim[other data]" in table and "psnr" in table and EVIL in table
    assert len(page.all("img")) == 2 * (12 * (1 + len(MODELS)) + 3 + len(DIRECTIONS))
    places = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(places)) == len(places)


def test_equal_results_give_an_equal_file(results, page, tmp_path):
    assert written(results, tmp_path).read_text(encoding="utf-8") == page.source


def test_no_figure_stays_open(results, tmp_path):
    plt.close("all")  # what other tests of this process left
    written(results, tmp_path)
    assert not plt.get_fignums()


# Results without an answer


@pytest.mark.parametrize(
    "share, said",
    [(0.0, "Nothing was recognised"), (1.0, "were recognised alike: their share is 100%")],
)
def test_constant_recognition_is_said_first(share, said, tmp_path):
    text = Page(written(make(recognised=share), tmp_path)).text
    assert said in text.split("How to read this")[0] and "No correlation is defined" in text
    assert "undefined" in text and "nan" not in text


def test_a_metric_that_cannot_be_drawn_says_why(results, tmp_path):
    infinite = SimpleNamespace(**{**vars(results), "models": results.models.assign(psnr=np.inf)})
    assert "'psnr' is infinite in 3 of 3 rows" in Page(written(infinite, tmp_path)).text


def test_no_annotator_score(results, tmp_path):
    blank = SimpleNamespace(**{**vars(results), "scores": results.scores.assign(recognised=np.nan)})
    blank.models, blank.agreement = results.models.assign(recognised=np.nan), results.agreement[:0]
    assert "There is no annotator score at all." in Page(written(blank, tmp_path)).text


@pytest.mark.parametrize("n, channels", [(3, 1), (3, 3)])
def test_few_originals_grey_or_colour(n, channels, tmp_path):
    assert len(Page(written(make(n, channels), tmp_path)).all("img")) == n * 4 + 5


def test_one_model_has_no_correlation_between_models(tmp_path):
    page = Page(written(make(models=MODELS[:1]), tmp_path))
    assert "needs at least 4" in page.text and len(page.all("img")) == 12 * 2 + 5


# Whole or not at all


def test_a_failed_render_leaves_nothing(results, tmp_path):
    with pytest.raises(TypeError):
        written(SimpleNamespace(**{**vars(results), "verdict": None}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_older_report(results, tmp_path, monkeypatch):
    path = written(results, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(report, "_page", lambda *_: "half a page")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        written(results, tmp_path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
