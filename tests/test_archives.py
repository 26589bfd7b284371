"""The published layouts: archives made name by name; the whole count; hostile zip files; one fault at a time."""

import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from archives import (
    FOLDERS, write_annotation_archive, write_reconstruction_archive, write_samples, write_training_archive,
)
from semsim.annotate.answers import COLUMNS, check_answers
from semsim.core.datasets import Split
from semsim.core.errors import InputError
from semsim.core.folders import reconstruction_table, write_reconstructions
from semsim.metrics.scoring import score
from semsim.paper2309.annotation_archive import long_answers, read_annotation_archive
from semsim.paper2309.archive_files import read_samples, unpack_zip, whole_folder
from semsim.paper2309.human_study import HUMAN_STUDY_MODELS, read_human_study
from semsim.paper2309.reconstruction_archive import PaperLayout, read_reconstruction_archive
from semsim.paper2309.training_archive import read_training_archive

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "human_study" / "labels.csv"
ORIGINALS = "ResNet20-4_200_inversed_aug_auglist__rlabel_False_ori"
STUDY = {3: 40, 12: 7, 100: 0}  # id -> label; as texts they sort otherwise


def png(path, value=0, size=32):
    "A flat image."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value % 256, value // 256 % 256, 7)).save(path)
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def samples(tmp_path):
    for id, label in STUDY.items():
        png(tmp_path / "samples" / f"{id}_{label}_ori.png", id)
    return tmp_path / "samples"


@pytest.fixture
def archive(tmp_path):
    "The reconstructed images, with everything that the newer archive has for the second model."
    root = tmp_path / "benchmark" / "images" / "cifar100"
    for id, label in STUDY.items():
        png(root / ORIGINALS / f"{id}_{label}_ori.png", id)
        for number, folder in enumerate(FOLDERS, 1):
            png(root / folder / f"{id}_{label}_rec.png", 1000 * number + id)
        png(root / f"{FOLDERS[1]}_ori" / f"{id}_{label}_ori.png", 500 + id)
        text(root / f"{FOLDERS[1]}_ps" / f"{id}_{label}.txt", f"{id / 1000}\n")
        text(root / f"{FOLDERS[1]}_txt" / f"{id}_{label}_model_rec.txt", f"{id % 2} 9 8 7 6 5")
    return root


def sort_images(root, older=False):
    "The sorted images: models 1 to 4 are unrecognizable, but for the original 100, of which all are recognizable."
    for id, label in STUDY.items():
        png(root / (f"img/{id}_{label}_ori.png" if older else f"train_with_ori/{id}/{id}_{label}_ori.png"), id)
        for number in range(1, 15):
            bad = number <= 4 and id != 100
            home = f"{('img1' if bad else 'img0') if older else 'train_with_ori'}/{'-' if bad else ''}{id}"
            png(root / home / f"{id}_{label}_rec_{3 if bad else number % 4}_{number}.png", 1000 * number + id)
    png(root / "others" / "other.png")
    return root


@pytest.fixture
def annotated(tmp_path):
    root = tmp_path / "human_annos_subset"
    for id, label in STUDY.items():
        png(root / "original-img" / f"{id}_{label}_ori.png", id)
        for number, folder in enumerate(FOLDERS, 1):
            png(root / "img" / folder / f"{id}_{label}_rec.png", 1000 * number + id)
            text(
                root / "img" / folder / f"{id}_{label}_gt.txt",
                f"{label} -1 {number} {label} {label if number > 7 else 99}\n",
            )
    return root


def paper_table(root):
    "Every reconstruction in a folder of the paper."
    return reconstruction_table(root, PaperLayout())


def pixels(path):
    return np.asarray(Image.open(path))[0, 0].tolist()


# A table of reconstructions


def test_models_and_ids_have_the_studys_order(archive):
    table = paper_table(archive)
    assert table.model.unique().tolist() == list(HUMAN_STUDY_MODELS)
    assert table.original[:3].tolist() == ["3", "12", "100"]
    assert {path.parent.name for path in table.original_path} == {ORIGINALS}


def test_order_is_not_that_of_the_file_system(archive, monkeypatch):
    before = paper_table(archive)
    forward = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(sorted(forward(self))))
    pd.testing.assert_frame_equal(paper_table(archive), before)


