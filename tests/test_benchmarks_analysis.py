"""The scripts that count how often intervals contain the truth, and that time the analysis, in small."""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from semsim.analysis.comparison import compare
from semsim.analysis.resampling import FACETS
from semsim.analysis.intervals import agreement

ROOT = Path(__file__).resolve().parents[1]
SETTING = (8, 20)  # models, originals


@pytest.fixture(scope="module")
def coverage():
    "The script as a module, by its path: a package of that name exists."
    sys.path.append(str(ROOT / "benchmarks"))  # the scripts import each other by name
    spec = spec_from_file_location("benchmark_of_coverage", ROOT / "benchmarks" / "coverage.py")
    sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look it up
    spec.loader.exec_module(sys.modules[spec.name])
    yield sys.modules.pop(spec.name)
    sys.path.remove(str(ROOT / "benchmarks"))


def run(script, *options):
    command = [sys.executable, ROOT / "benchmarks" / script, "--tiny", *options]
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def same_fields(small, stored):
    assert list(small) == list(stored)
    assert {name: list(value) for name, value in small.items() if isinstance(value, dict)} == {
        name: list(value) for name, value in stored.items() if isinstance(value, dict)
    }


def test_coverage_is_counted_once_and_goes_on_after_a_break(coverage, tmp_path):
    run("coverage.py", "--scratch", tmp_path, "--into", tmp_path)
    small, stored = (json.loads((folder / "coverage.json").read_text()) for folder in (tmp_path, ROOT / "benchmarks"))
    same_fields(small, stored)
    assert list(small["rows"][0]) == list(stored["rows"][0])
    names = "facet", "level", "coefficient", "quantity", "use", "method"
    assert {tuple(row[name] for name in names) for row in small["rows"]} == {
        tuple(row[name] for name in names) for row in stored["rows"]
    }
    path = tmp_path / "coverage.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-2], lines[-2][:50]]))  # the last two lines lost, one of them in the middle
    results = coverage.work(coverage.TINY, path, 1)
    assert coverage.summary(results, coverage.TINY) == small["rows"]
    after = [line for line in path.read_text().splitlines() if line]
    assert sorted(after) == sorted([*lines, lines[-2][:50]])


def test_stored_coverage_has_enough_studies_and_a_sharp_truth(coverage):
    stored = json.loads((ROOT / "benchmarks" / "coverage.json").read_text())
    assert {row["models"] for row in stored["rows"]} == {8, 14, 30, 60} and {
        row["facet"] for row in stored["rows"]
    } == set(FACETS)
    assert (
        min(row["studies"] for row in stored["rows"]) >= 400 and max(row["truth_se"] for row in stored["rows"]) < 0.002
    )
    assert (
        stored["votes"] == coverage.VOTES
        and stored["metrics"] == coverage.METRICS
        and stored["alike"] == coverage.ALIKE
    )


@pytest.mark.parametrize("facet", FACETS)
def test_intervals_are_those_that_users_get(coverage, facet):
    scores, ours = coverage.draw_study(facet, SETTING, 3, 2), coverage.study(facet, SETTING, 3, 2, 99)
    about = dict(
        scores=scores, metrics=["A", "B"], higher_is_leakier={"A": True, "B": True}, facet=facet, n_resamples=99, seed=3
    )
    found = {
        target: agreement(target=target, **about).set_index(["level", "coefficient", "metric"])[
            ["statistic", "low", "high"]
        ]
        for target in ("mean", "majority")
    }
    for row, (level, name) in zip(ours, coverage.ESTIMANDS):
        target, given = (
            "majority" if name == "auc" else "mean",
            [0, 3, 4] if coverage.methods(facet, level, name)[0] == "BCa" else [0, 1, 2],
        )
        for quantity in (0, 1):
            np.testing.assert_allclose(row[quantity, given], found[target].loc[level, name, "AB"[quantity]], atol=1e-12)
        lead = compare(target=target, level=level, coefficient=name, n_permutations=1, **about).iloc[0]
        sides = (
            [lead.statistic, lead.low, lead.high] if lead.metric == "A" else [-lead.statistic, -lead.high, -lead.low]
        )
        np.testing.assert_allclose(row[2, given], sides, atol=1e-12)


def test_the_truth_is_scipys_and_the_textbooks(coverage):
    rng = np.random.default_rng(0)
    values, votes = coverage.cells(coverage.normals(9, rng), coverage.normals(7, rng), rng)
    found = coverage.coefficients(values["A"], votes)
    for row in range(7):
        x, y, yes = values["A"][row], votes[row], votes[row] > 2
        for name, function in dict(spearman=stats.spearmanr, pearson=stats.pearsonr, kendall=stats.kendalltau).items():
            np.testing.assert_allclose(found[name][row], function(x, y).statistic if np.ptp(y) else np.nan, atol=1e-6)
        both = yes.any() and not yes.all()
        np.testing.assert_allclose(
            found["auc"][row],
            stats.mannwhitneyu(x[yes], x[~yes]).statistic / yes.sum() / (~yes).sum() if both else np.nan,
            atol=1e-12,
        )
    models = coverage.spread_normals(14, rng)
    means, share = coverage.expected(models)
    part = coverage.METRICS["A"]
    r = part["leak"] / np.hypot(
        part["leak"], part["model"]
    )  # the share grows with the leak alone, so ranks are those of two normal variables
    np.testing.assert_allclose(coverage.between(means["A"], share)["spearman"], 6 / np.pi * np.arcsin(r / 2), atol=2e-3)
    logits = (
        coverage.VOTES["centre"]
        + coverage.VOTES["leak"] * models[0, 0]
        + np.hypot(coverage.VOTES["ease"], coverage.VOTES["own"]) * rng.standard_normal(10**6)
    )
    np.testing.assert_allclose(share[0], (1 / (1 + np.exp(-logits))).mean(), atol=2e-3)


def test_an_end_that_equals_the_truth_contains_it(coverage):
    found = coverage.counted(np.zeros(4), np.array([0, 0.1, -1, np.nan]), np.array([1, 1, -0.1, np.nan]), np.zeros(4))
    assert (found["coverage"], found["truth_below"], found["truth_above"], found["undefined"]) == (
        0.25,
        0.25,
        0.25,
        0.25,
    )


def test_the_loop_over_scipy_finds_the_same_values(tmp_path):
    run("analysis.py", "--into", tmp_path)
    small, stored = (json.loads((folder / "analysis.json").read_text()) for folder in (tmp_path, ROOT / "benchmarks"))
    same_fields(small, stored)
    assert max(small["largest_difference"], stored["largest_difference"]) < 1e-9
