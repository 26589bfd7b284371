"""SemSim trained, chosen, calibrated and judged on CIFAR-10: the tables behind nbs/results/semsim.ipynb, and the metrics that ship.

    .venv/bin/python benchmarks/semsim_study.py FOLDER WORK

FOLDER holds CIFAR-10 as images, in train/CLASS and test/CLASS. WORK keeps the units: a second run resumes the first. Panel B needs the weights of
VGG16, in the folder that SEMSIM_WEIGHTS names. `--ship` copies the metrics into the package.
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

from semsim.analysis.correlation import group_sentinels
from semsim.metrics.leakage import leak_share
from semsim.training.calibration import answers_needed, expected_calibration_error, calibration_curve
from semsim.analysis.comparison import compare
from semsim.annotate.annotator_agreement import pairwise_agreement
from semsim.core.errors import InputError
from semsim.core.files import atomic_path, read_table, write_image, write_table
from semsim.study.corpus import corpus_materials, make_corpus, make_victim, panel_labels, panel_of, read_corpus
from semsim.training.robustness import fooling_rates, fooling_noise, suspect
from semsim.analysis.frames import directions
from semsim.analysis.intervals import agreement
from semsim.training.semsim_training import Recipe
from semsim.annotate.panels import accuracy_when
from semsim.annotate.control import control_set, control_summary, label_evidence_control
from semsim.metrics.features import LPIPS
from semsim.metrics.scoring import score
from semsim.metrics.semsim import SemSim, fit_calibration
from semsim.training.answered_images import Material, from_corpus, read_config, teach
from semsim.core.tasks import run_calls, read_or_make, task_path, workers

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
HIGHER = {"panel A confidence": True, "semsim[recipe2309]": False, **dict.fromkeys(COMPARED, False)}  # which way columns point that are no metrics
METRICS = ("mse", "psnr", "ssim", "lpips[alex]", "lpips[vgg]", "l2[alexnet]", "cosine[alexnet]", "sentinel[png]", "sentinel[variation]")
DIGITS = dict(
    data="digits", size=32, pools={"victims": 0.4, "A": 0.6}, originals={"test": 100},
    victims=dict(archs=["lenet"], variants=["untrained", "none", "crop", "prune_70"], images=500, epochs=4),
    runs=[dict(arch="lenet", attack="cosine", preset="inverting_gradients", snapshots=[60, 150, 300], changes=dict(steps=600, priors=[["tv", 0.05]])),
          dict(arch="lenet", attack="euclidean", preset="inverting_gradients", snapshots=[10, 40, 120], changes=dict(steps=300, objective="squared", optimizer="adam", priors=[["tv", 0.001]]))],
    panels={"A": dict(kind="network", arch="resnet20-0.5", count=60000, unsure=0.15, practice=10)}, labels={"A": ["test"]})


def settings_at(place):
    "The settings of a recipe's corpus, on the images in a folder: place = (recipe, folder)."
    return read_config(place[0])["corpus"] | {"data": str(place[1])}


def corpus_of(place):
    "The corpus of a recipe."
    return read_corpus(settings_at(place))


def small_recipe(path):
    "The shipped recipe with little of everything, to see that all works."
    config = read_config(RECIPES / "cifar10-panel.yaml")
    corpus = config["corpus"]
    corpus["originals"] = dict(train=14, calibrate=14, test=14)
    corpus["victims"] |= dict(archs=["lenet", "convnet16"], images=60, epochs=1, variants=["untrained", "none", "policy_3-1-7"])
    runs = [one for one in corpus["runs"] if one["arch"] != "resnet20"]
    corpus["runs"] = [one | dict(snapshots=[1, 3], changes=one["changes"] | dict(steps=4 if one["preset"] == "idlg" else 200 if one["arch"] == "lenet" else 20)) for one in runs]
    corpus["panels"]["A"] |= dict(count=20000, practice=2)
    corpus["panels"]["B"] |= dict(count=1500, practice=2)
    with atomic_path(path) as temporary: temporary.write_text(yaml.safe_dump(config))
    return path


def material_of(place, work):
    "What panel A teaches."
    return from_corpus(settings_at(place), work, "A")


def metric_path(place, work, recipe, left=()):
    "Where a trained metric lives."
    corpus = corpus_of(place)
    return task_path(work, "metric", ".safetensors", asdict(corpus) | {"data": corpus_materials(corpus)[0].fingerprint}, asdict(recipe), left)


def make_metric(place, work, recipe, left=()):
    "Train and calibrate one metric, unless it is there; `left` names a column and the value whose rows are not learnt from."
    def make(path):
        material = material_of(place, work)
        if left:
            kept = (material.table[left[0]] != left[1]).to_numpy()
            material = replace(material, images=material.images[torch.tensor(kept)], table=material.table[kept].reset_index(drop=True))
        teach(material, recipe, path.with_suffix(".checkpoint.safetensors")).save(path)
    return read_or_make(metric_path(place, work, recipe, left), SemSim.load, make)


def rows_of(material, split):
    "A part of the material: (table, images, the original's row for each)."
    rows = torch.nonzero(torch.tensor((material.table.split == split).to_numpy()))[:, 0]
    table = material.table.iloc[rows.numpy()].reset_index(drop=True)
    return table.assign(model=table.arch + " " + table.variant + " " + table.attack + " " + table.step.astype(str)), material.images[rows], material.owners[rows]


def level_values(table, metrics, level, coefficient):
    "A coefficient of each metric at a level, with its interval."
    found = agreement(table, "judge", metrics, HIGHER, level, n_resamples=2000)
    return found[found.coefficient == coefficient].set_index("metric")


def precision_within(table, column, higher):
    "Average precision: pooled, and within originals that have both outcomes; and how many those are."
    sign = 1 if higher else -1
    both = [one for _, one in table.groupby("original") if 0 < one.judge.mean() < 1]
    return dict(precision=average_precision_score(table.judge, sign * table[column]), precision_within=np.mean([average_precision_score(one.judge, sign * one[column]) for one in both]),
                both=len(both), chance_within=np.mean([one.judge.mean() for one in both]))


def asked(name, distance, calibration, rate):
    "A list with the suspect; an empty one where its calibration gives no threshold to fool."
    try: return [suspect(name, distance, calibration, rate)]
    except InputError: return []


def ablation_row(name, metric, material):
    "How a metric agrees with panel A on the calibration split."
    table, images, owners = rows_of(material, "calibrate")
    table = table.assign(semsim=metric.score(material.originals.images, images, owners).numpy(), judge=(table.recognised > 0.5).astype(float))
    within = level_values(table, ["semsim"], "original", "auc").loc["semsim"]
    card, moved = metric.card, 1.0  # where even a distance of 0 is called unrecognised
    if suspects := asked("semsim", metric, metric.calibration, table.recognised.mean()):
        found = fooling_rates(suspects, material.originals.images[owners.unique()], reaches=())
        moved = found[found.called == "not recognised"].rate.max()
    return dict(variant=name, arch=card["arch"], epochs=card["epochs"], triplets=card["triplets"], borrowed=card["borrowed"], auc_within=within.statistic, low=within.low, high=within.high,
                n=within.n, auc_pooled=roc_auc_score(table.judge, -table.semsim), worst_harmless=moved, megabytes=sum(one.numel() for one in metric.state_dict().values()) * 2 / 1e6)


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
    table = table.assign(**{name: found[name].to_numpy() for name in METRICS}, judge=(table[f"recognised_{judge}"] > 0.5).astype(float), share=table[f"recognised_{judge}"])
    for name, one in (("semsim", metric), ("semsim[recipe2309]", papers)): table[name] = one.score(material.originals.images, images, owners).numpy()
    table["panel A confidence"] = table.get("confidence_A", pd.Series(np.nan, table.index))
    return table.assign(**group_sentinels(table, "judge").fillna(table.judge.mean()))  # the share of all, where a group has nothing else


def results_of(table, metrics):
    "How each metric agrees with the judge: AUC and precision within originals and pooled, rank correlations."
    auc = {level: level_values(table, metrics, level, "auc") for level in ("original", "image")}
    rho = {level: level_values(table, metrics, level, "spearman") for level in ("image", "model")}
    rows = []
    for name in metrics:
        row = dict(metric=name, pairs=len(table), originals=table.original.nunique(), models=table.model.nunique(), share=table.judge.mean())
        for label, found in (("auc within", auc["original"]), ("auc pooled", auc["image"]), ("rho images", rho["image"]), ("rho models", rho["model"])):
            one = found.loc[name]
            row |= {label: one.statistic, f"{label} low": one.low, f"{label} high": one.high}
        rows.append(row | precision_within(table, name, directions([name], HIGHER)[name]))
    return pd.DataFrame(rows)


def differences_of(table, others):
    "SemSim's lead over other metrics, with cluster-bootstrap intervals over originals; p-values as they are, and corrected for all rows of the table."
    rows = []
    for level in ("original", "image"):
        found = compare(table, "judge", ["semsim", *others], HIGHER, level, "auc", n_resamples=2000)
        for row in found.itertuples():
            if "semsim" not in (row.metric, row.other): continue
            sign = 1 if row.metric == "semsim" else -1
            low, high = sorted((sign * row.low, sign * row.high))
            rows.append(dict(level=level, over=row.other if sign == 1 else row.metric, lead=sign * row.statistic, low=low, high=high, p=row.pvalue, n=row.n))
    found = pd.DataFrame(rows)
    return found.assign(p_holm=multipletests(found.p, method="holm")[1])


def agreement_of_panels(table):
    "Cohen's kappa of the two panels' majorities, with its interval, and how much each recognises."
    items, shares = table.model + "/" + table.original, {letter: (table[f"recognised_{letter}"] > 0.5).to_numpy() for letter in "AB"}
    answers = pd.concat([pd.DataFrame(dict(item=items, annotator=f"panel {letter}", kind="machine", answer=np.where(said, 1, -1), time=pd.NaT)) for letter, said in shares.items()])
    found = pairwise_agreement(answers, dict.fromkeys(items, 1)).set_index("coefficient")
    return dict(kappa=found.statistic["kappa"], low=found.low["kappa"], high=found.high["kappa"], agree=found.statistic["agreement"],
                share_A=shares["A"].mean(), share_B=shares["B"].mean(), n=len(table), originals=table.original.nunique())


CONTROL = dict(steps=120, priors=(("tv", 0.05),))  # the attack of the control
CONTROLLED = 20  # originals, and as many noise images


def control_path(place, work, arch, variant):
    "Where the panels' answers to the control of one attacked classifier live."
    corpus = corpus_of(place)
    return task_path(work, "control", ".parquet", asdict(corpus) | {"data": corpus_materials(corpus)[0].fingerprint}, arch, variant, CONTROL, CONTROLLED)


def control_answers(corpus, work, arch, variant):
    "What the panels of a corpus say to the control of one attacked classifier."
    originals = corpus_materials(corpus)[2].take(range(min(CONTROLLED, len(corpus_materials(corpus)[2]))))
    control = control_set({f"{arch} {variant}": make_victim(corpus, work, arch, variant)}, originals, **CONTROL)
    return pd.concat([label_evidence_control(panel_of(corpus, work, name), control) for name, _ in corpus.panels], ignore_index=True)


def make_control(place, work, arch, variant):
    "The answers to a control as a unit."
    return read_or_make(control_path(place, work, arch, variant), read_table, lambda path: write_table(control_answers(corpus_of(place), work, arch, variant), path))


def control_of(place, work):
    "The noise-image control of both panels, and what they name of clean and spoilt pictures."
    corpus = corpus_of(place)
    tasks = [(place, work, arch, variant) for arch in corpus.victims.archs for variant in ("untrained", "none")]
    with workers() as pool: run_calls(pool, "control", make_control, control_path, tasks)
    answers = pd.concat([make_control(*task) for task in tasks], ignore_index=True)
    clean = [accuracy_when(panel_of(corpus, work, name), corpus_materials(corpus)[2]).reset_index() for name, _ in corpus.panels]
    return control_summary(answers).reset_index(), control_summary(answers, ("annotator", "model", "sent")).reset_index(), pd.concat(clean, ignore_index=True)


def calibration_of(metric, material, table, images, owners):
    "Calibration errors and reliability of the shipped probability against panel A (in and out of sample) and against panel B."
    rows, curves = [], []
    inside = rows_of(material, "calibrate")
    p = {"calibrate": metric.calibration(metric.score(material.originals.images, inside[1], inside[2])), "test": metric.calibration(metric.score(material.originals.images, images, owners))}
    truth = {("A", "calibrate"): inside[0].recognised_A, ("A", "test"): table.recognised_A, ("B", "test"): table.recognised_B}
    for (panel, split), recognised in truth.items():
        recognised = torch.tensor(recognised.to_numpy(float))
        rows.append(dict(annotator=f"panel {panel}", split=split, error=expected_calibration_error(p[split], recognised), predicted=p[split].mean().item(), observed=recognised.mean().item(), n=len(recognised)))
        curves.append(calibration_curve(p[split], recognised).reset_index().assign(annotator=f"panel {panel}", split=split))
    return pd.DataFrame(rows), pd.concat(curves)


def lpips_distance(originals, images):
    "LPIPS with AlexNet, with a derivative."
    net = LPIPS["alex"].load()
    return (net(LPIPS["alex"].prepare(originals)) - net(LPIPS["alex"].prepare(images))).square().sum(1)


def fooled(metric, material, corpus, work):
    "The audit of SemSim and LPIPS, and whether panels see anything in the noise that SemSim was made to recognise."
    inside, images, owners = rows_of(material, "calibrate")
    with torch.no_grad(): far = torch.cat([lpips_distance(material.originals.images[own], some) for own, some in zip(owners.split(64), images.split(64))])
    lpips = fit_calibration(far, torch.tensor(inside.recognised.to_numpy(float)), "machine panel A", owners)
    rate = inside.recognised.mean()  # the share that panel A recognises: where little is recognised, no distance may have P = 0.5
    suspects = asked("semsim", metric, metric.calibration, rate) + asked("lpips[alex]", lpips_distance, lpips, rate)
    test = torch.tensor([split == "test" for split in corpus_materials(corpus)[3]])
    originals = material.originals.take(torch.nonzero(test)[:, 0])
    found = fooling_rates(suspects, originals.images)
    noise = {one.name: fooling_noise(one, originals.images, 32 / 255)[0] for one in suspects}
    seen = [dict(metric=name, panel=letter, recognised=panel_labels(panel_of(corpus, work, letter), shown, originals.labels).recognised.gt(0.5).mean(), n=len(shown))
            for name, shown in noise.items() for letter, _ in corpus.panels]
    return found, pd.DataFrame(seen)


def leave_out(place, work, recipe, material):
    "What SemSim is worth on an attack and an architecture that it did not learn from."
    rows = []
    for column, value in LEFT_OUT.items():
        metric, full = make_metric(place, work, recipe, (column, value)), make_metric(place, work, recipe)
        table, images, owners = rows_of(material, "test")
        keep = (table[column] == value).to_numpy()
        table, images, owners = table[keep].reset_index(drop=True), images[torch.tensor(keep)], owners[torch.tensor(keep)]
        lpips = score(material.originals.images, images, ["lpips[alex]"], owners=owners.numpy())["lpips[alex]"].to_numpy()
        table = table.assign(judge=(table.recognised_B > 0.5).astype(float), left_out=metric.score(material.originals.images, images, owners).numpy(), seen=full.score(material.originals.images, images, owners).numpy(), lpips=lpips)
        if table.judge.nunique() < 2: continue
        for level, name in (("original", "within"), ("image", "pooled")):
            found = level_values(table, list(COMPARED), level, "auc")
            rows += [dict(unseen=f"{column} {value}", metric=one, level=name, auc=found.loc[one].statistic, low=found.loc[one].low, high=found.loc[one].high, n=found.loc[one].n, pairs=len(table), share=table.judge.mean()) for one in COMPARED]
    return pd.DataFrame(rows)


def digits_of(metric, papers, work):
    "What SemSim is worth on digits, of which it never saw any; and the control of the panel that labelled them."
    corpus = read_corpus(DIGITS)
    table, images, originals = make_corpus(corpus, work)
    material = Material(originals, images, table.assign(recognised=table.recognised_A), "machine panel on digits")
    control = control_summary(pd.concat([control_answers(corpus, work, "lenet", variant) for variant in ("untrained", "none")]))
    return scored(metric, papers, material, "test", "A").drop(columns=["panel A confidence"]), material, control.reset_index()


def digits_sheet(table, material, count=8):
    "A few digits, each with its reconstructions in the order of SemSim, the nearest first."
    rows, images = [], rows_of(material, "test")[1]
    for number, (name, own) in enumerate(table.groupby("original", sort=False)):
        if number == count: break
        rows.append(torch.cat([material.originals.take([material.originals.ids.index(name)]).images, images[own.sort_values("semsim").index.to_numpy()]]))
    return make_grid(torch.cat(rows), nrow=len(rows[0]), padding=1, pad_value=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path), parser.add_argument("work", type=Path)
    parser.add_argument("--into", default=Path(__file__).parents[1] / "nbs/results/semsim", type=Path)
    parser.add_argument("--small", action="store_true", help="little of everything, to see that all works")
    parser.add_argument("--ship", action="store_true", help="copy the metrics into the package")
    args = parser.parse_args()
    ablation = {name: replace(recipe, epochs=1) for name, recipe in ABLATION.items() if "resnet18" not in name or not args.small} if args.small else ABLATION
    place = small_recipe(args.work / "small.yaml") if args.small else RECIPES / "cifar10-panel.yaml", args.folder
    start, material, tables, corpus = time.time(), material_of(place, args.work), {}, corpus_of(place)
    with workers() as pool:
        order = sorted(ablation.values(), key=lambda recipe: not recipe.arch.startswith("resnet18"))
        run_calls(pool, "ablation", make_metric, metric_path, [(place, args.work, recipe) for recipe in order])
    tables["ablation"] = pd.DataFrame([ablation_row(name, make_metric(place, args.work, recipe), material) for name, recipe in ablation.items()])
    best = ablation[chosen(tables["ablation"])]
    with workers() as pool: run_calls(pool, "leave one out", make_metric, metric_path, [(place, args.work, best, left) for left in LEFT_OUT.items()])
    metric, papers = make_metric(place, args.work, best), make_metric(place, args.work, ablation.get(PAPERS, best))
    table = scored(metric, papers, material, "test", "B")
    _, images, owners = rows_of(material, "test")
    columns = ["semsim", "semsim[recipe2309]", *METRICS, "panel A confidence", "sentinel[label]", "sentinel[model]"]
    tables["results"] = results_of(table, columns)
    tables["differences"] = differences_of(table, ["lpips[alex]", "lpips[vgg]", "ssim", "psnr", "panel A confidence"])
    tables["control"], tables["control_models"], tables["clean"] = control_of(place, args.work)
    tables["calibration"], tables["reliability"] = calibration_of(metric, material, table, images, owners)
    tables["answers"] = answers_needed(torch.tensor(table.semsim.to_numpy()), torch.tensor(table.share.to_numpy()), pd.factorize(table.original)[0])
    tables["fooling"], tables["seen_in_noise"] = fooled(metric, material, corpus, args.work)
    tables["left_out"] = leave_out(place, args.work, best, material)
    digits, digits_material, tables["digits_control"] = digits_of(metric, papers, args.work)
    write_image(digits_sheet(digits, digits_material), args.into / "digits.png")
    some = [name for name in columns if name != "panel A confidence"]
    tables["digits"] = results_of(digits, some)
    tables["digits_differences"] = differences_of(digits, ["lpips[alex]", "lpips[vgg]", "ssim", "psnr"])
    leak = leak_share(metric.calibration(torch.tensor(table.semsim.to_numpy())), metric.calibration.annotator, pd.factorize(table.original)[0])
    for name, one in tables.items(): write_table(one, args.into / f"{name}.csv")
    write_table(material.table.drop(columns="recognised"), args.into / "training_table.parquet")
    about = dict(recipe=asdict(best), kappa=agreement_of_panels(table), leak=str(leak), curve=metric.card["curve"], calibration=metric.card["calibration"], originals=dict(corpus.originals), archs=corpus.victims.archs, reconstructions=len(material.table),
                 attacks=int(material.table.drop_duplicates(["arch", "variant", "attack", "original"]).shape[0]), seconds=round(time.time() - start), torch=torch.__version__, python=platform.python_version())
    with atomic_path(args.into / "study.json") as temporary: temporary.write_text(json.dumps(about, indent=1, default=float) + "\n")
    if not args.ship: return
    rows, refused = tables["ablation"].set_index("variant"), refused_line(tables["control"])
    ship("semsim-cifar10-panel", metric, args.into, rows.loc[chosen(tables["ablation"])], judged_line(tables["results"], "semsim"), refused)
    ship("recipe2309-cifar10-panel", papers, args.into, rows.loc[PAPERS], judged_line(tables["results"], "semsim[recipe2309]"), PAPERS_CARD + refused)


CARD = """# {name}

