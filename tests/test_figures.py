"""The figures: what they say, how many marks they hold, what they refuse, and that their files are the same twice."""

import os
import re
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from semsim.analysis.comparison import compare
from semsim.core.errors import InputError
from semsim.analysis.agreement_figures import (
    FORMATS, confidence_band, figure_uri, metric_matrix, plot_agreement_scatter, plot_forest, plot_metric_matrix,
    plot_survivors, save_figure,
)
from semsim.analysis.example_figures import (
    DISAGREEMENTS, disagreements, plot_disagreements, plot_recognition_by_bin, recognition_by_bin,
)
from semsim.analysis.resampling import FACETS, draws, interval
from semsim.analysis.intervals import agreement

PANEL = "panel B (machine), n=3"
METRICS = ["smooth", "tied", "rough"]
DIRECTIONS = {"smooth": True, "tied": False, "rough": True, "flat": True, "a$b$": True}


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    plt.close("all")


def frame(n_models=5, n_originals=17, seed=0):
    """Random scores: a continuous metric, one with many ties, a noisy one, a constant one.

    The target score has four levels and is constant for some originals.
    """
    rng = np.random.default_rng(seed)
    names = [f"m{i:02}" for i in range(n_models)]
    pairs = pd.MultiIndex.from_product([range(n_originals), names], names=["original", "model"])
    votes = rng.integers(0, 4, (n_originals, n_models))
    votes[::6] = 3
    noise = rng.normal(size=(3, n_originals, n_models))
    columns = {
        "smooth": votes + 2 * noise[0],
        "tied": np.round(-votes + noise[1]),
        "rough": votes + 9 * noise[2],
        "flat": np.full(votes.shape, 0.1),
        "recognised": votes / 3,
    }
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=pairs).reset_index()


@pytest.fixture(scope="module")
def scores():
    return frame()


@pytest.fixture(scope="module")
def table(scores):
    yes = scores.assign(recognised=(scores.recognised > 0.5) * 1.0)
    return agreement(yes, "recognised", ["flat", *METRICS], DIRECTIONS, facet="all", n_resamples=60)


@pytest.fixture(scope="module")
def tables(scores):
    few = dict(n_resamples=60, n_permutations=20)
    return {facet: compare(scores, "recognised", METRICS, DIRECTIONS, facet=facet, **few) for facet in FACETS}


@pytest.fixture(scope="module")
def images(scores):
    "Colour images: a shade for each original, a darker one for its reconstructions."
    originals = {name: torch.full((3, 8, 8), name / 40) for name in range(17)}
    models = scores.model.unique()
    return originals, {(model, name): image * 0.5 for name, image in originals.items() for model in models}


def texts(ax):
    "Labels of the lines, from below."
    return [label.get_text() for label in ax.get_yticklabels()]


def dots(ax):
    "Marks with a value."
    marked = [line for line in ax.lines if line.get_marker() not in ("None", None, "")]
    return sum(np.isfinite(np.asarray(line.get_xdata(), float)).sum() for line in marked)


def bars(ax):
    "Horizontal or vertical intervals with a value."
    found = [c for c in ax.collections if isinstance(c, matplotlib.collections.LineCollection)]
    segments = [segment for collection in found for segment in collection.get_segments()]
    return sum(np.isfinite(segment).all() for segment in segments if len(segment) == 2)


# The scatter


def test_band_is_that_of_the_coefficients_covariance():
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    at = np.linspace(-1, 2, 7)
    coefficients, covariance = np.polyfit(x, y, 1, cov=True)
    basis = np.vander(at, 2)
    line, half = confidence_band(x, y, at, confidence=0.9)
    np.testing.assert_allclose(line, basis @ coefficients)
    variance = np.einsum("ij,jk,ik->i", basis, covariance, basis)
    np.testing.assert_allclose(half, stats.t.ppf(0.95, 7) * np.sqrt(variance))


