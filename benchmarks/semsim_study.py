"""SemSim trained, chosen, calibrated and judged on CIFAR-10: the tables of nbs/results/semsim.ipynb, and the shipped
metrics.

    .venv/bin/python benchmarks/semsim_study.py FOLDER WORK

FOLDER holds CIFAR-10 as images, in train/CLASS and test/CLASS. WORK keeps the files: a second run resumes the first.
Panel B needs the weights of VGG16, in the folder that SEMSIM_WEIGHTS names. `--ship` copies the metrics into the
package.
"""

import argparse
import hashlib
import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from statsmodels.stats.multitest import multipletests
from torchvision.utils import make_grid

from semsim.analysis.correlation import group_sentinels
from semsim.training.calibration import answers_needed, expected_calibration_error, leak_share, calibration_curve
from semsim.analysis.comparison import compare
from semsim.annotate.annotator_agreement import pairwise_agreement
from semsim.core.errors import InputError
from semsim.core.files import atomic_path, read_table, write_image, write_table
from semsim.study.settings import POOLS, make_study, read_study
from semsim.study.study_run import Step, StudyRun, paths_of, run_steps
from semsim.study.attacks import ClassifierStep
from semsim.study.answers import panel_answers, panel_labels
from semsim.study.train import study_material, with_data
from semsim.training.robustness import fooling_rates, fooling_noise, suspect
from semsim.analysis.frames import directions
from semsim.analysis.intervals import agreement
from semsim.training.semsim_training import Recipe
from semsim.annotate.panels import accuracy_when
from semsim.annotate.control import control_set, control_summary, label_evidence_control
from semsim.metrics.features import LPIPS
from semsim.metrics.scoring import score
from semsim.metrics.semsim import SemSim, fit_calibration
from semsim.training.answered_images import train_on

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
HIGHER = {
    "panel A confidence": True,
    "semsim[recipe2309]": False,
    **dict.fromkeys(COMPARED, False),
}  # which way columns point that are no metrics
METRICS = (
    "mse",
    "psnr",
    "ssim",
    "lpips[alex]",
    "lpips[vgg]",
    "l2[alexnet]",
    "cosine[alexnet]",
    "sentinel[png]",
    "sentinel[variation]",
)
DIGITS = dict(
    name="digits", data=[dict(source="digits", size=32)], shares=dict(target_models=0.4, teacher=0.6, judge=0.0),
    originals=dict(test=100), assignment="rotating",
    archs=["lenet"], variants=["untrained", "none", "crop", "prune_70"],
    training=dict(images=500, epochs=4), metrics=["mse"], semsim=None,
    attacks=[
        dict(name="cosine", snapshots=[60, 150, 300], changes=dict(steps=600, priors=[["tv", 0.05]])),
        dict(name="euclidean", snapshots=[10, 40, 120],
             changes=dict(steps=300, objective="squared", optimizer="adam", priors=[["tv", 0.001]])),
    ],
    annotators=dict(
        judge=None, teacher=dict(arch="resnet20-0.5", presentations=60000, unsure=0.15, reconstructions=10)
    ),
)  # fmt: skip


def small_attack(attack):
    "An attack with few steps and two early snapshots."
    steps = 4 if attack["preset"] == "idlg" else 200 if attack["archs"] == ["lenet"] else 20
    return attack | dict(snapshots=[1, 3], changes=attack["changes"] | dict(steps=steps))


def small_study(study):
    "The shipped study with little of everything, to see that all works."
    settings = study.model_dump(mode="json")
    settings |= dict(archs=["lenet", "convnet16"], variants=["untrained", "none", "policy_3-1-7"])
    settings |= dict(originals=dict(train=14, calibrate=14, test=14), training=dict(images=60, epochs=1))
    settings["attacks"] = [small_attack(one) for one in settings["attacks"] if one["archs"] != ["resnet20"]]
    settings["annotators"]["teacher"] |= dict(presentations=20000, reconstructions=2)
    settings["annotators"]["judge"] |= dict(presentations=1500, reconstructions=2)
    return make_study(settings)


