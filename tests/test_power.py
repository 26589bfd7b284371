"""The power analysis against textbook power, against answers computed by hand, and against what it must refuse."""

import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from semsim.analysis.comparison import compare
from semsim.core.errors import InputError
from semsim.analysis.frames import checked_rows
from semsim.analysis.resampling import draws, interval, resample
from semsim.analysis.power_analysis import panels, plot_power, power, power_in_words, spearman_brown

sys.path.insert(0, str(ROOT / "benchmarks"))
from planning import power_by_resamples  # noqa: E402

PEOPLE = ["one", "two", "three"]
HIGHER = {"good": True, "fair": True}


def study(originals=40, models=8, people=3, noise=(0.5, 1.5), seed=0):
    "Reconstructions that leak more or less, two metrics that see it with noise, annotators who see it with noise."
    rng = np.random.default_rng(seed)
    leak = rng.normal(size=(originals, models))
    columns = {name: leak + sd * rng.normal(size=leak.shape) for name, sd in zip(HIGHER, noise)}
    columns |= {name: (leak + rng.logistic(size=leak.shape) > 0).astype(float) for name in PEOPLE[:people]}
    names = [f"m{m}" for m in range(models)]
    pairs = pd.MultiIndex.from_product([range(originals), names], names=["original", "model"])
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=pairs).reset_index()


@pytest.fixture(scope="module")
def scores():
    return study()


def planned(scores, **settings):
    return power(scores, PEOPLE, "good", "fair", HIGHER, **({"n_studies": 200} | settings))


def test_power_is_that_of_the_textbook():
    # With the models given, the difference is a mean over originals: its standard error and its power are known.
    # (A study's resamples have the variance of n, not of n - 1.)
    scores = study(originals=120)

    def difference(rows):
        target = rows[PEOPLE].mean(axis=1)
        good, fair = (stats.spearmanr(rows[name], target).statistic for name in HIGHER)
        return good - fair

    ahead = np.array([difference(rows) for _, rows in scores.groupby("original")])
    ahead = ahead[~np.isnan(ahead)]
    found = planned(scores, facet="originals", n_originals=(15, 40), n_studies=2000)
    for row in found.itertuples():
        error = ahead.std() / np.sqrt(row.originals * len(ahead) / 120)
        half = 1.96 * error * np.sqrt(1 - 1 / row.originals)
        expected = stats.norm.sf((half - ahead.mean()) / error)
        assert row.sd == pytest.approx(error, rel=0.08)
        assert row.half_width == pytest.approx(half, rel=0.08)
        assert row.power == pytest.approx(expected, abs=0.06)


def test_fresh_studies_find_the_difference_as_often_as_planned():
    again, found = draws(12, 8, "originals", 150), []
    for seed in range(1, 41):
        fresh = study(originals=12, seed=seed)
        rows = checked_rows(fresh.assign(target=fresh[PEOPLE].mean(axis=1)), "target", list(HIGHER), HIGHER)
        leads = resample(rows, "original", ["spearman"], again, ([0], [1]))["spearman"][0]
        found.append(interval(leads, again)["low"] > 0)
    share = np.mean(found)
    row = planned(study(originals=200), facet="originals", n_originals=12, n_studies=1000).iloc[0]
    assert 0.3 < row.power < 0.999
    assert abs(row.power - share) < 3 * np.sqrt(0.25 / 40)


def test_equal_metrics_are_told_apart_as_often_as_chance_allows(scores):
    mirror = scores.assign(original=scores.original + 1000, good=scores.fair, fair=scores.good)
    row = planned(pd.concat([scores, mirror]), facet="originals", n_studies=2000).iloc[0]
    assert row.measured == pytest.approx(0, abs=1e-9)
    assert abs(row.power - 0.025) < 0.015 and abs(row.wrong - 0.025) < 0.015


def test_a_metric_is_never_told_from_its_copy(scores):
    row = power(scores.assign(copy=scores.good), PEOPLE, "good", "copy", HIGHER | {"copy": True}, n_studies=100).iloc[0]
    assert (row.measured, row.expected, row.power, row.wrong) == (0, 0, 0, 0)


def test_panels_are_all_subsets_and_judge_equally_often(scores):
    # With all originals and models given, only the panel is drawn, so the mean is known from the panels alone.
    assert sorted(panels(PEOPLE, 2)) == [("one", "three"), ("one", "two"), ("two", "three")]
    once = dict(n_resamples=1, n_permutations=1)

    def difference(team):
        judged = scores.assign(target=scores[list(team)].mean(axis=1))
        row = compare(judged, "target", list(HIGHER), HIGHER, **once).iloc[0]
        return row.statistic if row.metric == "good" else -row.statistic

    exact = np.mean([difference(team) for team in panels(PEOPLE, 2)])
    row = planned(scores, facet="originals", n_annotators=2, n_originals=2000, n_studies=300).iloc[0]
    assert row.expected == pytest.approx(exact, abs=0.01)
    assert not row.extrapolated


def test_same_seed_same_plan_and_other_seed_another(scores):
    designs = dict(n_annotators=(1, 3, 6), n_originals=(10, 20))
    pd.testing.assert_frame_equal(planned(scores, **designs), planned(scores, **designs))
    assert (planned(scores, **designs).expected != planned(scores, **designs, seed=1).expected).all()
    alone = planned(scores, n_annotators=6, n_originals=10)
    same = planned(scores, **designs).query("annotators == 6 and originals == 10")
    pd.testing.assert_frame_equal(alone, same.reset_index(drop=True))


