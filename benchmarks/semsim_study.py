"""SemSim trained, chosen, calibrated and judged on CIFAR-10: the tables of nbs/results/semsim, and the shipped metrics.

    .venv/bin/python benchmarks/semsim_study.py FOLDER WORK

FOLDER holds CIFAR-10 as images, in train/CLASS and test/CLASS. WORK keeps the results of tasks: a second run resumes
the first. Panel B needs the weights of VGG16, in the folder that SEMSIM_WEIGHTS names. `--ship` copies the metrics into
the package.
"""

import argparse
import hashlib
import json
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.metrics import average_precision_score, roc_auc_score
from statsmodels.stats.multitest import multipletests
from torchvision.utils import make_grid

from semsim.analysis.comparison import compare
from semsim.analysis.correlation import group_sentinels
from semsim.analysis.frames import directions
from semsim.analysis.intervals import agreement
from semsim.annotate.annotator_agreement import pairwise_agreement
from semsim.annotate.control import control_set, control_summary, label_evidence_control
from semsim.annotate.panels import accuracy_when
from semsim.core.errors import InputError
from semsim.core.files import atomic_path, read_table, write_image, write_table
from semsim.core.tasks import read_or_make, run_calls, task_path, workers
from semsim.metrics.features import LPIPS
from semsim.metrics.leakage import leak_share
from semsim.metrics.scoring import score
from semsim.metrics.semsim import SemSim, fit_calibration
from semsim.study.corpus import corpus_materials, make_corpus, make_victim, panel_labels, panel_of, read_corpus
from semsim.training.answered_images import Material, from_corpus, read_config, teach
from semsim.training.calibration import answers_needed, calibration_curve, expected_calibration_error
from semsim.training.robustness import fooling_noise, fooling_rates, threshold_at_rate
from semsim.training.semsim_training import Recipe

RECIPES = Path(__file__).parents[1] / "semsim/recipes"
SMALL = Recipe("alexnet-flat", lr=0.005, epochs=10)
PAPERS = "resnet18 from scratch (the paper's)"
ABLATION = {
    "alexnet, places kept": SMALL,
    "  pooled": replace(SMALL, arch="alexnet"),
    "  from scratch": replace(SMALL, init="he"),
    "  released sampler": replace(SMALL, sampler="released", epochs=5),
    "  soft labels": replace(SMALL, sampler="soft"),
    "  semi-hard": replace(SMALL, mining="semi-hard"),
    "  consistency": replace(SMALL, consistency=0.5),
    "  soft labels, consistency": replace(SMALL, sampler="soft", consistency=0.5),
    "resnet20 half as wide, from scratch": Recipe("resnet20-0.5", epochs=16),
    PAPERS: Recipe("resnet18", epochs=5),
    "resnet18, places kept": Recipe("resnet18-flat", epochs=5),
}
LEFT_OUT = {"attack": "idlg", "arch": "convnet16"}
COMPARED = ("left_out", "seen", "lpips")  # the metric that did not see something, the one that did, and LPIPS
# The directions of columns that are not metrics of this package.
HIGHER = {"panel A confidence": True, "semsim[recipe2309]": False, **dict.fromkeys(COMPARED, False)}
METRICS = (
    "mse", "psnr", "ssim", "lpips[alex]", "lpips[vgg]", "l2[alexnet]", "cosine[alexnet]", "sentinel[png]",
    "sentinel[variation]",
)
COLUMNS = ["semsim", "semsim[recipe2309]", *METRICS, "panel A confidence", "sentinel[label]", "sentinel[model]"]
OTHERS = ["lpips[alex]", "lpips[vgg]", "ssim", "psnr"]
DIGITS = dict(
    data="digits",
    size=32,
    pools={"victims": 0.4, "A": 0.6},
    originals={"test": 100},
    victims=dict(archs=["lenet"], variants=["untrained", "none", "crop", "prune_70"], images=500, epochs=4),
    runs=[
        dict(
            arch="lenet",
            attack="cosine",
            preset="inverting_gradients",
            snapshots=[60, 150, 300],
            changes=dict(steps=600, priors=[["tv", 0.05]]),
        ),
        dict(
            arch="lenet",
            attack="euclidean",
            preset="inverting_gradients",
            snapshots=[10, 40, 120],
            changes=dict(steps=300, objective="squared", optimizer="adam", priors=[["tv", 0.001]]),
        ),
    ],
    panels={"A": dict(kind="network", arch="resnet20-0.5", count=60000, unsure=0.15, practice=10)},
    labels={"A": ["test"]},
)