@dataclass(frozen=True)
class MetricStep(Step):
    "A trained and calibrated metric."

    recipe: Recipe
    left: tuple = ()  # a column and the value whose rows are left out of the training

    kind = "metric"

    @property
    def title(self):
        return f"{self.recipe.arch} {self.recipe.sampler} {' '.join(self.left)}"

    @property
    def needs(self):
        return tuple(self.data.training_steps())

    @property
    def inputs(self):
        return paths_of(self.needs), asdict(self.recipe), self.left

    def load(self, path):
        return SemSim.load(path)

    def make(self, path):
        material = study_material(self.data.run)
        if self.left:
            kept = (material.table[self.left[0]] != self.left[1]).to_numpy()
            table = material.table[kept].reset_index(drop=True)
            material = replace(material, images=material.images[torch.tensor(kept)], table=table)
        train_on(material, self.recipe, path.with_suffix(".checkpoint.safetensors")).save(path)


def rows_of(material, split):
    "A part of the material: (table, images, the original's row for each)."
    rows = torch.nonzero(torch.tensor((material.table.split == split).to_numpy()))[:, 0]
    table = material.table.iloc[rows.numpy()].reset_index(drop=True)
    return (
        table.assign(model=table.arch + " " + table.variant + " " + table.attack + " " + table.step.astype(str)),
        material.images[rows],
        material.owners[rows],
    )


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


def asked(name, distance, calibration, rate):
    "A list with the suspect; an empty one where its calibration gives no threshold to fool."
    try:
        return [suspect(name, distance, calibration, rate)]
    except InputError:
        return []


