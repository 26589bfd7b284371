"""The analysis against scipy on really repeated rows, published worked examples, and the study with real people."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from semsim.analysis.correlation import correlations, group_sentinels
from semsim.analysis.noise_ceilings import ANNOTATOR, noise_ceiling, icc, annotator_reliability
from semsim.analysis.comparison import clusters, compare, williams
from semsim.analysis.pairwise_accuracy import soft_pairwise_accuracy, tie_calibrated_accuracy
from semsim.analysis.reporting import join_annotations, report, verdict, wide_annotations
from semsim.core.errors import InputError
from semsim.paper2309.human_study import HUMAN_STUDY_METRICS, read_human_study
from semsim.analysis.frames import checked_rows, incomplete
from semsim.analysis.resampling import FACETS, draws
from semsim.analysis.intervals import agreement, result

LABELS = Path(__file__).resolve().parents[2] / "shared/data/human_study/labels.csv"
SCIPY = {"spearman": stats.spearmanr, "pearson": stats.pearsonr, "kendall": stats.kendalltau}
DIRECTIONS = {"smooth": True, "tied": False, "flat": True}
LEVELS = "model", "image", "original"


def frame(n_models=5, n_originals=17, seed=0):
    """Random scores: a continuous metric, one with many ties, a constant one.

    The target score has four levels and is constant for some originals."""
    rng = np.random.default_rng(seed)
    pairs = pd.MultiIndex.from_product(
        [range(n_originals), [f"m{i:02}" for i in range(n_models)]], names=["original", "model"]
    )
    votes = rng.integers(0, 4, (n_originals, n_models))
    votes[::6] = 3
    noise = rng.normal(size=(2, n_originals, n_models))
    columns = {
        "smooth": votes + 2 * noise[0],
        "tied": np.round(-votes + noise[1]),
        "flat": np.full(votes.shape, 0.1),
        "target": votes / 3,
    }
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=pairs).reset_index()


@pytest.fixture
def scores():
    return frame()


@pytest.fixture
def holed(scores):
    "The same with a tenth of the pairs absent, and rows in another order."
    return scores.sample(frac=0.9, random_state=3)


@pytest.fixture
def yes_or_no(scores):
    return scores.assign(target=(scores.target > 0.4).astype(float))


def auc(x, y):
    positive, negative = x[y == 1], x[y == 0]
    return stats.mannwhitneyu(positive, negative).statistic / len(positive) / len(negative)


def correlate(name, x, y):
    "scipy's value, NaN where a side is constant."
    x, y = np.asarray(x), np.asarray(y)
    if len(x) < 2 or not np.ptp(y) or (not np.ptp(x) and name != "auc"):
        return np.nan
    return auc(x, y) if name == "auc" else SCIPY[name](x, y).statistic


def by_hand(rows, metric, level, name):
    "A level's value from the rows themselves; `o` and `m` number the copies of an original and a model."
    if level == "image":
        return correlate(name, rows[metric], rows.target)
    if level == "model":
        means = rows.groupby("m")[[metric, "target"]].mean().round(12)
        return correlate(name, means[metric], means.target)
    return np.nanmean([correlate(name, part[metric], part.target) for _, part in rows.groupby("o")])


def redrawn(scores, facet, n_resamples, seed):
    "The frames of each resample, rows really repeated."
    originals, models = sorted(scores.original.unique()), sorted(scores.model.unique())
    drawn = draws(len(originals), len(models), facet, n_resamples, seed)
    for column in range(1, n_resamples + 1):
        counts = [which[:, min(column, which.shape[1] - 1)].astype(int) for which in drawn[:2]]
        lists = [
            [(name, copy) for name, count in zip(names, how_often) for copy in range(count)]
            for names, how_often in zip((originals, models), counts)
        ]
        grid = pd.DataFrame(
            [(o, f"{o}.{i}", m, f"{m}.{k}") for o, i in lists[0] for m, k in lists[1]],
            columns=["original", "o", "model", "m"],
        )
        yield grid.merge(scores, on=["original", "model"])


# Intervals


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("facet", FACETS)
@pytest.mark.parametrize("data", ["scores", "holed", "yes_or_no"])
def test_values_of_resamples_are_scipys_on_repeated_rows(data, facet, request):
    "With every percentile of few resamples equal, so is every resample."
    scores = request.getfixturevalue(data)
    frames = list(redrawn(scores, facet, 12, seed=4))
    for metric in ("smooth", "tied"):
        table = agreement(scores, "target", [metric], DIRECTIONS, facet=facet, n_resamples=12, seed=4)
        assert len(table) == (11 if data == "yes_or_no" else 9)
        sign = 1 if DIRECTIONS[metric] else -1
        for row in table.itertuples():

            def turn(value):
                if row.coefficient == "auc":
                    return value if sign > 0 else 1 - value
                return sign * value

            whole = by_hand(scores.assign(o=scores.original, m=scores.model), metric, row.level, row.coefficient)
            assert row.raw == pytest.approx(whole, abs=1e-9) and row.statistic == pytest.approx(turn(whole), abs=1e-9)
            boot = np.array([turn(by_hand(rows, metric, row.level, row.coefficient)) for rows in frames])
            assert row.undefined_resamples == np.isnan(boot).sum()
            if row.method == "percentile":
                assert (row.low, row.high) == pytest.approx(tuple(np.nanquantile(boot, [0.025, 0.975])), abs=1e-9)
            elif row.method:
                assert np.nanmin(boot) - 1e-9 <= row.low <= row.high <= np.nanmax(boot) + 1e-9


def test_bca_is_scipys_for_a_mean_of_correlations(scores):
    "Within originals the estimate is a mean over originals, for which scipy has the same interval."
    within = np.array([correlate("spearman", part.smooth, part.target) for _, part in scores.groupby("original")])
    row = agreement(scores, "target", "smooth", DIRECTIONS, "original", n_resamples=4000).iloc[0]
    theirs = stats.bootstrap(
        (within[~np.isnan(within)],), np.mean, n_resamples=20000, method="BCa", random_state=0
    ).confidence_interval
    assert row.method == "BCa" and (row.low, row.high) == pytest.approx(tuple(theirs), abs=0.02)


def test_points_p_and_skipped_originals(scores):
    table = agreement(scores, "target", "smooth", DIRECTIONS, n_resamples=5).set_index(["level", "coefficient"])
    means = scores.groupby("model")[["smooth", "target"]].mean().round(12)
    for name, function in SCIPY.items():
        assert table.pvalue["model", name] == pytest.approx(function(means.smooth, means.target).pvalue)
        constant = (scores.groupby("original").target.nunique() == 1).sum()
        within = [correlate(name, part.smooth, part.target) for _, part in scores.groupby("original")]
        assert constant >= 3 and table.undefined["original", name] == constant
        assert table.pvalue["original", name] == pytest.approx(
            stats.ttest_1samp([v for v in within if v == v], 0).pvalue
        )
        assert [table.n[level, name] for level in LEVELS] == [5, 85, 17 - constant]


def test_what_is_constant_is_undefined_and_said(scores):
    table = agreement(scores, "target", ["flat", "smooth"], DIRECTIONS, n_resamples=20).set_index(["metric", "level"])
    assert table.statistic["flat"].isna().all() and table.statistic["smooth"].notna().all()
    assert set(table.note["flat"]) == {
        "the metric is constant",
        "no original in which metric and target score both vary",
    }
    agreed = agreement(scores.assign(target=1.0), "target", "smooth", DIRECTIONS, n_resamples=20)
    assert agreed.statistic.isna().all() and set(agreed[agreed.level == "original"].undefined) == {17}


def test_undefined_resamples_are_counted():
    scores = frame(n_originals=4).assign(target=1.0)
    scores.loc[scores.original == 2, "target"] = [0, 0.5, 1, 0, 0.5]
    row = agreement(scores, "target", "smooth", DIRECTIONS, level="original", n_resamples=400).iloc[0]
    assert (row.n, row.undefined) == (1, 3)
    assert row.undefined_resamples / 400 == pytest.approx(0.75**4, abs=0.08)
    assert row.low == row.statistic == row.high


def test_equal_means_stay_tied():
    "0.2 + 0.4 + 0.6 and 0.6 + 0.4 + 0.2 differ in the last bit; the models that have them are tied all the same."
    target = {"a": [0.2, 0.4, 0.6], "b": [0.6, 0.4, 0.2], "c": [1, 0.8, 1], "d": [0, 0, 0.2]}
    scores = pd.DataFrame(
        [(m, o, h, 0.0) for m, hs in target.items() for o, h in enumerate(hs)],
        columns=["model", "original", "target", "x"],
    )
    scores["x"] = scores.model.map({"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.0})
    table = agreement(scores, "target", "x", {"x": True}, "model", n_resamples=5).set_index("coefficient")
    assert table.statistic["kendall"] == pytest.approx(stats.kendalltau([1, 2, 3, 0], [1, 1, 2, 0]).statistic)


def test_seed_order_of_rows_and_company_of_metrics(scores):
    one = agreement(scores, "target", ["smooth", "tied"], DIRECTIONS, facet="all", n_resamples=50, seed=1)
    shuffled = agreement(
        scores.sample(frac=1, random_state=0),
        "target",
        ["smooth", "tied"],
        DIRECTIONS,
        facet="all",
        n_resamples=50,
        seed=1,
    )
    pd.testing.assert_frame_equal(one, shuffled)
    alone = agreement(scores, "target", ["tied"], DIRECTIONS, facet="all", n_resamples=50, seed=1)
    pd.testing.assert_frame_equal(one[one.metric == "tied"].reset_index(drop=True), alone)
    other = agreement(scores, "target", ["smooth", "tied"], DIRECTIONS, facet="all", n_resamples=50, seed=2)
    assert (one.statistic.equals(other.statistic)) and not one.low.equals(other.low)


def test_direction_turns_the_sign(yes_or_no):
    turned = yes_or_no.assign(smooth=-yes_or_no.smooth)
    one = agreement(yes_or_no, "target", "smooth", {"smooth": True}, n_resamples=20)
    two = agreement(turned, "target", "smooth", {"smooth": False}, n_resamples=20)
    np.testing.assert_allclose(one[["statistic", "low", "high"]], two[["statistic", "low", "high"]], atol=1e-9)
    np.testing.assert_allclose(one.raw, np.where(one.coefficient == "auc", 1 - two.raw, -two.raw), atol=1e-9)


def test_set_metrics_join_between_models(scores):
    fid = pd.DataFrame({"fid": [5.0, 3, 4, 2, 2]}, index=[f"m{i:02}" for i in range(5)])
    table = agreement(
        scores, "target", "smooth", {**DIRECTIONS, "fid": False}, facet="all", n_resamples=50, model_scores=fid
    )
    rows = table[table.metric == "fid"]
    assert set(rows.level) == {"model"} and rows[rows.facet != "models"][["low", "high"]].isna().all(axis=None)
    assert rows[rows.facet == "models"][["low", "high"]].notna().all(axis=None)
    target = scores.groupby("model").target.mean().round(12)
    for row in rows.itertuples():
        assert row.raw == pytest.approx(SCIPY[row.coefficient](fid.fid, target).statistic) == -row.statistic


def test_missing_values_are_dropped_counted_and_listed(scores):
    holed = scores.assign(smooth=scores.smooth.mask(scores.index == 6), target=scores.target.mask(scores.index == 8))
    with pytest.warns(
        UserWarning, match="2 of 85 rows lack a value and are left out, first model m01, original 1 \\(no smooth\\)"
    ):
        table = agreement(holed, "target", ["smooth", "tied"], DIRECTIONS, n_resamples=5)
    assert set(table.dropped) == {2} and set(table[table.level == "image"].n) == {83}
    assert incomplete(holed, ["target", "smooth", "tied"]).lacks.tolist() == ["smooth", "target"]
    pd.testing.assert_frame_equal(
        table.drop(columns="dropped"),
        agreement(scores.drop(index=[6, 8]), "target", ["smooth", "tied"], DIRECTIONS, n_resamples=5).drop(
            columns="dropped"
        ),
    )


def test_fewer_than_four_models_say_so():
    table = agreement(frame(n_models=3), "target", "smooth", DIRECTIONS, n_resamples=5)
    between = table[table.level == "model"]
    assert between.statistic.isna().all() and set(between.note) == {
        "3 models: a correlation between models needs at least 4"
    }
    assert table[table.level != "model"].statistic.notna().all()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: s.drop(columns="original"), {}, "unknown column 'original'"),
        (lambda s: s, dict(target="targett"), "unknown column 'targett': did you mean target"),
        (lambda s: s, dict(metrics=["smoth"]), "unknown metric 'smoth': did you mean smooth"),
        (lambda s: s, dict(metrics=["model"]), "unknown metric 'model'"),
        (lambda s: s, dict(metrics=[]), "no metric to analyse"),
        (lambda s: s, dict(higher_is_leakier={}), "'smooth' has no known direction: add it"),
        (lambda s: s, dict(level="images"), "unknown level 'images': did you mean image"),
        (lambda s: s, dict(facet="model"), "unknown facet 'model': did you mean models"),
        (lambda s: s, dict(n_resamples=0), "n_resamples is 0"),
        (lambda s: s, dict(confidence=95), "confidence is 95"),
        (lambda s: pd.concat([s, s[:1]]), {}, "model m00, original 0 has more than one row: keep one"),
        (
            lambda s: s.assign(smooth=s.smooth.mask(s.index == 6, np.inf)),
            {},
            "'smooth' is infinite in 1 of 85 rows, first for model m01, original 1",
        ),
        (lambda s: s.assign(target=3 * s.target), {}, "'target' runs from 0 to 3: it must be a share"),
        (lambda s: s[s.original < 2], {}, "2 originals are too few to resample"),
        (lambda s: s[:0], {}, "0 originals are too few"),
        (lambda s: s, dict(model_scores=pd.DataFrame({"psnr": [1.0]}, index=["m00"])), "no row for m01"),
    ],
)
def test_bad_input_is_named(scores, change, options, message):
    options = dict(target="target", metrics=["smooth"], higher_is_leakier=DIRECTIONS, n_resamples=5) | options
    with pytest.raises(InputError, match=message) as error:
        agreement(change(scores), **options)
    assert "\n" not in str(error.value)


def test_correlations_are_scipys(scores):
    table = correlations(scores.tied, scores.target)
    for name, function in SCIPY.items():
        expected = function(scores.tied, scores.target)
        assert tuple(table.loc[name, ["raw", "pvalue"]]) == pytest.approx(tuple(expected))


# Comparison


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("facet", FACETS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SCIPY)
def test_a_lead_is_paired(scores, level, name, facet):
    row = compare(
        scores, "target", ["smooth", "tied"], DIRECTIONS, level, name, facet, n_resamples=12, n_permutations=20, seed=4
    ).iloc[0]
    sign = {metric: 1 if DIRECTIONS[metric] else -1 for metric in DIRECTIONS}

    def lead(rows):
        if level != "original":
            return sign[row.metric] * by_hand(rows, row.metric, level, name) - sign[row.other] * by_hand(
                rows, row.other, level, name
            )
        pairs = [
            [sign[metric] * correlate(name, part[metric], part.target) for metric in (row.metric, row.other)]
            for _, part in rows.groupby("o")
        ]
        return np.nanmean([first - second for first, second in pairs])

    differences = [lead(rows) for rows in redrawn(scores, facet, 12, seed=4)]
    assert row.value >= row.other_value and row.statistic == pytest.approx(row.value - row.other_value, abs=1e-9)
    if row.method == "percentile":
        assert (row.low, row.high) == pytest.approx(tuple(np.nanquantile(differences, [0.025, 0.975])), abs=1e-9)
    assert np.nanmin(differences) - 1e-9 <= row.low <= row.high <= np.nanmax(differences) + 1e-9


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SCIPY)
def test_permutations_are_swaps_on_the_frame(scores, level, name):
    "PERM-BOTH written out: z-scores, cells swapped, both coefficients again, by scipy."
    if (level, name) == ("model", "pearson"):
        pytest.skip("Williams' test has that place")
    row = compare(
        scores, "target", ["smooth", "tied"], DIRECTIONS, level, name, n_resamples=5, n_permutations=40, seed=2
    ).iloc[0]
    ordered = scores.sort_values(["original", "model"]).assign(m=lambda s: s.model, o=lambda s: s.original)
    rows = checked_rows(ordered, "target", ["smooth", "tied"], DIRECTIONS)
    z = (rows.values - rows.values.mean(1, keepdims=True)) / rows.values.std(1, keepdims=True)
    swaps = np.random.default_rng([2, 2]).integers(0, 2, (len(ordered), 41), dtype=np.int8)[:, 1:]

    def lead(swap):
        both = ordered.assign(a=np.where(swap, z[1], z[0]), b=np.where(swap, z[0], z[1]))
        if level != "original":
            return by_hand(both, "a", level, name) - by_hand(both, "b", level, name)
        return np.nanmean(
            [
                correlate(name, part.a, part.target) - correlate(name, part.b, part.target)
                for _, part in both.groupby("o")
            ]
        )

    observed = abs(lead(np.zeros(len(ordered))))
    larger = sum(abs(lead(swap)) >= observed - 1e-9 for swap in swaps.T)
    assert row.test == "PERM-BOTH" and row.pvalue == pytest.approx((1 + larger) / 41)


def meng(r1, r2, r12, n):
    "Meng, Rosenthal and Rubin's z of two correlations that share a variable (1992, Psychol. Bull. 111, p. 172)."
    square = (r1**2 + r2**2) / 2
    f = min((1 - r12) / (2 * (1 - square)), 1)
    h = (1 - f * square) / (1 - square)
    return (np.arctanh(r1) - np.arctanh(r2)) * np.sqrt((n - 3) / (2 * (1 - r12) * h))


def steiger(r1, r2, r12, n):
    "Steiger's z with the pooled correlation (1980, Psychol. Bull. 87, p. 245)."
    r = (r1 + r2) / 2
    covariance = (r12 * (1 - 2 * r**2) - r**2 * (1 - 2 * r**2 - r12**2) / 2) / (1 - r**2) ** 2
    return (np.arctanh(r1) - np.arctanh(r2)) * np.sqrt((n - 3) / (2 - 2 * covariance))


def test_williams_against_published_examples_and_two_other_tests():
    assert williams(0.3, 0.4, 0.5, 100) == pytest.approx((-1.0767, 0.2843), abs=5e-5)  # doi 10.1177/0146621605277132
    assert williams(0.4, 0.5, 0.1, 103)[0] == pytest.approx(-0.8913, abs=5e-5)  # Steiger 1980, p. 249
    assert meng(0.63, -0.03, -0.19, 15) == pytest.approx(1.68, abs=5e-3)  # Meng, Rosenthal and Rubin 1992
    assert steiger(0.4, 0.5, 0.1, 103) == pytest.approx(-0.8887185, abs=1e-6)
    for case in ((0.6, 0.5, 0.7, 60), (0.2, 0.45, 0.8, 100), (0.8, 0.75, 0.9, 40)):
        t, p = williams(*case)
        for z in (meng(*case), steiger(*case)):
            assert 2 * stats.norm.sf(abs(z)) == pytest.approx(p, abs=0.03) and np.sign(z) == np.sign(t)


def test_holm_and_clusters():
    table = compare(
        frame(n_originals=40, seed=3).assign(twin=lambda s: s.smooth**3),
        "target",
        ["smooth", "twin", "tied", "flat"],
        {**DIRECTIONS, "twin": True},
        n_resamples=50,
        n_permutations=200,
    )
    known = table.pvalue.dropna().sort_values()
    by_hand = np.maximum.accumulate(known.to_numpy() * np.arange(len(known), 0, -1)).clip(max=1)
    np.testing.assert_allclose(table.holm[known.index], by_hand)
    assert result(table, metric="smooth", other="twin").pvalue == 1 and table[table.other == "flat"].pvalue.isna().all()
    ranked = clusters(table).set_index("metric").cluster
    assert ranked["smooth"] == ranked["twin"] and pd.isna(ranked["flat"])


def test_a_pair_is_compared_where_both_are_defined(scores):
    partly = scores.assign(partly=scores.smooth.where(scores.original > 7, 0))
    row = compare(
        partly, "target", ["smooth", "partly"], {"smooth": True, "partly": True}, n_resamples=20, n_permutations=20
    ).iloc[0]
    assert row.statistic == pytest.approx(0) and row.pvalue == 1


def test_soft_pairwise_accuracy_by_hand(scores):
    table = soft_pairwise_accuracy(
        scores, "target", ["smooth", "tied"], DIRECTIONS, n_permutations=300, n_resamples=20, seed=1
    ).set_index("metric")
    grids = {
        name: scores.pivot(index="original", columns="model", values=name).to_numpy()
        for name in ("smooth", "tied", "target")
    }
    grids["tied"] = -grids["tied"]
    flips = np.random.default_rng([1, 3]).integers(0, 2, (300, 17)) * 2 - 1

    def sure(grid, a, b):
        d = grid[:, a] - grid[:, b]
        return (1 + (flips @ d >= d.sum() - 1e-9).sum()) / 301

    for metric in ("smooth", "tied"):
        far = [abs(sure(grids[metric], a, b) - sure(grids["target"], a, b)) for a, b in combinations(range(5), 2)]
        assert table.statistic[metric] == pytest.approx(1 - np.mean(far)) and table.n[metric] == 10
    assert table.low["smooth"] <= table.statistic["smooth"] <= table.high["smooth"]


def test_the_threshold_of_ties_is_chosen_on_other_originals(scores):
    table = tie_calibrated_accuracy(scores, "target", ["smooth", "tied"], DIRECTIONS, n_resamples=20, seed=1).set_index(
        "metric"
    )
    fold = np.random.default_rng([1, 4]).permutation(17) % 5
    y = scores.pivot(index="original", columns="model", values="target").to_numpy()
    pairs = list(combinations(range(5), 2))
    for metric, sign in (("smooth", 1), ("tied", -1)):
        x = sign * scores.pivot(index="original", columns="model", values=metric).to_numpy()

        def accuracy(rows, epsilon):
            agree = [
                [
                    (y[o, a] == y[o, b])
                    if abs(x[o, a] - x[o, b]) <= epsilon
                    else np.sign(x[o, a] - x[o, b]) == np.sign(y[o, a] - y[o, b])
                    for a, b in pairs
                ]
                for o in rows
            ]
            return np.mean(agree, axis=1)

        values = np.empty(17)
        for part in range(5):
            others, own = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
            gaps = sorted({abs(x[o, a] - x[o, b]) for o in others for a, b in pairs} | {0.0})
            best = max(gaps, key=lambda gap: (accuracy(others, gap).mean(), -gap))
            values[own] = accuracy(own, best)
        assert table.statistic[metric] == pytest.approx(values.mean())


# Noise ceilings


def test_icc_against_shrout_and_fleiss():
    judges = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert icc(judges) == pytest.approx(0.62, abs=0.005)
    single = icc(judges) / (4 - 3 * icc(judges))  # Spearman and Brown, backwards
    assert single == pytest.approx(0.29, abs=0.005)


def test_the_ceiling_is_the_left_out_annotator(scores):
    rng = np.random.default_rng(0)
    people = {f"right_{k}": (rng.random(len(scores)) < scores.target).astype(float) for k in range(1, 5)}
    table = noise_ceiling(scores.assign(**people), list(people), ["smooth", "tied"], DIRECTIONS, n_resamples=20)
    for name, function in SCIPY.items():
        expected = np.mean(
            [
                function(people[out], np.mean([people[p] for p in people if p != out], axis=0)).statistic
                for out in people
            ]
        )
        assert result(table, metric=ANNOTATOR, level="image", coefficient=name).statistic == pytest.approx(expected)
    row = result(table, metric="tied", level="image", coefficient="pearson").row
    assert row["disattenuated"] == pytest.approx(
        row["all_annotators"] / np.sqrt(annotator_reliability(scores.assign(**people), list(people), "image"))
    )
    assert np.isnan(result(table, metric="tied", level="image", coefficient="kendall").row["disattenuated"])


# Conclusions


def test_verdict_names_the_winner_and_its_limits(scores):
    lines = verdict(scores, "target", ["flat", "smooth", "tied"], "panel B (machine), n=3", DIRECTIONS, n_resamples=50)
    assert lines[0].startswith("Annotator: panel B (machine), n=3. 17 originals, 5 models; ")
    assert " score: target." in lines[0]
    assert "tied ranks best" in lines[1] and "14 of 17 originals (3 undefined)" in lines[1]
    assert lines[-1] == "Between models: no verdict below 10 models."
    assert not any("people" in line for line in lines)


def test_verdict_between_ten_models():
    lines = verdict(frame(n_models=10), "target", ["smooth", "tied"], "panel", DIRECTIONS, n_resamples=50)
    assert (
        "no verdict" not in " ".join(lines)
        and lines[-1].startswith("Between models, ")
        and "Its lead over the next" in lines[-1]
    )


@pytest.mark.parametrize("change", [dict(target=1.0), dict(smooth=2.0, tied=1.0)])
@pytest.mark.parametrize("n_models", [5, 12])
def test_verdict_says_that_nothing_is_defined(change, n_models):
    lines = verdict(
        frame(n_models=n_models).assign(**change), "target", ["smooth", "tied"], "panel", DIRECTIONS, n_resamples=10
    )
    assert lines[1].startswith("Within an original nothing is defined") and "smooth undefined" in lines[2]
    assert not any("nan" in line for line in lines)


def test_verdict_names_twins_as_alike_and_takes_the_lead_over_another(scores):
    directions = {"smooth": True, "twin": True, "tied": DIRECTIONS["tied"]}
    lines = verdict(
        scores.assign(twin=scores.smooth**3, tied=-scores.smooth + 9 * scores.flat * scores.tied),
        "target",
        ["smooth", "twin", "tied"],
        "panel",
        directions,
        n_resamples=20,
    )
    if "(and" in lines[1]:
        assert "agrees equally in every original" in lines[1] and "over the next, tied" in lines[2]


def test_tables_meet_by_model_and_original(scores, tmp_path):
    metrics, target = scores[["model", "original", "smooth"]], scores[["model", "original", "target"]]
    joined, said = join_annotations(metrics, target.sample(frac=1, random_state=0))
    assert len(joined) == 85 and not said
    joined, said = join_annotations(metrics[:60], target[5:])
    assert len(joined) == 55 and said[0].startswith(
        "25 of 80 annotations are of items without a score, first model m00, original 12"
    )
    in_neither = "the first score is of model m00, original 0, the first annotation of model xm00"
    with pytest.raises(InputError, match=f"no reconstruction is in both tables: {in_neither}"):
        join_annotations(metrics, target.assign(model="x" + target.model))


def test_single_answers_become_shares(scores):
    labelled = scores.assign(label=scores.original % 3)
    answers = pd.DataFrame(
        [
            (f"{r.model}/{r.original}", who, r.label if good else -1)
            for r in labelled.itertuples()
            for who, good in (("ann", True), ("bob", r.original % 2), ("cy", False))
        ],
        columns=["item", "annotator", "answer"],
    )
    wide = wide_annotations(answers, labelled)
    assert set(wide["mean"].round(3)) == {0.333, 0.667} and set(wide.majority) == {0, 1} and len(wide) == 85
    joined, said = join_annotations(labelled, answers)
    assert len(joined) == 85 and not said and {"right_1", "right_3"} <= set(joined)


def test_a_report_keeps_every_table_and_escapes_every_text(tmp_path):
    evil = '"><script>alert(1)</script>'
    scores = frame(n_models=6, n_originals=20).rename(columns={"smooth": evil}).assign(label=lambda s: s.original % 4)
    people = {
        f"right_{k}": (np.random.default_rng(k).random(len(scores)) < scores.target).astype(float) for k in range(1, 4)
    }
    found = report(
        scores.assign(**people, target=(scores.target > 0.4).astype(float)),
        "target",
        [evil, "tied"],
        evil,
        {evil: True, "tied": False},
        list(people),
        n_resamples=30,
        n_permutations=20,
    )
    page = found.write(tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text and "http://" not in text.replace("http://www.w3.org", "")
    written = {path.stem for path in (tmp_path / "out" / "tables").glob("*.csv")}
    assert written == {"agreement", "models", "pairs", "ceiling", "soft_pairwise_accuracy", "tie_calibrated_accuracy"}
    table = pd.read_csv(tmp_path / "out" / "tables" / "agreement.csv")
    assert {"sentinel[label]", "sentinel[model]", "sentinel[original]", evil} <= set(table.metric) and set(
        table.facet
    ) == set(FACETS)
    assert "How to read this" in text and all(f'href="tables/{name}.csv"' in text for name in written)
    again = found.write(tmp_path / "again").read_bytes()
    assert again == page.read_bytes()


# The study with real people: 14 attacked classifiers, 600 originals, five annotators


@pytest.fixture(scope="module")
def study():
    if not LABELS.exists():
        pytest.skip("the annotations of the study with real people are not beside the repository")
    scores, annotations = read_human_study(LABELS)
    return scores.merge(annotations.drop(columns="label"), on=["model", "original"])


REAL = list(HUMAN_STUDY_METRICS)
GOLDEN = {
    "flag": {
        "psnr": [0.670, 0.632, 0.473],
        "mse255": [-0.618, -0.621, -0.429],
        "ssim": [0.398, 0.291, 0.341],
        "lpips[squeeze]": [-0.714, -0.795, -0.560],
        "dreamsim": [-0.569, -0.771, -0.451],
    },
    "majority": {
        "psnr": [0.745, 0.659, 0.538],
        "mse255": [-0.710, -0.653, -0.495],
        "ssim": [0.495, 0.315, 0.363],
        "lpips[squeeze]": [-0.820, -0.741, -0.626],
        "dreamsim": [-0.358, -0.611, -0.253],
    },
}


@pytest.mark.parametrize("target", GOLDEN)
def test_study_between_models(study, target):
    table = agreement(study, target, REAL, HUMAN_STUDY_METRICS, level="model", n_resamples=20)
    found = table.pivot(index="metric", columns="coefficient", values="raw")
    for metric, values in GOLDEN[target].items():
        assert found.loc[metric, list(SCIPY)].tolist() == pytest.approx(values, abs=0.00051)


def test_study_between_the_two_human_scores(study):
    means = study.groupby("model")[["flag", "majority"]].mean().round(12)
    assert correlations(means.flag, means.majority).raw[["spearman", "kendall"]].tolist() == pytest.approx(
        [0.864, 0.714], abs=0.00051
    )


def test_study_over_pooled_images(study):
    mean = (
        agreement(study, "mean", REAL, HUMAN_STUDY_METRICS, level="image", n_resamples=5)
        .query("coefficient == 'spearman'")
        .set_index("metric")
        .raw
    )
    observed = study[study.flag_source == "folder"]
    assert len(observed) == 7686
    flag = (
        agreement(observed, "flag", REAL, HUMAN_STUDY_METRICS, level="image", n_resamples=5)
        .query("coefficient == 'auc'")
        .set_index("metric")
        .statistic
    )
    noted = {
        "psnr": (0.200, 0.645),
        "ssim": (0.167, 0.601),
        "lpips[squeeze]": (-0.382, 0.754),
        "dreamsim": (-0.409, 0.760),
    }
    for metric, values in noted.items():
        assert (mean[metric], flag[metric]) == pytest.approx(values, abs=0.00051)


def test_study_within_originals(study):
    undefined = {
        target: agreement(study, target, "psnr", level="original", n_resamples=5)
        .query("coefficient == 'spearman'")
        .undefined.iloc[0]
        for target in ("flag", "majority", "mean")
    }
    assert undefined == {"flag": 51, "majority": 34, "mean": 2}
    auc = (
        agreement(study, "flag", REAL, HUMAN_STUDY_METRICS, level="original", n_resamples=200)
        .query("coefficient == 'auc'")
        .set_index("metric")
    )
    assert (auc.n == 549).all() and ((auc.low < auc.statistic) & (auc.statistic < auc.high)).all()
    assert auc.statistic[["psnr", "lpips[squeeze]", "dreamsim"]].tolist() == pytest.approx(
        [0.785, 0.850, 0.855], abs=0.00051
    )


def test_study_two_facets_are_wide(study):
    table = (
        agreement(study, "flag", ["psnr", "lpips[squeeze]"], level="model", facet="both", n_resamples=4000)
        .query("coefficient == 'spearman'")
        .set_index("metric")
    )
    assert tuple(table.loc["psnr", ["low", "high"]]) == pytest.approx((0.19, 0.89), abs=0.05)
    assert tuple(table.loc["lpips[squeeze]", ["low", "high"]]) == pytest.approx((0.14, 0.95), abs=0.07)


def test_study_sentinels_and_annotators(study):
    observed = study[study.flag_source == "folder"].reset_index(drop=True)
    noted = {
        "sentinel[model]": (observed, group_sentinels(observed, "flag", ["model"]), 0.69),
        "sentinel[label]": (study, group_sentinels(study, "flag", ["label"]), 0.61),
        "sentinel[original]": (study, group_sentinels(study, "mean", ["original"]), 0.68),
    }
    for name, (rows, guess, value) in noted.items():
        known = guess[name].notna()
        assert auc(guess[name][known], rows.flag[known]) == pytest.approx(value, abs=0.006), name
    for k in range(1, 6):
        others = study[[f"right_{other}" for other in range(1, 6) if other != k]].mean(axis=1)
        assert 0.745 <= auc(others, study[f"right_{k}"]) <= 0.855


def test_group_sentinels_leave_the_answer_out(scores):
    scores = scores.assign(label=scores.original.astype("category").cat.codes % 3)
    found = group_sentinels(scores, "target")
    for row in (0, 7, 50):
        own = {"label": "original", "model": "original", "original": "model"}
        for group, left_out in own.items():
            others = scores[(scores[group] == scores[group][row]) & (scores[left_out] != scores[left_out][row])]
            assert found[f"sentinel[{group}]"][row] == pytest.approx(others.target.mean())


def test_few_answers_each_reach_a_report(tmp_path):
    """Most target scores are yes or no, some in between.

    Each of two annotators answers for one reconstruction of each original, for four originals the same one."""
    random = np.random.default_rng(0)
    rows = [
        (f"m{(original + place) % 8}", str(original), "ab"[place])
        for original in range(40)
        for place in (0, 1 if original >= 4 else 0)
    ]
    answers = pd.DataFrame(rows, columns=["model", "original", "annotator"]).assign(
        annotator=["ab"[number % 2] for number in range(len(rows))]
    )
    answers = answers.assign(
        item=answers.model + "/" + answers.original,
        kind="target",
        answer=random.integers(-1, 2, len(rows)),
        time=pd.NaT,
    )
    scores = pd.DataFrame(
        [(f"m{m}", str(o), m, random.normal()) for m in range(8) for o in range(40)],
        columns=["model", "original", "label", "psnr"],
    ).assign(label=1)
    joined, left_out = join_annotations(scores, answers[["item", "annotator", "kind", "answer", "time"]])
    found = report(joined, "mean", ["psnr"], "two made-up annotators", left_out=left_out, n_resamples=50)
    page = found.write(tmp_path)
    assert page.read_text().rstrip().endswith("</html>") and "scores are of items that nobody annotated" in " ".join(
        found.left_out
    )
