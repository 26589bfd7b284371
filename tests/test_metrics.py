"""The exported metrics on photographs, against scikit-image, lpips, torchvision, torchmetrics and scipy."""

import hashlib
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as draw
from PIL import Image
from skimage import data as photographs
from skimage import metrics as reference

from semsim.core import weights
from semsim.metrics import PairMetric, SemSim, contact_sheet
from semsim.metrics import features as networks
from semsim.core.errors import InputError
from semsim.core.seeds import generator
from semsim.core.files import read_image, read_table, to_tensor, write_image, write_table
from semsim.core.weights import load_weights
from semsim.metrics.pairs import identified
from semsim.metrics.sets import frechet_distance, jackknife, kernel_distance
from semsim.metrics.registry import METRICS, Metric, all_metrics, chosen, metrics_of, missing, register_feature_metrics
from semsim.core.classifiers import build_classifier
from semsim.metrics.features import ALEXNET, INCEPTION, FeatureExtractor
from semsim.metrics.scoring import best_windows, score, score_sets

all_metrics()  # those of the paper's protocol, too

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = SHARED / "data/lpips_golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="shared/data/lpips_golden is not beside the repository")
REFERENCES = {
    "mse": reference.mean_squared_error,
    "psnr": lambda a, b: reference.peak_signal_noise_ratio(a, b, data_range=1),
    "ssim": lambda a, b: reference.structural_similarity(a, b, data_range=1, channel_axis=0),
}

torch.set_num_threads(1)  # a second thread slows networks of this size down


def pictures(side):
    "Four photographs, square, as a batch."
    photos = photographs.astronaut(), photographs.chelsea(), photographs.coffee(), photographs.rocket()
    squares = [picture[:300, -300:] for picture in photos]
    return F.interpolate(torch.stack([to_tensor(square) for square in squares]), (side, side), mode="area")


def degraded(images, noise=0.15):
    "The images noisy, blurred, shifted and darker."
    noisy = images + noise * torch.randn(images.shape, generator=generator("noise"))
    return torch.cat([noisy.clamp(0, 1), F.avg_pool2d(images, 5, 1, 2), images.roll(3, 3), 0.6 * images])


def photo_pairs(side, channels=3):
    "Four degraded copies of each photograph, beside the originals."
    images = pictures(side)[:, :channels]
    return images.repeat(4, 1, 1, 1), degraded(images)


def golden_pairs():
    first, *others = (read_image(GOLDEN / f"ex_{name}.png", 3)[None] for name in ("ref", "p0", "p1"))
    return first.repeat(2, 1, 1, 1), torch.cat(others)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(lambda: photo_pairs(32), id="32px"),
        pytest.param(lambda: photo_pairs(64), id="64px"),
        pytest.param(lambda: photo_pairs(32, channels=1), id="32px-grey"),
        pytest.param(golden_pairs, id="golden-64px", marks=needs_golden),
    ],
)
def pairs(request):
    "Originals and reconstructions."
    return request.param()


# Single pairs


@pytest.mark.parametrize("name", REFERENCES)
def test_pixel_metrics_are_scikit_images(name, pairs):
    values = score(*pairs, [name])[name]
    expected = [REFERENCES[name](a.double().numpy(), b.double().numpy()) for a, b in zip(*pairs)]
    assert values.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@needs_golden
@pytest.mark.parametrize("net, published", [("alex", [0.7219, 0.1376]), ("vgg", [0.5686, 0.4217])])
def test_lpips_gives_the_published_values(net, published, monkeypatch):
    monkeypatch.setenv("SEMSIM_WEIGHTS", str(SHARED / "weights"))
    assert score(*golden_pairs(), [f"lpips[{net}]"])[f"lpips[{net}]"].tolist() == pytest.approx(published, abs=2e-4)


@pytest.fixture(scope="module")
def lpips_package():
    "The network of the `lpips` package with the backbone's weights put in layer by layer."
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    weights, loaded = load_weights("alexnet"), 0
    for part in network.net.children():
        for number, layer in part.named_children():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.data, layer.bias.data = weights[f"{number}.weight"], weights[f"{number}.bias"]
                loaded += 2
    assert loaded == len(weights) == 10
    return network


