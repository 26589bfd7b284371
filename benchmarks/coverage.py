"""Do the confidence intervals contain the truth as often as they promise?

Simulated studies, of which the truth is known, answer this.

    python benchmarks/coverage.py --scratch FOLDER

A superpopulation of models and of originals is made up so that a study drawn from it resembles the one with real
people; a study is drawn, its intervals are computed by semsim.analysis.resampling as users compute them, and it is
noted whether the truth lies in them; and so on, a few hundred times for each setting. Finished blocks of studies are
appended to FOLDER/coverage.jsonl, and a later call goes on from there. What is written in the end:
`benchmarks/coverage.json` and the tables of `benchmarks/README.md`. `--tiny` does next to nothing, to see that all
works, and `--into` writes the JSON file elsewhere and leaves README.md alone.
"""

import argparse
import json
import os
import platform
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit

import semsim.analysis.resampling
from attack import CORES, HERE, markdown, processor, write_readme
from semsim.core.seeds import content_id, derive_seed
from semsim.core.files import atomic_path
from semsim.analysis.frames import checked_rows
from semsim.analysis.resampling import FACETS, draws, interval, resample, smooth

CODE = content_id(Path(semsim.analysis.resampling.__file__).read_text())  # results of other code are computed again
PEOPLE = 5
VOTES = dict(centre=0.2, leak=0.8, ease=1.2, own=1.1)  # logit of the chance that one annotator names the class
# Weights of the model's leak, the model's own error, the original's ease, the original's own look,
# the reconstruction's own leak, and noise.
METRICS = {
    "A": dict(leak=0.205, model=0.19, ease=0.18, look=0.58, own=0.48, noise=0.55),
    "B": dict(leak=0.155, model=0.20, ease=0.02, look=0.74, own=0.34, noise=0.52),
}
ALIKE = dict(model=0.6, look=0.4, noise=0.7)  # correlation of the two metrics' errors
TABLES = (  # level, target score, coefficients
    ("model", "mean", ("spearman", "pearson", "kendall")),
    ("image", "mean", ("spearman", "pearson", "kendall")),
    ("image", "majority", ("auc",)),
    ("original", "mean", ("spearman", "pearson", "kendall")),
    ("original", "majority", ("auc",)),
)
ESTIMANDS = [(level, name) for level, _, names in TABLES for name in names]
QUANTITIES = ("A", "B", "A - B")
# LPIPS and PSNR against the mean of five people, page human_study.
REAL = {
    "model": "0.79 and 0.72",
    "image": "0.38 and 0.20",
    "original": "0.47 and 0.39",
}


@dataclass(frozen=True)
class Budget:
    "How much is computed."

    settings: tuple = ((8, 150), (14, 150), (30, 150), (60, 150), (14, 600))  # models, originals
    studies: int = 400  # in each setting and facet
    block: int = 8  # studies computed and kept together
    resamples: int = 999
    worlds: int = 4  # fixed sets of models (facet `originals`) or of originals (facet `models`)
    batches: tuple = (("originals", 100), ("models", 32), ("both", 32))  # of the simulation of the truth
    size: tuple = (
        ("originals", 12),
        ("models", 12),
        ("both", 11),
    )  # a batch has 2**size originals, models, or models and half as many originals


TINY = Budget(
    settings=((8, 20),),
    studies=4,
    block=2,
    resamples=99,
    worlds=2,
    batches=(("originals", 2), ("models", 2), ("both", 2)),
    size=(("originals", 8), ("models", 8), ("both", 6)),
)


# The superpopulation


def random(*purpose):
    "Random numbers for a purpose."
    return np.random.default_rng(derive_seed("coverage", *purpose))


def normals(count, rng):
    "(count,3) independent normal numbers."
    return rng.standard_normal((count, 3))


def spread_normals(power, rng):
    "(2**power,3) normal numbers that fill the space evenly: Sobol points, scrambled."
    return stats.norm.ppf(stats.qmc.Sobol(3, rng=rng).random_base2(power))


def pair(first, second, alike):
    "The errors of metrics A and B, from independent normal numbers."
    return dict(A=first, B=alike * first + np.sqrt(1 - alike**2) * second)


