"""The exported consensus against statsmodels, krippendorff, scikit-learn and crowd-kit, against studies that are really
drawn again, and on the study with real people.
"""

from pathlib import Path

import krippendorff
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from semsim.analysis.reporting import wide_annotations
from semsim.annotate.annotator_agreement import (
    JUDGEMENTS,
    _resampled,
    agreement_coefficients,
    annotator_agreement,
    answer_shares,
    judgements,
    pairwise_agreement,
)
from semsim.annotate.consensus import against, against_others, aggregate, aggregate_rights, compare_rules, dawid_skene
from semsim.core.errors import InputError
from semsim.paper2309.human_study import read_human_study, study_answers

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "human_study"


def study(seed=0, models=5, originals=12, annotators=4, classes=6, gaps=0.0):
    "Random answers (nobody gave them), some missing; and the labels."
    rng = np.random.default_rng(seed)
    items = [f"m{m}/{o}" for m in range(models) for o in range(originals)]
    labels = pd.Series(rng.integers(classes, size=len(items)), items)
    rows = []
    for k in range(annotators):
        answer = np.where(rng.random(len(items)) < 0.3 + 0.1 * k, labels, rng.integers(-1, classes, len(items)))
        rows.append(
            pd.DataFrame(
                {
                    "item": items,
                    "annotator": f"p{k}",
                    "kind": "machine",
                    "answer": answer,
                    "time": pd.NaT,
                    "confidence": rng.random(len(items)).round(1),
                }
            )
        )
    answers = pd.concat(rows, ignore_index=True)
    return answers[rng.random(len(answers)) >= gaps].reset_index(drop=True), labels


def drawn_again(answers, labels, times):
    "The study in which each original comes as often as it was drawn, its copies under names of their own."
    parts = [
        answers.assign(item=answers["item"] + f"c{copy}")[
            answers["item"].map(lambda item: times[item.split("/")[1]] > copy)
        ]
        for copy in range(int(max(times.values())))
    ]
    return pd.concat(parts, ignore_index=True), {
        f"{item}c{copy}": label for item, label in labels.items() for copy in range(int(max(times.values())))
    }


# Coefficients


@pytest.mark.parametrize("gaps", [0, 0.4])
@pytest.mark.parametrize("question", JUDGEMENTS)
def test_coefficients_are_those_of_the_packages(question, gaps):
    table = judgements(*study(seed=1, gaps=gaps), question)
    found = agreement_coefficients(table)
    assert found.krippendorff == pytest.approx(
        krippendorff.alpha(table.to_numpy().T, level_of_measurement="nominal"), abs=1e-9
    )
    if gaps:
        assert np.isnan(found.fleiss)
    else:
        assert found.fleiss == pytest.approx(fleiss_kappa(aggregate_raters(table.to_numpy(int))[0]), abs=1e-9)


def test_fleiss_needs_equally_many_answers_not_the_same_annotators():
    answers, labels = study()
    place = answers["item"].map({item: number for number, item in enumerate(labels.index)})
    latin = answers[(place + answers.annotator.str[1:].astype(int)) % 4 < 2]
    table = judgements(latin, labels, "class")
    pairs = np.array([row[~np.isnan(row)] for row in table.to_numpy()], int)
    assert agreement_coefficients(table).fleiss == pytest.approx(fleiss_kappa(aggregate_raters(pairs)[0]), abs=1e-9)
    assert agreement_coefficients(table).agreement == pytest.approx((pairs[:, 0] == pairs[:, 1]).mean())


def test_intervals_are_those_of_studies_really_drawn_again():
    "Each resample as a weighted sum is the study with its originals repeated; seeds repeat, and order does not matter."
    answers, labels = study(seed=2, gaps=0.2)
    table = judgements(answers, labels, "class")
    number, times = _resampled(table.index, 8, seed=7)
    originals = sorted({item.split("/")[1] for item in table.index})
    values, pairs = [], []
    for column in times.T[1:]:
        again, again_labels = drawn_again(answers, labels, dict(zip(originals, column)))
        values.append(agreement_coefficients(judgements(again, again_labels, "class")))
        both = judgements(again, again_labels, "class")[["p0", "p3"]].dropna()
        pairs.append(cohen_kappa_score(both.p0, both.p3))
    found = (
        annotator_agreement(answers.sample(frac=1, random_state=0), labels, n_resamples=8, seed=7)
        .query("question == 'class'")
        .set_index("coefficient")
    )
    for name in ("agreement", "krippendorff"):
        assert found.loc[name, ["low", "high"]].tolist() == pytest.approx(
            np.quantile([one[name] for one in values], [0.025, 0.975]).tolist(), abs=1e-12
        )
    pair = (
        pairwise_agreement(answers, labels, "class", n_resamples=8, seed=7)
        .query("coefficient == 'kappa' and first == 'p0' and second == 'p3'")
        .iloc[0]
    )
    assert [pair.low, pair.high] == pytest.approx(np.quantile(pairs, [0.025, 0.975]).tolist(), abs=1e-12)