@pytest.mark.parametrize(("level", "bands"), [("model", 1), ("image", 0), ("original", 0)])
def test_scatter_says_who_what_and_which_way(scores, level, bands):
    ax = plot_agreement_scatter(scores, "recognised", "tied", PANEL, DIRECTIONS, level=level, unit="steps")
    n = 5 if level == "model" else 85
    assert PANEL in ax.get_title() and f"n={n}\n" in ax.get_title()
    assert "tied [steps]" in ax.get_xlabel() and "(lower = more leakage)" in ax.get_xlabel()
    assert "recognised [share]" in ax.get_ylabel() and "(higher = more leakage)" in ax.get_ylabel()
    fills = [c for c in ax.collections if isinstance(c, matplotlib.collections.PolyCollection)]
    assert len(ax.lines) == 1 and len(fills) == bands
    assert len(ax.collections[0].get_offsets()) == n


def test_scatter_draws_the_means_of_what_is_there(scores):
    holed = scores.assign(tied=scores.tied.mask(scores.index % 7 == 0))
    with pytest.warns(UserWarning, match="lack a value"):
        ax = plot_agreement_scatter(holed, "recognised", "tied", PANEL, DIRECTIONS)
    kept = holed.dropna()
    np.testing.assert_allclose(ax.collections[0].get_offsets(), kept.groupby("model")[["tied", "recognised"]].mean())


def test_a_flat_metric_has_points_and_no_line(scores):
    ax = plot_agreement_scatter(scores, "recognised", "flat", PANEL, DIRECTIONS)
    assert not ax.lines and len(ax.collections[0].get_offsets()) == 5


# The forest


def test_forest_has_the_best_on_top(scores):
    table = agreement(scores, "recognised", ["flat", "smooth", "tied"], DIRECTIONS, level="original", n_resamples=20)
    ax = plot_forest(table, PANEL)
    assert texts(ax) == ["flat (undefined)", "smooth", "tied"]
    assert PANEL in ax.get_title() and "n=14 of 17" in ax.get_title() and FACETS["originals"] in ax.get_title()
    assert dots(ax) == bars(ax) == 2


def test_forest_with_several_facets_names_the_estimands(table):
    ax = plot_forest(table, PANEL, level="model")
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    assert entries == [f"{name}: {text}" for name, text in FACETS.items()]
    assert dots(ax) == bars(ax) == 9
    assert len({line.get_color() for line in ax.lines if line.get_marker() in "osD"}) == len(FACETS)


@pytest.mark.parametrize(("coefficient", "chance"), [("auc", 0.5), ("kendall", 0)])
def test_the_line_of_chance(table, coefficient, chance):
    ax = plot_forest(table, PANEL, "image", coefficient, "both", confidence=0.9)
    assert list(ax.lines[-1].get_xdata()) == [chance, chance]
    assert "90 % intervals" in ax.get_title() and "n=85" in ax.get_title() and ax.get_legend() is None


def test_a_metric_of_sets_has_a_dot_without_a_bar(scores):
    fid = pd.DataFrame({"fid[alexnet]": [5.0, 4, 3, 1, 2]}, index=sorted(scores.model.unique()))
    table = agreement(scores, "recognised", "smooth", DIRECTIONS, "model", model_scores=fid, n_resamples=20)
    ax = plot_forest(table, PANEL, "model")
    assert (dots(ax), bars(ax)) == (2, 1)


# Metrics among themselves


def test_matrix_has_a_number_in_each_cell(scores):
    ax = plot_metric_matrix(scores, METRICS, "model", "kendall")
    matrix = metric_matrix(scores, METRICS, "model", "kendall")
    assert [text.get_text() for text in ax.texts] == [f"{value:.2f}" for value in matrix.to_numpy().ravel()]
    assert "between models, n=5" in ax.get_title() and texts(ax) == METRICS
    assert ax.collections[0].get_clim() == (-1, 1)


@pytest.mark.parametrize("coefficient", ["spearman", "pearson", "kendall"])
def test_matrix_leaves_out_what_is_undefined(scores, coefficient):
    some = scores.assign(part=scores.smooth.where(scores.original % 3 > 0, 0.0))  # constant within some originals
    matrix = metric_matrix(some, ["part", "tied", "flat"], "original", coefficient)
    defined = [part for _, part in some.groupby("original") if part.part.nunique() > 1 and part.tied.nunique() > 1]
    each = [part[["part", "tied"]].corr(coefficient).iloc[0, 1] for part in defined]
    assert 0 < len(each) < 17
    np.testing.assert_allclose(matrix.loc["part", "tied"], np.mean(each))
    np.testing.assert_allclose(matrix, matrix.T)
    assert matrix.flat.isna().all() and matrix.loc["tied", "tied"] == pytest.approx(1)