def cells(models, originals, rng):
    """(O,M) values of metrics A and B, and the number of annotators who name the class.

    They are computed from (M,3) and (O,3) normal numbers."""
    leak, ease, shape = models[:, 0], originals[:, :1], (len(originals), len(models))
    own, *noise = (rng.standard_normal(shape, dtype=np.float32) for _ in range(3))
    errors = dict(
        model=pair(models[:, 1], models[:, 2], ALIKE["model"]),
        look=pair(originals[:, 1:2], originals[:, 2:], ALIKE["look"]),
        noise=pair(*noise, ALIKE["noise"]),
    )
    values = {
        name: part["leak"] * leak
        + part["ease"] * ease
        + part["own"] * own
        + sum(part[kind] * error[name] for kind, error in errors.items())
        for name, part in METRICS.items()
    }
    chance = expit(VOTES["centre"] + VOTES["leak"] * leak + VOTES["ease"] * ease + VOTES["own"] * own)
    return values, sum((rng.random(shape, dtype=np.float32) < chance).astype(np.int8) for _ in range(PEOPLE))


def expected(models):
    """(M,) the means of A and B and of the annotators' shares with infinitely many originals.

    They are exact, by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    logits = VOTES["centre"] + VOTES["leak"] * models[:, :1] + np.hypot(VOTES["ease"], VOTES["own"]) * points
    errors = pair(models[:, 1], models[:, 2], ALIKE["model"])
    return {name: part["leak"] * models[:, 0] + part["model"] * errors[name] for name, part in METRICS.items()}, expit(
        logits
    ) @ (weights / weights.sum())


# The truth


def coefficients(x, votes):
    """The coefficients along the last axis; x has no ties, votes are whole numbers.

    NaN where all votes, or for the AUC all majorities, are the same."""
    n = x.shape[-1]
    order = np.argsort(x, -1)
    votes = np.take_along_axis(votes, order, -1)
    counts = np.stack([(votes == level).sum(-1) for level in range(PEOPLE + 1)], -1)
    kendall = sum(
        ((2 * np.cumsum(votes == level, -1) - counts[..., level, None]) * (votes > level)).sum(-1)
        for level in range(PEOPLE)
    )
    untied = (n**2 - (counts.astype(float) ** 2).sum(-1)) / 2
    midranks = np.cumsum(counts, -1) - (counts + 1) / 2
    rank = np.arange(n) - (n - 1) / 2
    yes = votes > PEOPLE / 2
    many = yes.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        spearman = _pearson(rank, np.take_along_axis(midranks, votes.astype(int), -1))
        auc = ((rank + (n + 1) / 2) * yes).sum(-1) / many / (n - many) - (many + 1) / 2 / (n - many)
        return dict(
            spearman=spearman,
            pearson=_pearson(np.take_along_axis(x, order, -1), votes),
            kendall=kendall / np.sqrt(n * (n - 1) / 2 * untied),
            auc=auc,
        )


def _pearson(x, y):
    "Pearson's r along the last axis"
    x, y = (a - a.mean(-1, keepdims=True) for a in (x, y))
    return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def between(x, share):
    "The coefficients of the models' means."
    return dict(
        spearman=stats.spearmanr(x, share).statistic,
        pearson=stats.pearsonr(x, share).statistic,
        kendall=stats.kendalltau(x, share).statistic,
    )


@cache
def world(facet, setting, number):
    """What stays the same from study to study.

    The models for the facet `originals`, the originals for the facet `models`; None for `both`."""
    models, originals = setting
    counts = {"originals": models, "models": originals}
    return normals(counts[facet], random("world", facet, counts[facet], number)) if facet in counts else None


def truth(facet, setting, number, batch, size):
    """(estimands, quantities) the truth by one large simulation.

    Between models it is exact where there are infinitely many originals."""
    rng = random(
        "truth", facet, setting if facet == "originals" else setting[1] if facet == "models" else "", number, batch
    )
    models = world(facet, setting, number) if facet == "originals" else spread_normals(size, rng)
    originals = world(facet, setting, number) if facet == "models" else spread_normals(size - (facet == "both"), rng)
    values, votes = cells(models, originals, rng)
    means, share = (
        ({name: x.mean(0) for name, x in values.items()}, votes.mean(0)) if facet == "models" else expected(models)
    )
    found = []
    for name, x in values.items():
        levels = dict(
            model=between(means[name], share),
            image=coefficients(x.reshape(1, -1), votes.reshape(1, -1)),
            original=coefficients(x, votes),
        )
        found.append([np.nanmean(levels[level][coefficient]) for level, coefficient in ESTIMANDS])
    return np.stack([*found, found[0] - np.array(found[1])], -1)


# The studies


def draw_study(facet, setting, number, worlds):
    "The frame of one study."
    rng = random("study", facet, setting, number)
    models, originals = (normals(count, rng) for count in setting)
    if facet == "originals":
        models = world(facet, setting, number % worlds)
    if facet == "models":
        originals = world(facet, setting, number % worlds)
    return frame_of(*cells(models, originals, rng))


def frame_of(values, votes):
    "A frame as users have it, from (O,M) arrays."
    index = pd.MultiIndex.from_product(map(range, votes.shape), names=["original", "model"])
    columns = {**values, "mean": votes / PEOPLE, "majority": (votes > PEOPLE / 2).astype(float)}
    return pd.DataFrame(
        {name: column.ravel() for name, column in columns.items()}, index=index, dtype=float
    ).reset_index()


def study(facet, setting, number, worlds, resamples):
    """(estimands, quantities, 5) of one study.

    The estimate, the percentile interval, and BCa from the same draws where it exists."""
    scores = draw_study(facet, setting, number, worlds)
    drawn = draws(setting[1], setting[0], facet, resamples, number)
    rows = {target: checked_rows(scores, target, ["A", "B"], {"A": True, "B": True}) for target in ("mean", "majority")}
    found = [
        values for level, target, names in TABLES for values in resample(rows[target], level, names, drawn).values()
    ]
    return np.array([[intervals(one, drawn) for one in (*values, values[0] - values[1])] for values in found])


def intervals(values, drawn):
    "Estimate, percentile interval, BCa interval."
    plain, moved = interval(values, drawn, bca=False), interval(values, drawn, bca=True)
    return [plain["statistic"], plain["low"], plain["high"], moved["low"], moved["high"]]


def methods(facet, level, name):
    "The method that users get, and another to compare it with."
    if facet != "originals":
        return "percentile", "reflected"
    return ("BCa", "percentile") if smooth(level, name) else ("percentile", "BCa")


# Jobs, each done once


def jobs_of(budget):
    """All jobs, in an order in which every setting grows at the same pace.

    A job is (kind, facet, models, originals, world or study, batch or count)."""
    settled = {
        facet: dict.fromkeys(
            (setting if facet == "originals" else (0, setting[1]) if facet == "models" else (0, 0))
            for setting in budget.settings
        )
        for facet in FACETS
    }
    batches = [
        ("truth", facet, *setting, number, batch)
        for facet, count in budget.batches
        for setting in settled[facet]
        for number in range(1 if facet == "both" else budget.worlds)
        for batch in range(count)
    ]
    studies = [
        ("studies", facet, *setting, first, min(budget.block, budget.studies - first))
        for first, setting, facet in product(range(0, budget.studies, budget.block), budget.settings, FACETS)
    ]
    return batches + studies


def do(job, budget):
    "One job."
    kind, facet, models, originals, number, other = job
    if kind == "truth":
        return truth(facet, (models, originals), number, other, dict(budget.size)[facet]).tolist()
    return [
        study(facet, (models, originals), n, budget.worlds, budget.resamples).tolist()
        for n in range(number, number + other)
    ]


def key_of(job, budget):
    "What a finished job is known by: all that its result depends on, the code of the intervals too."
    extra = dict(budget.size)[job[1]] if job[0] == "truth" else (budget.worlds, budget.resamples, CODE)
    return json.dumps([job, extra, VOTES, METRICS, ALIKE])


def finished(path):
    "Key -> result of what is in the file; a last line that was cut off is left out."
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[entry["key"]] = entry["result"]
    return found


def one_core(cores):
    "Give this process a core of its own."
    os.sched_setaffinity(0, {cores.get()})


def in_turn(todo, budget, processes):
    "Each job with its result, as soon as it is finished; a process a core, or all in this one."
    if processes == 1:
        yield from ((job, do(job, budget)) for job in todo)
        return
    context = get_context("spawn")
    cores = context.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    with ProcessPoolExecutor(processes, context, one_core, (cores,)) as pool:
        futures = {pool.submit(do, job, budget): job for job in todo}
        yield from ((futures[future], future.result()) for future in as_completed(futures))


def work(budget, path, processes):
    "Do all jobs that are not done yet, and give the results of all: job -> result."
    jobs, done, begin = jobs_of(budget), finished(path), time.monotonic()
    keys = {job: key_of(job, budget) for job in jobs}
    todo = [job for job in jobs if keys[job] not in done]
    with open(path, "a") as file:
        if todo and path.stat().st_size:
            file.write("\n")  # after a line that was cut off
        for count, (job, result) in enumerate(in_turn(todo, budget, processes), 1):
            done[keys[job]] = result
            file.write(json.dumps(dict(key=keys[job], result=result)) + "\n")
            file.flush()
            if count % 50 == 0:
                print(f"{count} of {len(todo)} jobs, {time.monotonic() - begin:.0f} s", flush=True)
    return {job: done[key] for job, key in keys.items()}


# Counting


def truths(results):
    "(facet, models, originals, world) -> (estimands, quantities) mean and standard error over the batches."
    batches = defaultdict(list)
    for (kind, *which, _), found in results.items():
        if kind == "truth":
            batches[tuple(which)].append(found)
    return {
        which: (np.mean(found, 0), np.std(found, 0, ddof=1) / np.sqrt(len(found))) for which, found in batches.items()
    }


def counted(estimates, low, high, true):
    "How often, and on which side, intervals miss; an end that equals the truth up to rounding contains it."
    below, above, undefined = low > true + 1e-9, high < true - 1e-9, np.isnan(low)
    covered = ~(below | above | undefined)
    return dict(
        coverage=covered.mean(),
        se=np.sqrt(covered.mean() * (1 - covered.mean()) / len(covered)),
        truth_below=below.mean(),
        truth_above=above.mean(),
        undefined=undefined.mean(),
        width=np.nanmean(high - low),
        bias=np.nanmean(estimates - true),
        deviation=np.nanstd(estimates - true),
    )


def summary(results, budget):
    "A row for each setting, facet, estimand, quantity and method."
    known, table = truths(results), []
    for setting, facet in product(budget.settings, FACETS):
        blocks = {job[4]: found for job, found in results.items() if job[:4] == ("studies", facet, *setting)}
        values = np.array(
            [one for first in sorted(blocks) for one in blocks[first]], float
        )  # (studies, estimands, quantities, 5)
        where = setting if facet == "originals" else (0, setting[1]) if facet == "models" else (0, 0)
        true, error = (
            np.stack(
                [
                    known[facet, *where, 0 if facet == "both" else number % budget.worlds][part]
                    for number in range(len(values))
                ]
            )
            for part in (0, 1)
        )
        for (e, (level, name)), (q, quantity) in product(enumerate(ESTIMANDS), enumerate(QUANTITIES)):
            estimates, low, high, *moved = values[:, e, q].T
            ends = dict(percentile=(low, high), BCa=moved, reflected=(2 * estimates - high, 2 * estimates - low))
            for use, method in zip(("given", "compared"), methods(facet, level, name)):
                found = counted(estimates, *ends[method], true[:, e, q])
                table.append(
                    dict(
                        models=setting[0],
                        originals=setting[1],
                        facet=facet,
                        level=level,
                        coefficient=name,
                        quantity=quantity,
                        use=use,
                        method=method,
                        studies=len(values),
                        **{key: round(float(value), 5) for key, value in found.items()},
                        truth=round(float(true[:, e, q].mean()), 5),
                        truth_se=round(float(error[:, e, q].max()), 6),
                    )
                )
    return table


# What is written


def heading(setting):
    "A column's name."
    return f"{setting[0]} models" + (f", {setting[1]} originals" if setting[1] != 150 else "")


def percent(row):
    "Coverage for a table, and what is outside the aim in bold."
    text = f"{100 * row['coverage']:.1f}"
    return text if 0.93 <= row["coverage"] <= 0.97 else f"**{text}**"


def coverage(rows, quantity, use, estimands):
    "A table of coverage: a row for each facet, level and coefficient, a column for each setting."
    settings, lines = list(dict.fromkeys(key[:2] for key in rows)), []
    for where in estimands:
        found = [rows[*setting, *where, quantity, use] for setting in settings]
        lines.append([*where, found[0]["method"], *map(percent, found)])
    return markdown(["drawn again", "level", "coefficient", "method", *map(heading, settings)], lines)


def details(rows):
    "Spearman's rho in detail, for A and for A - B."
    lines = []
    for facet, level, setting in product(FACETS, REAL, dict.fromkeys(key[:2] for key in rows)):
        both = [rows[*setting, facet, level, "spearman", quantity, "given"] for quantity in ("A", "A - B")]
        lines.append(
            [
                facet,
                level,
                heading(setting),
                *(
                    cell
                    for row in both
                    for cell in (
                        f"{row['truth']:.3f}",
                        f"{row['bias']:+.3f}",
                        f"{row['deviation']:.3f}",
                        f"{row['width']:.3f}",
                        f"{100 * row['truth_below']:.1f} / {100 * row['truth_above']:.1f}",
                    )
                ),
            ]
        )
    names = [
        f"{quantity}: {name}"
        for quantity in ("A", "A - B")
        for name in ("truth", "bias", "deviation", "width", "below / above, %")
    ]
    return markdown(["drawn again", "level", "", *names], lines)


def tables(result):
    "What README.md shows."
    rows = {
        tuple(row[name] for name in ("models", "originals", "facet", "level", "coefficient", "quantity", "use")): row
        for row in result["rows"]
    }
    machine, typical = result["machine"], result["resembles"]
    everywhere = [(facet, *estimand) for facet, estimand in product(FACETS, ESTIMANDS)]
    elsewhere = [where for where in everywhere if where[0] == "originals" or where[1] == "original"]
    return "\n\n".join(
        [
            f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}; "
            f"{result['studies']} studies for each setting and facet, {result['resamples']} resamples; "
            "150 originals where nothing else is said. "
            f"A coverage of 95 % has a standard error of {100 * np.sqrt(0.95 * 0.05 / result['studies']):.1f}; "
            f"the truths have one of {result['largest_truth_se']:.4f} at most.",
            f"Spearman's rho, mean over the simulated studies of {typical['models']} models and "
            f"{typical['originals']} originals, beside the study with real people:",
            markdown(
                ["level", "A", "B", "LPIPS and PSNR, real"],
                [[level, *(f"{value:.2f}" for value in typical[level]), REAL[level]] for level in REAL],
            ),
            "Metric A: per cent of studies whose 95 % interval contains the truth. Bold: outside 93 to 97.",
            coverage(rows, "A", "given", everywhere),
            "The difference A - B:",
            coverage(rows, "A - B", "given", everywhere),
            "Another method, from the same draws. Metric A:",
            coverage(rows, "A", "compared", elsewhere),
            "The difference A - B:",
            coverage(rows, "A - B", "compared", elsewhere),
            "Spearman's rho in detail: the mean truth; by how much the estimates lie above it on average; "
            "their standard deviation around it; the mean width of the intervals; "
            "the per cent of studies in which the truth lies below or above the interval.",
            details(rows),
        ]
    )


def resembles(results, budget):
    "Mean rho of A and B at each level in studies of the last setting."
    values = np.array(
        [
            one
            for job, found in results.items()
            if job[:4] == ("studies", "both", *budget.settings[-1])
            for one in found
        ],
        float,
    )
    where = [ESTIMANDS.index((level, "spearman")) for level in REAL]
    found = values[..., 0].mean(0)[where, :2].round(3).tolist()
    return dict(zip(REAL, found), models=budget.settings[-1][0], originals=budget.settings[-1][1])


def main(options):
    budget = TINY if options.tiny else replace(Budget(), studies=options.studies)
    options.scratch.mkdir(parents=True, exist_ok=True)
    results = work(budget, options.scratch / "coverage.jsonl", 1 if options.tiny else CORES)
    rows = summary(results, budget)
    result = dict(
        machine=dict(processor=processor(), cores=CORES, python=platform.python_version(), numpy=np.__version__),
        studies=budget.studies,
        resamples=budget.resamples,
        worlds=budget.worlds,
        people=PEOPLE,
        votes=VOTES,
        metrics=METRICS,
        alike=ALIKE,
        resembles=resembles(results, budget),
        largest_truth_se=max(row["truth_se"] for row in rows),
        rows=rows,
    )
    with atomic_path((options.into or HERE) / "coverage.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    if not options.into:
        write_readme("coverage.py", tables(result))
    print(tables(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for what is finished")
    parser.add_argument(
        "--studies", type=int, default=Budget.studies, help=f"in each setting and facet (default {Budget.studies})"
    )
    parser.add_argument(
        "--into", type=Path, help="folder for coverage.json, in place of this one and of README.md's tables"
    )
    parser.add_argument("--tiny", action="store_true", help="next to nothing; needs --into")
    options = parser.parse_args()
    if options.tiny and not options.into:
        parser.error("--tiny needs --into, or it would replace the real tables")
    main(options)