A SemSim network, in half precision: a distance between an original and its reconstruction, lower = more leakage.

- Annotators: **{annotator}**, fine-tuned AlexNets. No person's answer is in it, and its probability is the panel's, never a person's.{refused}
- Data: {attacks} attacks on CIFAR-10 test images ({train} originals to learn from, {calibrate} to calibrate on), classifiers {archs} trained on one half of
  CIFAR-10's training images, the panel on another part. CIFAR-10 is for research use; no image of it is in this file.
- Recipe: {recipe}; loss {first:.3f} to {last:.3f}.
- Agreement, on the calibration split with the panel that taught it: AUC within an original {auc_within:.3f} [{low:.3f}, {high:.3f}], {n} originals.{judged}
- Limits: 32 x 32 pixels (others are resized); ten classes of everyday things; three small attacked architectures; negatives that are ruins of pictures, hardly ever pictures of
  something else; it can be fooled by small changes made for it. The page nbs/results/semsim.ipynb has all of it.
- SHA-256 of the file: {digest}
"""


PAPERS_CARD = "\n- The recipe is that of arXiv:2309.13038, with fewer epochs. **These are not the authors' weights**, and their annotators were people."


def refused_line(control):
    "Whether the panel that taught it passed the control."
    noise = control[(control.sent == "noise") & control.annotator.str.startswith("A")]
    said = ", ".join(f"{row.annotator} refused {row.refused:.0%}" for row in noise.itertuples())
    return f"\n  Of what attacks made of noise, {said} (95 % are asked for){'' if noise.passes.all() else ': **this panel did not pass its control, and the metric is a first one, to be replaced**'}."


def ship(name, metric, into, ablation, judged, refused):
    "Write a metric and its model card into the package."
    path, about = Path(__file__).parents[1] / f"semsim/weights/{name}.safetensors", json.loads((into / "study.json").read_text())
    metric.card["name"] = name
    metric.save(path)
    recipe = ", ".join(f"{key} {metric.card[key] if metric.card[key] != '' else 'default'}" for key in ("arch", "init", "sampler", "mining", "margin", "consistency", "augment", "epochs", "lr", "batch", "seed"))
    text = CARD.format(name=name, annotator=metric.card["annotator"], attacks=about["attacks"], archs=", ".join(about["archs"]), **about["originals"], recipe=recipe, first=metric.card["curve"][0], last=metric.card["curve"][-1],
                       **ablation[["auc_within", "low", "high", "n"]].to_dict(), refused=refused, judged=judged, digest=hashlib.sha256(path.read_bytes()).hexdigest())
    with atomic_path(path.with_suffix(".md")) as temporary: temporary.write_text(text)


def judged_line(results, name):
    "How a metric agrees with the panel that did not teach it."
    row = results.set_index("metric").loc[name]
    return (f"\n- Agreement, on {row.originals:.0f} other originals with panel B (probes on VGG16), which did not teach it: AUC within an original {row['auc within']:.3f} "
            f"[{row['auc within low']:.3f}, {row['auc within high']:.3f}], pooled {row['auc pooled']:.3f} [{row['auc pooled low']:.3f}, {row['auc pooled high']:.3f}], n = {row.pairs:.0f}.")


if __name__ == "__main__":
    main()