def settings_at(place):
    "The settings of a recipe's corpus, on the images in a folder: place = (recipe, folder)."
    return read_config(place[0])["corpus"] | {"data": str(place[1])}


def corpus_of(place):
    "The corpus of a recipe."
    return read_corpus(settings_at(place))


def identity_of(corpus):
    "What distinguishes a corpus from others: its settings and its images."
    return asdict(corpus) | {"data": corpus_materials(corpus)[0].fingerprint}


def small_recipe(path):
    "The shipped recipe with little of everything, to see that all works."
    config = read_config(RECIPES / "cifar10-panel.yaml")
    corpus = config["corpus"]
    corpus["originals"] = dict(train=14, calibrate=14, test=14)
    corpus["victims"] |= dict(
        archs=["lenet", "convnet16"],
        images=60,
        epochs=1,
        variants=["untrained", "none", "policy_3-1-7"],
    )
    runs = [one for one in corpus["runs"] if one["arch"] != "resnet20"]
    for one in runs:
        steps = 4 if one["preset"] == "idlg" else 200 if one["arch"] == "lenet" else 20
        one |= dict(snapshots=[1, 3], changes=one["changes"] | dict(steps=steps))
    corpus["runs"] = runs
    corpus["panels"]["A"] |= dict(count=20000, practice=2)
    corpus["panels"]["B"] |= dict(count=1500, practice=2)
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(config))
    return path


def material_of(place, work):
    "The images and answers of panel A, from which SemSim learns."
    return from_corpus(settings_at(place), work, "A")


def metric_path(place, work, recipe, left=()):
    "The file of a trained metric."
    corpus = corpus_of(place)
    return task_path(work, "metric", ".safetensors", identity_of(corpus), asdict(recipe), left)


def make_metric(place, work, recipe, left=()):
    "Train and calibrate one metric, unless its file exists; `left` is a column and a value whose rows are left out."
    def make(path):
        material = material_of(place, work)
        if left:
            kept = (material.table[left[0]] != left[1]).to_numpy()
            table = material.table[kept].reset_index(drop=True)
            material = replace(material, images=material.images[torch.tensor(kept)], table=table)
        teach(material, recipe, path.with_suffix(".checkpoint.safetensors")).save(path)
    return read_or_make(metric_path(place, work, recipe, left), SemSim.load, make)


def rows_of(material, split):
    "A part of the material: (table, images, the original's row for each)."
    rows = torch.nonzero(torch.tensor((material.table.split == split).to_numpy()))[:, 0]
    table = material.table.iloc[rows.numpy()].reset_index(drop=True)
    models = table.arch + " " + table.variant + " " + table.attack + " " + table.step.astype(str)
    return table.assign(model=models), material.images[rows], material.owners[rows]


def level_values(table, metrics, level, coefficient):
    "A coefficient of each metric at a level, with its interval."
    found = agreement(table, "judge", metrics, HIGHER, level, n_resamples=2000)
    return found[found.coefficient == coefficient].set_index("metric")


def precision_within(table, column, higher):
    "Average precision: pooled, and within originals that have both outcomes; and how many those are."
    sign = 1 if higher else -1
    both = [one for _, one in table.groupby("original") if 0 < one.judge.mean() < 1]
    return dict(
        precision=average_precision_score(table.judge, sign * table[column]),
        precision_within=np.mean([average_precision_score(one.judge, sign * one[column]) for one in both]),
        both=len(both),
        chance_within=np.mean([one.judge.mean() for one in both]),
    )


def with_threshold(name, distance, calibration, rate):
    "A list with the metric and its threshold; an empty one if its calibration gives no threshold."
    try:
        return [threshold_at_rate(name, distance, calibration, rate)]
    except InputError:
        return []