def test_other_names_are_models_of_their_own(tmp_path):
    split = Split(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]), ("10", "9", "cat-1"))
    write_reconstructions(tmp_path / "study" / "mine", split, split.images)
    png(tmp_path / "study" / "theirs" / "a_1_rec.png")
    png(tmp_path / "study" / "theirs_ori" / "a_1_ori.png")
    table = paper_table(tmp_path / "study")
    assert table[["model", "original"]].to_numpy().tolist() == [
        ["mine", "9"], ["mine", "10"], ["mine", "cat-1"], ["theirs", "a"],
    ]
    assert paper_table(tmp_path / "study" / "mine").model.unique().tolist() == ["mine"]


def test_a_models_transformed_inputs_are_no_originals(archive):
    shutil.rmtree(archive / ORIGINALS)
    with pytest.raises(InputError, match="untransformed"):
        paper_table(archive)


def test_a_scored_archive(archive):
    table = read_reconstruction_archive(archive, originals=3).head(6)
    scores = score(
        table[["original_path", "reconstruction_path"]].set_axis(["original", "reconstruction"], axis=1),
        metrics=["psnr"],
    )
    assert len(scores) == 6 and np.isfinite(scores.psnr).all()


def rename(old, new):
    return lambda root: next(root.rglob(old)).rename(next(root.rglob(old)).with_name(new))