@torch.no_grad()
def test_lpips_is_the_packages(pairs, lpips_package):
    rgb = [images.expand(-1, 3, -1, -1) for images in pairs]
    expected = [lpips_package(2 * a[None] - 1, 2 * b[None] - 1).item() for a, b in zip(*rgb)]
    assert score(*pairs, ["lpips[alex]"])["lpips[alex]"].tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_lpips_enlarges_16_pixels_to_32(lpips_package):
    small = photo_pairs(16)
    large = [F.interpolate(images, (32, 32), mode="bilinear", align_corners=False) for images in small]
    expected = lpips_package(2 * large[0] - 1, 2 * large[1] - 1).flatten()
    assert score(*small, ["lpips[alex]"])["lpips[alex]"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_rows_do_not_depend_on_the_batch():
    originals, reconstructions = (images.repeat(5, 1, 1, 1)[:70] for images in photo_pairs(32))  # two batches of 64
    together = score(originals, reconstructions)
    for row in (0, 1, 6, 63, 64, 69):
        alone = score(originals[row : row + 1], reconstructions[row : row + 1])
        assert alone.loc[0].tolist() == pytest.approx(together.loc[row, list(alone)].tolist(), rel=1e-5, abs=1e-5)


def test_pair_metrics_are_symmetric(pairs):
    originals, reconstructions = pairs
    symmetric = ["mse", "rmse", "psnr", "ssim", "lpips[alex]", "l2[alexnet]", "cosine[alexnet]"]
    there, back = score(originals, reconstructions, symmetric), score(reconstructions, originals, symmetric)
    assert back.to_numpy() == pytest.approx(there.to_numpy(), rel=1e-6, abs=1e-6)


def test_identical_pictures():
    images = pictures(32)
    values = score(images, images)
    expected = {"mse": 0, "psnr": np.inf, "ssim": 1, "lpips[alex]": 0, "l2[alexnet]": 0, "cosine[alexnet]": 1,
                "identified[pixels]": 1}  # fmt: skip
    for name, best in expected.items():
        assert values[name].tolist() == pytest.approx([best] * 4, abs=1e-6), name
    assert 0 <= score_sets(images, images).value["fid[alexnet]"] < 1e-6  # a range of [0, inf) holds to the last digit


GRADED = [
    *("mse", "rmse", "psnr", "ssim", "lpips[alex]", "l2[alexnet]", "cosine[alexnet]", "fid[alexnet]", "kid[alexnet]"),
    *("paper2309/mse", "paper2309/psnr", "paper2309/ssim", "paper2309/lpips[alex]"),
    *("sentinel[png]", "sentinel[variation]"),
]


@pytest.mark.parametrize("name", GRADED)
def test_direction_is_as_registered(name):
    images = pictures(32)
    noisy = [degraded(images, noise)[:4] for noise in (0.03, 0.1, 0.3)]
    of_sets = METRICS[name].per == "set"
    values = [score_sets(images, copies, [name]).value[name] if of_sets else score(images, copies, [name])[name].mean()
              for copies in noisy]  # fmt: skip
    leakage = [value if METRICS[name].higher_is_leakier else -value for value in values]
    assert leakage == sorted(leakage, reverse=True) and len(set(leakage)) == 3


@pytest.mark.parametrize(
    "change, said",
    [
        pytest.param(lambda a: (a, a[:3]), "they must match", id="fewer-reconstructions"),
        pytest.param(lambda a: (a, a[:, :1]), "bring all images to one size and mode", id="other-mode"),
        pytest.param(lambda a: (a, a * 255), "reconstructions: values span", id="0-255"),
        pytest.param(lambda a: (a / 0 * 0, a), "originals: holds NaN", id="nan"),
        pytest.param(lambda a: (a, (a * 255).to(torch.uint8)), "reconstructions: expected float32", id="uint8"),
        pytest.param(lambda a: (a[..., :6, :6], a[..., :6, :6]), "7 a side", id="too-small"),
        pytest.param(lambda a: (a[:0], a[:0]), "empty", id="none"),
    ],
)
def test_bad_images_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        score(*change(pictures(32)))


# Sets


def by_eigenvalues(first, second):
    "The Fréchet distance from its definition, with roots of symmetric matrices only; also for singular covariances."
    first, second = first.double().numpy(), second.double().numpy()
    one, other = np.cov(first.T), np.cov(second.T)
    values, vectors = np.linalg.eigh(one)
    root = vectors * values.clip(0) ** 0.5 @ vectors.T
    overlap = np.linalg.eigvalsh(root @ other @ root).clip(0) ** 0.5
    return np.square(first.mean(0) - second.mean(0)).sum() + np.trace(one) + np.trace(other) - 2 * overlap.sum()


def clouds(n, m, dims):
    "Two correlated, shifted sets of features."
    random = generator("clouds", n, m, dims)
    mix = torch.randn(2, dims, dims, generator=random, dtype=torch.float64)
    first = torch.randn(n, dims, generator=random).double() @ mix[0]
    second = torch.randn(m, dims, generator=random).double() @ mix[1] + 0.5
    return first, second


@pytest.mark.parametrize("n, m, dims", [(500, 500, 16), (300, 900, 48), (70, 65, 64)])
def test_frechet_distance_is_scipys(n, m, dims):
    first, second = clouds(n, m, dims)
    covariances = [np.cov(features.T.numpy()) for features in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    assert np.abs(np.imag(root)).max() < 1e-6
    means = (first.mean(0) - second.mean(0)).square().sum().item()
    expected = means + np.trace(sum(covariances)) - 2 * np.trace(root.real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n, m, dims", [(10, 12, 32), (2, 3, 256), (8, 400, 64), (40, 40, 256)])
def test_frechet_distance_with_fewer_images_than_features(n, m, dims):
    first, second = clouds(n, m, dims)
    assert frechet_distance(first, second) == pytest.approx(by_eigenvalues(first, second), rel=1e-6)


@pytest.mark.parametrize("n", [6, 200], ids=["singular", "full-rank"])
def test_frechet_distance_of_moved_and_stretched_copies(n):
    features = clouds(n, n, 24)[0]
    features = features - features.mean(0)
    spread = features.square().sum().item() / (n - 1)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9 * spread)
    assert frechet_distance(features, features + 2) == pytest.approx(4 * 24, rel=1e-6)
    assert frechet_distance(features, 3 * features) == pytest.approx((3 - 1) ** 2 * spread, rel=1e-6)


def test_frechet_distance_is_symmetric():
    first, second = clouds(20, 50, 32)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second), rel=1e-9)