def ablation_row(name, metric, material):
    "How a metric agrees with panel A on the calibration split."
    table, images, owners = rows_of(material, "calibrate")
    distances = metric.score(material.originals.images, images, owners).numpy()
    table = table.assign(semsim=distances, judge=(table.recognised > 0.5).astype(float))
    within = level_values(table, ["semsim"], "original", "auc").loc["semsim"]
    moved = 1.0  # if even a distance of 0 is called unrecognised
    if thresholded := with_threshold("semsim", metric, metric.calibration, table.recognised.mean()):
        found = fooling_rates(thresholded, material.originals.images[owners.unique()], epsilons=())
        moved = found[found.called == "not recognised"].rate.max()
    return dict(
        variant=name,
        **{key: metric.card[key] for key in ("arch", "epochs", "triplets", "borrowed")},
        auc_within=within.statistic,
        low=within.low,
        high=within.high,
        n=within.n,
        auc_pooled=roc_auc_score(table.judge, -table.semsim),
        worst_harmless=moved,
        megabytes=sum(one.numel() for one in metric.state_dict().values()) * 2 / 1e6,
    )


HARMED = 0.05  # the share of originals that a harmless change may make unrecognisable to the metric that ships


def chosen(ablation):
    "The variant that ships: of those that harmless changes do not harm, the one that agrees best within originals."
    rows = ablation.set_index("variant")
    return rows[rows.worst_harmless <= HARMED].auc_within.idxmax()


def scored(metric, papers, material, split, judge):
    "The table of a split with every metric, and the judge's majority; `papers` is the SemSim of the paper's recipe."
    table, images, owners = rows_of(material, split)
    originals, own = owners.unique(return_inverse=True)
    found = score(material.originals.images[originals], images, list(METRICS), owners=own.numpy())
    share = table[f"recognised_{judge}"]
    table = table.assign(
        **{name: found[name].to_numpy() for name in METRICS},
        judge=(share > 0.5).astype(float),
        share=share,
    )
    for name, one in (("semsim", metric), ("semsim[recipe2309]", papers)):
        table[name] = one.score(material.originals.images, images, owners).numpy()
    table["panel A confidence"] = table.get("confidence_A", pd.Series(np.nan, table.index))
    # The overall share, where a group has nothing else.
    return table.assign(**group_sentinels(table, "judge").fillna(table.judge.mean()))


def results_of(table, metrics):
    "How each metric agrees with the judge: AUC and precision within originals and pooled, rank correlations."
    auc = {level: level_values(table, metrics, level, "auc") for level in ("original", "image")}
    rho = {level: level_values(table, metrics, level, "spearman") for level in ("image", "model")}
    rows = []
    for name in metrics:
        counts = dict(pairs=len(table), originals=table.original.nunique(), models=table.model.nunique())
        row = dict(metric=name, **counts, share=table.judge.mean())
        tables = {
            "auc within": auc["original"],
            "auc pooled": auc["image"],
            "rho images": rho["image"],
            "rho models": rho["model"],
        }
        for label, found in tables.items():
            one = found.loc[name]
            row |= {label: one.statistic, f"{label} low": one.low, f"{label} high": one.high}
        rows.append(row | precision_within(table, name, directions([name], HIGHER)[name]))
    return pd.DataFrame(rows)


def differences_of(table, others):
    "SemSim's lead over other metrics, with intervals over originals; p-values, also corrected for all rows."
    rows = []
    for level in ("original", "image"):
        found = compare(table, "judge", ["semsim", *others], HIGHER, level, "auc", n_resamples=2000)
        for row in found.itertuples():
            if "semsim" not in (row.metric, row.other): continue
            sign = 1 if row.metric == "semsim" else -1
            low, high = sorted((sign * row.low, sign * row.high))
            over = row.other if sign == 1 else row.metric
            lead = dict(lead=sign * row.statistic, low=low, high=high)
            rows.append(dict(level=level, over=over, **lead, p=row.pvalue, n=row.n))
    found = pd.DataFrame(rows)
    return found.assign(p_holm=multipletests(found.p, method="holm")[1])


