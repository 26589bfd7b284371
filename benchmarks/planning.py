"""The power of planned studies, from the study with real people: the tables behind the page nbs/results/planning.

python benchmarks/planning.py labels.csv
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from semsim.analysis.comparison import compare
from semsim.analysis.frames import checked_rows
from semsim.analysis.power_analysis import (
    _checked,
    _check_sizes,
    _drawn,
    _measured,
    _panel_means,
    panels,
    power,
    power_in_words,
    written_out,
)
from semsim.analysis.reporting import join_annotations
from semsim.analysis.resampling import draws, interval, resample, smooth
from semsim.core.files import atomic_path, write_table
from semsim.core.statistics import wilson_interval
from semsim.paper2309.human_study import HUMAN_STUDY_METRICS, read_human_study

PEOPLE = [f"right_{number}" for number in range(1, 6)]
DIRECTIONS = dict(higher_is_leakier=HUMAN_STUDY_METRICS)  # which way the study's metrics point
PAIRS = (("lpips[squeeze]", "psnr"), ("dreamsim", "lpips[squeeze]"))
FORETOLD = (*PAIRS, ("psnr", "ssim"), ("dreamsim", "psnr"))
LEVELS = "original", "model"
GRID = dict(n_annotators=(1, 2, 3, 5, 10), n_originals=(50, 150, 300, 600, 1200), n_models=(4, 8, 14, 30))
BY_ORIGINALS = dict(facet="originals", n_annotators=(1, 2, 3, 5, 10), n_originals=(50, 150, 300, 600, 1200))


def power_by_resamples(
    scores,
    annotators,
    metric,
    other,
    higher_is_leakier=None,
    level="original",
    coefficient="spearman",
    facet="both",
    k=None,
    originals=None,
    models=None,
    n_studies=200,
    n_resamples=500,
    seed=0,
):
    """The power of one design, each drawn study deciding by the interval of its own resamples.

    The full computation that `power` approximates. A dictionary: `power` with Wilson's `low` and `high`, `wrong`,
    the mean `half_width` of the intervals, `undefined`, `studies`.
    """
    complete, rows = _checked(scores, annotators, [metric, other], higher_is_leakier, level, coefficient, facet)
    originals, models = originals or len(rows.originals), models or len(rows.models)
    _check_sizes(rows, level, facet, [originals], [models])
    targets = _panel_means(complete, panels(annotators, k or len(annotators), seed))
    drawn = _drawn(rows, facet, originals, models, n_studies, seed)
    again = draws(originals, models, facet, n_resamples, seed)
    ends = []
    for number in range(n_studies):
        often = [which[:, number if which.shape[1] > 1 else 0] for which in drawn[:2]]
        study = written_out(rows, targets[number % len(targets)], *often)
        ends.append(own_interval(study, rows.metrics, level, coefficient, again))
    lows, highs = np.array(ends).T
    return decided(lows, highs, 1 if _measured(rows, level, coefficient) >= 0 else -1)


def own_interval(study, metrics, level, coefficient, again):
    "The interval of a written-out study, from its own resamples: that of `compare`, without its tests."
    rows = checked_rows(study, "target", metrics, dict.fromkeys(metrics, True))
    leads = resample(rows, level, [coefficient], again, ([0], [1]))[coefficient][0]
    found = interval(leads, again, bca=smooth(level, coefficient))
    return found["low"], found["high"]


def decided(lows, highs, sign):
    "What a number of intervals found."
    right, wrong = (lows > 0, highs < 0)[::sign]
    low, high = wilson_interval(int(right.sum()), len(lows))
    half_width, undefined = np.nanmean(highs - lows) / 2, int(np.isnan(lows).sum())
    found = dict(power=right.mean(), low=low, high=high, wrong=wrong.mean(), half_width=half_width)
    return found | dict(undefined=undefined, studies=len(lows))


def at_the_measured_size(study, n_studies, seed):
    "The power at the study's own size, beside what the study found, for all pairs of metrics."
    found = []
    for level in LEVELS:
        settings = dict(level=level, facet="both", n_permutations=1, seed=seed, **DIRECTIONS)
        pairs = compare(study, "mean", list(HUMAN_STUDY_METRICS), **settings)
        for row in pairs.itertuples():
            one = power(study, PEOPLE, row.metric, row.other, level=level, n_studies=n_studies, seed=seed, **DIRECTIONS)
            found.append(one.assign(found_low=row.low, found_high=row.high))
    return pd.concat(found, ignore_index=True)


def foretold(study, n_studies, seed):
    "Five annotators extrapolated from panels of two and of three, beside five that were simulated."
    settings = dict(n_originals=(100, 600), n_annotators=5, n_studies=n_studies, seed=seed, **DIRECTIONS)
    found = []
    for level in LEVELS:
        for metric, other in FORETOLD:
            for known in (2, 3, 5):
                table = power(study, PEOPLE, metric, other, level=level, known=known, **settings)
                found.append(table.assign(known=known))
    return pd.concat(found, ignore_index=True)


def short_cut(study, n_studies, seed):
    "Two designs decided both ways: by the approximation of `power`, and by resamples of each drawn study."
    found, metrics = [], PAIRS[0]
    for facet, originals in (("originals", 50), ("both", 200)):
        resamples = dict(originals=originals, n_studies=200, n_resamples=300, **DIRECTIONS)
        full = power_by_resamples(study, PEOPLE, *metrics, facet=facet, seed=seed, **resamples)
        size = dict(n_originals=originals, n_studies=n_studies, seed=seed, **DIRECTIONS)
        table = power(study, PEOPLE, *metrics, facet=facet, **size)
        short = {name: table.iloc[0][name] for name in full}
        about = dict(metric=metrics[0], other=metrics[1], level="original", facet=facet)
        about |= dict(annotators=5, originals=originals, models=14)
        found.append(about | {"decided by": "short cut"} | short)
        found.append(about | {"decided by": "own resamples"} | full)
    return pd.DataFrame(found)


def tables_of(study, n_studies, seed):
    "Every table of the page, and what took how long."
    settings, tables, seconds = dict(n_studies=n_studies, seed=seed, **DIRECTIONS), {}, {}

    def timed(name, make):
        start = time.perf_counter()
        tables[name] = make()
        seconds[name] = round(time.perf_counter() - start)

    def for_all_pairs(designs):
        designs = designs | settings
        found = [power(study, PEOPLE, *pair, level=level, **designs) for pair in PAIRS for level in LEVELS]
        return pd.concat(found, ignore_index=True)

    timed("plans", lambda: for_all_pairs(GRID))
    timed("plans_by_originals", lambda: for_all_pairs(BY_ORIGINALS))
    timed("measured_size", lambda: at_the_measured_size(study, n_studies, seed))
    timed("foretold", lambda: foretold(study, n_studies, seed))
    timed("short_cut", lambda: short_cut(study, n_studies, seed))
    return tables, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", help="labels.csv of the study, or a folder with the public pickles")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "nbs/results/planning")
    parser.add_argument("--studies", type=int, default=1000)
    asked = parser.parse_args()
    study, _ = join_annotations(*read_human_study(asked.labels))
    tables, seconds = tables_of(study, asked.studies, seed=0)
    for name, table in tables.items():
        write_table(table, asked.out / f"{name}.csv")
    plans = pd.concat([tables["plans"], tables["plans_by_originals"]])
    designs = plans.groupby(["metric", "other", "level", "facet"], sort=False)
    words = {" / ".join(about): power_in_words(rows) for about, rows in designs}
    versions = {name: version(name) for name in ("semsim", "numpy", "scipy", "pandas", "statsmodels")}
    settings = dict(n_studies=asked.studies, seed=0)
    about = dict(settings=settings, seconds=seconds, versions=versions, words=words)
    with atomic_path(asked.out / "study.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