def test_undefined_is_nan_with_its_reason():
    answers, labels = study()
    alike = (
        annotator_agreement(answers.assign(answer=-1), labels, n_resamples=5)
        .query("question == 'class'")
        .set_index("coefficient")
    )
    assert (
        alike.statistic.agreement == 1
        and alike.statistic[["fleiss", "krippendorff"]].isna().all()
        and set(alike.note[1:]) == {"every answer is the same"}
    )
    one_item = answers[(answers.annotator != "p0") | (answers["item"] == "m0/3")]
    shares = answer_shares(one_item, labels, n_resamples=5).set_index("annotator").loc["p0"]
    assert (
        set(shares.statistic) == {0, 1}
        and shares.low.isna().all()
        and set(shares.note) == {"1 original: no interval below 3"}
    )
    pairs = pairwise_agreement(
        one_item[(one_item.annotator != "p1") | (one_item["item"] == "m0/4")], labels, n_resamples=5
    ).set_index(["first", "second"])
    assert pairs.loc[("p0", "p1"), "statistic"].isna().all() and set(pairs.loc[("p0", "p1"), "note"]) == {
        "no item in common"
    }


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda answers, labels: annotator_agreement(answers[answers.annotator == "p0"], labels),
            "1 annotator: agreement needs at least 2",
        ),
        (
            lambda answers, labels: annotator_agreement(answers.drop_duplicates("item"), labels),
            "1 annotator|no item was answered by two annotators",
        ),
        (lambda answers, labels: aggregate(answers, labels.drop("m1/3")), "no label for item 'm1/3'"),
        (lambda answers, labels: aggregate(answers, labels, "average"), "unknown rule 'average'"),
        (lambda answers, labels: aggregate(answers, labels, "at_least_5"), "'at_least_5': K must lie between 1 and 4"),
        (lambda answers, labels: aggregate(answers, labels, "at_least_0"), "'at_least_0': K must lie"),
        (
            lambda answers, labels: aggregate(answers[answers.annotator < "p2"], labels, "dawid_skene"),
            "2 annotators: 'dawid_skene' needs at least 3",
        ),
        (
            lambda answers, labels: aggregate(
                answers.assign(kind=np.where(answers.annotator == "p0", "human", "machine")), labels
            ),
            "people and of machines in one table",
        ),
        (lambda answers, labels: aggregate(answers.drop(columns="kind"), labels), "no column 'kind'"),
        (
            lambda answers, labels: judgements(answers, pd.concat([labels, labels[:1]])),
            "item 'm0/0' has more than one label",
        ),
        (
            lambda answers, labels: against_others(answers[answers.annotator < "p2"], labels),
            "2 annotators: one against the others needs at least 3",
        ),
        (
            lambda answers, labels: against(answers.assign(confidence=np.nan), labels, aggregate(answers, labels)),
            "'p0' has no confidence for item 'm0/0'",
        ),
        (
            lambda answers, labels: compare_rules({"mean": aggregate(answers, labels)}, aggregate(answers, labels)),
            "the target must be 1",
        ),
    ],
)
def test_faults_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*study())


# Rules

ANSWERS = (
    "0002 1.00 2222 1111 0200 0002 00.0 0000 11.1 0100 1022 1111 .000 1111 1210 2220 ..20 1101 1110 0200 00.2 2220 "
    "0000 0000 1220 0111 0000 1121 "
    "0001 1112 0010 0011 1120 2222 0000 1111"
).split()
CROWD_KIT = [
    0.000989,
    1,
    1,
    1,
    0.019159,
    0.000989,
    0.002322,
    0.000312,
    1,
    0.019159,
    1,
    1,
    0.007058,
    1,
    1,
    1,
    0.786106,
    1,
    1,
    0.019159,
    0.007326,
    1,
    0.000312,
    0.000312,
    1,
    0.706086,
    0.000312,
    1,
    0.000989,
    1,
    0.011963,
    0.036969,
    1,
    1,
    0.000312,
    1,
]  # crowd-kit 1.4.2, DawidSkene(n_iter=5000, tol=1e-15): P(1) with 2 counted as 1
CROWD_KIT_PREVALENCE = {
    2: [0.455004619285124, 0.5449953807148762],
    3: [0.45771854, 0.3239857, 0.21829576],
}  # 3: n_iter=300, tol=-1e9