# The share recognised by bin


def test_recognition_by_bin_has_a_mark_for_each_bin(scores):
    table = recognition_by_bin(scores, "recognised", "smooth", DIRECTIONS, bins=4, n_resamples=50)
    ax = plot_recognition_by_bin(table, PANEL, unit="dB")
    assert dots(ax) == bars(ax) == 4
    assert PANEL in ax.get_title() and "smooth, 4 bins" in ax.get_title() and "n=85" in ax.get_title()
    assert "smooth [dB]" in ax.get_xlabel() and "(higher = more leakage)" in ax.get_xlabel()
    assert list(ax.lines[0].get_ydata()) == pytest.approx([scores.recognised.mean()] * 2)


def test_recognition_by_bin_is_that_of_repeated_rows(scores):
    "The percentile interval of rows that are really repeated, with the same draws."
    shuffled = scores.sample(frac=1, random_state=0)
    table = recognition_by_bin(shuffled, "recognised", "tied", DIRECTIONS, bins=3, n_resamples=40, seed=5)
    number = pd.qcut(-scores.tied, 3, labels=False, duplicates="drop")
    drawn = draws(17, 5, "originals", 40, seed=5)
    for row in table.itertuples():
        own = scores[number == row.bin - 1]
        values = np.round([np.average(own.recognised, weights=c[own.original]) for c in drawn.originals.T], 12)
        assert interval(values, drawn)["high"] == pytest.approx(row.high)
        assert (row.n, row.originals) == (len(own), own.original.nunique())
        assert (row.lowest, row.value, row.highest) == (own.tied.min(), own.tied.median(), own.tied.max())


def test_the_leakiest_bin_is_the_last_also_for_a_distance(scores):
    table = recognition_by_bin(scores, "recognised", "tied", DIRECTIONS, bins=3, n_resamples=10)
    assert table.value.is_monotonic_decreasing and not table.higher_is_leakier.any()
    negated = scores.assign(tied=-scores.tied)
    turned = recognition_by_bin(negated, "recognised", "tied", DIRECTIONS | {"tied": True}, bins=3, n_resamples=10)
    pd.testing.assert_series_equal(turned.statistic, table.statistic)


# Disagreements


def test_disagreements_are_the_ends_of_the_difference_of_ranks(scores):
    ranks = [stats.percentileofscore(column, column, "mean") / 100 for column in (-scores.tied, scores.recognised)]
    difference = ranks[0] - ranks[1]
    for data in (scores, scores.sample(frac=1, random_state=1)):
        found = disagreements(data, "recognised", "tied", DIRECTIONS, count=4)
        assert list(found.kind) == ["false alarm"] * 4 + ["missed leak"] * 4
        np.testing.assert_allclose(found.difference[:4], np.sort(difference)[::-1][:4])
        np.testing.assert_allclose(found.difference[4:], np.sort(difference)[:4])
    pd.testing.assert_frame_equal(found, disagreements(scores, "recognised", "tied", DIRECTIONS, count=4))


def test_who_agrees_has_nothing_to_draw(scores, images):
    found = disagreements(scores.assign(copy=scores.recognised), "recognised", "copy", {"copy": True})
    assert not len(found)
    with pytest.raises(InputError, match="no disagreement to draw"):
        plot_disagreements(found, *images, PANEL)


def test_gallery_shows_pairs_with_value_and_share(scores, images):
    found = disagreements(scores, "recognised", "smooth", DIRECTIONS, count=3)
    figure = plot_disagreements(found, *images, PANEL)
    title = figure.get_suptitle()
    assert PANEL in title and "n=85" in title and "smooth (higher = more leakage)" in title
    assert len(figure.axes) == 12
    below = [ax.get_xlabel() for ax in figure.axes]
    for row in found.itertuples():
        assert f"{row.model}\nsmooth {row.value:.3g}\nrecognised {100 * row.share:.0f} %" in below
    first = figure.axes[0].images[0].get_array()
    assert first.shape == (160, 160, 3) and (first == round(255 * found.original[0] / 40)).all()
    assert [sub.get_suptitle().split(": ", 1)[1] for sub in figure.subfigs] == list(DISAGREEMENTS.values())
    assert not plt.get_fignums()


# Comparisons