def agreement_of_panels(table):
    "Cohen's kappa of the two panels' majorities, with its interval, and how much each recognises."
    items = table.model + "/" + table.original
    shares = {letter: (table[f"recognised_{letter}"] > 0.5).to_numpy() for letter in "AB"}
    answers = []
    for letter, said in shares.items():
        about = dict(annotator=f"panel {letter}", kind="machine", answer=np.where(said, 1, -1), time=pd.NaT)
        answers.append(pd.DataFrame(dict(item=items, **about)))
    answers = pd.concat(answers)
    found = pairwise_agreement(answers, dict.fromkeys(items, 1)).set_index("coefficient")
    return dict(
        kappa=found.statistic["kappa"],
        low=found.low["kappa"],
        high=found.high["kappa"],
        agree=found.statistic["agreement"],
        share_A=shares["A"].mean(),
        share_B=shares["B"].mean(),
        n=len(table),
        originals=table.original.nunique(),
    )


CONTROL = dict(steps=120, priors=(("tv", 0.05),))  # the attack of the control
CONTROLLED = 20  # originals, and as many noise images


def control_path(place, work, arch, variant):
    "The file with the panels' answers to the control of one attacked classifier."
    corpus = corpus_of(place)
    return task_path(work, "control", ".parquet", identity_of(corpus), arch, variant, CONTROL, CONTROLLED)


def control_answers(corpus, work, arch, variant):
    "What the panels of a corpus say to the control of one attacked classifier."
    everything = corpus_materials(corpus)[2]
    originals = everything.take(range(min(CONTROLLED, len(everything))))
    control = control_set({f"{arch} {variant}": make_victim(corpus, work, arch, variant)}, originals, **CONTROL)
    panels = [panel_of(corpus, work, name) for name, _ in corpus.panels]
    return pd.concat([label_evidence_control(panel, control) for panel in panels], ignore_index=True)


def make_control(place, work, arch, variant):
    "The answers to a control, made once."

    def make(path):
        write_table(control_answers(corpus_of(place), work, arch, variant), path)

    return read_or_make(control_path(place, work, arch, variant), read_table, make)


def control_of(place, work):
    "The noise-image control of both panels, and what they name of clean and degraded images."
    corpus = corpus_of(place)
    tasks = [(place, work, arch, variant) for arch in corpus.victims.archs for variant in ("untrained", "none")]
    with workers() as pool:
        run_calls(pool, "control", make_control, control_path, tasks)
    answers = pd.concat([make_control(*task) for task in tasks], ignore_index=True)
    panels, originals = [panel_of(corpus, work, name) for name, _ in corpus.panels], corpus_materials(corpus)[2]
    clean = pd.concat([accuracy_when(panel, originals).reset_index() for panel in panels], ignore_index=True)
    by_model = control_summary(answers, ("annotator", "model", "sent")).reset_index()
    return control_summary(answers).reset_index(), by_model, clean


def calibration_of(metric, material, table, images, owners):
    "Calibration of the shipped probability against panel A (in and out of sample) and against panel B."
    rows, curves, originals = [], [], material.originals.images
    in_sample, in_images, in_owners = rows_of(material, "calibrate")
    p = {
        "calibrate": metric.calibration(metric.score(originals, in_images, in_owners)),
        "test": metric.calibration(metric.score(originals, images, owners)),
    }
    truth = {
        ("A", "calibrate"): in_sample.recognised_A,
        ("A", "test"): table.recognised_A,
        ("B", "test"): table.recognised_B,
    }
    for (panel, split), recognised in truth.items():
        recognised = torch.tensor(recognised.to_numpy(float))
        means = dict(predicted=p[split].mean().item(), observed=recognised.mean().item(), n=len(recognised))
        about, error = dict(annotator=f"panel {panel}", split=split), expected_calibration_error(p[split], recognised)
        rows.append(about | dict(error=error) | means)
        curves.append(calibration_curve(p[split], recognised).reset_index().assign(**about))
    return pd.DataFrame(rows), pd.concat(curves)


def lpips_distance(originals, images):
    "LPIPS with AlexNet, differentiable."
    net = LPIPS["alex"].load()
    return (net(LPIPS["alex"].prepare(originals)) - net(LPIPS["alex"].prepare(images))).square().sum(1)


