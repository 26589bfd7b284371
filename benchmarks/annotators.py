"""Agreement of five people, rules that combine their answers, and machines compared with them.

Writes the tables behind the page nbs/results/annotators.

python benchmarks/annotators.py labels.csv clip_zero_shot.csv
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from semsim.annotate.annotator_agreement import (
    JUDGEMENTS,
    annotator_agreement,
    answer_shares,
    judgements,
    pairwise_agreement,
)
from semsim.annotate.consensus import against, against_others, aggregate, compare_rules, dawid_skene
from semsim.core.errors import InputError
from semsim.core.files import atomic_path, write_table
from semsim.paper2309.human_study import HUMAN_STUDY_MODELS, read_human_study, study_answers

RULES = "mean", "majority", *[f"at_least_{k}" for k in range(1, 6)], "dawid_skene"


def read_machines(path, labels):
    "Zero-shot answers of each network about each reconstruction and its original, as two tables of answers."
    table = pd.read_csv(path)
    names = dict(enumerate(HUMAN_STUDY_MODELS, 1))
    item = table.model_idx.map(names) + "/" + table.image_id.astype(str)
    same_items = set(item) == set(labels.index) and not item.duplicated().any()
    if not same_items or (table.gt_label.to_numpy() != labels[item].to_numpy()).any():
        raise InputError(f"{path}: its rows are not those of the study")
    networks = [column.removesuffix("_rec_label") for column in table if column.endswith("_rec_label")]

    def answers_about(part):
        rows = []
        for name in networks:
            about = {"item": item, "annotator": name, "kind": "machine", "answer": table[f"{name}_{part}_label"]}
            rows.append(pd.DataFrame(about | {"time": pd.NaT, "confidence": table[f"{name}_{part}_prob"]}))
        return pd.concat(rows, ignore_index=True)

    originals = answers_about("orig")  # the same for every model
    return answers_about("rec"), originals[originals["item"].str.startswith(names[1] + "/")]


def named_consensus(answers, labels):
    "P(the class on which the annotators agree is the true one), by Dawid and Skene with all classes and -1; steps."
    learned = dawid_skene(judgements(answers, labels, "class"))
    place = learned.posterior.columns.get_indexer(labels[learned.posterior.index].astype(float))
    value = np.where(place < 0, 0, learned.posterior.to_numpy()[np.arange(len(place)), place])
    return pd.Series(value, learned.posterior.index), learned.steps


def by_model(table):
    "Means over the items of each model."
    return table.groupby(table.index.str.rsplit("/", n=1).str[0]).mean()


def machine_tables(answers, labels, machines, on_originals, mean, flag, observed, settings):
    "How far machines agree with people, the shares of their answers, and all shares in each model."
    faced = [
        against(machines, labels, mean, **settings).assign(score="five people (mean)"),
        against(machines, labels, flag, **settings).query("level == 'model'").assign(score="flag"),
        against(machines, labels, observed, **settings).query("level == 'image'").assign(score="flag"),
    ]
    shares = [
        answer_shares(machines, labels, **settings).assign(images="reconstructions"),
        answer_shares(on_originals, labels, **settings).assign(images="originals"),
    ]
    rights = pd.concat([judgements(answers, labels), judgements(machines, labels)], axis=1)
    models = by_model(rights).assign(mean=by_model(mean), flag=by_model(flag))
    return {
        "machines": pd.concat(faced, ignore_index=True),
        "machine_shares": pd.concat(shares, ignore_index=True),
        "models": models.rename_axis("model").reset_index(),
    }


def tables_of(annotations, clip, settings):
    "Every table of the page, and a few numbers beside them."
    answers, labels = study_answers(annotations)
    rights = judgements(answers, labels)
    machines, on_originals = read_machines(clip, labels)
    flag = pd.Series(annotations.flag.to_numpy(), labels.index)
    observed = flag[(annotations.flag_source == "folder").to_numpy()]
    learned = dawid_skene(rights)
    by_class, class_steps = named_consensus(answers, labels)
    scores = {rule: aggregate(answers, labels, rule) for rule in RULES} | {"dawid_skene, all classes": by_class}
    pairs = [pairwise_agreement(answers, labels, question, **settings) for question in JUDGEMENTS]
    counts = rights.sum(axis=1).astype(int).value_counts().sort_index()
    reliability = learned.reliability[1.0].unstack()
    reliability.columns = ["right_where_not", "right_where_recognisable"]
    tables = {
        "agreement": annotator_agreement(answers, labels, **settings),
        "pairs": pd.concat(pairs, ignore_index=True),
        "shares": answer_shares(answers, labels, **settings),
        "counts": counts.rename_axis("right").rename("reconstructions").reset_index(),
        "rules": compare_rules(scores, observed, **settings),
        "reliability": reliability.reset_index(),
        "people": against_others(answers, labels, **settings),
    }
    tables |= machine_tables(answers, labels, machines, on_originals, scores["mean"], flag, observed, settings)
    same = float(((scores["dawid_skene"] > 0.5) == (scores["majority"] > 0.5)).mean())
    about = dict(
        reconstructions=len(rights),
        originals=int(annotations.original.nunique()),
        answers=len(answers),
        right=float(rights.to_numpy().mean()),
        prevalence=float(learned.prevalence[1.0]),
        steps=learned.steps,
        class_steps=class_steps,
        dawid_skene_is_majority=same,
    )
    return tables, about


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", help="labels.csv of the study, or a folder with the public pickles")
    parser.add_argument("clip", help="clip_zero_shot.csv: what eight CLIP models answer for the same images")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "nbs/results/annotators")
    parser.add_argument("--resamples", type=int, default=2000)
    asked = parser.parse_args()
    settings = dict(n_resamples=asked.resamples, seed=0)
    tables, about = tables_of(read_human_study(asked.labels)[1], asked.clip, settings)
    for name, table in tables.items():
        write_table(table, asked.out / f"{name}.csv")
    study = dict(
        settings=settings, versions={name: version(name) for name in ("semsim", "numpy", "scipy", "pandas")}, **about
    )
    with atomic_path(asked.out / "study.json") as temporary:
        temporary.write_text(json.dumps(study, indent=1))


if __name__ == "__main__":
    main()