def test_frechet_distance_needs_two_images():
    with pytest.raises(InputError, match="two images or more"):
        frechet_distance(torch.rand(1, 4), torch.rand(9, 4))


@torch.no_grad()
def test_fid_is_that_of_torchvisions_features():
    from torchvision.models import alexnet
    from torchvision.transforms import Normalize

    backbone = alexnet(weights=None).features
    backbone.load_state_dict(load_weights("alexnet"))
    normalise = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pairs = photo_pairs(64)
    expected = [backbone.eval()[:12](normalise(images)).mean((2, 3)) for images in pairs]
    assert torch.allclose(ALEXNET(pairs[0]), expected[0], atol=1e-5)
    assert score_sets(*pairs).value["fid[alexnet]"] == pytest.approx(by_eigenvalues(*expected), rel=1e-5)


class Identity(torch.nn.Module):
    "Features that are given as such, for torchmetrics."

    def __init__(self, width):
        super().__init__()
        self.num_features = width

    def forward(self, features):
        return features


@pytest.mark.parametrize("n, m, dims", [(300, 300, 32), (120, 200, 64)])
def test_set_distances_are_torchmetrics(n, m, dims):
    from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance

    first, second = (features.float() for features in clouds(n, m, dims))
    fid = FrechetInceptionDistance(Identity(dims), normalize=True, input_img_size=(1, dims)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(Identity(dims), subsets=1, subset_size=min(n, m), normalize=True)
    for features, real in ((first, True), (second, False)):
        fid.update(features, real=real)
        kid.update(features[: min(n, m)], real=real)
    assert frechet_distance(first, second) == pytest.approx(fid.compute().item(), rel=1e-4)
    same_number = first[: min(n, m)], second[: min(n, m)]
    assert kernel_distance(*same_number) == pytest.approx(kid.compute()[0].item(), rel=1e-4)


def test_frechet_distance_of_gaussians_in_closed_form():
    "A sample that has exactly the moments asked for: white, then given a covariance."
    random = generator("closed form")
    white = torch.randn(300, 8, generator=random).double()
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(white.T)).T)
    spreads = torch.linspace(1, 3, 8).double()
    expected = 8 * 0.5**2 + (spreads - 1).square().sum().item()
    assert frechet_distance(white, white * spreads + 0.5) == pytest.approx(expected, rel=1e-9)


def test_jackknife_takes_the_bias_away_and_covers_the_truth():
    truth = 4 * 0.5**2  # two isotropic clouds in 4 dimensions, 0.5 apart in each
    naive, corrected, covered = [], [], 0
    for trial in range(60):
        random = generator("jackknife", trial)
        first, second = torch.randn(60, 4, generator=random), torch.randn(60, 4, generator=random) + 0.5
        found = jackknife(frechet_distance, first, second)
        naive.append(found["value"] - truth)
        corrected.append(found["value"] - found["bias"] - truth)
        covered += found["low"] <= truth <= found["high"]
    assert np.mean(naive) > 0.05 and abs(np.mean(corrected)) < np.mean(naive) / 2
    assert covered >= 50


def test_jackknife_sees_that_pairs_are_not_independent():
    off, corrected = [], []
    for trial in range(40):
        cloud = torch.randn(60, 4, generator=generator("paired", trial))
        noise = torch.randn(60, 4, generator=generator("noise", trial))
        found = jackknife(kernel_distance, cloud, cloud + 0.1 * noise)
        off.append(found["value"])
        corrected.append(found["value"] - found["bias"])
    assert np.mean(off) < 0 and abs(np.mean(corrected)) < 0.1 * abs(np.mean(off))  # the truth is nearly 0