def lpips_at_rate(material, rate):
    "LPIPS with the threshold of its calibration on panel A; an empty list if there is none."
    inside, images, owners = rows_of(material, "calibrate")
    originals, distances = material.originals.images, []
    for own, some in zip(owners.split(64), images.split(64)):
        with torch.no_grad():
            distances.append(lpips_distance(originals[own], some))
    recognised = torch.tensor(inside.recognised.to_numpy(float))
    calibration = fit_calibration(torch.cat(distances), recognised, "machine panel A", owners)
    return with_threshold("lpips[alex]", lpips_distance, calibration, rate)


def fooled(metric, material, corpus, work):
    "How often SemSim and LPIPS are fooled, and whether panels see anything in the noise that fools them."
    # Where little is recognised, no distance may have P = 0.5; so the rate is the share that panel A recognises.
    rate = rows_of(material, "calibrate")[0].recognised.mean()
    metrics = with_threshold("semsim", metric, metric.calibration, rate) + lpips_at_rate(material, rate)
    test = torch.tensor([split == "test" for split in corpus_materials(corpus)[3]])
    originals = material.originals.take(torch.nonzero(test)[:, 0])
    found, seen = fooling_rates(metrics, originals.images), []
    noise = {one.name: fooling_noise(one, originals.images, 32 / 255)[0] for one in metrics}
    for name, shown in noise.items():
        for letter, _ in corpus.panels:
            answers = panel_labels(panel_of(corpus, work, letter), shown, originals.labels)
            recognised = answers.recognised.gt(0.5).mean()
            seen.append(dict(metric=name, panel=letter, recognised=recognised, n=len(shown)))
    return found, pd.DataFrame(seen)


def left_out_part(place, work, recipe, material, column, value):
    "The test rows with a value that a metric did not learn from, with that metric, one that did, and LPIPS."
    metric, full = make_metric(place, work, recipe, (column, value)), make_metric(place, work, recipe)
    table, images, owners = rows_of(material, "test")
    keep = (table[column] == value).to_numpy()
    table, images, owners = table[keep].reset_index(drop=True), images[torch.tensor(keep)], owners[torch.tensor(keep)]
    originals = material.originals.images
    lpips = score(originals, images, ["lpips[alex]"], owners=owners.numpy())["lpips[alex]"].to_numpy()
    return table.assign(
        judge=(table.recognised_B > 0.5).astype(float),
        left_out=metric.score(originals, images, owners).numpy(),
        seen=full.score(originals, images, owners).numpy(),
        lpips=lpips,
    )


def leave_out(place, work, recipe, material):
    "How well SemSim agrees on an attack and an architecture that it did not learn from."
    rows = []
    for column, value in LEFT_OUT.items():
        table = left_out_part(place, work, recipe, material, column, value)
        if table.judge.nunique() < 2:
            continue
        for level, name in (("original", "within"), ("image", "pooled")):
            found = level_values(table, list(COMPARED), level, "auc")
            for metric in COMPARED:
                one = found.loc[metric]
                about = dict(unseen=f"{column} {value}", metric=metric, level=name)
                values = dict(auc=one.statistic, low=one.low, high=one.high, n=one.n)
                rows.append(about | values | dict(pairs=len(table), share=table.judge.mean()))
    return pd.DataFrame(rows)


def digits_of(metric, papers, work):
    "How well SemSim agrees on digits, which it never saw; and the control of the panel that labelled them."
    corpus = read_corpus(DIGITS)
    table, images, originals = make_corpus(corpus, work)
    material = Material(originals, images, table.assign(recognised=table.recognised_A), "machine panel on digits")
    answers = [control_answers(corpus, work, "lenet", variant) for variant in ("untrained", "none")]
    table = scored(metric, papers, material, "test", "A").drop(columns=["panel A confidence"])
    return table, material, control_summary(pd.concat(answers)).reset_index()


def digits_sheet(table, material, count=8):
    "A few digits, each with its reconstructions in the order of SemSim, the nearest first."
    rows, images = [], rows_of(material, "test")[1]
    for number, (name, own) in enumerate(table.groupby("original", sort=False)):
        if number == count: break
        original = material.originals.take([material.originals.ids.index(name)]).images
        rows.append(torch.cat([original, images[own.sort_values("semsim").index.to_numpy()]]))
    return make_grid(torch.cat(rows), nrow=len(rows[0]), padding=1, pad_value=1)