def test_dawid_skene_is_that_of_crowd_kit():
    given = pd.DataFrame([[np.nan if one == "." else float(one) for one in item] for item in ANSWERS])
    found, three = dawid_skene(given.clip(upper=1), tolerance=1e-15), dawid_skene(given, tolerance=1e-15)
    assert found.prevalence.tolist() == pytest.approx(CROWD_KIT_PREVALENCE[2], abs=1e-5)
    assert found.posterior[1.0].tolist() == pytest.approx(CROWD_KIT, abs=2e-5)
    assert three.prevalence.tolist() == pytest.approx(CROWD_KIT_PREVALENCE[3], abs=1e-5)
    assert three.posterior.iloc[1].tolist() == pytest.approx([0.461695, 0.538305, 0], abs=1e-4)
    assert np.allclose(found.reliability.sum(axis=1), 1) and np.allclose(found.posterior.sum(axis=1), 1)


def test_dawid_skene_climbs_and_says_when_it_does_not_settle():
    codes = judgements(*study(gaps=0.3), "class")
    with pytest.warns(UserWarning, match="has not settled after 3 steps"):
        short = dawid_skene(codes, max_steps=3)
    assert dawid_skene(codes).log_likelihood > short.log_likelihood


def test_rules_leave_open_what_they_cannot_judge():
    rights = pd.DataFrame([[1, 1, 1, 1], [1, 1, 0, 0], [1, np.nan, np.nan, np.nan], [np.nan] * 4])
    found = pd.DataFrame(
        {
            rule: aggregate_rights(rights, rule)
            for rule in ("mean", "majority", "at_least_1", "at_least_2", "at_least_4", "dawid_skene")
        }
    )
    assert found.iloc[3].isna().all() and found.majority.tolist()[:3] == [1, 0, 1]
    assert found.loc[2, ["at_least_2", "at_least_4"]].isna().all() and found.loc[
        1, ["at_least_2", "at_least_4"]
    ].tolist() == [1, 0]
    assert aggregate_rights(rights[3:], "dawid_skene").isna().all()


def test_wide_annotations_hold_every_rule():
    answers, labels = study(gaps=0.2)
    model, original = zip(*(item.split("/") for item in labels.index))
    scores = pd.DataFrame({"model": model, "original": original, "label": labels.to_numpy()})
    wide = wide_annotations(answers, scores)
    wide = wide.set_index(wide.model + "/" + wide.original)
    for rule in ("mean", "majority", "at_least_2", "at_least_3", "at_least_4", "dawid_skene"):
        expected = aggregate(answers, labels, rule)
        pd.testing.assert_series_equal(wide.loc[expected.index, rule], expected, check_names=False)
    unlabelled = (
        wide_annotations(answers, scores[5:])
        .query("model == 'm0' and original == '0'")
        .filter(regex="mean|majority|at_least|dawid")
    )
    assert unlabelled.isna().all(axis=None)


# Machines and people


def test_against_is_what_the_packages_say():
    answers, labels = study(seed=4, models=6)
    others, own = answers[answers.annotator != "p0"], answers[answers.annotator == "p0"]
    score = aggregate(others.drop(columns="confidence"), labels)
    found = against(own, labels, score, n_resamples=50).set_index(["coefficient", "facet"]).statistic
    right, confidence = judgements(own, labels).p0.reindex(score.index), own.set_index("item").confidence[score.index]
    expected = {
        "agreement": (right == (score > 0.5)).mean(),
        "kappa": cohen_kappa_score(right, score > 0.5),
        "auc": roc_auc_score(score > 0.5, right),
        "auc_confidence": roc_auc_score(score > 0.5, confidence),
        "r": np.corrcoef(right, score)[0, 1],
    }
    for name, value in expected.items():
        assert found[name, "originals"] == pytest.approx(value, abs=1e-12), name
    means = pd.DataFrame({"right": right, "score": score}).groupby(score.index.str.split("/").str[0]).mean().round(12)
    assert (
        found["rho", "both"]
        == found["rho", "originals"]
        == pytest.approx(stats.spearmanr(means.right, means.score).statistic, abs=1e-12)
    )


def test_few_models_have_no_correlation():
    answers, labels = study(models=3)
    rho = against_others(answers.drop(columns="confidence"), labels, n_resamples=5).query("level == 'model'")
    assert rho.statistic.isna().all() and set(rho.note) == {"3 models: a correlation between models needs at least 4"}


# The real study


@pytest.fixture(scope="module")
def real():
    if not (SHARED / "labels.csv").is_file():
        pytest.skip("the human study (shared/data/human_study/labels.csv) is not beside the repository")
    annotations = read_human_study(SHARED / "labels.csv")[1]
    return annotations, *study_answers(annotations)


