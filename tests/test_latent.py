"""A search of latents: a prior that invents must not pass for protection, nor for a reconstruction."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from semsim.attack.inversion import invert
from semsim.attack.latent import Generator, train_generator
from semsim.attack.objectives import OBJECTIVES
from semsim.attack.sharing import share_gradient
from semsim.core.classifiers import build_classifier
from semsim.core.datasets import load_dataset, pick
from semsim.core.errors import InputError
from semsim.core.files import to_pil
from semsim.metrics.pairs import psnr

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", size=16)


@pytest.fixture(scope="module")
def trained(digits):
    return train_generator(digits.train.images, epochs=15, width=64)


@pytest.fixture(scope="module")
def lenet():
    return build_classifier("lenet", channels=1, size=16, init="torch")


@pytest.fixture(scope="module")
def invented(trained):
    "Four images that the generator makes."
    return trained(torch.randn(4, 16, generator=torch.Generator().manual_seed(7)))


@pytest.fixture(scope="module")
def shared(lenet, invented):
    return share_gradient(lenet, invented, torch.arange(4))


def fixed(function, latent=16):
    "A generator that is a function."

    class Fixed(nn.Module):
        def forward(self, latents):
            return function(latents)

    made = Fixed()
    made.latent = latent
    return made


def grey(latents, shape=(1, 16, 16), value=0.5):
    return torch.full((len(latents), *shape), value) + 0 * latents.sum()


# The generator


def test_a_generator_makes_images_that_look_like_digits(trained, digits, invented):
    assert invented.shape == (4, 1, 16, 16) and 0 <= invented.min() <= invented.max() <= 1

    def nearest(images):  # squared distance of each to the nearest training image
        return torch.cdist(images.flatten(1), digits.train.images.flatten(1)).min(1).values.square()

    many = trained(torch.randn(50, 16, generator=torch.Generator().manual_seed(1)))
    shuffled = many.flatten(1)[:, torch.randperm(256, generator=torch.Generator().manual_seed(2))]
    assert nearest(many).median() < 0.3 * nearest(shuffled).median()
    assert many.var(0).sum() > 0.3 * digits.train.images.var(0).sum()  # its latents are not ignored


def test_a_seed_gives_one_generator_and_leaves_other_random_numbers_alone(digits):
    few = digits.train.images[:100]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (train_generator(few, epochs=1, width=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    latents = torch.ones(1, 16)
    assert torch.equal(one(latents), same(latents)) and not torch.equal(one(latents), other(latents))
    assert not one.training and not any(weight.requires_grad for weight in one.parameters())


# The search


def test_the_generators_own_images_come_back(shared, trained, invented):
    found = psnr(invented, invert(shared, "latent", generator=trained).images)
    pixels = psnr(invented, invert(shared, steps=200, restarts=4).images)
    assert found.min() > 25 and found.mean() > pixels.mean() + 5


def test_same_seed_same_result_whatever_the_neighbours(shared, trained):
    options = dict(generator=trained, steps=12, restarts=2, width=4)
    all_four = invert(shared, "latent", **options)
    assert torch.equal(invert(shared, "latent", **options).images, all_four.images)
    assert torch.equal(invert(shared.take([0]), "latent", **options).images[0], all_four.images[0])
    assert not torch.equal(invert(shared, "latent", seed=1, **options).images, all_four.images)


@pytest.mark.parametrize(
    "options",
    [
        dict(optimizer="lbfgs", steps=3, decay="none"),
        dict(precision="float64"),
        dict(precision="bfloat16"),
        dict(labels="search"),
        dict(steps=120),
    ],
    ids=str,
)
def test_every_search_gives_images_of_the_generator(lenet, invented, trained, options):
    pairs = share_gradient(lenet, invented, torch.arange(4), batch=2, reveal=["batch_size"])
    found = invert(pairs, "latent", generator=trained, snapshots=(2,), **(dict(steps=4) | options))
    assert found.images.shape == found.snapshots[2].shape == invented.shape
    assert 0 <= found.images.min() <= found.images.max() <= 1 and found.losses.isfinite().all()


def test_a_distance_of_its_own_image_is_zero(shared, invented):
    perfect = fixed(lambda latents: invented[: len(latents)] + 0 * latents.sum())
    assert invert(shared.take([0]), "latent", generator=perfect, steps=1).losses.item() < 1e-6


def test_the_card_names_the_generator(shared, trained, digits):
    other = train_generator(digits.train.images[:64], epochs=1, width=8)
    cards = [invert(shared, "latent", generator=one, steps=1).card for one in (trained, trained, other)]
    assert cards[0]["generator"] == cards[1]["generator"] != cards[2]["generator"]
    assert "generator" not in invert(shared, steps=1).card


def test_the_users_generator_is_not_changed(shared):
    mine = Generator((1, 16, 16), 16, 8).train()
    before = {name: weight.clone() for name, weight in mine.state_dict().items()}
    invert(shared, "latent", generator=mine, steps=2)
    assert mine.training and all(weight.requires_grad and weight.grad is None for weight in mine.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in mine.state_dict().items())


def test_a_failed_search_is_grey_and_not_a_digit(shared, trained, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "nan", lambda mine, theirs, weights: mine["head.bias"].sum() * torch.nan)
    found = invert(shared, "latent", generator=trained, objective="nan", steps=2)
    assert found.gave_up == [0, 1, 2, 3] and (found.images == 0.5).all()


# What is refused

WRONG = {
    "go together": (dict(), None),
    "go together: ": (dict(attack="inverting_gradients"), fixed(grey)),
    "an attribute `latent`": (dict(), nn.Linear(16, 256)),
    "is a torch.nn.Module": (dict(), grey),
    "cannot be run on latents (2, 16)": (dict(), fixed(nn.Linear(3, 256))),
    "(2, 3, 16, 16) of two latents, but the client's images are (2, 1, 16, 16)": (
        dict(),
        fixed(lambda latents: grey(latents, (3, 16, 16))),
    ),
    "makes list of two latents": (dict(), fixed(lambda latents: [grey(latents)])),
    "span -1 to -1; let it return [0,1]": (dict(), fixed(lambda latents: grey(latents, value=-1.0))),
    "span nan to nan": (dict(), fixed(lambda latents: grey(latents, value=torch.nan))),
    "box=False": (dict(box=True), fixed(grey)),
    "median_every=0": (dict(median_every=5), fixed(grey)),
    "start='normal'": (dict(start="zeros"), fixed(grey)),
    "priors=(('l2', weight),)": (dict(priors=(("tv", 1e-4),)), fixed(grey)),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_has_no_meaning_is_refused_in_one_line(shared, message):
    changes, generator = WRONG[message]
    with pytest.raises(InputError) as refused:
        invert(shared, **(dict(attack="latent", generator=generator) | changes))
    assert message in str(refused.value) and "\n" not in str(refused.value)


# The script


def test_the_script_writes_its_table(digits, tmp_path):
    for name, split, count in (("train", digits.train, 40), ("test", digits.test, 20)):
        chosen = pick(split, count)
        for number, (image, label) in enumerate(zip(chosen.images, chosen.labels.tolist())):
            path = tmp_path / name / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil(nn.functional.interpolate(image[None], scale_factor=2)[0].expand(3, -1, -1)).save(path)
    (into := tmp_path / "made").mkdir()
    command = [sys.executable, ROOT / "benchmarks" / "latent.py", tmp_path, "--small", "--into", into]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert made.returncode == 0, made.stderr[-3000:]
    table = pd.read_csv(into / "latent.csv")
    assert table.groupby(["network", "defense", "attack"]).size().eq(2).all() and len(table) == 2 * (2 * 2 * 2 + 1)
    stored = pd.read_csv(ROOT / "nbs/results/attackers/latent.csv")
    assert list(table) == list(stored) and (into / "latent.json").exists()
