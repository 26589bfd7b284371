"""The study with real people, analysed in full: the tables behind the page nbs/results/human_study.

python benchmarks/human_study.py labels.csv
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from semsim.analysis.correlation import group_sentinels
from semsim.analysis.comparison import compare
from semsim.analysis.pairwise_accuracy import models_needed
from semsim.analysis.reporting import join_annotations, report
from semsim.core.files import atomic_path, write_table
from semsim.analysis.agreement_figures import metric_matrix
from semsim.analysis.example_figures import recognition_by_bin
from semsim.paper2309.human_study import HUMAN_STUDY_METRICS, model_means, read_human_study
from semsim.analysis.intervals import agreement

METRICS = list(HUMAN_STUDY_METRICS)
PEOPLE = "five people"
HUMANS = "flag", "majority", "mean"


def observed_auc(study, settings):
    "AUC of the flag on the rows whose flag was observed, of metrics and sentinels; and the comparisons."
    rows = study[study.flag_source == "folder"].reset_index(drop=True)
    guesses = group_sentinels(rows, "flag", ["label", "model", "original"])
    names = [*METRICS, *guesses]
    found = [agreement(rows.join(guesses).dropna(subset=[name]), "flag", name, level=level, facet="all", **settings) for level in ("image", "original") for name in names]
    table = pd.concat(found, ignore_index=True)
    pairs = [compare(rows, "flag", METRICS, level=level, coefficient="auc", facet="all", **settings) for level in ("image", "original")]
    return table[table.coefficient == "auc"], pd.concat(pairs, ignore_index=True)


def tables_of(scores, annotations, settings):
    "Every table of the page."
    study, left_out = join_annotations(scores, annotations)
    people = [f"right_{number}" for number in range(1, 6)]
    found = {target: report(study, target, METRICS, PEOPLE, annotators=people if target == "mean" else (), left_out=left_out, **settings) for target in HUMANS}
    both = {name: pd.concat([one.tables[name].assign(target=target) for target, one in found.items()], ignore_index=True)
            for name in ("agreement", "pairs", "soft_pairwise_accuracy", "tie_calibrated_accuracy")}
    both = {name: table[table.coefficient != "auc"] if "coefficient" in table else table for name, table in both.items()}
    auc, auc_pairs = observed_auc(study, settings)
    needed = [models_needed(study, "flag", "lpips[squeeze]", other) for other in ("psnr", "ssim")]
    return both | {"auc": auc, "auc_pairs": auc_pairs, "ceiling": found["mean"].tables["ceiling"], "models": model_means(scores, annotations).reset_index(),
                   "needed": pd.concat(needed, ignore_index=True), "reliability": pd.concat([recognition_by_bin(study, "mean", name) for name in ("psnr", "lpips[squeeze]")], ignore_index=True),
                   "matrix": metric_matrix(study, METRICS).rename_axis("metric").reset_index()}, {target: one.verdict for target, one in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", help="labels.csv of the study, or a folder with the public pickles")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "nbs/results/human_study")
    parser.add_argument("--resamples", type=int, default=5000)
    asked = parser.parse_args()
    settings = dict(n_resamples=asked.resamples, seed=0)
    tables, verdicts = tables_of(*read_human_study(asked.labels), settings)
    for name, table in tables.items():
        write_table(table, asked.out / f"{name}.csv")
    about = dict(settings=settings, versions={name: version(name) for name in ("semsim", "numpy", "scipy", "pandas", "statsmodels")}, verdicts=verdicts)
    with atomic_path(asked.out / "study.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