def test_survivors_are_filled(tables):
    ax = plot_survivors(tables, PANEL)
    whole = pd.concat(tables.values())
    alive = whole[(whole.low > 0) | (whole.high < 0)]
    marked = [line for line in ax.lines if line.get_marker() in "osD"]
    filled = sum(len(line.get_xdata()) for line in marked if line.get_markerfacecolor() != "white")
    assert 0 < filled == len(alive) < len(whole) == dots(ax) == bars(ax)
    for facet, table in tables.items():
        assert f"{((table.low > 0) | (table.high < 0)).sum()} ({facet})" in ax.get_title()
    assert PANEL in ax.get_title() and "within originals, n=17" in ax.get_title() and "of 3:" in ax.get_title()
    leads = tables["both"].sort_values("statistic")
    assert texts(ax) == [f"{a} over {b}" for a, b in zip(leads.metric, leads.other)]


# All of them


def test_a_dollar_is_a_dollar(scores):
    "Names that matplotlib would read as (broken) formulas are drawn as they stand."
    odd = scores.rename(columns={"smooth": "a$b$"}).assign(model=scores.model + r"$\odd$")
    ax = plot_agreement_scatter(odd, "recognised", "a$b$", r"$\odd$, n=3", DIRECTIONS)
    ax.figure.canvas.draw()
    table = agreement(odd, "recognised", ["a$b$", "tied"], DIRECTIONS, "original", n_resamples=5)
    for drawn in (plot_forest(table, r"$\odd$"), plot_metric_matrix(odd, ["a$b$", "tied"])):
        drawn.figure.canvas.draw()
        assert not any(label.get_parse_math() for label in drawn.get_yticklabels())


