"""The published data sets in folders: downloads, folders that the user prepares, and errors in them."""

import pytest
import torch
import torchvision.datasets

from semsim.core.errors import InputError
from semsim.core.files import write_image
from semsim.core.datasets import PUBLISHED, load_dataset


def lay_out(folder, classes, size=20):
    "Write one image for each class, each of another brightness."
    for number, name in enumerate(classes):
        write_image(torch.full((3, size, size + 4 * number), (1 + number) / 10), folder / name / "one.png")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_data_are_read_at_the_size_of_the_paper(name, tmp_path):
    for part in (PUBLISHED[name].train, PUBLISHED[name].test):
        lay_out(tmp_path / part, ("a", "b", "c"))
    data = load_dataset(name, root=tmp_path)
    assert data.name == name and data.classes == ("a", "b", "c") and data.test.labels.tolist() == [0, 1, 2]
    assert data.train.images.shape == (3, 3, PUBLISHED[name].size, PUBLISHED[name].size)
    torch.testing.assert_close(data.train.images.mean((1, 2, 3)), torch.tensor([0.1, 0.2, 0.3]), atol=3e-3, rtol=0)


def test_imagenette_is_downloaded_once(tmp_path, monkeypatch):
    asked = []

    def download(root, download):
        asked.append(download)
        for part in ("train", "val"):
            lay_out(tmp_path / "imagenette2" / part, ("n01440764", "n02102040"))

    monkeypatch.setattr(torchvision.datasets, "Imagenette", download)
    first, second = (load_dataset("imagenette", 32, tmp_path) for _ in range(2))
    assert asked == [True] and first.fingerprint == second.fingerprint


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    def download(root, download):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "Imagenette", download)
    message = r"imagenette: could not be downloaded to .* \(no network\); unpack imagenette2.tgz there by hand"
    with pytest.raises(InputError, match=message):
        load_dataset("imagenette", root=tmp_path)


WRONG_FOLDERS = [
    (("a", "b"), ("a", "x"), "class folder 'x' has no counterpart"),
    (("a",), ("a",), "a classifier needs two or more"),
    (("a", "b"), (), "no folder .*caltech-101.test"),
]


@pytest.mark.parametrize("train, test, message", WRONG_FOLDERS)
def test_wrong_folders_are_named(train, test, message, tmp_path):
    lay_out(tmp_path / "caltech-101/train", train)
    lay_out(tmp_path / "caltech-101/test", test)
    with pytest.raises(InputError, match=message):
        load_dataset("caltech101", root=tmp_path)
