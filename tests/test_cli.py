"""The command line, each command in a process of its own: what it writes and refuses, and a study that is resumed."""

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROGRAM, Ended, end, start
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from semsim.core.files import load_tensors, save_tensors, write_image
from semsim.core.datasets import Split, load_dataset, pick
from semsim.core.folders import write_reconstructions
from semsim.core.classifiers import build_classifier, save_classifier
from semsim.metrics.semsim import Calibration, SemSim


def command(folder, *arguments, until=None, stop=None):
    "The command as a user starts it, stopped if there is an `until`. An orphan keeps its pipes open: a timeout."
    process = start(PROGRAM, *arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while until and not until():
            assert process.poll() is None and time.monotonic() < deadline, (
                "the command was not at work when it was to be stopped"
            )
            time.sleep(0.01)
        if until:
            stop(process.pid)
        out, err = process.communicate(timeout=60 if until else 300)
        return Ended(process.returncode, out, err)
    finally:
        end(process)


def contents(folder):
    "Every file and folder, with the content of files and when it was written."
    return {path: path.is_file() and (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(folder).rglob("*")}


def write_pairs(folder):
    "Six digits, named a_0 to f_5, and blurred copies; the first stays sharpest."
    digits = Split(pick(load_dataset("digits", size=32).test, 6).images, torch.arange(6), tuple("abcdef"))
    copies = [
        torch.nn.functional.avg_pool2d(image[None], 2 * row + 1, 1, row) for row, image in enumerate(digits.images, 1)
    ]
    write_reconstructions(folder / "recs", digits, torch.cat(copies))
    return folder / "recs"


@pytest.fixture
def recs(tmp_path):
    return write_pairs(tmp_path)


def write_classes(folder, train, test):
    "Zeros and ones as an image folder: `train` and `test` pictures a class, 16 pixels."
    digits = load_dataset("digits", size=16)
    for part, split, count in (("train", digits.train, train), ("test", digits.test, test)):
        for label, name in enumerate(("zero", "one")):
            for row in torch.nonzero(split.labels == label)[:count, 0].tolist():
                write_image(split.images[row], folder / part / name / f"{split.ids[row]}.png")
    return folder


def broken_jpeg(path):
    "The first half of a JPEG."
    Image.effect_noise((16, 16), 80).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Scoring


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    "A folder with pairs and the scores of a command that must exit with 1."
    folder = tmp_path_factory.mktemp("scored")
    write_pairs(folder)
    return folder, command(folder, "score", "recs", "recs", "--fail-above", "ssim", 0.1)


def test_score_writes_a_table_twice_and_a_picture(scored):
    folder, ended = scored
    assert ended.code == 1 and ended.err == ""
    assert sorted(path.name for path in (folder / "scores").iterdir()) == [
        "contact_sheet.png",
        "scores.csv",
        "scores.parquet",
    ]
    table = pd.read_csv(folder / "scores/scores.csv")
    pd.testing.assert_frame_equal(table, pd.read_parquet(folder / "scores/scores.parquet"), rtol=1e-12)
    assert {"id", "label", "mse", "psnr", "ssim", "lpips[alex]"} <= set(table) and len(table) == 6
    for row in table.itertuples():
        pictures = [np.asarray(Image.open(folder / f"recs/{row.id}_{row.label}_{kind}.png")) for kind in ("ori", "rec")]
        assert row.psnr == pytest.approx(peak_signal_noise_ratio(*pictures), rel=1e-5)
    with Image.open(folder / "scores/contact_sheet.png") as sheet:
        sheet.load()
        assert min(sheet.size) > 100


def test_score_prints_every_metric_with_its_direction(scored):
    table = pd.read_csv(scored[0] / "scores/scores.csv")
    for name, direction in {
        "mse": "lower",
        "psnr": "higher",
        "ssim": "higher",
        "lpips[alex]": "lower",
        "fid[alexnet]": "lower",
    }.items():
        (line,) = [line for line in scored[1].out.splitlines() if line.startswith(f"{name} ")]
        assert line.endswith(f"{direction} = more leakage")
        assert name not in table or float(line.split()[1]) == pytest.approx(table[name].mean(), rel=1e-3)


@pytest.mark.parametrize(
    "metric, factor, code",
    [("ssim", 0.99, 1), ("ssim", 1.01, 0), ("mse", 1.01, 1), ("mse", 0.99, 0)],
    ids=["higher-leaks-above", "higher-leaks-below", "lower-leaks-below", "lower-leaks-above"],
)
def test_fail_above_knows_the_direction(scored, recs, semsim, metric, factor, code):
    limit = factor * pd.read_csv(scored[0] / "scores/scores.csv")[metric].mean()
    ended = semsim("score", "recs", "recs", "--fail-above", metric, limit)
    assert ended.code == code and ended.err == ""
    assert ("FAILED" if code else "passed") in ended.out.splitlines()[
        -1
    ] and f"mean {metric}" in ended.out.splitlines()[-1]


def checkpoint(size=32, nan=False):
    "Writes an untrained SemSim."

    def write(folder):
        metric = SemSim(dict(arch="resnet20-0.5", channels=1, size=size, mean=[0.5], std=[0.25], seed=0, init="he"))
        metric.card["calibration"] = asdict(Calibration("three testers", 2.0, 4.0, 10, 5))
        if nan:
            next(metric.parameters()).data.view(-1)[7] = torch.nan
        metric.save(folder / "metric.safetensors")

    return write


def test_score_with_a_checkpoint(recs, semsim):
    checkpoint()(recs.parent)
    ended = semsim(
        "score", "recs", "recs", "--semsim", "metric.safetensors", "--sort", "semsim", "--fail-above", "semsim", 2
    )
    assert ended.code == 1 and ended.err == ""
    table = pd.read_csv(recs.parent / "scores/scores.csv")
    assert table.semsim.between(0, 2).all()
    np.testing.assert_allclose(table["semsim[probability]"], 1 / (1 + np.exp(4 * table.semsim - 2)), rtol=1e-5)
    assert (
        "the probability that three testers recognises a picture" in ended.out
        and "of 6 reconstructions of 6 originals leak" in ended.out
    )


def test_score_says_whose_probability_it_is(scored):
    assert "semsim[probability] is the probability that machine panel A recognises a picture" in scored[1].out
    assert pd.read_csv(scored[0] / "scores/scores.csv")["semsim[probability]"].between(0, 1).all()


def test_a_checkpoint_of_another_size_resizes_and_says_so_once(recs, semsim):
    checkpoint(size=16)(recs.parent)
    ended = semsim("score", "recs", "recs", "--semsim", "metric.safetensors")
    assert ended.code == 0 and ended.err.count("are resized to 16 x 16") == 1


# Training


def write_sorted(folder, originals=10):
    "Pictures in the published layout of images that people sorted: odd models recognizable, even ones not."
    digits, random = pick(load_dataset("digits", size=32).test, originals), torch.Generator().manual_seed(0)
    for row, (image, label) in enumerate(zip(digits.images.expand(-1, 3, -1, -1), digits.labels.tolist()), 1):
        home = {sign: folder / "train_with_ori" / f"{sign}{row}" for sign in ("", "-")}
        write_image(image, home[""] / f"{row}_{label}_ori.png")
        for number in range(1, 15):
            noise = torch.rand(image.shape, generator=random)
            write_image(
                torch.lerp(image, noise, 0.2 if number % 2 else 0.9),
                home["" if number % 2 else "-"] / f"{row}_{label}_rec_{number % 4}_{number}.png",
            )
    return folder


def test_train_on_sorted_images_then_score_data_sets(semsim, tmp_path):
    write_sorted(tmp_path / "human_anno_id")
    (tmp_path / "settings.yaml").write_text(
        "name: mine\narchive: {path: human_anno_id, originals: 10}\n"
        "recipe: {arch: resnet20-0.25, augment: crop, epochs: 2}\n"
    )
    ended = semsim("train", "settings.yaml", "--out", "out")
    assert ended.code == 0, ended.err
    assert (
        "learned from people (the released flag" in ended.out
        and (tmp_path / "out/training_table.parquet").is_file()
        and (tmp_path / "out/training.json").is_file()
    )
    assert "resumes" not in ended.err and SemSim.load(tmp_path / "out/mine.safetensors").calibration.originals == 2
    for number in (1, 2):
        write_pairs(tmp_path / f"data{number}")
        (tmp_path / f"data{number}/recs").rename(tmp_path / f"data{number}/a model")
    ended = semsim("archive", "data1", "data2", "--semsim", "out/mine.safetensors", "--out", "table.csv")
    assert ended.code == 0, ended.err
    table = pd.read_csv(tmp_path / "table.csv")
    assert (
        table.data.tolist() == ["data1", "data2"]
        and table.model.tolist() == ["a model"] * 2
        and table.n.tolist() == [6, 6]
        and table.recognised.between(0, 1).all()
    )


# Bad input


def spoil(kind, change):
    "Changes the second original or reconstruction."
    return lambda folder: change(sorted((folder / "recs").glob(f"*_{kind}.png"))[1])


def remove_five(folder):
    for path in sorted((folder / "recs").glob("*_rec.png"))[:5]:
        path.unlink()


def other_arch(folder):
    checkpoint()(folder)
    tensors, card = load_tensors(folder / "metric.safetensors")
    save_tensors(folder / "metric.safetensors", tensors, card | {"arch": "convnet8"})


def oblong(folder):
    for path in write_classes(folder / "pictures", 20, 2).rglob("*.png"):
        Image.open(path).resize((20, 16)).save(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:90])


def no_train(folder):
    write_classes(folder / "pictures", 2, 2)
    (folder / "pictures/train").rename(folder / "pictures/training")


def with_broken_jpeg(folder):
    broken_jpeg(write_classes(folder / "pictures", 2, 2) / "train/zero/broken.jpg")


SCORE = ("score", "recs", "recs")
WITH_METRIC = (*SCORE, "--semsim", "metric.safetensors")
ON_FOLDER = ("run", "--data", "pictures", "--images", 4)
BAD_INPUT = {
    "missing-folder": (None, ("score", "recs", "nowhere"), ["nowhere", "no such folder"]),
    "empty-folder": (lambda folder: (folder / "empty").mkdir(), ("score", "empty", "empty"), ["empty", "no image"]),
    "unmatched": (remove_five, SCORE, ["5 file(s)", "a_0_ori.png, b_1_ori.png, c_2_ori.png, ...;"]),
    "other-size": (spoil("rec", lambda path: Image.new("L", (16, 16)).save(path)), SCORE, ["b_1_rec.png", "16", "32"]),
    "truncated-png": (spoil("rec", truncate), SCORE, ["b_1_rec.png", "--skip-bad"]),
    "text-as-png": (spoil("ori", lambda path: path.write_text("no picture")), SCORE, ["b_1_ori.png", "--skip-bad"]),
    "empty-png": (spoil("ori", lambda path: path.write_bytes(b"")), SCORE, ["b_1_ori.png", "--skip-bad"]),
    "transparent-png": (
        spoil("ori", lambda path: Image.new("RGBA", (32, 32)).save(path)),
        SCORE,
        ["b_1_ori.png", "RGBA"],
    ),
    "unknown-metric": (None, (*SCORE, "--sort", "lpips"), ["'lpips'", "lpips[alex]"]),
    "unknown-gate": (None, (*SCORE, "--fail-above", "ssmi", 0.5), ["'ssmi'", "ssim"]),
    "gate-on-a-set": (None, (*SCORE, "--fail-above", "fid[alexnet]", 1), ["'fid[alexnet]'"]),
    "no-checkpoint": (None, WITH_METRIC, ["metric.safetensors", "no such file"]),
    "nan-checkpoint": (checkpoint(nan=True), WITH_METRIC, ["network.backbone.0.weight", "NaN"]),
    "other-checkpoint": (
        lambda folder: save_classifier(folder / "metric.safetensors", build_classifier("lenet")),
        WITH_METRIC,
        ["metric.safetensors", "not a SemSim"],
    ),
    "text-as-checkpoint": (
        lambda folder: (folder / "metric.safetensors").write_text("no weights"),
        WITH_METRIC,
        ["metric.safetensors", "safetensors"],
    ),
    "checkpoint-of-other-arch": (other_arch, WITH_METRIC, ["metric.safetensors"]),
    "no-settings": (None, ("train", "nowhere.yaml"), ["nowhere.yaml", "no such file"]),
    "two-sources": (
        lambda folder: (folder / "two.yaml").write_text("archive: a\nfolder: b\n"),
        ("train", "two.yaml"),
        ["two.yaml", "one source"],
    ),
    "unknown-setting": (
        lambda folder: (folder / "one.yaml").write_text("archive: a\nrecipes: {}\n"),
        ("train", "one.yaml"),
        ["'recipes'", "recipe"],
    ),
    "out-is-a-file": (lambda folder: (folder / "file").touch(), (*SCORE, "--out", "file"), ["file"]),
    "out-in-a-file": (lambda folder: (folder / "file").touch(), (*SCORE, "--out", "file/scores"), ["file"]),
    "out-not-writable": (None, (*SCORE, "--out", "/proc/scores"), ["/proc/scores"]),  # not even by root
    "unknown-data": (None, ("run", "--data", "digit"), ["'digit'", "digits"]),
    "no-such-data": (None, ("run", "--data", "no/where"), ["no/where", "no such folder"]),
    "data-without-train": (no_train, ON_FOLDER, ["pictures", "'train'"]),
    "broken-jpeg": (with_broken_jpeg, ON_FOLDER, ["pictures/train/zero/broken.jpg", "--skip-bad"]),
    "oblong-pictures": (oblong, ON_FOLDER, ["pictures", "16", "20", "size"]),
    "too-small-pictures": (None, ("run", "--size", 8), ["8"]),
    "unknown-arch": (None, ("run", "--arch", "lnet"), ["'lnet'", "lenet"]),
    "unknown-variant": (None, ("run", "--variant", "corp"), ["'corp'", "crop"]),
    "bad-policy": (None, ("run", "--variant", "policy_3-x"), ["policy '3-x'"]),
    "bad-policy-number": (None, ("run", "--variant", "policy_3-1-50"), ["50", "0 to 49"]),
    "bad-share": (None, ("run", "--variant", "prune_100"), ["prune_100"]),
    "one-model": (None, ("run", "--arch", "lenet", "--variant", "none"), ["two or more"]),
    "too-many-images": (None, ("run", "--images", 100000), ["100000 images"]),
    "no-steps": (None, ("run", "--steps", 0), ["attacks[0]", "steps", "1 or more"]),
}


@pytest.mark.parametrize("prepare, arguments, said", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_gives_one_line_and_leaves_nothing(prepare, arguments, said, recs, semsim, tmp_path):
    if prepare:
        prepare(tmp_path)
    before = contents(tmp_path)
    ended = semsim(*arguments)
    assert ended.code == 2
    assert ended.err.startswith("error: ") and ended.err.endswith("\n") and ended.err.count("\n") == 1, ended.err
    assert all(word in ended.err for word in said), ended.err
    assert "Traceback" not in ended.out and contents(tmp_path) == before


@pytest.mark.parametrize(
    "change", [truncate, lambda path: path.write_text("no picture")], ids=["truncated-png", "text-as-png"]
)
@pytest.mark.parametrize("kind", ["ori", "rec"])
def test_skip_bad_leaves_a_pair_out_and_names_it(kind, change, recs, semsim, tmp_path):
    spoil(kind, change)(tmp_path)
    ended = semsim(*SCORE, "--skip-bad")
    assert ended.code == 0
    assert ended.err.startswith(f"warning: skipped recs/b_1_{kind}.png") and ended.err.count("\n") == 1
    assert sorted(pd.read_csv(tmp_path / "scores/scores.csv").id) == list("acdef")


def test_a_full_disk_leaves_whole_files_only(recs, semsim, tmp_path):
    ended = semsim(*SCORE, "--metric", "mse", largest=3000)
    assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["scores.csv"]
    assert len(pd.read_csv(tmp_path / "scores/scores.csv")) == 6


@pytest.mark.parametrize(
    "arguments",
    [("--debug", "score", "recs", "nowhere"), ("score", "recs", "nowhere", "--debug")],
    ids=["before", "after"],
)
def test_debug_shows_the_traceback(recs, semsim, arguments):
    ended = semsim(*arguments)
    assert (
        ended.code == 1
        and ended.err.startswith("Traceback")
        and ended.err.splitlines()[-1].startswith("semsim.core.errors.InputError: nowhere")
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        pytest.param(["--help"], ["score", "run", "--debug"], id="semsim"),
        pytest.param(["score", "--help"], ["--fail-above", "--skip-bad", "--semsim", "--out"], id="score"),
        pytest.param(["run", "--help"], ["--arch", "--variant", "--images", "--steps", "--skip-bad"], id="run"),
    ],
)
def test_help(semsim, arguments, said):
    ended = semsim(*arguments)
    assert ended.code == 0 and ended.err == "" and all(word in ended.out for word in said)


# A study

STUDY = (
    "run --data pictures --arch lenet --variant none --variant prune_70 "
    "--images 6 --epochs 2 --steps 120 --presentations 1000 --skip-bad --out"
).split()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "A folder with pictures, one of them broken, and a study of them."
    folder = tmp_path_factory.mktemp("study")
    broken_jpeg(write_classes(folder / "pictures", 30, 5) / "train/one/broken.jpg")
    return folder, command(folder, *STUDY, "study")


def tables(folder):
    return {path.name: path.read_bytes() for path in folder.glob("tables/*.csv")}


def test_a_study_ends_with_the_verdict_and_the_reports_path(study):
    folder, ended = study
    assert ended.code == 0, ended.err
    page, settings = folder / "study/report/index.html", json.loads((folder / "study/study.json").read_text())
    verdict = settings["results"]["pictures"]["verdict"]
    assert (
        ended.out.splitlines()[-len(verdict) - 1 :] == [*verdict, f"Report: {page.resolve()}"]
        and "panel B (machine)" in verdict[0]
    )
    assert page.read_text().rstrip().endswith("</html>")
    assert set(tables(folder / "study")) == {"scores.csv", "models.csv", "agreement.csv"}
    scores = pd.read_csv(folder / "study/tables/scores.csv")
    assert scores.groupby("model").original.nunique().to_dict() == {"lenet none": 6, "lenet prune_70": 6}
    assert len(list(folder.glob("study/reconstructions/pictures/lenet none/*_rec.png"))) == 6


def test_a_study_warns_of_a_skipped_picture_once(study):
    lines = study[1].err.splitlines()
    assert sum("broken.jpg" in line for line in lines) == 1 and all(line.startswith("warning: ") for line in lines), (
        study[1].err
    )


def test_a_second_run_computes_nothing_again(study):
    folder, first = study
    units, before = contents(folder / "study/tasks"), tables(folder / "study")
    assert sum(bool(unit) for unit in units.values()) >= 12
    again = command(folder, *STUDY, "study")
    assert again.code == 0 and again.out == first.out
    assert contents(folder / "study/tasks") == units and tables(folder / "study") == before


def test_a_stopped_and_killed_study_resumes_to_the_same_tables(study):
    folder, _ = study
    stopped = folder / "stopped"

    def finished():
        return {
            path: unit for path, unit in contents(stopped / "tasks").items() if unit and not path.name.startswith(".")
        }

    ctrl_c = command(
        folder, *STUDY, "stopped", until=lambda: finished(), stop=lambda pid: os.killpg(pid, signal.SIGINT)
    )
    assert ctrl_c.code == 130 and [line[:8] for line in ctrl_c.err.splitlines()] == ["warning:", "stopped;"], ctrl_c.err
    killed = command(
        folder,
        *STUDY,
        "stopped",
        until=lambda: list(stopped.glob("tasks/attack/[!.]*")),
        stop=lambda pid: os.kill(pid, signal.SIGKILL),
    )
    units = finished()
    assert killed.code == -signal.SIGKILL and units and not tables(stopped)
    assert command(folder, *STUDY, "stopped").code == 0
    assert tables(stopped) == tables(folder / "study") and units.items() <= contents(stopped / "tasks").items()


def test_a_study_that_cannot_write_says_so_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    ended = command(
        tmp_path, *"run --arch lenet --variant none --variant crop --images 4 --epochs 1 --out file".split()
    )
    assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1 and "file" in ended.err