def test_features_do_not_depend_on_the_batch():
    images = pictures(32).repeat(17, 1, 1, 1)  # 68: more than one batch of 64
    assert torch.allclose(ALEXNET(images)[-4:], ALEXNET(images[-4:]), atol=1e-5)


# Whatever the images


def drawn(seed, count, side):
    random = torch.Generator().manual_seed(seed)
    low, high = torch.rand(2, count, 1, 1, 1, generator=random)
    return low * high + (1 - low) * torch.rand(count, 3, side, side, generator=random) * high


RANGES = {"mse": (0, 1), "rmse": (0, 1), "psnr": (0, np.inf), "ssim": (-1, 1), "lpips[alex]": (0, np.inf),
          "l2[alexnet]": (0, np.inf), "cosine[alexnet]": (-1, 1)}  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(seed=draw.integers(0, 2**32), count=draw.integers(1, 9), side=draw.integers(7, 40), batch=draw.integers(1, 10))
def test_range_symmetry_identity_and_batches(seed, count, side, batch):
    originals, reconstructions = drawn(seed, count, side), drawn(seed + 1, count, side)
    there = score(originals, reconstructions, list(RANGES))
    for name, (low, high) in RANGES.items():
        assert there[name].between(low - 1e-6, high + 1e-6).all(), name
    close = dict(rel=1e-4, abs=1e-5)
    assert score(reconstructions, originals, list(RANGES)).to_numpy() == pytest.approx(there.to_numpy(), **close)
    in_batches = score(originals, reconstructions, list(RANGES), batch=batch)
    assert in_batches.to_numpy() == pytest.approx(there.to_numpy(), **close)
    same = score(originals, originals, list(RANGES))
    for name in RANGES:
        sign = 1 if METRICS[name].higher_is_leakier else -1
        assert (sign * same[name] >= sign * there[name] - 1e-5).all(), name


@settings(max_examples=30, deadline=None)
@given(seed=draw.integers(0, 2**32), n=draw.integers(2, 30), m=draw.integers(2, 30), dims=draw.integers(1, 40))
def test_frechet_distance_whatever_the_sets(seed, n, m, dims):
    random = torch.Generator().manual_seed(seed)
    first, second = torch.randn(n, dims, generator=random), torch.randn(m, dims, generator=random)
    there = frechet_distance(first, second)
    assert there >= 0 and frechet_distance(second, first) == pytest.approx(there, rel=1e-6, abs=1e-9)
    assert there == pytest.approx(by_eigenvalues(first, second) if dims > 1 else there, rel=1e-5, abs=1e-7)


# What a metric needs


def test_classifier_metrics_are_the_classifiers():
    images, copies = photo_pairs(32)
    labels, model = torch.arange(16) % 5, build_classifier("lenet", classes=7, seed=3)
    found = score(images, copies, labels=labels, classifier=model)
    with torch.no_grad():
        logits, features = model(copies), [model.features(batch) for batch in (images, copies)]
    probabilities = logits.softmax(1)[range(16), labels]
    assert found["confidence[classifier]"].tolist() == pytest.approx(probabilities.tolist(), abs=1e-6)
    assert found["top1[classifier]"].tolist() == (logits.argmax(1) == labels).double().tolist()
    in_top5 = [float(label in best) for label, best in zip(labels, logits.topk(5).indices)]
    assert found["top5[classifier]"].tolist() == in_top5
    assert found["l2[classifier]"].tolist() == pytest.approx((features[0] - features[1]).norm(dim=1).tolist(), abs=1e-5)
    paper = score(images, copies, protocol="paper2309", labels=labels, classifier=model)
    with torch.no_grad():
        before = model(images)
    expected = before.softmax(1)[range(16), labels] * logits.softmax(1)[range(16), labels]
    assert paper["paper2309/prediction score"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    right = (before.argmax(1) == labels).tolist()
    assert [value == value for value in paper["paper2309/accuracy"]] == right


def test_identified_finds_the_nearest_of_all():
    random = generator("gallery")
    gallery = torch.rand(1500, 5, generator=random)  # more than one block
    wanted = gallery + 0.05 * torch.randn(1500, 5, generator=random)
    nearest = torch.cdist(wanted.double(), gallery.double()).argmin(1)
    assert torch.equal(identified(gallery, wanted, gallery), (nearest == torch.arange(1500)).float())
    assert 0 < identified(gallery, wanted, gallery).mean() < 1


def test_identification_through_score():
    originals = pictures(32)
    found = score(originals, originals[[0, 1, 3, 2]], ["identified[pixels]", "identified[alexnet]"])
    assert found.to_numpy().tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("confidence[classifier]", {}, "confidence.classifier. needs a classifier and labels"),
        ("top1[classifier]", {"labels": [0]}, "needs a classifier"),
        ("identified[pixels]", {}, "needs two originals or more"),
        ("ms-ssim", {}, "needs sides of 161 pixels"),
        ("fid[inceptoin]", {}, "unknown metric 'fid.inceptoin.': did you mean"),
    ],
)
def test_what_is_missing_is_said(name, options, said):
    image = pictures(32)[:1]
    with pytest.raises(InputError, match=said):
        score(image, image, [name], **options)


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    "A machine without weights, and without a network to get them."

    def offline(*_):
        raise OSError("no network")

    monkeypatch.setattr(weights, "weights_folders", lambda: [tmp_path])
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path


