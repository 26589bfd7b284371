"""The study with real people, analysed in full: the tables behind the page nbs/results/human_study.

python benchmarks/human_study.py labels.csv
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from semsim.analysis.agreement_figures import metric_matrix
from semsim.analysis.comparison import compare
from semsim.analysis.correlation import group_sentinels
from semsim.analysis.example_figures import recognition_by_bin
from semsim.analysis.intervals import agreement
from semsim.analysis.pairwise_accuracy import models_needed
from semsim.analysis.reporting import join_annotations, report
from semsim.core.files import atomic_path, write_table
from semsim.paper2309.human_study import HUMAN_STUDY_METRICS, model_means, read_human_study

METRICS = list(HUMAN_STUDY_METRICS)
PEOPLE = "five people"
HUMANS = "flag", "majority", "mean"
AUC_LEVELS = "image", "original"
JOINED = "agreement", "pairs", "soft_pairwise_accuracy", "tie_calibrated_accuracy"
LIBRARIES = "semsim", "numpy", "scipy", "pandas", "statsmodels"


def observed_auc(study, settings):
    "AUC of the flag on the rows whose flag was observed, of metrics and image-free baselines; and the comparisons."
    rows = study[study.flag_source == "folder"].reset_index(drop=True)
    guesses = group_sentinels(rows, "flag", ["label", "model", "original"])
    found = []
    for level in AUC_LEVELS:
        for name in (*METRICS, *guesses):
            known = rows.join(guesses).dropna(subset=[name])
            found.append(agreement(known, "flag", name, level=level, facet="all", **settings))
    table = pd.concat(found, ignore_index=True)
    pairs = [
        compare(rows, "flag", METRICS, level=level, coefficient="auc", facet="all", **settings) for level in AUC_LEVELS
    ]
    return table[table.coefficient == "auc"], pd.concat(pairs, ignore_index=True)


def all_reports(study, left_out, settings):
    "The report about each human score; the single people are known only for the mean."
    people = [f"right_{number}" for number in range(1, 6)]
    annotators = dict.fromkeys(HUMANS, ()) | {"mean": people}
    return {
        target: report(study, target, METRICS, PEOPLE, annotators=annotators[target], left_out=left_out, **settings)
        for target in HUMANS
    }


def joined(reports, name):
    "One table of all reports, with a column for the human score, without AUC."
    table = pd.concat([one.tables[name].assign(target=target) for target, one in reports.items()], ignore_index=True)
    return table[table.coefficient != "auc"] if "coefficient" in table else table


def tables_of(scores, annotations, settings):
    "Every table of the page, and the verdict about each human score."
    study, left_out = join_annotations(scores, annotations)
    reports = all_reports(study, left_out, settings)
    auc, auc_pairs = observed_auc(study, settings)
    directions = dict(higher_is_leakier=HUMAN_STUDY_METRICS)
    needed = [models_needed(study, "flag", "lpips[squeeze]", other, **directions) for other in ("psnr", "ssim")]
    by_bin = [recognition_by_bin(study, "mean", name, **directions) for name in ("psnr", "lpips[squeeze]")]
    tables = {name: joined(reports, name) for name in JOINED} | {
        "auc": auc,
        "auc_pairs": auc_pairs,
        "ceiling": reports["mean"].tables["ceiling"],
        "models": model_means(scores, annotations).reset_index(),
        "needed": pd.concat(needed, ignore_index=True),
        "reliability": pd.concat(by_bin, ignore_index=True),
        "matrix": metric_matrix(study, METRICS).rename_axis("metric").reset_index(),
    }
    return tables, {target: one.verdict for target, one in reports.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", help="labels.csv of the study, or a folder with the public pickles")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "nbs/results/human_study")
    parser.add_argument("--resamples", type=int, default=5000)
    asked = parser.parse_args()
    settings = dict(n_resamples=asked.resamples, seed=0)
    directed = settings | dict(higher_is_leakier=HUMAN_STUDY_METRICS)
    tables, verdicts = tables_of(*read_human_study(asked.labels), directed)
    for name, table in tables.items():
        write_table(table, asked.out / f"{name}.csv")
    about = dict(settings=settings, versions={name: version(name) for name in LIBRARIES}, verdicts=verdicts)
    with atomic_path(asked.out / "study.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