FAULTS = {  # what is done to the archive -> what the error must say
    "no parsable name": (
        lambda root: png(root / FOLDERS[3] / "cat.png"),
        "cat.png: expected a name like ID_LABEL_rec.png",
    ),
    "no original": (
        lambda root: png(root / FOLDERS[3] / "13_5_rec.png"),
        "13_5_rec.png: 13_5_ori.png is missing in .*_ori; add it",
    ),
    "no reconstruction": (
        lambda root: (root / FOLDERS[3] / "3_40_rec.png").unlink(),
        "3_40_ori.png: 3_40_rec.png is missing in .*; add it",
    ),
    "another label": (
        lambda root: rename("3_40_rec.png", "3_41_rec.png")(root),
        "label is 4[01], but .* says 4[01]; correct",
    ),
    "an id twice": (lambda root: png(root / FOLDERS[3] / "3_41_rec.png"), "3_41_rec.png: the id '3' comes twice"),
    "an unknown model": (
        lambda root: png(root / "vgg" / "3_40_rec.png"),
        "vgg: 'vgg': not a folder of the human study.*; rename it",
    ),
    "an unknown variant": (
        lambda root: (root / FOLDERS[3]).rename(root / "ConvNet_200_inversed_aug_auglist_1-1-1_rlabel_False"),
        "no variant",
    ),
    "a model twice": (
        lambda root: shutil.copytree(root / FOLDERS[3], root / f"{FOLDERS[3]}_fix"),
        "_fix: its model, 'ResNet20-4 43-18-18', is also that of",
    ),
    "an empty model": (lambda root: [path.unlink() for path in (root / FOLDERS[3]).iterdir()], "no image in it"),
    "a missing model": (lambda root: shutil.rmtree(root / FOLDERS[3]), "no row for ResNet20-4 43-18-18"),
    "a text of words": (
        lambda root: text(root / f"{FOLDERS[1]}_ps" / "3_40.txt", "high"),
        "3_40.txt: expected numbers only, found 'high'",
    ),
    "two scores": (
        lambda root: text(root / f"{FOLDERS[1]}_ps" / "3_40.txt", "0.5 0.5"),
        "expected one score from 0 to 1",
    ),
    "no score": (lambda root: (root / f"{FOLDERS[1]}_ps" / "3_40.txt").unlink(), "3_40.txt is missing in"),
    "a wrong guess": (
        lambda root: text(root / f"{FOLDERS[1]}_txt" / "3_40_model_rec.txt", "2 1 1"),
        r"expected first 1 \(right\) or 0",
    ),
    "an empty guess": (
        lambda root: text(root / f"{FOLDERS[1]}_txt" / "3_40_model_rec.txt", ""),
        r"expected first 1 \(right\) or 0",
    ),
    "a missing input": (
        lambda root: (root / f"{FOLDERS[1]}_ori" / "3_40_ori.png").unlink(),
        "3_40_ori.png is missing in",
    ),
    "no numbers as ids": (
        lambda root: [rename(f"3_40_{kind}.png", f"x_40_{kind}.png")(root) for kind in ["ori"] * 2 + ["rec"] * 14],
        "the id is 'x'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_one_line_with_a_name(fault, archive):
    damage, message = FAULTS[fault]
    if fault == "no numbers as ids":
        shutil.rmtree(archive / f"{FOLDERS[1]}_ps")
        shutil.rmtree(archive / f"{FOLDERS[1]}_txt")
    damage(archive)
    with pytest.raises(InputError, match=message) as caught:
        read_reconstruction_archive(archive, originals=3)
    assert "\n" not in str(caught.value)


# The reconstructions


def test_reconstructions_are_read_as_published(archive):
    table = read_reconstruction_archive(archive, originals=3)
    assert list(table) == ["model", "arch", "variant", "original", "label", "original_path", "reconstruction_path",
                           "sent_path", "prediction_score", "top1_correct", "top5"]
    assert table.original.tolist() == [3, 12, 100] * 14 and table.label.tolist() == [40, 7, 0] * 14
    assert table.arch.tolist() == ["ResNet20-4"] * 21 + ["ConvNet"] * 21
    second = table[table.model == "ResNet20-4 crop"]
    assert second.prediction_score.tolist() == [0.003, 0.012, 0.1]
    assert second.top1_correct.tolist() == [1, 0, 0] and second.top5.tolist() == [(9, 8, 7, 6, 5)] * 3
    assert [pixels(path)[:2] for path in second.sent_path] == [[(500 + id) % 256, (500 + id) // 256] for id in STUDY]
    assert table.sent_path.notna().sum() == 6 and table.prediction_score.notna().sum() == 3


def test_reconstructions_come_back_file_by_file(archive, tmp_path):
    write_reconstruction_archive(tmp_path / "written", read_reconstruction_archive(archive, originals=3))
    names = [
        sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*") if path.is_file())
        for root in (archive, tmp_path / "written")
    ]
    assert names[0] == names[1]
    for name in names[0]:
        content = pixels if name.endswith(".png") else lambda path: path.read_text().split()
        assert content(archive / name) == content(tmp_path / "written" / name), name


def test_part_of_an_archive(archive):
    for folder in FOLDERS[2:]:
        shutil.rmtree(archive / folder)
    assert len(read_reconstruction_archive(archive, originals=None)) == 6
    with pytest.raises(InputError, match="no row for"):
        read_reconstruction_archive(archive)


# The samples


def test_samples(samples, tmp_path):
    split = read_samples(samples, originals=3)
    assert split.ids == ("3", "12", "100")
    assert split.labels.tolist() == [40, 7, 0]
    assert split.images.shape == (3, 3, 32, 32)
    assert (split.images[:, 0, 0, 0] * 255).round().tolist() == [3, 12, 100]
    write_samples(tmp_path / "written", split)
    again = read_samples(tmp_path / "written", originals=3)
    assert again.ids == split.ids
    assert torch.equal(again.images, split.images)
    assert torch.equal(again.labels, split.labels)


def test_labels_are_compared_with_the_test_set(samples):
    test = Split(torch.zeros(100, 3, 1, 1), torch.zeros(100, dtype=torch.long), tuple(str(n + 1) for n in range(100)))
    test.labels[[2, 11]] = torch.tensor([40, 7])  # id 3 is the third image
    read_samples(samples, originals=3, test=test)
    test.labels[11] = 8
    with pytest.raises(InputError, match="12_7_ori.png: its label is 7, but the test image 12 has 8"):
        read_samples(samples, originals=3, test=test)


@pytest.mark.parametrize(
    "name, size, message",
    [
        ("7_100_ori.png", 32, "the label is 100, expected"),
        ("0_1_ori.png", 32, "the id is '0'"),
        ("10001_1_ori.png", 32, "the id is '10001'"),
        ("03_40_ori.png", 32, "'03'"),
        ("3_41_ori.png", 32, "'3' comes twice"),
        ("7_1_ori.png", 16, r"7_1_ori.png: its shape is \(3, 16, 16\)"),
        ("cat.png", 32, "expected a name like ID_LABEL_ori.png"),
    ],
)
def test_samples_with_a_fault(samples, name, size, message):
    png(samples / name, size=size)
    with pytest.raises(InputError, match=message):
        read_samples(samples, originals=None)


def test_samples_in_a_zip_file_name_the_zip_file(samples, tmp_path):
    (samples / "3_40_ori.png").write_bytes((samples / "3_40_ori.png").read_bytes()[:60])
    shutil.make_archive(tmp_path / "packed", "zip", tmp_path, "samples")
    with pytest.raises(InputError, match="packed.zip/3_40_ori.png: not a readable image"):
        read_samples(tmp_path / "packed.zip", originals=3)


# The sorted images


@pytest.mark.parametrize("older", [False, True])
def test_sorted_images(tmp_path, older):
    root = sort_images(tmp_path / "human_anno_id", older)
    table, originals, others = read_training_archive(root, originals=3)
    assert table.model.tolist() == [model for model in HUMAN_STUDY_MODELS for _ in range(3)]
    assert table.original.tolist() == [3, 12, 100] * 14
    expected = [
        (0 if number <= 4 and id != 100 else 1, 3 if number <= 4 and id != 100 else number % 4)
        for number in range(1, 15)
        for id in STUDY
    ]
    assert list(zip(table.flag, table.wrong)) == expected
    assert originals.ids == ("3", "12", "100")
    assert originals.labels.tolist() == [40, 7, 0]
    assert [path.name for path in others] == ["other.png"]
    assert [pixels(path)[:2] for path in table.reconstruction_path] == [
        [(1000 * n + id) % 256, (1000 * n + id) // 256] for n in range(1, 15) for id in STUDY
    ]
    write_training_archive(tmp_path / "written", table, others, older)
    names = [
        sorted(path.relative_to(home).as_posix() for path in home.rglob("*.png"))
        for home in (root, tmp_path / "written")
    ]
    assert names[0] == names[1]


def test_the_inner_folder_is_accepted(tmp_path):
    root = sort_images(tmp_path)
    assert len(read_training_archive(root / "train_with_ori", originals=3)[0]) == 42


def test_a_copy_of_the_original_among_the_unrecognizable_is_ignored(tmp_path):
    root = sort_images(tmp_path)
    png(root / "train_with_ori" / "-3" / "3_40_ori.png", 3)
    table, _, _ = read_training_archive(root, originals=3)
    assert {path.parent.name for path in table.original_path} == {"3", "12", "100"}


SORTING_FAULTS = {
    "folder.x": (lambda home: png(home / "x" / "3_40_rec_0_1.png"), "x: expected a folder called ID"),
    "name": (
        lambda home: png(home / "3" / "3_40_rec_1.png"),
        "3_40_rec_1.png: expected a name like ID_LABEL_rec_K_J.png",
    ),
    "astray": (
        lambda home: png(home / "3" / "12_7_rec_0_1.png"),
        "12_7_rec_0_1.png: lies in the folder of another original",
    ),
    "original astray": (
        lambda home: png(home / "3" / "12_7_ori.png"),
        "12_7_ori.png: lies in the folder of another original",
    ),
    "model": (lambda home: png(home / "3" / "3_40_rec_0_15.png"), "number is 15, expected 1 to 14"),
    "k": (lambda home: png(home / "3" / "3_40_rec_4_1.png"), "K from 0 to 3"),
    "both sides": (
        lambda home: png(home / "3" / "3_40_rec_3_1.png"),
        "3_40_rec_3_1.png: the same model's|the same model's .* 3_40_rec",
    ),
    "label": (lambda home: png(home / "3" / "3_41_rec_0_1.png"), "its label is 41, but .*3_40_ori.png says 40"),
    "no original": (lambda home: (home / "3" / "3_40_ori.png").unlink(), "no 3_LABEL_ori.png in it"),
    "alone": (lambda home: png(home / "5" / "5_1_ori.png"), "5_1_ori.png: no reconstruction of it"),
    "unrecognizable alone": (
        lambda home: png(home / "-5" / "5_1_rec_3_1.png"),
        "5_1_rec_3_1.png: its original is missing",
    ),
    "one model less": (
        lambda home: (home / "3" / "3_40_rec_1_5.png").unlink(),
        "no row for ResNet20-4 hybrid, original 3",
    ),
    "broken": (
        lambda home: (home / "3" / "3_40_ori.png").write_bytes(b"\x89PNG"),
        "3_40_ori.png: not a readable image",
    ),
}


@pytest.mark.parametrize("fault", SORTING_FAULTS)
def test_sorted_images_with_a_fault(tmp_path, fault):
    damage, message = SORTING_FAULTS[fault]
    damage(sort_images(tmp_path) / "train_with_ori")
    with pytest.raises(InputError, match=message):
        read_training_archive(tmp_path, originals=3)


# The answers


def test_answers(annotated, tmp_path):
    wide = read_annotation_archive(annotated, originals=3)
    first, last = wide.iloc[0], wide.iloc[-1]
    assert first[[f"answer_{n}" for n in range(1, 6)]].tolist() == [40, -1, 1, 40, 99]
    assert first["mean"] == 0.4
    assert first.majority == 0
    assert last[[f"right_{n}" for n in range(1, 6)]].tolist() == [1, 0, 0, 1, 1]
    assert last["mean"] == 0.6
    assert last.majority == 1
    write_annotation_archive(tmp_path / "written", paper_table(annotated), wide)
    names = [
        sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*") if path.is_file())
        for root in (annotated, tmp_path / "written")
    ]
    assert names[0] == names[1]
    pd.testing.assert_frame_equal(read_annotation_archive(tmp_path / "written", originals=3), wide)
    answers = check_answers(long_answers(wide), 100)
    assert list(answers) == COLUMNS and len(answers) == 5 * 42
    assert answers[answers.item == "ResNet20-4 none/3"].answer.tolist() == [40, -1, 1, 40, 99]


@pytest.mark.parametrize("place", ["", "labels"])
def test_answers_may_lie_in_folders_of_their_own(annotated, place):
    before = read_annotation_archive(annotated, originals=3)
    for path in sorted((annotated / "img").rglob("*_gt.txt")):
        target = annotated / place / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    pd.testing.assert_frame_equal(read_annotation_archive(annotated, originals=3), before)
    text(annotated / "img" / FOLDERS[0] / "3_40_gt.txt", "1 1 1 1 1")
    with pytest.raises(InputError, match="lie in .* and in .*; keep one"):
        read_annotation_archive(annotated, originals=3)


@pytest.mark.parametrize(
    "content",
    ["1 2 3 4", "1 2 3 4 5 6", "1 2 3 4 100", "1 2 3 4 -2", "1 2 3 4 0.5", "1 2 3 4 nan", "", "one 2 3 4 5", "\0\xff"],
)
def test_not_five_answers(annotated, content):
    text(annotated / "img" / FOLDERS[0] / "3_40_gt.txt", content)
    with pytest.raises(InputError, match="3_40_gt.txt: expected .*; correct the file") as caught:
        read_annotation_archive(annotated, originals=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda home: (home / "3_40_gt.txt").unlink(), "3_40_gt.txt is missing in"),
        (lambda home: (home / "3_40_gt.txt").rename(home / "3_41_gt.txt"), "label is 4"),
        (lambda home: [path.unlink() for path in home.glob("*.txt")], "lie nowhere; put"),
        (lambda home: text(home / "4_1_gt.txt", "1 1 1 1 1"), "4_1_rec.png is missing"),
        (lambda home: home.rename(home.with_name("vgg")), "vgg: 'vgg': not a folder"),
        (lambda home: shutil.rmtree(home), "no row for ResNet20-4 none"),
    ],
)
def test_answers_with_a_fault(annotated, damage, message):
    damage(annotated / "img" / FOLDERS[0])
    with pytest.raises(InputError, match=message):
        read_annotation_archive(annotated, originals=3)


# The whole count


@pytest.mark.skipif(not REAL.is_file(), reason="the public study's table is not beside the repository")
def test_the_real_flags_make_the_archive_of_1149_folders(tmp_path):
    _, people = read_human_study(REAL)
    table = people.assign(wrong=3 - people[["right_2", "right_4", "right_5"]].sum(axis=1))
    image, home = png(tmp_path / "one.png", size=1).read_bytes(), tmp_path / "human_anno_id" / "train_with_ori"
    for id, label in table.drop_duplicates("original")[["original", "label"]].to_numpy():
        (home / f"{id}").mkdir(parents=True)
        (home / f"{id}" / f"{id}_{label}_ori.png").write_bytes(image)
    for id in table.original[table.flag == 0].unique():
        (home / f"-{id}").mkdir()
    numbers = {model: number for number, model in enumerate(HUMAN_STUDY_MODELS, 1)}
    for row in table.itertuples():
        name = f"{row.original}_{row.label}_rec_{row.wrong:.0f}_{numbers[row.model]}.png"
        (home / f"{'' if row.flag else '-'}{row.original}" / name).write_bytes(image)
    names = os.listdir(home)
    assert len(names) == 1149 and sum(name.startswith("-") for name in names) == 549
    back, originals, others = read_training_archive(home.parent)
    assert back.flag.value_counts().to_dict() == {1: 5840, 0: 2560} and len(originals) == 600 and others == []
    columns = ["model", "original", "label", "flag", "wrong"]
    assert back[columns].to_numpy().tolist() == table[columns].to_numpy().tolist()


@pytest.mark.skipif(not REAL.is_file(), reason="the public study's table is not beside the repository")
def test_real_answers_and_flags_through_both_archives(tmp_path):
    _, people = read_human_study(REAL)
    people = people[people.original.isin(people.original.unique()[:40])].reset_index(drop=True)
    one = png(tmp_path / "one.png", size=1)
    table = people.assign(
        original_path=one,
        reconstruction_path=one,
        wrong=3 - people[["right_2", "right_4", "right_5"]].sum(axis=1),
    )
    write_annotation_archive(tmp_path / "annotated", table, people)
    pd.testing.assert_frame_equal(
        read_annotation_archive(tmp_path / "annotated", originals=40),
        people.drop(columns=["flag", "flag_source"]),
    )
    write_training_archive(tmp_path / "sorted", table)
    columns = ["model", "original", "label", "flag", "wrong"]
    again, _, _ = read_training_archive(tmp_path / "sorted", originals=40)
    assert again[columns].to_numpy().tolist() == table[columns].to_numpy().tolist()


def test_the_whole_count_of_reconstructions(tmp_path):
    image = png(tmp_path / "one.png", size=1).read_bytes()
    for folder in (*FOLDERS, ORIGINALS):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for id in range(1, 601):
            kind = "ori" if folder == ORIGINALS else "rec"
            (tmp_path / "images" / folder / f"{id}_{id % 100}_{kind}.png").write_bytes(image)
    table = read_reconstruction_archive(tmp_path / "images")
    assert len(table) == 8400
    assert table.model.unique().tolist() == list(HUMAN_STUDY_MODELS)
    assert table.original[:600].tolist() == list(range(1, 601))


# Zip files and folders


def entry(name, mode=None):
    info = zipfile.ZipInfo(name)
    if mode:
        info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "info, message",
    [
        (entry("../out.txt"), "outside the folder"),
        (entry("a/../../out.txt"), "outside the folder"),
        (entry("/out.txt"), "outside the folder"),
        (entry("C:/out.txt"), "outside the folder"),
        (entry("..\\out.txt"), "outside the folder"),
        (entry("link", 0o120777), "is a link"),
        (entry("pipe", 0o010644), "is a link or a device"),
    ],
)
def test_hostile_entries(tmp_path, info, message):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match=f"bad.zip: refused, nothing was unpacked: .* {message}"):
        unpack_zip(tmp_path / "bad.zip", tmp_path / "in" / "out")
    assert os.listdir(tmp_path / "in") == [] and not (tmp_path / "out.txt").exists()


def test_a_false_size_is_no_way_around_the_limit(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10**6))
    with pytest.raises(InputError, match="it would unpack to 1000000 bytes, more than the limit of 1000"):
        unpack_zip(path, tmp_path / "out", limit=1000)
    data = path.read_bytes().replace(struct.pack("<I", 10**6), struct.pack("<I", 10))
    path.write_bytes(data)
    with pytest.raises(InputError, match="could not be unpacked"):
        unpack_zip(path, tmp_path / "out", limit=1000)
    assert os.listdir(tmp_path) == ["bomb.zip"]


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x05\x06"])
def test_no_zip_file(tmp_path, content):
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(InputError, match="bad.zip: could not be unpacked"):
        unpack_zip(tmp_path / "bad.zip", tmp_path / "out")
    assert os.listdir(tmp_path) == ["bad.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_zip_files_unpack_or_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", method) as archive:
        archive.writestr("a/3_40_ori.png", "x" * 50)
        archive.writestr("é.txt", "hello" * 20)
    data, random = (tmp_path / "whole.zip").read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 2):
            damaged[place] = random.integers(0, 256)
        (tmp_path / "bad.zip").write_bytes(damaged)
        try:
            unpack_zip(tmp_path / "bad.zip", tmp_path / "out")
        except InputError as error:
            assert not (tmp_path / "out").exists() and "\n" not in str(error)
        else:
            shutil.rmtree(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["bad.zip", "whole.zip"]


def test_what_macos_adds_is_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("Cifar_ori/3_40_ori.png", "x")
        archive.writestr("__MACOSX/Cifar_ori/._3_40_ori.png", "x")
    assert unpack_zip(tmp_path / "packed.zip", tmp_path / "out") == tmp_path / "out" / "Cifar_ori"


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    text(tmp_path / "there" / "mine.txt", "mine")
    with pytest.raises(InputError, match="already there"), whole_folder(tmp_path / "there"):
        pass
    assert (tmp_path / "there" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "read",
    [reconstruction_table, read_samples, read_reconstruction_archive, read_training_archive, read_annotation_archive],
)
def test_a_missing_or_empty_folder(tmp_path, read):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=str(folder)):
            read(folder)
