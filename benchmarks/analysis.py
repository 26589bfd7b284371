"""Speed of the whole analysis, and of one resample against a plain loop over scipy.

Both use the same rows and draws, on one machine, in turns.

    python benchmarks/analysis.py

The rows have the shape of the study with real people: 14 models, 600 originals, ten metrics, a yes or no for each of
8,400 reconstructions; they are simulated, as in `coverage.py`. The loop draws originals and models, really repeats
the rows and calls scipy's spearmanr, pearsonr and kendalltau for each metric: over the models' means, over all rows,
and within each original. Both sides must find the same values. What is written: `benchmarks/analysis.json` and the
tables of `benchmarks/README.md`. `--tiny` takes few rows and resamples, to see that all works, and `--into` writes
the JSON file elsewhere and leaves README.md alone.
"""

import argparse
import json
import platform
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import scipy

from attack import CORES, HERE, markdown, number, processor, write_readme
from coverage import PEOPLE, cells, frame_of, normals
from semsim.analysis.correlation import LEVELS, STATISTICS
from semsim.analysis.comparison import compare
from semsim.analysis.pairwise_accuracy import soft_pairwise_accuracy, tie_calibrated_accuracy
from semsim.core.seeds import derive_seed
from semsim.core.files import atomic_path
from semsim.analysis.frames import checked_rows
from semsim.analysis.resampling import draws, resample
from semsim.analysis.intervals import agreement

METRICS = {f"metric_{n}": True for n in range(10)}  # name -> higher is leakier
ANNOTATORS = [f"right_{n}" for n in range(1, PEOPLE + 1)]


@dataclass(frozen=True)
class Budget:
    "How much is computed."

    models: int = 14
    originals: int = 600
    resamples: int = 10_000
    permutations: int = 1_000
    looped: int = 5  # resamples by the plain loop
    rounds: int = 3


TINY = Budget(models=6, originals=12, resamples=20, permutations=5, looped=1, rounds=1)


def simulated(budget):
    """Ten metrics, five simulated annotators, `right_1` to `right_5`, and their majority.

    The metrics go from the better of `coverage.py` to the other, each with some noise of its own."""
    rng = np.random.default_rng(derive_seed("benchmark of the analysis"))
    values, votes = cells(normals(budget.models, rng), normals(budget.originals, rng), rng)
    mixed = {
        name: values["A"] + n / 9 * (values["B"] - values["A"]) + rng.normal(0, 0.2, votes.shape)
        for n, name in enumerate(METRICS)
    }
    right = rng.permuted(np.arange(PEOPLE) < votes[..., None], axis=-1)  # who of the five they were
    return frame_of(mixed | {name: right[..., n] for n, name in enumerate(ANNOTATORS)}, votes)


# Ours


def analysis(scores, budget):
    "The parts of the whole analysis: name -> function."
    about = dict(
        scores=scores, target="majority", metrics=list(METRICS), higher_is_leakier=METRICS, n_resamples=budget.resamples
    )
    permuted = about | dict(n_permutations=budget.permutations)
    return {
        "agreement, all levels and facets": lambda: agreement(**about, level="all", facet="all"),
        **{f"compare, rho, level {level}": lambda level=level: compare(**permuted, level=level) for level in LEVELS},
        "compare, AUC, level original": lambda: compare(**permuted, level="original", coefficient="auc"),
        "soft pairwise accuracy": lambda: soft_pairwise_accuracy(**permuted),
        "tie-calibrated accuracy": lambda: tie_calibrated_accuracy(**about),
        # the ceiling and the report come here
    }


# The plain loop


def looped(scores, level, drawn):
    "coefficient -> (metrics, resamples): rows really repeated, scipy called for each metric."
    grids = {
        name: scores.pivot(index="original", columns="model", values=name).to_numpy() for name in (*METRICS, "majority")
    }
    found = {coefficient: [[] for _ in METRICS] for coefficient in STATISTICS}
    for column in range(drawn.originals.shape[1]):
        rows = np.ix_(*(np.repeat(np.arange(len(which)), which[:, column].astype(int)) for which in drawn[:2]))
        repeated = {name: grid[rows] for name, grid in grids.items()}
        for name, function in STATISTICS.items():
            for metric, values in zip(METRICS, found[name]):
                values.append(one_by_one(function, level, repeated[metric], repeated["majority"]))
    return {name: np.array(values) for name, values in found.items()}


def one_by_one(function, level, x, y):
    "scipy's function at a level, of (originals, models)."
    if level == "model":
        return function(x.mean(0), y.mean(0)).statistic
    if level == "image":
        return function(x.ravel(), y.ravel()).statistic
    return np.nanmean([function(a, b).statistic for a, b in zip(x, y)])


