"""Writes made-up studies in the published layouts, so that the readers have something to read."""

import pickle
import shutil
from pathlib import Path

import pandas as pd

from semsim.core.files import read_image, to_pil
from semsim.paper2309.human_study import HUMAN_STUDY_MODELS
from semsim.paper2309.pickles import record_hashes

PLAIN = HUMAN_STUDY_MODELS["ResNet20-4 none"]  # whose `_ori` folder holds the untransformed originals
NUMBERS = {model: number for number, model in enumerate(HUMAN_STUDY_MODELS, 1)}  # the models' numbers in file names
# The folders of the published study, in its order, written out: the layout is a fact, not what this package computes.
FOLDERS = [
    f"{arch}_200_inversed_{rest}"
    for arch in ("ResNet20-4", "ConvNet")
    for rest in (
        "aug_auglist__rlabel_False",
        "crop_auglist__rlabel_False",
        "aug_auglist_3-1-7_rlabel_False",
        "aug_auglist_43-18-18_rlabel_False",
        "aug_auglist_3-1-7+43-18-18_rlabel_False",
        "crop_auglist__rlabel_False_defense_prune_70",
        "crop_auglist__rlabel_False_defense_gaussian_1e-3",
    )
]


def write_public_pickles(labels, folder):
    "Write a study, in the format of `labels.csv`, as the two public pickles, and record their hashes."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    answers, values = {}, {}
    numbers = {name: number for number, name in enumerate(HUMAN_STUDY_MODELS.values(), 1)}
    for row in labels.itertuples():
        name = f"{row.image_id}_{row.gt_label}"
        entry = {
            "paths": {"rec": f"img/{row.model_folder}/{name}_rec.png", "orig": f"original-img/{name}_ori.png"},
            "labels": [row.a1, row.a2, row.a3, row.a4, row.a5],
            "metrics": {
                "mse": row.mse255,
                "ssim": row.ssim,
                "psnr": row.psnr,
                "lpips": row.lpips_squeeze,
                "dreamsim": row.dreamsim,
            },
        }
        answers.setdefault(row.model_folder, {})[f"{name}_gt.txt"] = entry
        if row.flag_source == "folder":
            wrong = sum(answer != row.gt_label for answer in (row.a2, row.a4, row.a5))
            sign = "" if row.recognizable_flag else "-"
            values[f"{sign}{row.image_id}/{name}_rec_{wrong}_{numbers[row.model_folder]}.png"] = 0.0
    (folder / "label_dict_complete.pkl").write_bytes(pickle.dumps(answers, protocol=4))
    (folder / "semsim_values.pkl").write_bytes(pickle.dumps(values, protocol=4))
    record_hashes(folder, ["label_dict_complete.pkl", "semsim_values.pkl"])


def write_samples(folder, samples):
    "Write originals as the published samples: `{id}_{label}_ori.png` in one folder."
    folder.mkdir(parents=True)
    names = [f"{id}_{label}_ori.png" for id, label in zip(samples.ids, samples.labels.tolist())]
    for name, image in zip(names, samples.images):
        to_pil(image).save(folder / name)


def copy_image(source, target):
    "An image file as a PNG file."
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).suffix.lower() == ".png":
        shutil.copyfile(source, target)
    else:
        to_pil(read_image(source)).save(target)


def write_numbers(path, numbers):
    "Numbers in one line of text."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(" ".join(repr(float(number)).removesuffix(".0") for number in numbers) + "\n")


def write_reconstruction_archive(folder, table):
    "Write a table of `read_reconstruction_archive` or `reconstruction_table` in the published layout."
    has = {name for name in ("sent_path", "prediction_score", "top1_correct", "top5") if name in table}
    for row in table.itertuples():
        home, name = HUMAN_STUDY_MODELS[row.model], f"{row.original}_{row.label}"
        copy_image(row.original_path, folder / f"{PLAIN}_ori" / f"{name}_ori.png")
        copy_image(row.reconstruction_path, folder / home / f"{name}_rec.png")
        if "sent_path" in has and row.sent_path is not None and home != PLAIN:
            copy_image(row.sent_path, folder / f"{home}_ori" / f"{name}_ori.png")
        if "prediction_score" in has and pd.notna(row.prediction_score):
            write_numbers(folder / f"{home}_ps" / f"{name}.txt", [row.prediction_score])
        if "top1_correct" in has and pd.notna(row.top1_correct):
            guesses = [row.top1_correct, *row.top5]
            write_numbers(folder / f"{home}_txt" / f"{name}_model_rec.txt", guesses)


def write_training_archive(folder, table, others=(), older=False):
    "Write reconstructions sorted by the columns `flag` and `wrong`, in the published layout or the older one."
    recognizable, unrecognizable = ("img0", "img1") if older else ("train_with_ori", "train_with_ori")
    for row in table.itertuples():
        originals = folder / "img" if older else folder / "train_with_ori" / f"{row.original}"
        copy_image(row.original_path, originals / f"{row.original}_{row.label}_ori.png")
        home = f"{recognizable}/{row.original}" if row.flag else f"{unrecognizable}/-{row.original}"
        name = f"{row.original}_{row.label}_rec_{int(row.wrong)}_{NUMBERS[row.model]}.png"
        copy_image(row.reconstruction_path, folder / home / name)
    for path in map(Path, others):
        copy_image(path, folder / "others" / f"{path.stem}.png")


def write_annotation_archive(folder, table, annotations):
    "Write reconstructions and five people's answers to them in the published layout."
    answers = [f"answer_{person}" for person in range(1, 6)]
    keys = ["model", "original", "label"]
    table = table.astype({"original": int})[[*keys, "original_path", "reconstruction_path"]]
    for row in table.merge(annotations[[*keys, *answers]], on=keys).itertuples():
        name = f"{row.original}_{row.label}"
        home = folder / "img" / HUMAN_STUDY_MODELS[row.model]
        copy_image(row.original_path, folder / "original-img" / f"{name}_ori.png")
        copy_image(row.reconstruction_path, home / f"{name}_rec.png")
        write_numbers(home / f"{name}_gt.txt", [getattr(row, column) for column in answers])