def ablation_row(name, metric, material):
    "How a metric agrees with panel A on the calibration split."
    table, images, owners = rows_of(material, "calibrate")
    table = table.assign(
        semsim=metric.score(material.originals.images, images, owners).numpy(),
        judge=(table.recognised > 0.5).astype(float),
    )
    within = level_values(table, ["semsim"], "original", "auc").loc["semsim"]
    card, moved = metric.card, 1.0  # where even a distance of 0 is called unrecognised
    if suspects := asked("semsim", metric, metric.calibration, table.recognised.mean()):
        found = fooling_rates(suspects, material.originals.images[owners.unique()], reaches=())
        moved = found[found.called == "not recognised"].rate.max()
    return dict(
        variant=name,
        arch=card["arch"],
        epochs=card["epochs"],
        triplets=card["triplets"],
        borrowed=card["borrowed"],
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
    table = table.assign(
        **{name: found[name].to_numpy() for name in METRICS},
        judge=(table[f"recognised_{judge}"] > 0.5).astype(float),
        share=table[f"recognised_{judge}"],
    )
    for name, one in (("semsim", metric), ("semsim[recipe2309]", papers)):
        table[name] = one.score(material.originals.images, images, owners).numpy()
    table["panel A confidence"] = table.get("confidence_A", pd.Series(np.nan, table.index))
    return table.assign(
        **group_sentinels(table, "judge").fillna(table.judge.mean())
    )  # the share of all, where a group has nothing else


def results_of(table, metrics):
    "How each metric agrees with the judge: AUC and precision within originals and pooled, rank correlations."
    auc = {level: level_values(table, metrics, level, "auc") for level in ("original", "image")}
    rho = {level: level_values(table, metrics, level, "spearman") for level in ("image", "model")}
    rows = []
    for name in metrics:
        row = dict(
            metric=name,
            pairs=len(table),
            originals=table.original.nunique(),
            models=table.model.nunique(),
            share=table.judge.mean(),
        )
        for label, found in (
            ("auc within", auc["original"]),
            ("auc pooled", auc["image"]),
            ("rho images", rho["image"]),
            ("rho models", rho["model"]),
        ):
            one = found.loc[name]
            row |= {label: one.statistic, f"{label} low": one.low, f"{label} high": one.high}
        rows.append(row | precision_within(table, name, directions([name], HIGHER)[name]))
    return pd.DataFrame(rows)


def differences_of(table, others):
    """SemSim's lead over other metrics, with cluster-bootstrap intervals over originals; p-values as they are, and
    corrected for all rows of the table."""
    rows = []
    for level in ("original", "image"):
        found = compare(table, "judge", ["semsim", *others], HIGHER, level, "auc", n_resamples=2000)
        for row in found.itertuples():
            if "semsim" not in (row.metric, row.other):
                continue
            sign = 1 if row.metric == "semsim" else -1
            low, high = sorted((sign * row.low, sign * row.high))
            rows.append(
                dict(
                    level=level,
                    over=row.other if sign == 1 else row.metric,
                    lead=sign * row.statistic,
                    low=low,
                    high=high,
                    p=row.pvalue,
                    n=row.n,
                )
            )
    found = pd.DataFrame(rows)
    return found.assign(p_holm=multipletests(found.p, method="holm")[1])


def agreement_of_panels(table):
    "Cohen's kappa of the two panels' majorities, with its interval, and how much each recognises."
    items, shares = (
        table.model + "/" + table.original,
        {letter: (table[f"recognised_{letter}"] > 0.5).to_numpy() for letter in "AB"},
    )
    answers = pd.concat(
        [
            pd.DataFrame(
                dict(item=items, annotator=f"panel {letter}", kind="machine", answer=np.where(said, 1, -1), time=pd.NaT)
            )
            for letter, said in shares.items()
        ]
    )
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


@dataclass(frozen=True)
class ControlStep(Step):
    "The panels' answers to the control of one target model."

    arch: str
    variant: str

    kind, ending = "control", ".parquet"

    @property
    def title(self):
        return f"{self.arch} {self.variant}"

    @property
    def roles(self):
        return [role for role, panel in self.data.study.annotators if panel]

    @property
    def needs(self):
        panels = [step for role in self.roles for step in self.data.panel_steps(role)]
        return self.data.step(ClassifierStep, self.arch, self.variant), *panels

    @property
    def inputs(self):
        return paths_of(self.needs), CONTROL, CONTROLLED

    def load(self, path):
        return read_table(path)

    def make(self, path):
        originals = self.data.images.originals
        chosen = originals.take(range(min(CONTROLLED, len(originals))))
        control = control_set({self.title: self.needs[0].read()}, chosen, **CONTROL)
        answers = [label_evidence_control(self.data.annotators(role), control) for role in self.roles]
        write_table(pd.concat(answers, ignore_index=True), path)


def control_of(run):
    "The noise-image control of all panels, and what they name of clean and degraded pictures."
    (data,) = run.data
    steps = [data.step(ControlStep, arch, variant) for arch in run.study.archs for variant in ("untrained", "none")]
    run_steps(run, steps)
    answers = pd.concat([step.read() for step in steps], ignore_index=True)
    clean = [accuracy_when(data.annotators(role), data.images.originals).reset_index() for role in steps[0].roles]
    by_model = control_summary(answers, ("annotator", "model", "sent")).reset_index()
    return control_summary(answers).reset_index(), by_model, pd.concat(clean, ignore_index=True)


def calibration_of(metric, material, table, images, owners):
    """Calibration errors and reliability of the shipped probability against panel A (in and out of sample) and against
    panel B."""
    rows, curves = [], []
    inside = rows_of(material, "calibrate")
    p = {
        "calibrate": metric.calibration(metric.score(material.originals.images, inside[1], inside[2])),
        "test": metric.calibration(metric.score(material.originals.images, images, owners)),
    }
    truth = {
        ("A", "calibrate"): inside[0].recognised_A,
        ("A", "test"): table.recognised_A,
        ("B", "test"): table.recognised_B,
    }
    for (panel, split), recognised in truth.items():
        recognised = torch.tensor(recognised.to_numpy(float))
        rows.append(
            dict(
                annotator=f"panel {panel}",
                split=split,
                error=expected_calibration_error(p[split], recognised),
                predicted=p[split].mean().item(),
                observed=recognised.mean().item(),
                n=len(recognised),
            )
        )
        curves.append(
            calibration_curve(p[split], recognised).reset_index().assign(annotator=f"panel {panel}", split=split)
        )
    return pd.DataFrame(rows), pd.concat(curves)


def lpips_distance(originals, images):
    "LPIPS with AlexNet, with a derivative."
    net = LPIPS["alex"].load()
    return (net(LPIPS["alex"].prepare(originals)) - net(LPIPS["alex"].prepare(images))).square().sum(1)


def recognised_in(annotators, images, labels):
    "The share of images that the majority of a panel recognises."
    answers = panel_answers(annotators, images, labels, [str(number) for number in range(len(images))])
    return panel_labels(answers, labels).recognised.gt(0.5).mean()


def fooled(metric, material, data):
    "The audit of SemSim and LPIPS, and whether panels see anything in the noise that SemSim was made to recognise."
    inside, images, owners = rows_of(material, "calibrate")
    with torch.no_grad():
        pairs = zip(owners.split(64), images.split(64))
        far = torch.cat([lpips_distance(material.originals.images[own], some) for own, some in pairs])
    lpips = fit_calibration(far, torch.tensor(inside.recognised.to_numpy(float)), "machine panel A", owners)
    rate = inside.recognised.mean()  # where panel A recognises little, no distance may have P = 0.5
    suspects = asked("semsim", metric, metric.calibration, rate) + asked("lpips[alex]", lpips_distance, lpips, rate)
    test = torch.tensor([part == "test" for part in data.facts.parts])
    originals = material.originals.take(torch.nonzero(test)[:, 0])
    noise = {one.name: fooling_noise(one, originals.images, 32 / 255)[0] for one in suspects}
    seen = [
        dict(
            metric=name,
            panel=letter,
            recognised=recognised_in(data.annotators(role), shown, originals.labels),
            n=len(shown),
        )
        for name, shown in noise.items()
        for role, letter in POOLS.items()
    ]
    return fooling_rates(suspects, originals.images), pd.DataFrame(seen)


def leave_out(data, recipe, material):
    "What SemSim is worth on an attack and an architecture that it did not learn from."
    rows = []
    for column, value in LEFT_OUT.items():
        metric, full = (data.step(MetricStep, recipe, *left).read() for left in ([(column, value)], []))
        table, images, owners = rows_of(material, "test")
        keep = (table[column] == value).to_numpy()
        table, images, owners = (
            table[keep].reset_index(drop=True),
            images[torch.tensor(keep)],
            owners[torch.tensor(keep)],
        )
        lpips = score(material.originals.images, images, ["lpips[alex]"], owners=owners.numpy())[
            "lpips[alex]"
        ].to_numpy()
        table = table.assign(
            judge=(table.recognised_B > 0.5).astype(float),
            left_out=metric.score(material.originals.images, images, owners).numpy(),
            seen=full.score(material.originals.images, images, owners).numpy(),
            lpips=lpips,
        )
        if table.judge.nunique() < 2:
            continue
        for level, name in (("original", "within"), ("image", "pooled")):
            found = level_values(table, list(COMPARED), level, "auc")
            rows += [
                dict(
                    unseen=f"{column} {value}",
                    metric=one,
                    level=name,
                    auc=found.loc[one].statistic,
                    low=found.loc[one].low,
                    high=found.loc[one].high,
                    n=found.loc[one].n,
                    pairs=len(table),
                    share=table.judge.mean(),
                )
                for one in COMPARED
            ]
    return pd.DataFrame(rows)


def digits_of(metric, papers, work):
    "The agreement of SemSim on digits, of which it never saw any; and the control of the panel that labelled them."
    run = StudyRun(make_study(DIGITS), work / "digits")
    run_steps(run, run.data[0].training_steps())
    material = replace(study_material(run), annotator="machine panel on digits")
    control = control_of(run)[0]
    return scored(metric, papers, material, "test", "A").drop(columns=["panel A confidence"]), material, control


def digits_sheet(table, material, count=8):
    "A few digits, each with its reconstructions in the order of SemSim, the nearest first."
    rows, images = [], rows_of(material, "test")[1]
    for number, (name, own) in enumerate(table.groupby("original", sort=False)):
        if number == count:
            break
        rows.append(
            torch.cat(
                [
                    material.originals.take([material.originals.ids.index(name)]).images,
                    images[own.sort_values("semsim").index.to_numpy()],
                ]
            )
        )
    return make_grid(torch.cat(rows), nrow=len(rows[0]), padding=1, pad_value=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path), parser.add_argument("work", type=Path)
    parser.add_argument("--into", default=Path(__file__).parents[1] / "nbs/results/semsim", type=Path)
    parser.add_argument("--small", action="store_true", help="little of everything, to see that all works")
    parser.add_argument("--ship", action="store_true", help="copy the metrics into the package")
    args = parser.parse_args()
    ablation = (
        {
            name: replace(recipe, epochs=1)
            for name, recipe in ABLATION.items()
            if "resnet18" not in name or not args.small
        }
        if args.small
        else ABLATION
    )
    study = with_data(read_study("cifar10-panel"), args.folder)
    run = StudyRun(small_study(study) if args.small else study, args.work)
    (data,), start, tables = run.data, time.time(), {}
    run_steps(run, data.training_steps())
    material, study = study_material(run), run.study
    order = sorted(ablation.values(), key=lambda recipe: not recipe.arch.startswith("resnet18"))
    run_steps(run, [data.step(MetricStep, recipe) for recipe in order])
    rows = [ablation_row(name, data.step(MetricStep, recipe).read(), material) for name, recipe in ablation.items()]
    tables["ablation"] = pd.DataFrame(rows)
    best = ablation[chosen(tables["ablation"])]
    run_steps(run, [data.step(MetricStep, best, left) for left in LEFT_OUT.items()])
    metric, papers = (data.step(MetricStep, recipe).read() for recipe in (best, ablation.get(PAPERS, best)))
    table = scored(metric, papers, material, "test", "B")
    _, images, owners = rows_of(material, "test")
    columns = ["semsim", "semsim[recipe2309]", *METRICS, "panel A confidence", "sentinel[label]", "sentinel[model]"]
    tables["results"] = results_of(table, columns)
    tables["differences"] = differences_of(table, ["lpips[alex]", "lpips[vgg]", "ssim", "psnr", "panel A confidence"])
    tables["control"], tables["control_models"], tables["clean"] = control_of(run)
    tables["calibration"], tables["reliability"] = calibration_of(metric, material, table, images, owners)
    tables["answers"] = answers_needed(
        torch.tensor(table.semsim.to_numpy()), torch.tensor(table.share.to_numpy()), pd.factorize(table.original)[0]
    )
    tables["fooling"], tables["seen_in_noise"] = fooled(metric, material, data)
    tables["left_out"] = leave_out(data, best, material)
    digits, digits_material, tables["digits_control"] = digits_of(metric, papers, args.work)
    write_image(digits_sheet(digits, digits_material), args.into / "digits.png")
    some = [name for name in columns if name != "panel A confidence"]
    tables["digits"] = results_of(digits, some)
    tables["digits_differences"] = differences_of(digits, ["lpips[alex]", "lpips[vgg]", "ssim", "psnr"])
    leak = leak_share(
        metric.calibration(torch.tensor(table.semsim.to_numpy())),
        metric.calibration.annotator,
        pd.factorize(table.original)[0],
    )
    for name, one in tables.items():
        write_table(one, args.into / f"{name}.csv")
    write_table(material.table.drop(columns="recognised"), args.into / "training_table.parquet")
    about = dict(
        recipe=asdict(best),
        kappa=agreement_of_panels(table),
        leak=str(leak),
        curve=metric.card["curve"],
        calibration=metric.card["calibration"],
        originals=study.originals,
        archs=study.archs,
        reconstructions=len(material.table),
        attacks=int(material.table.drop_duplicates(["arch", "variant", "attack", "original"]).shape[0]),
        seconds=round(time.time() - start),
        torch=torch.__version__,
        python=platform.python_version(),
    )
    with atomic_path(args.into / "study.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1, default=float) + "\n")
    if not args.ship:
        return
    rows, refused = tables["ablation"].set_index("variant"), refused_line(tables["control"])
    ship(
        "semsim-cifar10-panel",
        metric,
        args.into,
        rows.loc[chosen(tables["ablation"])],
        judged_line(tables["results"], "semsim"),
        refused,
    )
    ship(
        "recipe2309-cifar10-panel",
        papers,
        args.into,
        rows.loc[PAPERS],
        judged_line(tables["results"], "semsim[recipe2309]"),
        PAPERS_CARD + refused,
    )


CARD = """# {name}

A SemSim network, in half precision: a distance between an original and its reconstruction, lower = more leakage.

- Annotators: **{annotator}**, fine-tuned AlexNets. No person's answer is in it, and its probability is the panel's,
  never a person's.{refused}
- Data: {attacks} attacks on CIFAR-10 test images ({train} originals to learn from, {calibrate} to calibrate on),
  classifiers {archs} trained on one half of CIFAR-10's training images, the panel on another part. CIFAR-10 is for
  research use; no image of it is in this file.
- Recipe: {recipe}; loss {first:.3f} to {last:.3f}.
- Agreement, on the calibration split with the panel that taught it: AUC within an original
  {auc_within:.3f} [{low:.3f}, {high:.3f}], {n} originals.{judged}
- Limits: 32 x 32 pixels (others are resized); ten classes of everyday things; three small attacked architectures;
  training negatives that are severely degraded images, hardly ever images of something else; it can be fooled by small
  changes made for it. The page nbs/results/semsim.ipynb has all of it.
- SHA-256 of the file: {digest}
"""


PAPERS_CARD = (
    "\n- The recipe is that of arXiv:2309.13038, with fewer epochs. **These are not the authors' weights**, and their "
    "annotators were people."
)


def refused_line(control):
    "Whether the panel that taught it passed the control."
    noise = control[(control.sent == "noise") & control.annotator.str.startswith("A")]
    said = ", ".join(f"{row.annotator} refused {row.refused:.0%}" for row in noise.itertuples())
    failed = ": **this panel did not pass its control, and the metric is a first one, to be replaced**"
    verdict = "" if noise.passes.all() else failed
    return f"\n  Of what attacks made of noise, {said} (95 % are asked for){verdict}."


def ship(name, metric, into, ablation, judged, refused):
    "Write a metric and its model card into the package."
    path, about = (
        Path(__file__).parents[1] / f"semsim/weights/{name}.safetensors",
        json.loads((into / "study.json").read_text()),
    )
    metric.card["name"] = name
    metric.save(path)
    recipe = ", ".join(
        f"{key} {metric.card[key] if metric.card[key] != '' else 'default'}"
        for key in (
            "arch",
            "init",
            "sampler",
            "mining",
            "margin",
            "consistency",
            "augment",
            "epochs",
            "lr",
            "batch",
            "seed",
        )
    )
    text = CARD.format(
        name=name,
        annotator=metric.card["annotator"],
        attacks=about["attacks"],
        archs=", ".join(about["archs"]),
        **about["originals"],
        recipe=recipe,
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
    "How a metric agrees with the panel that did not teach it."
    row = results.set_index("metric").loc[name]
    return (
        f"\n- Agreement, on {row.originals:.0f} other originals with panel B (probes on VGG16), which did not teach "
        f"it: AUC within an original {row['auc within']:.3f} "
        f"[{row['auc within low']:.3f}, {row['auc within high']:.3f}], pooled {row['auc pooled']:.3f} "
        f"[{row['auc pooled low']:.3f}, {row['auc pooled high']:.3f}], n = {row.pairs:.0f}."
    )


if __name__ == "__main__":
    main()