def arguments():
    "What the command line asks for."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--into", default=Path(__file__).parents[1] / "nbs/results/semsim", type=Path)
    parser.add_argument("--small", action="store_true", help="little of everything, to see that all works")
    parser.add_argument("--ship", action="store_true", help="copy the metrics into the package")
    return parser.parse_args()


def recipes_to_compare(small):
    "The recipes of the ablation; the small run leaves out the large networks and trains each for one epoch."
    if not small:
        return ABLATION
    return {name: replace(recipe, epochs=1) for name, recipe in ABLATION.items() if "resnet18" not in name}


def trained(place, work, ablation, material):
    "The table of the ablation, and the best recipe, once all metrics are trained."
    with workers() as pool:
        order = sorted(ablation.values(), key=lambda recipe: not recipe.arch.startswith("resnet18"))
        run_calls(pool, "ablation", make_metric, metric_path, [(place, work, recipe) for recipe in order])
    rows = [ablation_row(name, make_metric(place, work, recipe), material) for name, recipe in ablation.items()]
    table = pd.DataFrame(rows)
    best = ablation[chosen(table)]
    with workers() as pool:
        tasks = [(place, work, best, left) for left in LEFT_OUT.items()]
        run_calls(pool, "leave one out", make_metric, metric_path, tasks)
    return table, best


def judged_tables(metric, papers, material, corpus, table, place, work, best):
    "The tables about the metric that ships, judged by panel B."
    _, images, owners = rows_of(material, "test")
    found = {
        "results": results_of(table, COLUMNS),
        "differences": differences_of(table, [*OTHERS, "panel A confidence"]),
    }
    found["control"], found["control_models"], found["clean"] = control_of(place, work)
    found["calibration"], found["reliability"] = calibration_of(metric, material, table, images, owners)
    distances, shares = (torch.tensor(table[name].to_numpy()) for name in ("semsim", "share"))
    found["answers"] = answers_needed(distances, shares, pd.factorize(table.original)[0])
    found["fooling"], found["seen_in_noise"] = fooled(metric, material, corpus, work)
    found["left_out"] = leave_out(place, work, best, material)
    return found


def digits_tables(metric, papers, work, into):
    "The tables about digits; their images are written."
    digits, material, control = digits_of(metric, papers, work)
    write_image(digits_sheet(digits, material), into / "digits.png")
    columns = [name for name in COLUMNS if name != "panel A confidence"]
    return {
        "digits_control": control,
        "digits": results_of(digits, columns),
        "digits_differences": differences_of(digits, OTHERS),
    }