def seconds(function):
    "How long a call takes."
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def check(scores, budget):
    "Make sure that both sides find the same: the largest difference over levels, coefficients, metrics and resamples."
    rows, drawn = (
        checked_rows(scores, "majority", list(METRICS), METRICS),
        draws(budget.originals, budget.models, "both", budget.looped),
    )
    apart = 0.0
    for level in LEVELS:
        theirs, ours = looped(scores, level, drawn), resample(rows, level, tuple(STATISTICS), drawn)
        for name in STATISTICS:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-9)
            apart = max(apart, np.nanmax(np.abs(ours[name] - theirs[name])))
    return apart


def timed(scores, budget):
    """Seconds of each round, the loop and semsim in turns.

    They are of one resample by the loop, of one by semsim, and of each part of the whole analysis."""
    parts, drawn = analysis(scores, budget), draws(budget.originals, budget.models, "both", budget.looped)
    loop, ours, whole = ({name: [] for name in names} for names in (LEVELS, LEVELS, parts))
    for _ in range(budget.rounds):
        for level in LEVELS:
            loop[level].append(seconds(lambda: looped(scores, level, drawn)) / drawn.originals.shape[1])
            about = dict(
                target="majority",
                metrics=list(METRICS),
                higher_is_leakier=METRICS,
                level=level,
                facet="both",
                n_resamples=budget.resamples,
            )
            ours[level].append(seconds(lambda: agreement(scores, **about)) / budget.resamples)
        for name, part in parts.items():
            whole[name].append(seconds(part))
    return loop, ours, whole


def medians(rounds):
    "The median of each list."
    return {name: median(values) for name, values in rounds.items()}


def measure(budget):
    "All numbers."
    scores = simulated(budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of constant input
        apart = check(scores, budget)
        loop, ours, whole = timed(scores, budget)
    ratios = {level: [slow / fast for slow, fast in zip(loop[level], ours[level])] for level in LEVELS}
    return dict(
        rows=len(scores),
        models=budget.models,
        originals=budget.originals,
        metrics=len(METRICS),
        resamples=budget.resamples,
        permutations=budget.permutations,
        looped=budget.looped,
        rounds=budget.rounds,
        largest_difference=float(apart),
        loop_seconds_a_resample=medians(loop),
        our_seconds_a_resample=medians(ours),
        ratios=medians(ratios),
        part_seconds=medians(whole),
        whole_seconds=median(map(sum, zip(*whole.values()))),
    )


def tables(result):
    "What README.md shows."
    machine, loop, ours = result["machine"], result["loop_seconds_a_resample"], result["our_seconds_a_resample"]
    rows = [
        [level, number(loop[level]), number(1000 * ours[level]), number(ratio)]
        for level, ratio in result["ratios"].items()
    ]
    parts = [*result["part_seconds"].items(), ("**all**", result["whole_seconds"])]
    return "\n\n".join(
        [
            f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, NumPy {machine['numpy']}, "
            f"SciPy {machine['scipy']}; {result['rows']:,} rows, {result['metrics']} metrics; "
            f"medians of {result['rounds']} rounds. On the {result['looped']} resamples of the loop "
            f"the values differ by {result['largest_difference']:.0e} at most.",
            "One resample of originals and models, three coefficients of every metric:",
            markdown(["level", "loop, seconds", "semsim, milliseconds", "ratio"], rows),
            f"The whole analysis, {result['resamples']:,} resamples and {result['permutations']:,} permutations:",
            markdown(["", "seconds"], [[name, number(value)] for name, value in parts]),
        ]
    )


def main(options):
    result = measure(TINY if options.tiny else Budget(rounds=options.rounds))
    result = dict(
        machine=dict(
            processor=processor(),
            cores=CORES,
            python=platform.python_version(),
            numpy=np.__version__,
            scipy=scipy.__version__,
        ),
        **result,
    )
    with atomic_path((options.into or HERE) / "analysis.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    if not options.into:
        write_readme("analysis.py", tables(result))
    print(tables(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds",
        type=int,
        default=Budget.rounds,
        help=f"rounds, of which the median counts (default {Budget.rounds})",
    )
    parser.add_argument(
        "--into", type=Path, help="folder for analysis.json, in place of this one and of README.md's tables"
    )
    parser.add_argument("--tiny", action="store_true", help="few rows and resamples; needs --into")
    options = parser.parse_args()
    if options.tiny and not options.into:
        parser.error("--tiny needs --into, or it would replace the real tables")
    main(options)