@pytest.mark.parametrize(
    "name, file",
    [
        ("lpips[squeeze]", "squeezenet1_1-b8a52dc0.pth"),
        ("paper2309/l2[inception]", "weights-inception-2015-12-05-6726825d.pth"),
    ],
)
def test_missing_weights_say_what_to_put_where(name, file, no_weights):
    with pytest.raises(InputError) as refused:
        score(*photo_pairs(32), [name])
    said = str(refused.value)
    assert file in said and str(no_weights) in said and "SEMSIM_WEIGHTS" in said
    assert name not in [metric.name for metric in chosen("all", "pair", METRICS[name].protocol)]
    assert "weights" in missing(METRICS[name])


def test_weights_in_torchs_format(no_weights, monkeypatch):
    "A miniature of torchvision's file: the same keys, the classifier too, random numbers."
    from torchvision.models import squeezenet1_1

    states = squeezenet1_1(weights=None).state_dict()
    path = no_weights / "squeezenet1_1-b8a52dc0.pth"
    torch.save(states, path)
    networks.backbone.cache_clear()
    networks.lpips_vectors.cache_clear()
    with pytest.raises(InputError, match="not with b8a52dc0; remove it and get it again"):
        score(*photo_pairs(32), ["lpips[squeeze]"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = replace(weights.WEIGHTS["squeezenet"], files={path.name: digest})
    monkeypatch.setitem(weights.WEIGHTS, "squeezenet", entry)
    found = score(*photo_pairs(32), ["lpips[squeeze]"])
    assert (found["lpips[squeeze]"] > 0).all() and found.attrs["metrics"]["lpips[squeeze]"]["weights"] == digest
    assert torch.equal(networks.backbone("squeezenet")[0].weight, states["features.0.weight"])
    networks.backbone.cache_clear()
    networks.lpips_vectors.cache_clear()


class Exploit:
    def __reduce__(self):
        return print, ("unpickled",)


def test_a_pickle_is_not_unpickled(no_weights, monkeypatch):
    path = no_weights / "squeezenet1_1-b8a52dc0.pth"
    torch.save({"features.0.weight": Exploit()}, path)
    entry = replace(weights.WEIGHTS["squeezenet"], files={path.name: ""})
    monkeypatch.setitem(weights.WEIGHTS, "squeezenet", entry)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_weights("squeezenet")


def test_inception_through_torch_fidelity(no_weights, monkeypatch):
    "With random weights in a file, the metrics that need Inception run."
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = no_weights / "pt_inception-2015-12-05-6726825d.pth"
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    monkeypatch.setattr(torch, "load", lambda *_, **__: {})
    states = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none").state_dict()
    monkeypatch.undo()
    monkeypatch.setattr(weights, "weights_folders", lambda: [no_weights])
    torch.save(states, path)
    entry = replace(weights.WEIGHTS["inception"], files={path.name: ""})
    monkeypatch.setitem(weights.WEIGHTS, "inception", entry)
    networks.inception_pool3.cache_clear()
    images, copies = (images[:4] for images in photo_pairs(32))
    found = score(images, copies, protocol="paper2309")
    assert {"paper2309/l2[inception]", "paper2309/cosine[inception]", "paper2309/single fid[inception]"} <= set(found)
    features = INCEPTION.load()(METRICS["paper2309/l2[inception]"].embed.prepare(images))
    assert features.shape == (4, 2048)
    assert {"fid[inception]", "kid[inception]"} <= set(score_sets(images, copies).index)
    networks.inception_pool3.cache_clear()


def mean_colours(images):
    return images.mean((2, 3))


def test_a_feature_extractor_of_ones_own():
    register_feature_metrics(FeatureExtractor("paint", lambda: mean_colours, lambda images: images, "this test"))
    images, copies = photo_pairs(32)
    found = score(images, copies, ["l2[paint]", "identified[paint]"])
    expected = mean_colours(images - copies).norm(dim=1)
    assert found["l2[paint]"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert np.isfinite(score_sets(images, copies, ["fid[paint]", "kid[paint]"]).value).all()
    for name in ("l2", "cosine", "identified", "fid", "kid"):
        del METRICS[f"{name}[paint]"]


# The released code's protocol, written out


@pytest.mark.parametrize("width", [32, 20])
def test_paper2309_is_the_released_code(lpips_package, width):
    from torchvision.transforms import Compose, Resize, ToTensor

    images, copies = (images[..., :width] for images in photo_pairs(32))
    found = score(images, copies, [f"paper2309/{name}" for name in ("mse", "psnr", "ssim", "lpips[alex]")])
    for row in range(len(images)):
        first, second = ((image[row].permute(1, 2, 0) * 255).round().byte().numpy() for image in (images, copies))
        with torch.no_grad():
            large = [Compose([Resize(256), ToTensor()])(Image.fromarray(array))[None] for array in (first, second)]
            expected = [
                reference.mean_squared_error(first / 255, second / 255),
                reference.peak_signal_noise_ratio(first, second),
                reference.structural_similarity(first, second, channel_axis=-1),
                lpips_package(*large).item(),
            ]
        assert found.loc[row].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_single_image_as_a_sample():
    first, second = clouds(4, 4, 30)
    values = METRICS["paper2309/single fid[inception]"].function(first, second)
    for a, b, value in zip(first, second, values):
        assert value.item() == pytest.approx(frechet_distance(a[:, None], b[:, None]), rel=1e-9)


# Files, and many of them


def write_pairs(folder, count, side=16):
    random = generator("files", count)
    for number in range(count):
        image = torch.rand(3, side, side, generator=random)
        write_image(image, folder / f"{number:03d}_1_ori.png")
        write_image(image.flip(1), folder / f"{number:03d}_1_rec.png")


def test_each_original_is_embedded_once(monkeypatch):
    seen = []

    def counted(images):
        seen.append(len(images))
        return images.mean((2, 3))

    extractor = FeatureExtractor("counting", lambda: counted, lambda images: images, "this test")
    l2 = METRICS["l2[alexnet]"].function
    metrics = [Metric(f"counted {number}", l2, False, "", "", embed=extractor) for number in (1, 2)]
    for metric in metrics:
        monkeypatch.setitem(METRICS, metric.name, metric)
    originals = torch.rand(10, 3, 8, 8, generator=generator("once"))
    owners = [row % 10 for row in range(140)]
    found = score(originals, originals[owners], [metric.name for metric in metrics], owners=owners)
    assert sum(seen) == 10 + 140 and (found == 0).all(axis=None)


def break_file(path, how):
    image = Image.open(path)
    if how == "torn":
        path.write_bytes(path.read_bytes()[:50])
    elif how == "16-bit":
        Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) * 257)).save(path)
    elif how == "size":
        image.resize((20, 20)).save(path)
    else:
        image.convert({"alpha": "RGBA", "grey": "L"}[how]).save(path)