def test_width_at_the_measured_size_is_that_of_compare(scores):
    for facet in ("originals", "models", "both"):
        row = planned(scores, facet=facet, n_studies=2000).iloc[0]
        judged = scores.assign(target=scores[PEOPLE].mean(axis=1))
        found = compare(judged, "target", list(HIGHER), HIGHER, facet=facet, n_permutations=1).iloc[0]
        assert row.half_width == pytest.approx((found.high - found.low) / 2, rel=0.07)
        assert row.measured == pytest.approx(found.statistic * (1 if found.metric == "good" else -1), abs=1e-6)


def test_two_ways_to_decide_agree(scores):
    row = planned(scores, facet="originals", n_originals=15, n_studies=1000).iloc[0]
    design = dict(facet="originals", originals=15, n_studies=60, n_resamples=150)
    full = power_by_resamples(scores, PEOPLE, "good", "fair", HIGHER, **design)
    assert full["half_width"] == pytest.approx(row.half_width, rel=0.12)
    assert full["low"] < row.high and row.low < full["high"]


def test_extrapolation_comes_near_what_was_simulated():
    scores = study(originals=150)
    foretold, there = (planned(scores, n_annotators=3, known=known, n_studies=600).iloc[0] for known in (2, 3))
    assert foretold.extrapolated and not there.extrapolated
    assert foretold.expected == pytest.approx(there.expected, rel=0.08)
    assert foretold.half_width == pytest.approx(there.half_width, rel=0.15)


def test_figure_draws_powers_of_none_and_all(scores):
    # At 0 and 1 the ends of Wilson's interval may lie a rounding error inside of the share.
    table = planned(scores, facet="originals", n_originals=(3, 40), n_studies=100)
    table = table.assign(power=[0.0, 1.0], low=[1e-17, 0.96], high=[0.04, 1 - 1e-16])
    assert [ax.get_title() for ax in plot_power(table, "simulated annotators").axes] == ["8 models"]


@pytest.mark.parametrize("single, k, mean", [(0.5, 1, 0.5), (0.5, 2, 2 / 3), (0.2, 4, 0.5), (0, 9, 0), (1, 9, 1)])
def test_spearman_brown(single, k, mean):
    assert spearman_brown(single, k) == pytest.approx(mean)


def test_undefined_studies_are_counted_and_find_nothing():
    # Two models alike in everything but their names: a study that draws only these has no correlation.
    scores = study(originals=30, models=4)
    constant = scores.assign(**{name: np.where(scores.model == "m0", 1.0, 0.0) for name in PEOPLE})
    row = planned(constant, level="model", n_studies=400).iloc[0]
    assert row.undefined > 0 and row.studies == 400
    assert row.power + row.wrong <= 1 - row.undefined / row.studies


def test_sentences_name_the_smallest_design_that_is_enough():
    about = dict(metric="a", other="b", level="original", coefficient="spearman", estimand="e", measured=0.1)
    design = dict(annotators=5, models=14, extrapolated=False, originals=[50, 400, 100])
    table = pd.DataFrame(about | design | dict(power=[0.3, 0.95, 0.81], low=0.2, high=0.97, studies=9))
    head, line = power_in_words(table)
    assert "+0.100" in head and "about 100 originals tell a from b within originals: power 81 %" in line
    assert "no planned number of originals is enough" in power_in_words(table, 0.99)[1]


@pytest.mark.parametrize(
    "message, settings",
    [
        ("with 0 annotators", dict(n_annotators=0)),
        ("a study of 2 originals", dict(n_originals=2)),
        ("within originals needs at least 3", dict(n_models=2)),
        ("between models needs at least 4", dict(n_models=3, level="model")),
        ("the models are those 8", dict(n_models=9, facet="originals")),
        ("the originals are those 40", dict(n_originals=9, facet="models")),
        ("did you mean spearman", dict(coefficient="sperman")),
        ("unknown coefficient 'auc'", dict(coefficient="auc")),
        ("did you mean original", dict(level="orignal")),
        ("Kendall's tau has no formula", dict(coefficient="kendall", n_annotators=4)),
        ("known is 4", dict(known=4)),
        ("n_studies is 99", dict(n_studies=99)),
        ("confidence is 95", dict(confidence=95)),
    ],
)
def test_what_cannot_be_planned_is_named(scores, message, settings):
    with pytest.raises(InputError, match=message):
        planned(scores, **settings)


def test_columns_that_do_not_fit_are_named(scores):
    with pytest.raises(InputError, match="unknown metric 'goood'"):
        power(scores, PEOPLE, "goood", "fair", HIGHER)
    with pytest.raises(InputError, match="is named twice"):
        power(scores, PEOPLE, "good", "good", HIGHER)
    with pytest.raises(InputError, match="unknown annotator column 'four'"):
        power(scores, [*PEOPLE, "four"], "good", "fair", HIGHER)
    with pytest.raises(InputError, match="not the answers"):
        power(scores.assign(one=scores.one * 49), PEOPLE, "good", "fair", HIGHER)
    with pytest.raises(InputError, match="2 annotators from 1"):
        power(scores, "one", "good", "fair", HIGHER, n_annotators=2)
    with pytest.raises(InputError, match="undefined in the measured study"):
        power(scores.assign(fair=1.0), PEOPLE, "good", "fair", HIGHER)
    with pytest.warns(UserWarning, match="5 of 320 rows"):
        holed = scores.assign(one=scores.one.where(scores.index >= 5))
        power(holed, PEOPLE, "good", "fair", HIGHER, n_studies=100)


def test_annotators_who_do_not_agree_are_not_extrapolated():
    rng = np.random.default_rng(0)
    scores = study()
    one = rng.integers(0, 2, len(scores)).astype(float)
    opposed = scores.assign(one=one, two=1 - one)
    with pytest.raises(InputError, match="do not agree with each other"):
        power(opposed, ["one", "two"], "good", "fair", HIGHER, n_annotators=4, level="image", n_studies=100)
