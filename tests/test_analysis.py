"""The exported analysis against scipy, on rows that are really repeated, and against the figures of the study with real people."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from semsim.analysis import agreement, compare, confidence_band, correlations, group_sentinels, plot_agreement_scatter, plot_correlations, three_lines, verdict
from semsim.core import InputError

STUDY = Path(__file__).resolve().parents[2] / "shared/data/human_study/labels.csv"
SCIPY = {"spearman": stats.spearmanr, "pearson": stats.pearsonr, "kendall": stats.kendalltau}
DIRECTIONS = {"smooth": True, "tied": False, "flat": True}


def frame(n_models=5, n_originals=17, seed=0):
    "Random scores: a continuous metric, one with many ties, a constant one; a score of four levels, constant for some originals."
    rng = np.random.default_rng(seed)
    pairs = pd.MultiIndex.from_product([range(n_originals), [f"m{i:02}" for i in range(n_models)]], names=["original", "model"])
    votes = rng.integers(0, 4, (n_originals, n_models))
    votes[::6] = 3
    noise = rng.normal(size=(2, n_originals, n_models))
    columns = {"smooth": votes + 2 * noise[0], "tied": np.round(-votes + noise[1]), "flat": np.full(votes.shape, 0.1), "human": votes / 3}
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=pairs).reset_index()


@pytest.fixture
def scores():
    return frame()


@pytest.fixture
def holed(scores):
    "The same with a tenth of the pairs absent, and rows in another order."
    return scores.sample(frac=0.9, random_state=3)


def correlate(statistic, x, y):
    "scipy's value, NaN where a side is constant."
    x, y = np.asarray(x), np.asarray(y)
    return SCIPY[statistic](x, y).statistic if len(x) > 1 and np.ptp(x) and np.ptp(y) else np.nan


def by_hand(rows, metric, level, statistic):
    "A level's value from the rows themselves; `copy` tells repeated originals apart."
    if level == "image":
        return correlate(statistic, rows[metric], rows.human)
    if level == "model":
        means = rows.groupby("model")[[metric, "human"]].mean().round(12)
        return correlate(statistic, means[metric], means.human)
    return np.nanmean([correlate(statistic, part[metric], part.human) for _, part in rows.groupby("copy")])


def redrawn(scores, n_boot, seed):
    "The frames of each resample, rows really repeated."
    originals = sorted(scores.original.unique())
    n = len(originals)
    for counts in np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot):
        drawn = np.repeat(originals, counts)
        yield pd.concat([scores[scores.original == o].assign(copy=copy) for copy, o in enumerate(drawn)])


@pytest.mark.parametrize("data", ["scores", "holed"])
@pytest.mark.parametrize("metric", ["smooth", "tied"])
def test_value_and_interval_are_scipys_on_repeated_rows(data, metric, request):
    scores = request.getfixturevalue(data)
    table = agreement(scores, "human", [metric], DIRECTIONS, level="all", n_boot=25, seed=4)
    frames = list(redrawn(scores, 25, seed=4))
    sign = 1 if DIRECTIONS[metric] else -1
    assert len(table) == 9
    for row in table.itertuples():
        whole = by_hand(scores.assign(copy=scores.original), metric, row.level, row.statistic)
        boot = [sign * by_hand(rows, metric, row.level, row.statistic) for rows in frames]
        assert row.raw == pytest.approx(whole, abs=1e-9) and row.value == pytest.approx(sign * whole, abs=1e-9)
        assert (row.low, row.high) == pytest.approx(tuple(np.quantile(boot, [0.025, 0.975])), abs=1e-9)


def test_points_p_and_skipped_originals(scores):
    table = agreement(scores, "human", "smooth", DIRECTIONS, level="all", n_boot=5).set_index(["level", "statistic"])
    means = scores.groupby("model")[["smooth", "human"]].mean().round(12)
    for statistic, function in SCIPY.items():
        assert table.p["model", statistic] == pytest.approx(function(means.smooth, means.human).pvalue)
        constant = (scores.groupby("original").human.nunique() == 1).sum()
        assert constant >= 3 and table.undefined["original", statistic] == constant
        assert [table.n[level, statistic] for level in ("model", "image", "original")] == [5, 85, 17 - constant]
    assert table.p[["image", "original"]].isna().all() and set(table.clusters) == {17} and set(table.n_boot) == {5}


def test_holes_are_noted(holed):
    assert set(agreement(holed, "human", "smooth", DIRECTIONS, n_boot=5).note) == {"9 of 85 pairs of model and original are absent"}


@pytest.mark.filterwarnings("error")
def test_what_is_constant_is_undefined_without_a_warning(scores):
    flat = agreement(scores, "human", "flat", DIRECTIONS, level="all", n_boot=20)
    assert flat[["value", "low", "high", "raw", "p"]].isna().all(axis=None) and set(flat.undefined_resamples) == {20}
    assert set(flat[flat.level != "original"].note) == {"the metric is constant"}
    agreed = agreement(scores.assign(human=2 / 3), "human", "smooth", DIRECTIONS, level="all", n_boot=20)
    assert agreed.value.isna().all() and set(agreed[agreed.level == "original"].undefined) == {17}


def test_undefined_resamples_are_counted():
    scores = frame(n_originals=4).assign(human=1.0)
    scores.loc[scores.original == 2, "human"] = [0, 0.5, 1, 0, 0.5]
    row = agreement(scores, "human", "smooth", DIRECTIONS, level="original", n_boot=400).iloc[0]
    assert (row.n, row.undefined) == (1, 3)
    assert row.undefined_resamples / 400 == pytest.approx(0.75**4, abs=0.08)
    assert row.low == row.value == row.high


def test_equal_means_stay_tied():
    "0.2 + 0.4 + 0.6 and 0.6 + 0.4 + 0.2 differ in the last bit; the models that have them are tied all the same."
    human = {"a": [0.2, 0.4, 0.6], "b": [0.6, 0.4, 0.2], "c": [1, 0.8, 1], "d": [0, 0, 0.2]}
    scores = pd.DataFrame([(m, o, h, 0.0) for m, hs in human.items() for o, h in enumerate(hs)], columns=["model", "original", "human", "x"])
    scores["x"] = scores.model.map({"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.0})
    table = agreement(scores, "human", "x", {"x": True}, n_boot=5).set_index("statistic")
    assert table.value["kendall"] == pytest.approx(stats.kendalltau([1, 2, 3, 0], [1, 1, 2, 0]).statistic)


def test_seed_order_of_rows_and_company_of_metrics(scores):
    one = agreement(scores, "human", ["smooth", "tied"], DIRECTIONS, level="all", n_boot=50, seed=1)
    shuffled = agreement(scores.sample(frac=1, random_state=0), "human", ["smooth", "tied"], DIRECTIONS, level="all", n_boot=50, seed=1)
    pd.testing.assert_frame_equal(one, shuffled)
    alone = agreement(scores, "human", ["tied"], DIRECTIONS, level="all", n_boot=50, seed=1)
    pd.testing.assert_frame_equal(one[one.metric == "tied"].reset_index(drop=True), alone)
    other = agreement(scores, "human", ["smooth", "tied"], DIRECTIONS, level="all", n_boot=50, seed=2)
    assert (one.value.equals(other.value)) and not one.low.equals(other.low)


def test_direction_turns_the_sign(scores):
    turned = scores.assign(smooth=-scores.smooth)
    for level in ("model", "image", "original"):
        one = agreement(scores, "human", "smooth", {"smooth": True}, level=level, n_boot=20)
        two = agreement(turned, "human", "smooth", {"smooth": False}, level=level, n_boot=20)
        np.testing.assert_allclose(one[["value", "low", "high"]], two[["value", "low", "high"]], atol=1e-9)
        np.testing.assert_allclose(one.raw, -two.raw, atol=1e-9)


def test_set_metrics_join_between_models_without_an_interval(scores):
    fid = pd.DataFrame({"fid": [5.0, 3, 4, 2, 2]}, index=[f"m{i:02}" for i in range(5)])
    table = agreement(scores, "human", "smooth", {**DIRECTIONS, "fid": False}, level="all", n_boot=5, model_scores=fid)
    rows = table[table.metric == "fid"].set_index("statistic")
    assert set(rows.level) == {"model"} and rows[["low", "high"]].isna().all(axis=None)
    human = scores.groupby("model").human.mean().round(12)
    for statistic, function in SCIPY.items():
        assert rows.raw[statistic] == pytest.approx(function(fid.fid, human).statistic) == -rows.value[statistic]


@pytest.mark.parametrize("level", ["model", "image", "original"])
@pytest.mark.parametrize("statistic", SCIPY)
def test_lead_is_paired(scores, level, statistic):
    ranking = compare(scores, "human", ["flat", "smooth", "tied"], DIRECTIONS, level, statistic, n_boot=25, seed=4)
    first, second = ranking.metric[1], ranking.metric[2]
    sign = {name: 1 if DIRECTIONS[name] else -1 for name in DIRECTIONS}
    differences = [sign[first] * by_hand(rows, first, level, statistic) - sign[second] * by_hand(rows, second, level, statistic)
                   for rows in redrawn(scores, 25, seed=4)]
    assert ranking.metric[3] == "flat" and np.isnan(ranking.value[3]) and ranking.value[1] >= ranking.value[2]
    assert ranking.lead[1] == pytest.approx(ranking.value[1] - ranking.value[2], abs=1e-9)
    assert (ranking.lead_low[1], ranking.lead_high[1]) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=1e-9)
    assert ranking.shown[1] == (ranking.lead_low[1] > 0) and not ranking.shown[3]


def test_a_pair_is_compared_where_both_are_defined(scores):
    partly = scores.assign(partly=scores.smooth.where(scores.original > 7, 0))
    ranking = compare(partly, "human", ["smooth", "partly"], {"smooth": True, "partly": True}, n_boot=20)
    within = {m: [correlate("spearman", part[m], part.human) for _, part in partly.groupby("original")] for m in ("smooth", "partly")}
    assert ranking.pair_n[1] == np.sum(~np.isnan(within["partly"])) < np.sum(~np.isnan(within["smooth"]))
    assert ranking.lead[1] == pytest.approx(0) and not ranking.shown[1]


def test_correlations_and_three_lines(scores):
    table = correlations(scores.tied, scores.human)
    for statistic, function in SCIPY.items():
        assert tuple(table.loc[statistic, ["value", "p"]]) == pytest.approx(tuple(function(scores.tied, scores.human)))
    assert [line.split(":")[0] for line in three_lines(scores.tied, scores.human)] == ["Spearman's rho", "Pearson's r", "Kendall's tau"]
    assert three_lines(scores.tied, scores.human)[0].endswith("(p<0.001)")
    assert three_lines([1, 2], [1, 2])[2] == "Kendall's tau: undefined (fewer than 3 points)"


def test_verdict_names_the_winner_and_its_limits(scores):
    lines = verdict(scores, "human", ["flat", "smooth", "tied"], DIRECTIONS, "panel B (machine), n=3", n_boot=50)
    assert lines[0].startswith("Annotator: panel B (machine), n=3. 17 originals, 5 models, 85 reconstructions")
    assert "tied ranks best" in lines[1] and "14 of 17 originals (3 undefined)" in lines[1]
    assert lines[-1] == "Between models: no verdict below 10 models."
    assert not any("people" in line or "human" in line for line in lines)


def test_verdict_between_ten_models():
    lines = verdict(frame(n_models=10), "human", ["smooth", "tied"], DIRECTIONS, "panel", n_boot=50)
    assert "no verdict" not in " ".join(lines) and lines[-1].startswith("Between models, ") and "Its lead over the next" in lines[-1]


@pytest.mark.parametrize("change", [dict(human=1.0), dict(smooth=2.0, tied=1.0)])
@pytest.mark.parametrize("n_models", [5, 12])
def test_verdict_says_that_nothing_is_defined(change, n_models):
    lines = verdict(frame(n_models=n_models).assign(**change), "human", ["smooth", "tied"], DIRECTIONS, "panel", n_boot=10)
    assert lines[1].startswith("Within an original nothing is defined") and "smooth undefined" in lines[2]
    assert not any("nan" in line for line in lines)


def test_verdict_names_twins_as_alike_and_takes_the_lead_over_another(scores):
    directions = {"smooth": True, "twin": True, "tied": DIRECTIONS["tied"]}
    lines = verdict(scores.assign(twin=scores.smooth**3), "human", ["smooth", "twin", "tied"], directions, "panel", n_boot=20)
    best = "smooth (and twin" if "smooth (and twin" in lines[1] else "tied"
    assert best in lines[1] and f"over the next, {'tied' if best != 'tied' else 'smooth'}" in lines[2]


def test_verdict_shows_no_difference_between_near_twins(scores):
    near = scores.smooth + np.random.default_rng(0).normal(0, 0.3, len(scores))
    lines = verdict(scores.assign(near=near), "human", ["smooth", "near"], {"smooth": True, "near": True}, "panel", n_boot=50)
    assert lines[2].endswith("no difference shown.")


def test_band_is_that_of_the_coefficients_covariance():
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    at = np.linspace(-1, 2, 7)
    coefficients, covariance = np.polyfit(x, y, 1, cov=True)
    basis = np.vander(at, 2)
    line, half = confidence_band(x, y, at, confidence=0.9)
    np.testing.assert_allclose(line, basis @ coefficients)
    np.testing.assert_allclose(half, stats.t.ppf(0.95, 7) * np.sqrt(np.einsum("ij,jk,ik->i", basis, covariance, basis)))


@pytest.mark.parametrize(("level", "bands"), [("model", 1), ("image", 0), ("original", 0)])
def test_scatter_says_who_what_and_which_way(scores, level, bands):
    ax = plot_agreement_scatter(scores, "human", "tied", DIRECTIONS, "panel B (machine), n=3", level=level, unit="steps")
    assert "panel B (machine), n=3" in ax.get_title() and f"n={5 if level == 'model' else 85}" in ax.get_title()
    assert "tied [steps]" in ax.get_xlabel() and "(lower = more leakage)" in ax.get_xlabel()
    fills = [c for c in ax.collections if isinstance(c, matplotlib.collections.PolyCollection)]
    assert len(ax.lines) == 1 and len(fills) == bands
    plt.close(ax.figure)


def test_a_flat_metric_has_points_and_no_line(scores):
    ax = plot_agreement_scatter(scores, "human", "flat", DIRECTIONS, "panel")
    assert not ax.lines
    plt.close(ax.figure)


def test_forest_has_the_best_on_top(scores):
    table = agreement(scores, "human", ["flat", "smooth", "tied"], DIRECTIONS, level="original", n_boot=20)
    ax = plot_correlations(table, "panel B (machine), n=3")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["flat (undefined)", "smooth", "tied"]
    assert "panel B (machine), n=3" in ax.get_title()
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: s.drop(columns="original"), {}, "unknown column 'original'"),
        (lambda s: s, dict(human="humann"), "unknown column 'humann': did you mean human"),
        (lambda s: s, dict(metrics=["smoth"]), "unknown metric 'smoth': did you mean smooth"),
        (lambda s: s, dict(metrics=["model"]), "unknown metric 'model'"),
        (lambda s: s, dict(metrics=[]), "no metric to analyse"),
        (lambda s: s, dict(higher_is_leakier={}), "'smooth' has no direction: add it"),
        (lambda s: s, dict(level="images"), "unknown level 'images': did you mean image"),
        (lambda s: s, dict(n_boot=0), "n_boot is 0"),
        (lambda s: pd.concat([s, s[:1]]), {}, "model m00, original 0 has more than one row: keep one"),
        (lambda s: s.assign(smooth=s.smooth.mask(s.index == 6)), {}, "'smooth' is not a finite number in 1 of 85 rows, first for model m01, original 1"),
        (lambda s: s.assign(human=s.human.mask(s.index == 6)), {}, "'human' is not a finite number"),
        (lambda s: s.assign(human=3 * s.human), {}, "'human' runs from 0 to 3: it must be a share"),
        (lambda s: s[s.original < 2], {}, "2 originals are too few to resample"),
        (lambda s: s[:0], {}, "0 originals are too few"),
        (lambda s: s, dict(model_scores=pd.DataFrame({"smooth2": [1.0]}, index=["m00"])), "no row for m01"),
    ],
)
def test_bad_input_is_named(scores, change, options, message):
    options = dict(human="human", metrics=["smooth"], higher_is_leakier=DIRECTIONS, n_boot=5) | options
    with pytest.raises(InputError, match=message) as error:
        agreement(change(scores), **options)
    assert "\n" not in str(error.value)


# The study with real people: 14 attacked classifiers, 600 originals, five annotators


@pytest.fixture(scope="module")
def study():
    if not STUDY.exists():
        pytest.skip("the annotations of the study with real people are not beside the repository")
    labels = pd.read_csv(STUDY).rename(columns={"model_idx": "model", "image_id": "original"})
    return labels.assign(majority=labels.n_correct >= 3, named=labels.n_correct / 5)


REAL = {"psnr": True, "mse255": False, "ssim": True, "lpips_squeeze": False, "dreamsim": False}
GOLDEN = {
    "recognizable_flag": [[0.670, 0.632, 0.473], [-0.618, -0.621, -0.429], [0.398, 0.291, 0.341], [-0.714, -0.795, -0.560], [-0.569, -0.771, -0.451]],
    "majority": [[0.745, 0.659, 0.538], [-0.710, -0.653, -0.495], [0.495, 0.315, 0.363], [-0.820, -0.741, -0.626], [-0.358, -0.611, -0.253]],
}


@pytest.mark.parametrize("human", GOLDEN)
def test_study_between_models(study, human):
    table = agreement(study, human, list(REAL), REAL, n_boot=20)
    found = table.pivot(index="metric", columns="statistic", values="raw").loc[list(REAL), list(SCIPY)]
    np.testing.assert_allclose(found, GOLDEN[human], atol=0.00051)


def test_study_over_pooled_images(study):
    ranking = compare(study, "named", list(REAL), REAL, level="image", n_boot=5).set_index("metric")
    for metric, noted in {"psnr": 0.200, "ssim": 0.167, "lpips_squeeze": 0.382, "dreamsim": 0.409}.items():
        assert ranking.value[metric] == pytest.approx(noted, abs=0.00051)
        assert ranking.value[metric] == pytest.approx(abs(stats.spearmanr(study[metric], study.named).statistic), abs=1e-10)


def test_study_within_originals(study):
    table = agreement(study, "recognizable_flag", "lpips_squeeze", REAL, level="original", n_boot=200).set_index("statistic")
    within = [correlate("kendall", part.lpips_squeeze, part.recognizable_flag) for _, part in study.groupby("original")]
    assert table.raw["kendall"] == pytest.approx(np.nanmean(within))
    assert tuple(table.loc["kendall", ["n", "undefined"]]) == (549, 51)
    assert 0 < table.low["kendall"] < table.value["kendall"] < table.high["kendall"]


# Sentinels


def test_group_sentinels_leave_the_original_out(scores):
    scores = scores.assign(label=scores.original.astype("category").cat.codes % 3)
    found = group_sentinels(scores, "human")
    for row in (0, 7, 50):
        for group in ("label", "model"):
            others = scores[(scores[group] == scores[group][row]) & (scores.original != scores.original[row])]
            assert found[f"sentinel[{group}]"][row] == pytest.approx(others.human.mean())


@pytest.mark.skipif(not STUDY.is_file(), reason="shared/data/human_study is not beside the repository")
def test_sentinels_of_the_real_study():
    "The attacked model alone, and the class alone, predict the released flag about as well as PSNR."
    table = pd.read_csv(STUDY).rename(columns={"image_id": "original", "gt_label": "label", "model_folder": "model"})

    def auc(rows, sentinel):
        values = group_sentinels(rows, "recognizable_flag")[sentinel]
        known, flag = values.notna(), rows.recognizable_flag == 1
        return stats.mannwhitneyu(values[known & flag], values[known & ~flag]).statistic / (known & flag).sum() / (known & ~flag).sum()

    assert auc(table[table.flag_source == "folder"], "sentinel[model]") == pytest.approx(0.69, abs=0.005)
    assert auc(table, "sentinel[label]") == pytest.approx(0.61, abs=0.005)