def test_real_agreement(real):
    annotations, answers, labels = real
    found = annotator_agreement(answers, labels, n_resamples=50).set_index(["question", "coefficient"])
    assert (
        found.statistic["right"]["fleiss"].round(3) == 0.374 and found.statistic["unknown"]["fleiss"].round(3) == 0.417
    )
    for question in ("right", "unknown"):
        table = judgements(answers, labels, question).to_numpy()
        assert found.statistic[question, "fleiss"] == pytest.approx(
            fleiss_kappa(aggregate_raters(table.astype(int))[0]), abs=1e-9
        )
        assert found.statistic[question, "krippendorff"] == pytest.approx(
            krippendorff.alpha(table.T, level_of_measurement="nominal"), abs=1e-9
        )
    one_model = judgements(answers[answers["item"].str.startswith("ConvNet none/")], labels, "class")
    assert agreement_coefficients(one_model).krippendorff == pytest.approx(
        krippendorff.alpha(one_model.to_numpy().T, level_of_measurement="nominal"), abs=1e-9
    )
    assert ((found.low < found.statistic) & (found.statistic < found.high)).all() and (
        found.high - found.low
    ).max() < 0.05
    pairs = pairwise_agreement(answers, labels, n_resamples=2).query("coefficient == 'agreement'").statistic
    assert (pairs.min().round(2), pairs.max().round(2), len(pairs)) == (0.56, 0.77, 10)


def test_real_annotators(real):
    _, answers, labels = real
    shares = answer_shares(answers, labels, n_resamples=2).pivot(index="annotator", columns="said", values="statistic")[
        ["right", "unknown", "wrong"]
    ]
    expected = [[37.9, 50.7, 11.3], [70.7, 18.9, 10.5], [49.6, 42.8, 7.6], [59.8, 35.5, 4.7], [52.2, 46.4, 1.3]]
    assert np.abs(100 * shares.to_numpy() - expected).max() < 0.0501
    rights = judgements(answers, labels)
    assert round(rights.to_numpy().mean(), 4) == 0.5405
    assert rights.sum(axis=1).value_counts().sort_index().tolist() == [1303, 1298, 1143, 1291, 1582, 1783]


def test_real_rules_against_the_flag(real):
    annotations, answers, labels = real
    flag = pd.Series(annotations.flag.to_numpy(), labels.index)[(annotations.flag_source == "folder").to_numpy()]
    scores = {
        rule: aggregate(answers, labels, rule)
        for rule in ("mean", "majority", *(f"at_least_{k}" for k in range(1, 6)), "dawid_skene")
    }
    found = compare_rules(scores, flag, n_resamples=2).query("coefficient == 'agreement'").set_index("rule")
    assert found.statistic[["at_least_2", "at_least_3", "majority"]].round(3).tolist() == [0.862, 0.811, 0.811]
    assert set(found.n) == {7686} and found.statistic.idxmax() == "at_least_2"
    assert ((scores["dawid_skene"] > 0.5) == (scores["majority"] > 0.5)).all(), (
        "cut at one half, it is the majority of these five"
    )


def test_real_machines_agree_between_models_and_not_over_images(real):
    if not (SHARED / "clip_zero_shot.csv").is_file():
        pytest.skip("the machines' answers (shared/data/human_study/clip_zero_shot.csv) are not beside the repository")
    annotations, answers, labels = real
    table = pd.read_csv(SHARED / "clip_zero_shot.csv").sort_values(["model_idx", "image_id"])
    names = [column.removesuffix("_rec_label") for column in table if column.endswith("_rec_label")]
    assert (table.gt_label.to_numpy() == labels.to_numpy()).all()
    machines = pd.concat(
        [
            pd.DataFrame(
                {
                    "item": labels.index,
                    "annotator": name,
                    "kind": "machine",
                    "answer": table[f"{name}_rec_label"].to_numpy(),
                    "time": pd.NaT,
                }
            )
            for name in names
        ]
    )
    found = (
        against(machines, labels, aggregate(answers, labels), n_resamples=2)
        .query("facet == 'originals'")
        .pivot(index="annotator", columns="coefficient", values="statistic")
    )
    assert len(found) == 8 and found.kappa.between(0.045, 0.18).all() and found.auc.between(0.525, 0.60).all()
    flagged = against(
        machines[machines.annotator == "RN50_64"],
        labels,
        pd.Series(annotations.flag.to_numpy(), labels.index),
        n_resamples=2,
    ).query("coefficient == 'rho' and facet == 'both'")
    assert flagged.statistic.max().round(2) == 0.92
    people = against_others(answers, labels, n_resamples=2).query("coefficient == 'kappa'").statistic
    assert people.min() > found.kappa.max()
