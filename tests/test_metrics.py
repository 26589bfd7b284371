"""The exported metrics on real pictures, against scikit-image, lpips, torchvision and scipy."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from skimage import data as photographs
from skimage import metrics as reference

from semsim.core import InputError, generator, load_weights, read_image, to_tensor
from semsim.metrics import METRICS, alexnet_features, fid_alexnet, frechet_distance, lpips_alex, score, score_sets

GOLDEN = Path(__file__).resolve().parents[2] / "shared/data/lpips_golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="shared/data/lpips_golden is not beside the repository")
REFERENCES = {
    "mse": reference.mean_squared_error,
    "psnr": lambda a, b: reference.peak_signal_noise_ratio(a, b, data_range=1),
    "ssim": lambda a, b: reference.structural_similarity(a, b, data_range=1, channel_axis=0),
}

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way


def pictures(side):
    "Four photographs, square, as a batch."
    squares = [picture[:300, -300:] for picture in (photographs.astronaut(), photographs.chelsea(), photographs.coffee(), photographs.rocket())]
    return F.interpolate(torch.stack([to_tensor(square) for square in squares]), (side, side), mode="area")


def spoilt(images, noise=0.15):
    "The images noisy, blurred, shifted and darker."
    noisy = images + noise * torch.randn(images.shape, generator=generator("noise"))
    return torch.cat([noisy.clamp(0, 1), F.avg_pool2d(images, 5, 1, 2), images.roll(3, 3), 0.6 * images])


def photo_pairs(side, channels=3):
    images = pictures(side)[:, :channels]
    return images.repeat(4, 1, 1, 1), spoilt(images)


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
def test_lpips_gives_the_published_values():
    assert lpips_alex(*golden_pairs()).tolist() == pytest.approx([0.7219, 0.1376], abs=2e-4)


@pytest.fixture(scope="module")
def lpips_package():
    "The network of the `lpips` package with the trunk's weights put in layer by layer."
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
    assert lpips_alex(*pairs).tolist() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_lpips_enlarges_16_pixels_to_32(lpips_package):
    small = photo_pairs(16)
    large = [F.interpolate(images, (32, 32), mode="bilinear", align_corners=False) for images in small]
    expected = lpips_package(2 * large[0] - 1, 2 * large[1] - 1).flatten()
    assert lpips_alex(*small).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_rows_do_not_depend_on_the_batch():
    originals, reconstructions = (images.repeat(5, 1, 1, 1)[:70] for images in photo_pairs(32))  # more than one batch of 64
    together = score(originals, reconstructions)
    for row in (0, 1, 6, 63, 64, 69):
        alone = score(originals[row : row + 1], reconstructions[row : row + 1])
        assert alone.loc[0].tolist() == pytest.approx(together.loc[row].tolist(), rel=1e-6, abs=1e-6)


def test_pair_metrics_are_symmetric(pairs):
    originals, reconstructions = pairs
    there, back = score(originals, reconstructions), score(reconstructions, originals)
    assert back.to_numpy() == pytest.approx(there.to_numpy(), rel=1e-6, abs=1e-6)


def test_identical_pictures():
    images = pictures(32)
    values = score(images, images)
    for name, best in {"mse": 0, "psnr": np.inf, "ssim": 1, "lpips[alex]": 0}.items():
        assert values[name].tolist() == pytest.approx([best] * 4, abs=1e-6), name
    assert 0 <= score_sets(images, images)["fid[alexnet]"] < 1e-6  # a range of [0, inf) holds to the last digit


@pytest.mark.parametrize("name", METRICS)
def test_direction_is_as_registered(name):
    images = pictures(32)
    noisy = [spoilt(images, noise)[:4] for noise in (0.03, 0.1, 0.3)]
    measure = score_sets if METRICS[name].per == "set" else score
    leakage = [(1 if METRICS[name].higher_is_leakier else -1) * np.mean(measure(images, copies, [name])[name]) for copies in noisy]
    assert leakage == sorted(leakage, reverse=True) and len(set(leakage)) == 3


@pytest.mark.parametrize(
    "change, said",
    [
        pytest.param(lambda a: (a, a[:3]), "they must match", id="fewer-reconstructions"),
        pytest.param(lambda a: (a, a[:, :1]), "they must match", id="other-mode"),
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
    "The Fréchet distance from the definition, with roots of symmetric matrices only; holds for singular covariances."
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
    return torch.randn(n, dims, generator=random).double() @ mix[0], torch.randn(m, dims, generator=random).double() @ mix[1] + 0.5


@pytest.mark.parametrize("n, m, dims", [(500, 500, 16), (300, 900, 48), (70, 65, 64)])
def test_frechet_distance_is_scipys(n, m, dims):
    first, second = clouds(n, m, dims)
    covariances = [np.cov(features.T.numpy()) for features in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    assert np.abs(np.imag(root)).max() < 1e-6
    expected = (first.mean(0) - second.mean(0)).square().sum().item() + np.trace(sum(covariances)) - 2 * np.trace(root.real)
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

    trunk = alexnet(weights=None).features
    trunk.load_state_dict(load_weights("alexnet"))
    normalise = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pairs = photo_pairs(64)
    expected = [trunk.eval()[:12](normalise(images)).mean((2, 3)) for images in pairs]
    assert torch.allclose(alexnet_features(pairs[0]), expected[0], atol=1e-5)
    assert fid_alexnet(*pairs) == pytest.approx(by_eigenvalues(*expected), rel=1e-5)


def test_features_do_not_depend_on_the_batch():
    images = pictures(32).repeat(17, 1, 1, 1)  # 68: more than one batch of 64
    assert torch.allclose(alexnet_features(images)[-4:], alexnet_features(images[-4:]), atol=1e-5)
