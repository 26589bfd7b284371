"""SemSim: changed files are refused, derivatives, one embedding for each image, and the networks that are bundled."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch

from semsim.core.errors import InputError
from semsim.core.files import load_tensors, save_tensors
from semsim.core.weights import WEIGHTS
from semsim.metrics.semsim import SHIPPED, Calibration, SemSim, fit_calibration

CARD = dict(arch="resnet20-0.25", channels=3, size=16, mean=[0.5] * 3, std=[0.25] * 3, seed=0, init="he")
FOLDER = Path(__file__).parents[1] / "semsim/weights"
NAMES = [SHIPPED, "recipe2309-cifar10-panel"]


@pytest.fixture
def metric():
    return SemSim(CARD | {"calibration": asdict(Calibration("testers", 2.0, 4.0, 10, 5))}).eval()


def images(count, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(format="semsim-1"), "not a SemSim checkpoint of this version"),
        (dict(hash="0" * 64), "hash of its tensors"),
    ],
)
def test_a_file_that_was_changed_is_refused(metric, tmp_path, change, said):
    path = tmp_path / "metric.safetensors"
    metric.save(path)
    tensors, card = load_tensors(path)
    save_tensors(path, tensors, card | change)
    with pytest.raises(InputError, match=said):
        SemSim.load(path)


def test_a_changed_weight_is_refused(metric, tmp_path):
    path = tmp_path / "metric.safetensors"
    metric.save(path)
    tensors, card = load_tensors(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_tensors(path, tensors, card)
    with pytest.raises(InputError, match="hash of its tensors"):
        SemSim.load(path)


def test_the_derivative_is_that_of_finite_differences(metric):
    metric, pair = metric.double(), images(2).double()
    original, found = pair[:1], pair[1:].clone().requires_grad_()
    (slope,) = torch.autograd.grad(metric(original, found).sum(), found)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (metric(original, found + step * direction).item() for step in (1e-6, -1e-6))
    assert (slope * direction).sum().item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-4)


def test_every_image_is_embedded_once(metric):
    originals, found, owners = images(3), images(300), torch.arange(300) % 3
    seen, embed = [], metric.embed
    with patch.object(metric, "embed", lambda part: seen.append(len(part)) or embed(part)):
        distances = metric.score(originals, found, owners)
    assert sum(seen) == 303
    with torch.no_grad():
        torch.testing.assert_close(distances, metric(originals[owners], found), atol=1e-5, rtol=0)


def test_a_probability_falls_with_the_distance(metric):
    probability = metric.probability(images(5), images(5).flip(0))
    assert ((0 < probability) & (probability < 1)).all()
    torch.testing.assert_close(probability, torch.sigmoid(2 - 4 * metric(images(5), images(5).flip(0))))


def test_calibration_of_one_kind_or_nothing_is_refused():
    with pytest.raises(InputError, match="all 4 pairs are recognised"):
        fit_calibration(torch.rand(4), torch.ones(4), "testers")
    with pytest.raises(InputError, match="no column original_path and none reconstruction_path"):
        SemSim(CARD).calibrate(pd.DataFrame(dict(recognised=[1])), "testers")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_it_moves_to_a_gpu(metric):
    pair = images(4)
    on_gpu = metric.cuda()(pair.cuda(), pair.flip(0).cuda()).cpu()
    torch.testing.assert_close(on_gpu, metric.cpu()(pair, pair.flip(0)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_is_small_and_says_what_it_is(name):
    path, card = FOLDER / f"{name}.safetensors", (FOLDER / f"{name}.md").read_text()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size <= 25e6 and WEIGHTS[name].files[path.name] == digest and digest in card
    metric = SemSim.load(name)
    assert "machine panel" in metric.card["annotator"] and "machine panel" in metric.calibration.annotator
    assert "No person" in card
    assert "people" not in metric.card["annotator"] and metric.card["name"] == name
    same = images(3, metric.card["size"])
    assert metric.score(same, same).max() < 1e-3


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(InputError, match="semsim-cifar10-panel"):
        SemSim.load("semsim-cifar10")
