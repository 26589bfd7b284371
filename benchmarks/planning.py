"""How large a study tells two metrics apart, planned from the study with real people: the tables behind the page nbs/results/planning.

python benchmarks/planning.py labels.csv
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from semsim.analysis.comparison import compare
from semsim.analysis.pairwise_accuracy import models_needed
from semsim.analysis.reporting import join_annotations
from semsim.core.files import atomic_path, write_table
from semsim.paper2309.human_study import HUMAN_STUDY_METRICS, read_human_study
from semsim.analysis.power_analysis import power, power_in_words, power_by_resamples

PEOPLE = [f"right_{number}" for number in range(1, 6)]
DIRECTIONS = dict(higher_is_leakier=HUMAN_STUDY_METRICS)  # which way the study's metrics point
PAIRS = (("lpips[squeeze]", "psnr"), ("dreamsim", "lpips[squeeze]"))
FORETOLD = (*PAIRS, ("psnr", "ssim"), ("dreamsim", "psnr"))
LEVELS = "original", "model"
GRID = dict(n_annotators=(1, 2, 3, 5, 10), n_originals=(50, 150, 300, 600, 1200), n_models=(4, 8, 14, 30))
BY_ORIGINALS = dict(facet="originals", n_annotators=(1, 2, 3, 5, 10), n_originals=(50, 150, 300, 600, 1200))


def at_the_measured_size(study, n_studies, seed):
    "What a plan says of the study's own size, beside what the study found, for all pairs of metrics."
    found = []
    for level in LEVELS:
        pairs = compare(
            study, "mean", list(HUMAN_STUDY_METRICS), level=level, facet="both", n_permutations=1, seed=seed,
            **DIRECTIONS,
        )
        for row in pairs.itertuples():
            one = power(study, PEOPLE, row.metric, row.other, level=level, n_studies=n_studies, seed=seed, **DIRECTIONS)
            found.append(one.assign(found_low=row.low, found_high=row.high))
    return pd.concat(found, ignore_index=True)


def foretold(study, n_studies, seed):
    "Five annotators foretold from panels of two and of three, beside five that were simulated, for some pairs of metrics."
    found = []
    for level in LEVELS:
        for metric, other in FORETOLD:
            for known in (2, 3, 5):
                found.append(
                    power(
                        study, PEOPLE, metric, other, level=level, n_originals=(100, 600), n_annotators=5,
                        n_studies=n_studies, seed=seed, known=known, **DIRECTIONS,
                    ).assign(known=known)
                )
    return pd.concat(found, ignore_index=True)


def short_cut(study, n_studies, seed):
    "Two designs decided both ways: by the short cut, and by resamples of each drawn study."
    found = []
    for facet, originals in (("originals", 50), ("both", 200)):
        metrics = PAIRS[0]
        full = power_by_resamples(
            study, PEOPLE, *metrics, facet=facet, originals=originals, n_studies=200, n_resamples=300, seed=seed,
            **DIRECTIONS,
        )
        short = power(
            study, PEOPLE, *metrics, facet=facet, n_originals=originals, n_studies=n_studies, seed=seed,
            **DIRECTIONS,
        ).iloc[0]
        about = dict(
            metric=metrics[0], other=metrics[1], level="original", facet=facet, annotators=5, originals=originals,
            models=14,
        )
        found += [
            about | {"decided by": "short cut"} | {name: short[name] for name in full},
            about | {"decided by": "own resamples"} | full,
        ]
    return pd.DataFrame(found)


def tables_of(study, n_studies, seed):
    "Every table of the page, and what took how long."
    settings, tables, seconds = dict(n_studies=n_studies, seed=seed, **DIRECTIONS), {}, {}

    def timed(name, make):
        start = time.perf_counter()
        tables[name] = make()
        seconds[name] = round(time.perf_counter() - start)

    timed(
        "plans",
        lambda: pd.concat(
            [power(study, PEOPLE, *pair, level=level, **GRID, **settings) for pair in PAIRS for level in LEVELS],
            ignore_index=True,
        ),
    )
    timed(
        "plans_by_originals",
        lambda: pd.concat(
            [
                power(study, PEOPLE, *pair, level=level, **BY_ORIGINALS, **settings)
                for pair in PAIRS
                for level in LEVELS
            ],
            ignore_index=True,
        ),
    )
    timed("measured_size", lambda: at_the_measured_size(study, n_studies, seed))
    timed("foretold", lambda: foretold(study, n_studies, seed))
    timed("short_cut", lambda: short_cut(study, n_studies, seed))
    timed("needed", lambda: models_needed(study, "mean", *PAIRS[0], counts=(4, 8, 14, 30), seed=seed, **DIRECTIONS))
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
    words = {
        " / ".join(about): power_in_words(rows)
        for about, rows in plans.groupby(["metric", "other", "level", "facet"], sort=False)
    }
    about = dict(
        settings=dict(n_studies=asked.studies, seed=0),
        seconds=seconds,
        versions={name: version(name) for name in ("semsim", "numpy", "scipy", "pandas", "statsmodels")},
        words=words,
    )
    with atomic_path(asked.out / "study.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
