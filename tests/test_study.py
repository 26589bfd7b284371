"""A study under faults, in real processes: killed, crowded, out of disk, damaged, attacked by its own files. Its tables
stay the same to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import ENV, PROGRAM, end, start
from filelock import FileLock

from semsim.annotate.session import Session
from semsim.core.files import load_tensors, read_image, save_tensors, write_image
from semsim.core.datasets import load_dataset
from semsim.study.report import write_study_page
from semsim.study.settings import changed_settings, make_study, read_study
from semsim.study.study_run import StudyRun
from semsim.study.pipeline import run_study
from semsim.core.tasks import Manifest, Task, run_tasks

TINY = dict(
    name="tiny", data=[dict(source="pictures")], archs=["lenet"], variants=["none", "policy_3-1-7"], originals=10,
    training=dict(images=16, epochs=1, lr=0.05), metrics=["mse", "psnr"],
    attacks=[dict(preset="inverting_gradients", changes=dict(steps=200))],
    semsim=dict(recipe=dict(arch="resnet20-0.25", epochs=1)),
    annotators={
        role: dict(members=1, presentations=4000, arch="convnet4", unsure=0.3) for role in ("teacher", "judge")
    },
    # What a plain model leaks is recognised, what a policy moves out of the picture is not: SemSim needs both kinds, on
    # any processor.
)  # fmt: skip


def write_settings(folder, **changes):
    "A file of the tiny study, and its pictures: zeros and ones."
    digits = load_dataset("digits", size=16)
    for part, split, count in (("train", digits.train, 40), ("test", digits.test, 5)):
        for label, name in enumerate(("zero", "one")):
            for row in torch.nonzero(split.labels == label)[:count, 0].tolist():
                write_image(split.images[row], Path(folder) / "pictures" / part / name / f"{row}.png")
    path = Path(folder) / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def units_in(folder):
    return [path for path in Path(folder).glob("tasks/*/*") if not path.name.startswith(".")]


def tables(folder):
    found = {path.name: path.read_bytes() for path in Path(folder).glob("tables/*")}
    assert set(found) == {
        f"{name}{ending}" for name in ("scores", "models", "agreement") for ending in (".csv", ".parquet")
    }
    return found


def entered(folder):
    "How often each unit was entered into the manifest as written."
    lines = [json.loads(line) for line in (Path(folder) / "manifest.jsonl").read_text().splitlines()]
    return Counter(line["task"] for line in lines if "sha256" in line)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "A finished study, run once for all processes of the tests."
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    with FileLock(f"{folder}.lock"):
        if not (folder / "study/report/index.html").exists():
            folder.mkdir()
            process = start(
                PROGRAM,
                "run",
                write_settings(folder),
                "--out",
                folder / "study",
                "--workers",
                2,
                cwd=folder,
                stderr=subprocess.PIPE,
            )
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    assert "semsim" in pd.read_csv(folder / "study/tables/scores.csv")  # there was something to learn
    return folder / "study"


@pytest.fixture
def copy(undisturbed, tmp_path):
    "A finished study that a test may spoil."
    subprocess.run(["cp", "-a", undisturbed, tmp_path / "study"], check=True)
    write_settings(tmp_path)
    return tmp_path / "study"


# Killed


def wait_for(count, folder, at_work=lambda: True):
    "Until there are so many units, or nothing is at work any more."
    deadline = time.monotonic() + 200
    while len(units_in(folder)) < count and at_work():
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.005)


def alive(number):
    "Is the process there, and more than a record of its end?"
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ten_kills_at_random_moments_and_the_tables_are_the_same(undisturbed, begin, semsim, tmp_path):
    settings, folder, chance, kills = write_settings(tmp_path), tmp_path / "study", random.Random(), 0
    for count in sorted(chance.sample(range(len(units_in(undisturbed))), 10)):
        number, ended = begin("run", settings, "--out", folder, "--workers", 1)
        wait_for(count + 1, folder, lambda: alive(number))
        time.sleep(chance.uniform(0, 0.3))
        if alive(number):
            os.kill(number, signal.SIGKILL)
        kills += ended().code == -signal.SIGKILL
    assert kills >= 8  # the last ones may find the study finished
    before = {path: path.stat().st_mtime_ns for path in units_in(folder)}
    code, _, err = semsim("run", settings, "--out", folder)
    assert code == 0, err
    assert tables(folder) == tables(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing that was finished is made again
    assert set(entered(folder).values()) == {1} and entered(folder).keys() == entered(undisturbed).keys()
    assert not list(folder.rglob(".writing-*"))


def test_any_number_of_workers_in_any_order(undisturbed, tmp_path, monkeypatch, semsim):
    write_settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(3) as threads:
        results = run_study(make_study(TINY), tmp_path / "threads", threads)
    assert not results.missing and tables(tmp_path / "threads") == tables(undisturbed)
    code, _, err = semsim("run", write_settings(tmp_path), "--out", "one", "--workers", 1)
    assert code == 0 and tables(tmp_path / "one") == tables(undisturbed), err


# A Dask cluster


@contextmanager
def dask_cluster(folder, count):
    "A scheduler and so many workers, each a process of its own: the address, and the workers."
    place, processes, log = folder / "scheduler.json", [], open(folder / "dask.log", "w")
    options = dict(env=ENV, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    begin = lambda module, *arguments: processes.append(
        subprocess.Popen([sys.executable, "-m", f"distributed.cli.{module}", *map(str, arguments)], **options)
    )
    try:
        begin("dask_scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", place)
        for number in range(count):
            begin(
                "dask_worker",
                "--scheduler-file",
                place,
                "--host",
                "127.0.0.1",
                "--nthreads",
                1,
                "--no-nanny",
                "--no-dashboard",
                "--name",
                number,
                "--local-directory",
                folder,
            )
        deadline = time.monotonic() + 60
        while not place.exists():
            assert time.monotonic() < deadline, (folder / "dask.log").read_text()
            time.sleep(0.05)
        yield json.loads(place.read_text())["address"], processes[1:]
    finally:
        for process in processes:
            end(process)
        log.close()


def test_a_dask_worker_is_killed_and_nothing_is_lost_and_nothing_made_twice(undisturbed, begin, tmp_path):
    with dask_cluster(tmp_path, 3) as (address, dask_workers):
        _, ended = begin("run", write_settings(tmp_path), "--out", "study", "--dask", address)
        wait_for(2, tmp_path / "study")
        os.kill(dask_workers[0].pid, signal.SIGKILL)
        code, _, err = ended()
    assert code == 0, err
    assert tables(tmp_path / "study") == tables(undisturbed)
    assert (
        set(entered(tmp_path / "study").values()) == {1}
        and entered(tmp_path / "study").keys() == entered(undisturbed).keys()
    )


def test_submitit_takes_units_as_well(tmp_path):
    submitit = pytest.importorskip("submitit")
    units = [
        Task("toy", name, tmp_path / f"{name}.csv", Path.write_text, (tmp_path / f"{name}.csv", "x\n1\n"))
        for name in "ab"
    ]
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=2)
    assert run_tasks(units, executor, Manifest(tmp_path)) == {}
    assert [one.path.read_text() for one in units] == ["x\n1\n"] * 2


# The disk


@contextmanager
def small_disk(folder, size):
    "A disk of its own in memory."
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_what_is_done(undisturbed, semsim, tmp_path):
    settings = write_settings(tmp_path)
    with small_disk(tmp_path / "disk", "250k") as disk:
        code, _, err = semsim("run", settings, "--out", disk / "study", "--workers", 1)
        lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert code == 2 and len(lines) == 1 and "No space left on device" in lines[0], err
        kept = {path: path.read_bytes() for path in units_in(disk / "study")}
        assert kept and not list((disk / "study").rglob("tables"))
        remount(disk, "size=100m")
        code, _, err = semsim("run", settings, "--out", disk / "study", "--workers", 1)
        assert code == 0, err
        assert tables(disk / "study") == tables(undisturbed) and not list(disk.rglob(".writing-*"))
        assert {path: path.read_bytes() for path in kept} == kept


def test_a_read_only_folder_is_said_in_one_line(copy, semsim, tmp_path):
    with small_disk(tmp_path / "disk", "100m") as disk:
        subprocess.run(["cp", "-a", copy, disk / "study"], check=True)
        remount(disk, "ro")
        code, _, err = semsim("run", tmp_path / "tiny.yaml", "--out", disk / "study", "--workers", 1)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "Read-only file system" in err, err
        code, out, err = semsim("status", disk / "study")  # looking is allowed
        assert code == 0 and "tasks are done" in out, err


# Damage


def changed_units(folder, before):
    return {
        path.relative_to(folder).as_posix() for path in units_in(folder) if before.get(path) != path.stat().st_mtime_ns
    }


def test_damaged_units_are_made_again_and_only_those(copy, undisturbed, semsim, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in units_in(copy)}
    table, network = next(copy.glob("tasks/scores/*")), next(copy.glob("tasks/classifier/*"))
    table.write_bytes(table.read_bytes()[:-20])
    tensors, card = load_tensors(network)
    name = next(iter(tensors))
    save_tensors(network, tensors | {name: tensors[name] + 1}, card)  # a sound file with other weights
    code, _, err = semsim("run", tmp_path / "tiny.yaml", "--out", copy, "--workers", 1)
    assert code == 0 and err.count("computed again") == 2 and table.name in err and network.name in err, err
    assert changed_units(copy, before) == {f"tasks/scores/{table.name}", f"tasks/classifier/{network.name}"}
    assert tables(copy) == tables(undisturbed)


def test_one_more_metric_is_one_more_column(copy, undisturbed, semsim, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in units_in(copy)}
    code, _, err = semsim(
        "run", write_settings(tmp_path, metrics=["mse", "psnr", "rmse"]), "--out", copy, "--workers", 1
    )
    assert code == 0 and "other settings than in the last run: data, metrics" in err, err
    assert len(new := changed_units(copy, before)) == 2 and all(path.startswith("tasks/scores/") for path in new)
    scores, first = (
        pd.read_parquet(copy / "tables/scores.parquet"),
        pd.read_parquet(undisturbed / "tables/scores.parquet"),
    )
    pd.testing.assert_frame_equal(scores.drop(columns="rmse"), first)
    torch.testing.assert_close(torch.tensor(scores.rmse**2), torch.tensor(scores.mse), rtol=1e-5, atol=0)


def test_a_task_that_fails_is_recorded_and_the_study_goes_on(copy, semsim, tmp_path):
    settings = write_settings(tmp_path, metrics=["mse", "lpips[squeeze]", "psnr"])  # its weights are nowhere here
    code, out, err = semsim("run", settings, "--out", copy, "--workers", 1)
    if code == 0:
        pytest.skip("this machine has SqueezeNet's weights")
    assert (
        code == 1
        and "missing: scores tiny" not in out
        and "missing: scores pictures lenet none, lpips[squeeze]: no weights for" in out
    )
    assert {"mse", "psnr"} < set(pd.read_csv(copy / "tables/scores.csv")) and "2 of its tasks are missing" in (
        copy / "report/index.html"
    ).read_text()
    code, out, _ = semsim("status", settings, "--out", copy)
    assert code == 0 and out.count("failed: scores pictures") == 2
    assert json.loads((copy / "study.json").read_text())["missing"]


# Before it is begun


def test_a_plan_counts_units_and_hours(copy, semsim, tmp_path):
    code, out, err = semsim("estimate", tmp_path / "tiny.yaml", "--out", "nowhere")
    assert code == 0, err
    hours = {
        line.split()[0]: float(line.split()[3])
        for line in out.splitlines()
        if line.split()[0] in ("classifier", "attack", "annotator")
    }
    assert "20 of 20 tasks to do" in out and 0 <= max(hours.values()) < 0.1 and not (tmp_path / "nowhere").exists()
    code, out, err = semsim("estimate", tmp_path / "tiny.yaml", "--out", copy)
    assert code == 0 and "0 of 20 tasks to do: about 0.00 hours" in out, err


# Two at once, and the wrong folder


def test_a_second_process_is_refused_and_does_no_harm(undisturbed, begin, semsim, tmp_path):
    settings, folder = write_settings(tmp_path), tmp_path / "study"
    _, ended = begin("run", settings, "--out", folder)
    wait_for(1, folder)
    code, _, err = semsim("run", settings, "--out", folder)
    assert code == 2 and "another process is at work on this study" in err and err.count("\n") == 1
    assert ended().code == 0 and tables(folder) == tables(undisturbed)


def contents(folder):
    return {
        path: path.is_file() and (path.stat().st_mtime_ns, path.read_bytes())
        for path in Path(folder).rglob("*")
        if path.name != ".lock"
    }


@pytest.fixture
def refused(semsim):
    "A run must be refused in one line that says these words, and change nothing."

    def check(folder, *words, settings=None):
        before = contents(folder)
        code, _, err = semsim("run", settings or folder.parent / "tiny.yaml", "--out", folder)
        assert (
            code == 2 and err.startswith("error: ") and err.count("\n") == 1 and all(word in err for word in words)
        ), err
        assert contents(folder) == before

    return check


def test_a_folder_of_another_study_is_refused(copy, refused, tmp_path):
    refused(copy, "belongs to the study 'tiny'", "'other'", settings=write_settings(tmp_path, name="other"))


def test_a_folder_with_other_files_is_refused(refused, tmp_path):
    write_settings(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("a cat")
    refused(tmp_path / "photos", "cat.jpg", "no study")


def test_newer_formats_are_refused(copy, refused):
    manifest, settings = copy / "manifest.jsonl", copy / "study.yaml"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    refused(copy, "manifest.jsonl", "its format is 2")
    manifest.unlink()
    settings.write_text(settings.read_text().replace("format: 1", "format: 2"))
    refused(copy, "study.yaml", "its format is 2")


def test_data_that_changed_under_a_study_are_refused(semsim, refused, tmp_path):
    settings = write_settings(tmp_path, semsim=None, annotators=dict(teacher=None, judge="people"))
    code, out, err = semsim("run", settings, "--out", "study")
    assert code == 0 and "semsim annotate" in out, err
    write_image(torch.rand(1, 16, 16), next((tmp_path / "pictures/train/one").iterdir()))
    refused(tmp_path / "study", "pictures: its images have changed")


# Files from somebody else


def test_a_hostile_manifest_leads_nowhere(copy, undisturbed, semsim, tmp_path):
    manifest, outside = copy / "manifest.jsonl", tmp_path / "outside.parquet"
    outside.write_text("mine")
    hostile = [
        dict(task="../outside.parquet", sha256="0" * 64, bytes=1, seconds=1),
        dict(task="/etc/passwd", error="\x1b[2J<script>alert(1)</script>"),
    ]
    hostile += [dict(task=key, sha256="0" * 64, bytes=-1, seconds=1e9) for key in entered(copy)]
    manifest.write_text(manifest.read_text() + "".join(json.dumps(line) + "\n" for line in hostile))
    code, _, err = semsim("run", tmp_path / "tiny.yaml", "--out", copy, "--workers", 1)
    assert code == 0 and err.count("computed again") == len(units_in(undisturbed)), err
    assert outside.read_text() == "mine" and tables(copy) == tables(undisturbed)
    assert "<script>" not in (copy / "report/index.html").read_text()


def test_errors_from_a_manifest_cannot_mark_up_the_report_or_the_screen(copy, semsim, tmp_path):
    gone = next(copy.glob("tasks/scores/*"))
    gone.unlink()
    with open(copy / "manifest.jsonl", "a") as manifest:
        manifest.write(
            json.dumps(dict(task=f"tasks/scores/{gone.name}", error="\x1b[2J<script>alert(1)</script>")) + "\n"
        )
    code, out, err = semsim("report", copy)
    page = (copy / "report/index.html").read_text()
    assert code == 1 and "\x1b" not in out + err and "<script>" not in page and "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("link", ["tasks", "tables", "manifest.jsonl", "tasks/classifier", "report"])
def test_links_out_of_the_folder_are_refused(copy, tmp_path, link, refused):
    outside = tmp_path / "outside"
    outside.mkdir()
    subprocess.run(["mv", copy / link, outside / "moved"], check=True)
    (copy / link).symlink_to(outside / "moved")
    before = contents(outside)
    refused(copy, "a link", link)
    assert contents(outside) == before


@pytest.mark.parametrize(
    "text, said",
    [
        ("!!python/object/apply:os.system ['touch hacked']", "cannot be read as YAML"),
        ("a: &a [x, x]\nb: [*a, *a]", "aliases"),
        ("name: ../../outside", "name"),
        ("name: tiny\nattacks: [{preset: dlg, name: ../x}]", "attacks[0].name"),
        ("name: tiny\nvariants: [none, {name: ../x}]", "variants[1].name"),
        ("name: tiny\nmetrics: ['../../x']", "metrics[0]"),
        ("[" * 5000, "cannot be read as YAML"),
        ("x" * 2**21, "more than a megabyte"),
    ],
)
def test_a_hostile_study_file_is_refused_and_nothing_is_written(tmp_path, text, said, semsim):
    (tmp_path / "hostile.yaml").write_text(text)
    code, _, err = semsim("run", "hostile.yaml")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.yaml"]


# What ships


def test_the_published_studies_wait_for_their_data_in_one_line(semsim, tmp_path):
    code, _, err = semsim("run", "paper-celeba")
    assert (
        code == 2
        and err.startswith("error: celeba-identity: no folder")
        and err.count("\n") == 1
        and not list(tmp_path.iterdir())
    )


def test_the_written_study_is_the_study(undisturbed):
    settings = make_study(TINY)
    assert changed_settings(read_study(undisturbed), settings) == ["data"]  # whose place is written in full
    assert read_study(undisturbed).data[0].name == settings.data[0].name
    assert len(StudyRun(read_study(undisturbed), undisturbed).steps()) == len(units_in(undisturbed))


# Snapshots, parts and a rotating assignment


def test_a_rotating_study_has_a_row_for_each_snapshot_and_original(tmp_path, monkeypatch):
    write_settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    attacks = [dict(name=name, changes=dict(steps=60), snapshots=[20]) for name in ("early", "late")]
    judge = TINY["annotators"]["judge"] | dict(parts=["test"])
    changes = dict(originals=dict(train=4, test=4), assignment="rotating", attacks=attacks, semsim=None)
    study = make_study(TINY | changes | dict(annotators=dict(teacher=None, judge=judge)))
    with ThreadPoolExecutor(1) as thread:
        results = run_study(study, tmp_path / "study", thread)
    assert not results.missing
    scores = results.parts[0].scores
    assert len(scores) == 2 * 8 * 2 and scores.step.isin((20, 60)).all()  # attacks, originals, steps
    assert scores.groupby(["original", "attack"]).variant.nunique().eq(1).all()
    assert scores.groupby("original").variant.nunique().eq(2).all()
    assert scores.recognised.notna().equals(scores.part == "test")
    assert scores.loss.notna().equals(scores.step == 60)
    pictures = list((tmp_path / "study/reconstructions/pictures/lenet none early 20").glob("*_rec.png"))
    assert len(pictures) == 4  # only those that the model met
    assert write_study_page(results, tmp_path / "study").exists()


# Several data sets, and people


def test_two_data_sets_are_never_pooled_and_each_is_scored_by_what_the_other_taught(tmp_path, monkeypatch):
    write_settings(tmp_path)
    for path in (tmp_path / "pictures").rglob("*.png"):  # the same digits in grey, larger and turned: another data set
        image = read_image(path, channels=1, size=20).transpose(1, 2)
        write_image(image, tmp_path / "others" / path.relative_to(tmp_path / "pictures"))
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(1) as thread:
        results = run_study(
            make_study(TINY | dict(data=["./pictures", "./others"], seeds=dict(annotators=2))),
            tmp_path / "study",
            thread,
        )
    scores, models, table = (
        pd.read_parquet(tmp_path / f"study/tables/{name}.parquet") for name in ("scores", "models", "agreement")
    )
    assert not results.missing and scores.groupby(["data", "model"]).size().tolist() == [10] * 4 and len(models) == 4
    assert set(table.data) == {"pictures", "others"} and table.models.max() == 2  # each by itself
    assert scores["semsim[other data]"].between(0, 2).all()
    for data in ("pictures", "others"):
        assert len(list((tmp_path / "study/reconstructions" / data / "lenet none").glob("*_rec.png"))) == 10
    page = write_study_page(results, tmp_path / "study").read_text()
    assert "All data sets" in page and "semsim[other data]" in page
    other = load_tensors(
        next(
            path
            for path in (tmp_path / "study/tasks/semsim").iterdir()
            if load_tensors(path)[1].get("channels") == 3 and load_tensors(path)[1]["size"] == 20
        )
    )
    assert all(
        name.startswith("others/") for name in other[1]["originals"]
    )  # what scores the pictures has not seen one of them


def test_people_judge_a_study_when_they_have_answered(tmp_path, monkeypatch):
    write_settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    study = make_study(TINY | dict(annotators=dict(teacher=None, judge="people"), semsim=None))
    with ThreadPoolExecutor(1) as thread:
        results = run_study(study, tmp_path / "study", thread)
        assert "ready to be labelled" in results.parts[0].verdict[0] and results.parts[0].agreement.empty
        assert "There is no annotator score at all." in write_study_page(results, tmp_path / "study").read_text()
        session = Session(tmp_path / "study/reconstructions/pictures", "ann", every=True)
        session.handle(dict(kind="open", client="test"))
        for position, key in enumerate(session.keys):
            given = session.pictures[key][2] if position % 2 else -1
            session.handle(
                dict(kind="answer", client="test", id=str(position), position=position, answer=given, milliseconds=500)
            )
        session.log.close()
        answered = run_study(study, tmp_path / "study", thread)
    assert not answered.missing and "people (1 of them)" in answered.parts[0].annotator
    assert answered.parts[0].scores.recognised.isin((0, 1)).all() and 0 < answered.parts[0].scores.recognised.mean() < 1
    assert not answered.parts[0].agreement.empty