def test_a_figure_without_annotators_is_refused_before_it_is_opened(scores, table, tables, images):
    bins = recognition_by_bin(scores, "recognised", "smooth", DIRECTIONS, n_resamples=5)
    calls = [(plot_forest, (table,), {}), (plot_recognition_by_bin, (bins,), {}), (plot_survivors, (tables,), {})]
    calls += [(plot_agreement_scatter, (scores, "recognised", "smooth"), dict(higher_is_leakier=DIRECTIONS))]
    for plot, args, settings in calls:
        with pytest.raises(InputError, match="no annotator") as error:
            plot(*args, " ", **settings)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no annotator"):
        plot_disagreements(disagreements(scores, "recognised", "smooth", DIRECTIONS), *images, "")
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s, t, c: plot_agreement_scatter(s, "recognised", "smoth", PANEL, DIRECTIONS),
            "unknown metric 'smoth': did you mean smooth",
        ),
        (
            lambda s, t, c: plot_agreement_scatter(s, "recognised", "smooth", PANEL),
            "'smooth' has no known direction",
        ),
        (
            lambda s, t, c: plot_agreement_scatter(s, "recognised", "smooth", PANEL, DIRECTIONS, level="images"),
            "unknown level 'images': did you mean image",
        ),
        (lambda s, t, c: confidence_band([1, 2], [1, 2, 3], [1]), "2 metric values for 3 annotator scores"),
        (lambda s, t, c: confidence_band([1, 2, 3], [1, 2, 3], [1], 95), "confidence is 95"),
        (lambda s, t, c: plot_forest(t, PANEL, "galaxy"), "unknown level 'galaxy'"),
        (
            lambda s, t, c: plot_forest(t, PANEL, coefficient="kendal"),
            "unknown coefficient 'kendal': did you mean kendall",
        ),
        (lambda s, t, c: plot_forest(t[t.facet == "both"], PANEL, facet="models"), "unknown facet 'models'"),
        (lambda s, t, c: plot_forest(pd.concat([t, t]), PANEL), "is in the table more than once"),
        (lambda s, t, c: plot_metric_matrix(s, ["smooth"]), "two metrics or more"),
        (lambda s, t, c: plot_metric_matrix(s, ["smooth", "model"]), "unknown metric 'model'"),
        (lambda s, t, c: recognition_by_bin(s, "recognised", "smooth", DIRECTIONS, bins=1), "bins is 1"),
        (
            lambda s, t, c: recognition_by_bin(s, "recognised", "flat", DIRECTIONS),
            "'flat' has too few different values",
        ),
        (lambda s, t, c: disagreements(s, "recognised", "flat", DIRECTIONS), "cannot disagree: the metric is constant"),
        (lambda s, t, c: disagreements(s, "recognised", "smooth", DIRECTIONS, count=0), "count is 0"),
        (
            lambda s, t, c: plot_disagreements(disagreements(s, "recognised", "smooth", DIRECTIONS), {}, {}, PANEL),
            "no image for original",
        ),
        (lambda s, t, c: plot_survivors({}, PANEL), "no table"),
        (lambda s, t, c: plot_survivors({"model": c["models"]}, PANEL), "unknown facet 'model': did you mean models"),
        (lambda s, t, c: plot_survivors({"both": c["models"]}, PANEL), "for facet 'both' is of models"),
        (lambda s, t, c: plot_survivors(c | {"both": c["both"][1:]}, PANEL), "different pairs"),
        (
            lambda s, t, c: plot_survivors(c | {"both": c["both"].assign(coefficient="kendall")}, PANEL),
            "differ in coefficient: kendall, spearman",
        ),
        (lambda s, t, c: save_figure(plt.figure(), "figure.jpeg"), "is written as .png, .svg, .pdf"),
        (lambda s, t, c: save_figure(t, "figure.png"), "not DataFrame"),
    ],
)
def test_bad_input_is_named(scores, table, tables, call, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        call(scores, table, tables)
    assert "\n" not in str(error.value)


# Files


@pytest.mark.parametrize("ending", FORMATS)
def test_equal_figures_are_equal_bytes(tables, images, scores, tmp_path, ending):
    for name in ("a", "b"):
        save_figure(plot_survivors(tables, PANEL), tmp_path / f"{name}{ending}")
        found = disagreements(scores, "recognised", "smooth", DIRECTIONS, count=1)
        save_figure(plot_disagreements(found, *images, PANEL), tmp_path / f"gallery-{name}{ending.upper()}")
    files = sorted(tmp_path.iterdir())
    assert [file.stat().st_size > 5000 for file in files] == [True] * 4
    assert files[0].read_bytes() == files[1].read_bytes() and files[2].read_bytes() == files[3].read_bytes()


BINS = dict(
    value=[1.0, 2.0],
    statistic=[0.3, 0.6],
    low=[0.1, 0.4],
    high=[0.5, 0.8],
    n=[5, 5],
    metric="psnr",
    target="recognised",
    higher_is_leakier=True,
    estimand="other originals",
)
SAVE = f"""
import sys
import pandas as pd
from semsim.analysis.agreement_figures import save_figure
from semsim.analysis.example_figures import plot_recognition_by_bin
save_figure(plot_recognition_by_bin(pd.DataFrame({BINS}), "panel, n=3"), sys.argv[1])
"""


def test_svg_of_another_process_is_the_same(tmp_path):
    drawn = plot_recognition_by_bin(pd.DataFrame(BINS), "panel, n=3")
    here = save_figure(drawn, tmp_path / "here.svg").read_bytes()
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # of text hashes, which change the order of sets
    environment = {**os.environ, "PYTHONHASHSEED": seed, "MPLBACKEND": "Agg"}
    subprocess.run([sys.executable, "-c", SAVE, str(tmp_path / "there.svg")], check=True, env=environment)
    assert here == (tmp_path / "there.svg").read_bytes() and b"<dc:date>" not in here


def test_png_has_at_most_100_dpi(table, tmp_path):
    with Image.open(save_figure(plot_forest(table, PANEL), tmp_path / "new" / "forest.png")) as image:
        assert image.info["dpi"][0] == pytest.approx(100, abs=0.1)


def test_a_figure_that_cannot_be_drawn_leaves_no_file(tmp_path, monkeypatch):
    ax = plt.figure().gca()
    monkeypatch.setattr(ax.figure, "savefig", lambda path, **settings: path.write_text("half of i") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_figure(ax, tmp_path / "half.svg")
    assert not list(tmp_path.iterdir())


def test_figure_uri_is_the_same_twice_and_gives_reasons(table):
    arguments = plot_forest, "forest", (5, 3), table, PANEL
    first = figure_uri(*arguments, level="model")
    assert first == figure_uri(*arguments, level="model") and first["uri"].startswith("data:image/svg+xml;base64,")
    refused = figure_uri(*arguments, level="galaxy")
    assert refused["uri"] == "" and "unknown level" in refused["why"]
    assert not plt.get_fignums()