def about_study(metric, material, corpus, table, best, seconds):
    "What the page says besides the tables."
    probabilities = metric.calibration(torch.tensor(table.semsim.to_numpy()))
    leak = leak_share(probabilities, metric.calibration.annotator, pd.factorize(table.original)[0])
    attacks = material.table.drop_duplicates(["arch", "variant", "attack", "original"])
    return dict(
        recipe=asdict(best),
        kappa=agreement_of_panels(table),
        leak=str(leak),
        curve=metric.card["curve"],
        calibration=metric.card["calibration"],
        originals=dict(corpus.originals),
        archs=corpus.victims.archs,
        reconstructions=len(material.table),
        attacks=len(attacks),
        seconds=round(seconds),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def main():
    args, start = arguments(), time.time()
    ablation = recipes_to_compare(args.small)
    place = small_recipe(args.work / "small.yaml") if args.small else RECIPES / "cifar10-panel.yaml", args.folder
    material, corpus = material_of(place, args.work), corpus_of(place)
    tables = {}
    tables["ablation"], best = trained(place, args.work, ablation, material)
    metric = make_metric(place, args.work, best)
    papers = make_metric(place, args.work, ablation.get(PAPERS, best))
    table = scored(metric, papers, material, "test", "B")
    tables |= judged_tables(metric, papers, material, corpus, table, place, args.work, best)
    tables |= digits_tables(metric, papers, args.work, args.into)
    about = about_study(metric, material, corpus, table, best, time.time() - start)
    for name, one in tables.items():
        write_table(one, args.into / f"{name}.csv")
    write_table(material.table.drop(columns="recognised"), args.into / "training_table.parquet")
    with atomic_path(args.into / "study.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1, default=float) + "\n")
    if args.ship:
        ship_both(metric, papers, args.into, tables)


def ship_both(metric, papers, into, tables):
    "Write both metrics and their model cards into the package."
    rows, refused = tables["ablation"].set_index("variant"), refused_line(tables["control"])
    best, results = rows.loc[chosen(tables["ablation"])], tables["results"]
    ship("semsim-cifar10-panel", metric, into, best, judged_line(results, "semsim"), refused)
    judged = judged_line(results, "semsim[recipe2309]")
    ship("recipe2309-cifar10-panel", papers, into, rows.loc[PAPERS], judged, PAPERS_CARD + refused)


CARD = """# {name}

A SemSim network, in half precision: a distance between an original and its reconstruction, lower = more leakage.

- Annotators: **{annotator}**, fine-tuned AlexNets. No person's answer is in it, and its probability is the panel's,
  never a person's.{refused}
- Data: {attacks} attacks on CIFAR-10 test images ({train} originals to learn from, {calibrate} to calibrate on),
  classifiers {archs} trained on one half of CIFAR-10's training images, the panel on another part. CIFAR-10 is for
  research use; no image of it is in this file.
- Recipe: {recipe}; loss {first:.3f} to {last:.3f}.
- Agreement, on the calibration split with the panel that it was trained on: AUC within an original {auc_within:.3f}
  [{low:.3f}, {high:.3f}], {n} originals.{judged}
- Limits: 32 x 32 pixels (others are resized); ten classes of everyday things; three small attacked architectures;
  negatives that are severely degraded images, hardly ever images of something else; it can be fooled by small changes
  made for it. The page nbs/results/semsim.ipynb has all of it.
- SHA-256 of the file: {digest}
"""


PAPERS_CARD = """
- The recipe is that of arXiv:2309.13038, with fewer epochs. **These are not the authors' weights**, and their
  annotators were people."""
NOT_PASSED = ": **this panel did not pass its control, and the metric is a first one, to be replaced**"
RECIPE_KEYS = (
    "arch", "init", "sampler", "mining", "margin", "consistency", "augment", "epochs", "lr", "batch", "seed",
)


def refused_line(control):
    "Whether the panel that it was trained on passed the control."
    noise = control[(control.sent == "noise") & control.annotator.str.startswith("A")]
    said = ", ".join(f"{row.annotator} refused {row.refused:.0%}" for row in noise.itertuples())
    verdict = "" if noise.passes.all() else NOT_PASSED
    return f"\n  Of what attacks made of noise, {said} (95 % are asked for){verdict}."


def ship(name, metric, into, ablation, judged, refused):
    "Write a metric and its model card into the package."
    path = Path(__file__).parents[1] / f"semsim/weights/{name}.safetensors"
    about = json.loads((into / "study.json").read_text())
    metric.card["name"] = name
    metric.save(path)
    settings = {key: metric.card[key] if metric.card[key] != "" else "default" for key in RECIPE_KEYS}
    text = CARD.format(
        name=name,
        annotator=metric.card["annotator"],
        attacks=about["attacks"],
        archs=", ".join(about["archs"]),
        **about["originals"],
        recipe=", ".join(f"{key} {value}" for key, value in settings.items()),
        first=metric.card["curve"][0],
        last=metric.card["curve"][-1],
        **ablation[["auc_within", "low", "high", "n"]].to_dict(),
        refused=refused,
        judged=judged,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text(text)


def judged_line(results, name):
    "How a metric agrees with the panel that it was not trained on."
    row = results.set_index("metric").loc[name]

    def with_interval(column):
        return f"{row[column]:.3f} [{row[f'{column} low']:.3f}, {row[f'{column} high']:.3f}]"

    return (
        f"\n- Agreement, on {row.originals:.0f} other originals with panel B (probes on VGG16), on which it was not "
        f"trained: AUC\n  within an original {with_interval('auc within')}, pooled {with_interval('auc pooled')}, "
        f"n = {row.pairs:.0f}."
    )


if __name__ == "__main__":
    main()