BROKEN = {
    "torn": "not a readable image",
    "16-bit": "its mode is I;16",
    "alpha": "its mode is RGBA",
    "grey": "its shape is (1, 16, 16)",
    "size": "its shape is (3, 20, 20)",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_bad_file_is_named_and_what_was_scored_is_kept(how, tmp_path):
    write_pairs(tmp_path, 9)
    break_file(tmp_path / "006_1_rec.png", how)
    with pytest.raises(InputError) as refused:
        score(tmp_path, tmp_path, ["mse"], batch=2, out=tmp_path / "scores.parquet")
    assert "006_1_rec.png" in str(refused.value) and BROKEN[how] in str(refused.value)
    assert "6 pairs were scored before" in str(refused.value)
    assert read_table(tmp_path / "scores.partial.parquet").id.tolist() == [f"{number:03d}" for number in range(6)]
    assert not (tmp_path / "scores.parquet").exists()


def test_an_original_of_another_size_is_named_by_every_metric(tmp_path):
    write_pairs(tmp_path, 6)
    for kind in ("ori", "rec"):
        break_file(tmp_path / f"004_1_{kind}.png", "size")
    for name in ("mse", "identified[pixels]", "identified[alexnet]"):
        with pytest.raises(InputError, match="004_1_ori.png: its shape is"):
            score(tmp_path, tmp_path, [name], batch=2)


def test_sets_do_not_depend_on_the_batch():
    originals, owners = pictures(32), [0, 1, 2, 3] * 4
    copies = degraded(originals)
    whole = score_sets(originals, copies, owners=owners, batch=64)
    parts = score_sets(originals, copies, owners=owners, batch=3)  # smaller than the four pairs of an original
    assert parts.value.to_numpy() == pytest.approx(whole.value.to_numpy(), rel=1e-4) and parts.n.tolist() == [4, 4]


def test_one_torn_file_among_many_can_be_left_out(tmp_path):
    write_pairs(tmp_path, 30)
    break_file(tmp_path / "017_1_ori.png", "torn")
    with pytest.warns(UserWarning, match="skipped .*017_1_ori.png"):
        found = score(tmp_path, tmp_path, ["mse", "identified[pixels]"], batch=4, skip_bad=True)
    assert len(found) == 29 and "017" not in set(found.id)


def test_all_torn(tmp_path):
    write_pairs(tmp_path, 2)
    for path in tmp_path.glob("*_ori.png"):
        break_file(path, "torn")
    nothing_left = pytest.raises(InputError, match="no pair with two readable files is left")
    with pytest.warns(UserWarning, match="skipped"), nothing_left:
        score(tmp_path, tmp_path, ["mse"], skip_bad=True)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_manifest_keeps_its_order_and_labels(ending, tmp_path):
    write_pairs(tmp_path, 3)
    rows = [(2, 0), (0, 0), (2, 1), (1, 1)]  # original, reconstruction
    table = pd.DataFrame(
        [
            dict(original=f"{a:03d}_1_ori.png", reconstruction=f"{b:03d}_1_rec.png", id=f"{a}-{b}", label=b)
            for a, b in rows
        ]
    )
    path = tmp_path / f"manifest.{ending}"
    write_table(table, path)
    found = score(path, metrics=["mse", "top1[classifier]"], classifier=build_classifier("lenet", size=16))
    assert found.id.tolist() == ["2-0", "0-0", "2-1", "1-1"] and found.label.tolist() == [0, 0, 1, 1]

    def read(kind, number):
        return read_image(tmp_path / f"{number:03d}_1_{kind}.png")

    expected = [(read("ori", a) - read("rec", b)).square().mean().item() for a, b in rows]
    assert found.mse.tolist() == pytest.approx(expected, abs=1e-6)


GROWTH = """
import resource, sys
import pandas as pd
from semsim.metrics.scoring import score
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def listed(count):
    stems = [f"{n % 4:03d}_1" for n in range(count)]
    return pd.DataFrame(dict(original=[f"{stem}_ori.png" for stem in stems],
                             reconstruction=[f"{stem}_rec.png" for stem in stems],
                             id=[str(n) for n in range(count)]))
score(listed(200), metrics=["mse", "lpips[alex]"], batch=16)
before = peak()
score(listed(2000), metrics=["mse", "lpips[alex]"], batch=16)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_files(tmp_path):
    write_pairs(tmp_path, 4, side=64)
    ended = subprocess.run([sys.executable, "-c", GROWTH], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 10  # MB, where the reconstructions alone would take 100


# Translations


@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 33, 20)])
def test_best_windows_are_those_of_a_search(shape):
    originals, copies = torch.rand(2, 5, *shape, generator=generator("windows", shape))
    reach = min(shape[1:]) // 8
    middles = originals[..., reach : shape[1] - reach, reach : shape[2] - reach]
    height, width = middles.shape[-2:]
    found = (best_windows(originals, copies) - middles).square().mean((1, 2, 3))
    places = [(down, right) for down in range(2 * reach + 1) for right in range(2 * reach + 1)]
    windows = [copies[..., down : down + height, right : right + width] for down, right in places]
    errors = [(window - middles).square().mean((1, 2, 3)) for window in windows]
    assert found.tolist() == pytest.approx(torch.stack(errors).amin(0).tolist(), rel=1e-5)


def test_align_undoes_a_translation():
    originals = pictures(64)
    moved = torch.cat([originals.roll((down, right), (2, 3)) for down, right in ((0, 0), (5, -3), (-8, 8))])
    found = score(originals, moved, ["mse", "lpips[alex]"], owners=[0, 1, 2, 3] * 3, align=True)
    assert found.to_numpy() == pytest.approx(0, abs=1e-6)
    assert (score(originals, moved, ["mse"], owners=[0, 1, 2, 3] * 3).mse[4:] > 1e-3).all()


# SemSim, by name and as an object


@pytest.fixture(scope="module")
def semsim():
    return SemSim.load()


@pytest.mark.parametrize("alias", ["semsim", "semsim[shipped]"])
def test_semsim_by_name_is_the_bundled_network(alias, semsim):
    originals, copies = pictures(32), degraded(pictures(32))
    owners = [0, 1, 2, 3] * 4
    found = score(originals, copies, [alias, f"{alias}[probability]"], owners=owners)
    distances = semsim.score(originals, copies, torch.tensor(owners))
    assert found[alias].tolist() == pytest.approx(distances.tolist(), abs=1e-5)
    assert found[f"{alias}[probability]"].tolist() == pytest.approx(semsim.calibration(distances).tolist(), abs=1e-5)
    file = Path(weights.__file__).parents[1] / "weights/semsim-cifar10-panel.safetensors"
    assert found.attrs["metrics"][alias]["weights"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_names_and_objects_give_the_same_values(semsim):
    pair = photo_pairs(32)
    by_name = score(*pair, ["psnr", "semsim", "semsim[probability]"])
    by_object = score(*pair, [METRICS["psnr"], semsim])
    pd.testing.assert_frame_equal(by_object, by_name)
    assert list(score(*pair, ["semsim", *metrics_of(semsim, "mine")])) == ["semsim", "mine", "mine[probability]"]
    for metric, name in ((METRICS["psnr"], "psnr"), (semsim, "semsim"), ("semsim[probability]", "semsim[probability]")):
        running = PairMetric(metric)
        for part in (slice(0, 7), slice(7, 16)):
            running.update(pair[1][part], pair[0][part])
        assert running.compute().item() == pytest.approx(by_name[name].mean(), abs=1e-5)


def test_sets_take_names_and_metrics(semsim):
    pair = photo_pairs(32)
    by_name = score_sets(*pair, ["fid[alexnet]"])
    assert score_sets(*pair, METRICS["fid[alexnet]"]).equals(by_name)
    assert score_sets(*pair, ["psnr", semsim, METRICS["fid[alexnet]"]]).equals(by_name)  # those of pairs are left out


def test_all_metrics_contain_semsim_once(semsim):
    names = [metric.name for metric in chosen("all", "pair") if "semsim" in metric.name]
    assert names == ["semsim", "semsim[probability]"]
    assert not [metric.name for metric in chosen("all", "pair", "paper2309") if "semsim" in metric.name]
    given = [metric for metric in chosen(["all", semsim], "pair") if "semsim" in metric.name]
    assert [metric.name for metric in given] == names and METRICS["semsim"] not in given


def test_without_its_weights_semsim_is_not_among_all_metrics(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "weights_folders", lambda: [tmp_path])
    assert "semsim" not in [metric.name for metric in chosen("all", "pair")]


def test_an_uncalibrated_semsim_has_no_probability():
    card = dict(arch="resnet20-0.25", channels=3, size=32, mean=[0.5] * 3, std=[0.25] * 3, seed=0, init="he")
    untrained = SemSim(card).eval()
    assert list(score(*photo_pairs(32), untrained)) == ["semsim"]
    names = [metric.name for metric in chosen(["all", untrained], "pair")]
    assert "semsim" in names and "semsim[probability]" not in names  # the bundled one does not take its place


def test_two_metrics_of_one_name_are_refused(semsim):
    with pytest.raises(InputError, match="two different metrics are called 'semsim'"):
        score(*photo_pairs(32), ["semsim", semsim])


LIGHT = """
import sys
from semsim import score
print(*{"scipy", "torchmetrics", "torchvision", "lpips", "sklearn", "statsmodels", "skimage"} & set(sys.modules))
"""


def test_importing_score_is_light():
    ended = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert not ended.stdout.strip()


# The contact sheet


def shades(n, channels=1):
    "Originals in rising grey, black reconstructions."
    originals = torch.linspace(0.1, 0.9, n).view(n, 1, 1, 1).expand(n, channels, 8, 8)
    return originals, torch.zeros_like(originals)


def sheet_order(path):
    "The greys of a sheet with one row of originals, from left to right."
    grey = np.asarray(Image.open(path).convert("L")).astype(int)
    blocks = [row for row in grey if 0 < np.isin(row, (26, 128, 230)).mean()]
    line = max(blocks, key=lambda row: np.isin(row, (26, 128, 230)).sum())
    seen = [value for value in line if value in (26, 128, 230)]
    return list(dict.fromkeys(seen))


@pytest.mark.parametrize("higher, order", [(True, [230, 128, 26]), (False, [26, 128, 230])])
def test_the_leakiest_comes_first(higher, order, tmp_path):
    path = contact_sheet(tmp_path / "sheet.png", *shades(3), ["a", "b", "c"], [0.1, 0.5, 0.9], "m", higher)
    assert sheet_order(path) == order


def test_only_the_leakiest_are_shown_and_nan_is_last(tmp_path):
    values = pd.Series([0.9, 0.1, np.nan], index=[7, 8, 9])
    path = contact_sheet(tmp_path / "sheet.png", *shades(3), ["a", "b", "c"], values, "m", True, count=2)
    assert sheet_order(path) == [26, 128]


@pytest.mark.parametrize("n, channels", [(1, 1), (1, 3), (9, 3), (40, 1)])
def test_any_number_of_pairs_with_any_name(n, channels, tmp_path):
    names = [r"net $\oops$" + "x" * 300] * n
    path = contact_sheet(tmp_path / "sheet.png", *shades(n, channels), names, [np.inf] * n, "a$b$", True)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and max(picture.size) < 2000
    assert not plt.get_fignums()


def test_a_refused_sheet_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="3 pairs, but 2 names and 3 values"):
        contact_sheet(tmp_path / "sheet.png", *shades(3), ["a", "b"], [1, 2, 3], "m", True)
    with pytest.raises(InputError, match="must match"):
        contact_sheet(tmp_path / "sheet.png", shades(3)[0], shades(2)[1], ["a"] * 3, [1, 2, 3], "m", True)
    assert not list(tmp_path.iterdir())
