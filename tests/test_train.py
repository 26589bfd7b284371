"""Classifiers and their training: every architecture can be attacked, and an interrupted training ends as if it had not
been.
"""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import semsim.attack.training
from semsim.attack.inversion import invert
from semsim.core.errors import InputError
from semsim.core.seeds import generator
from semsim.core.files import load_tensors
from semsim.core.datasets import load_dataset, pick
from semsim.attack.defenses import batch_gradient
from semsim.core.backbones import ARCHITECTURES, EXAMPLES, parse_architecture
from semsim.core.classifiers import Classifier, build_classifier, load_classifier, save_classifier
from semsim.attack.sharing import share_gradient
from semsim.attack.labels import infer_labels
from semsim.attack.training import train_classifier

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way

FROM_PUBLIC_CODE = ["resnet20-0.5-nostride", "resnet20-0.5-unpooled", "densenet40", "irevnet"]
KINDS = ["lenet", "convnet8", "resnet32-0.5", "resnet50", "resnet18-flat", "alexnet", "alexnet-flat", "mobilenetv2"]
KINDS += ["mnasnet", "densenet121", "vit", "mlp", "twolp", *FROM_PUBLIC_CODE]
NO_NAMES = ["resnet19", "resnet", "resnet18-2", "resnet110-", "convnet0", "resnet20-0.01", "resnet32-nostride"]
NO_NAMES += ["densenet", "densenet121-4", "irevnet-2", "vit16", "MLP", ""]


@pytest.fixture(scope="module")
def digits():
    "Sixty-four digits of 16 pixels to train on."
    data = load_dataset("digits", size=16)
    return replace(data, train=data.train.take(range(64)))


def equal(one, other):
    "Whether two classifiers have the same bits and the same history."
    same = all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    return same and one.card == other.card


# Architectures


@pytest.mark.parametrize("arch", EXAMPLES)
def test_every_name_ends_in_a_linear_head_and_draws_nothing_at_random(arch):
    with torch.device("meta"):
        model = Classifier(dict(arch=arch, channels=1, size=16, classes=7, mean=[0.5], std=[0.25]))
    assert list(dict(model.named_parameters()))[-2:] == ["head.weight", "head.bias"]
    assert model.head.weight.shape == (7, model.head.in_features)
    assert not [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    modules = [module for name, module in model.named_modules() if "downsample" not in name]
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    if arch.startswith("resnet") and arch != "resnet28-10":
        assert len(convolutions) + 1 == int(arch.removeprefix("resnet").partition("-")[0])


@pytest.mark.parametrize("arch", NO_NAMES)
def test_other_names_are_refused(arch):
    with pytest.raises(InputError, match="unknown architecture"):
        build_classifier(arch)


def test_kinds_cover_the_families():
    found = {parse_architecture(arch)[0] for arch in KINDS}
    assert found == {backbone for backbone, *_ in ARCHITECTURES.values()}


@pytest.mark.parametrize("arch", KINDS)
def test_the_second_derivative_is_right(arch):
    "The derivative of the squared length of the gradient equals a difference quotient in double precision."
    model = build_classifier(arch, channels=1, size=16).double()
    parameters = dict(model.named_parameters())
    image, along = (
        torch.rand(1, 1, 16, 16, generator=generator(name), dtype=torch.double) for name in ("image", "along")
    )

    def length(image):
        loss = F.cross_entropy(functional_call(model, parameters, (image,)), torch.tensor([3]))
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        return sum(gradient.square().sum() for gradient in gradients)

    slope = (torch.autograd.grad(length(image.requires_grad_()), image)[0] * along).sum().item()
    step = 1e-8  # smaller than the distance to the next kink of a ReLU
    quotient = (length(image + step * along) - length(image - step * along)).item() / (2 * step)
    assert abs(slope) > 0.01 and slope == pytest.approx(quotient, rel=1e-3)


@pytest.mark.parametrize("arch", KINDS)
def test_every_kind_can_be_attacked(arch):
    images = pick(load_dataset("digits", size=16).test, 2)
    model = build_classifier(arch, channels=1, size=16)
    shared = share_gradient(model, images.images, images.labels, reveal=["batch_size"])
    assert infer_labels(shared).tolist() == images.labels.tolist()
    found = invert(shared, width=2, steps=1)
    assert torch.isfinite(found.images).all() and torch.isfinite(found.losses).all()


@pytest.mark.parametrize("arch", [arch for arch in EXAMPLES if arch.startswith("densenet40")])
@pytest.mark.parametrize("size", [16, 17, 18, 19, 31, 33, 64])
def test_flattened_features_are_counted_at_every_side(arch, size):
    with torch.device("meta"):
        model = Classifier(dict(arch=arch, channels=1, size=size, classes=7, mean=[0.5], std=[0.25])).eval()
        assert model(torch.rand(1, 1, size, size)).shape == (1, 7)


@pytest.mark.parametrize("channels, size", [(1, 16), (3, 17), (1, 30), (3, 63)])
def test_an_irevnet_loses_no_information(channels, size):
    model = build_classifier("irevnet", channels=channels, size=size).double()
    images = torch.rand(2, channels, size, size, generator=generator("irevnet"), dtype=torch.double)
    with torch.no_grad():
        planes = model.backbone[0](images)
        assert planes.shape == (2, 512, -(-size // 4), -(-size // 4))
        assert torch.allclose(model.backbone[0].inverse(planes), images, atol=1e-10)


# Training


@pytest.mark.parametrize("arch", FROM_PUBLIC_CODE)
def test_the_networks_of_the_public_code_learn(digits, arch):
    curve = train_classifier(digits, arch=arch, epochs=4, batch=16, lr=0.1).card["curve"]
    assert curve[-1] < 0.95 * curve[0]


def test_the_gradient_is_that_of_backward(digits):
    model, batch = build_classifier("convnet4", channels=1, size=16).train(), digits.train.take(range(8))
    F.cross_entropy(model(batch.images), batch.labels).backward()
    loss, gradients = batch_gradient(model, batch.images, batch.labels)
    assert all(
        torch.equal(gradient, parameter.grad)
        for gradient, parameter in zip(gradients.values(), model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "options", [dict(arch="mnasnet"), dict(amp=True, channels_last=True), dict(policy="3-1-7")], ids=str
)
def test_the_seed_decides(digits, options):
    options = dict(arch="convnet4", epochs=1) | options
    one, again, other = (train_classifier(digits, seed=seed, **options) for seed in (1, 1, 2))
    assert equal(one, again) and one.card["curve"] != other.card["curve"]


def test_initial_weights_have_a_name_and_a_training_goes_on_with_its_own(digits, tmp_path):
    options = dict(arch="lenet", epochs=1, checkpoint=tmp_path / "c.safetensors")
    chosen = train_classifier(digits, init="torch", **options)
    assert chosen.card["init"] == "torch" and not equal(chosen, train_classifier(digits, "lenet", epochs=1))
    with pytest.raises(InputError, match="was begun with init 'torch', not 'xavier'"):
        train_classifier(digits, **options)


@pytest.mark.parametrize("last", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(arch="convnet4", augment="crop+flip", defense="gaussian_1e-2"), id="noise"),
        pytest.param(dict(arch="resnet20-0.25", policy="3-1-7+43-18-18", defense="prune_70"), id="policy"),
        pytest.param(dict(arch="convnet4", amp=True, channels_last=True), id="amp"),
    ],
)
def test_an_interrupted_training_ends_with_the_same_bits(digits, options, last, tmp_path, monkeypatch):
    options = dict(epochs=5, seed=3, **options)
    whole = train_classifier(digits, **options)
    epochs, epoch = [], semsim.attack.training.train_epoch

    def interrupted(*args, **more):
        epochs.append(1)
        if len(epochs) > last:
            raise RuntimeError("interrupted")
        return epoch(*args, **more)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="interrupted"):
        patch.setattr(semsim.attack.training, "train_epoch", interrupted)
        train_classifier(digits, checkpoint=tmp_path / "c.safetensors", **options)
    assert len(load_tensors(tmp_path / "c.safetensors")[1]["curve"]) == last
    assert equal(train_classifier(digits, checkpoint=tmp_path / "c.safetensors", **options), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


TRAIN = """
import sys, torch
from dataclasses import replace
from semsim.core.datasets import load_dataset
from semsim.attack.training import train_classifier
torch.set_num_threads(1)
data = load_dataset("digits", size=16)
few = replace(data, train=data.train.take(range(64)))
train_classifier(few, "convnet4", epochs=60, augment="crop", checkpoint=sys.argv[1])
"""


def test_a_killed_training_ends_with_the_same_bits(digits, tmp_path):
    path = tmp_path / "c.safetensors"
    process = subprocess.Popen([sys.executable, "-c", TRAIN, path], stderr=subprocess.DEVNULL)
    while process.poll() is None and not path.exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= len(load_tensors(path)[1]["curve"]) < 60
    options = dict(arch="convnet4", epochs=60, augment="crop")
    assert equal(train_classifier(digits, checkpoint=path, **options), train_classifier(digits, **options))


@pytest.fixture(scope="module")
def begun(digits, tmp_path_factory):
    "The checkpoint of a training, and its options."
    path, options = tmp_path_factory.mktemp("begun") / "c.safetensors", dict(arch="lenet", epochs=2)
    train_classifier(digits, checkpoint=path, **options)
    return path, options


@pytest.mark.parametrize(
    "change",
    [
        dict(arch="mlp"),
        dict(epochs=3),
        dict(augment="crop"),
        dict(policy="3"),
        dict(defense="prune_70"),
        dict(lr=0.1),
        dict(batch=16),
        dict(seed=1),
        dict(amp=True),
        dict(channels_last=True),
    ],
    ids=str,
)
def test_other_settings_do_not_resume(digits, begun, change):
    path, options = begun
    name, value = next(iter(change.items()))
    with pytest.raises(InputError, match=rf"^\S+c\.safetensors: was begun with {name} .*, not {value!r}; .*$"):
        train_classifier(digits, checkpoint=path, **options | change)


def test_other_data_and_other_versions_do_not_resume(digits, begun, monkeypatch):
    path, options = begun
    with pytest.raises(InputError, match="was begun with fingerprint"):
        train_classifier(replace(digits, train=digits.train.take(range(63))), checkpoint=path, **options)
    monkeypatch.setattr(semsim.attack.training, "versions", lambda: {"torch": "0.1"})
    with pytest.raises(InputError, match="was begun with versions"):
        train_classifier(digits, checkpoint=path, **options)


# Files


@pytest.fixture(params=["classifier", "checkpoint"])
def kept(request, digits, begun, tmp_path):
    "A file, and what reads it."
    path, options = tmp_path / "kept.safetensors", begun[1]
    if request.param == "classifier":
        save_classifier(path, build_classifier("lenet", channels=1, size=16))
        return path, lambda: load_classifier(path)
    path.write_bytes(begun[0].read_bytes())
    return path, lambda: train_classifier(digits, checkpoint=path, **options)


@pytest.mark.parametrize("place, bit", [(-1, 1), (-1000, 1), (-3000, 64)])
def test_a_flipped_bit_is_found(kept, place, bit):
    path, read = kept
    read()
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)
    with pytest.raises(InputError, match="the hash of its tensors is missing or wrong"):
        read()


def test_a_cut_file_is_found(kept):
    path, read = kept
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read()


def test_a_trained_classifier_says_what_it_is(digits, tmp_path):
    model = train_classifier(digits, "lenet", epochs=1, policy="3-1-7", defense="prune_70")
    save_classifier(tmp_path / "m.safetensors", model)
    card = load_tensors(tmp_path / "m.safetensors")[1]
    assert (card["data"], card["fingerprint"]) == (digits.name, digits.fingerprint)
    assert (card["policy"], card["defense"], card["accuracy"]) == ("3-1-7", "prune_70", model.card["accuracy"])
    assert set(card["versions"]) == {"python", "torch", "torchvision", "semsim"} and len(card["hash"]) == 64
    assert equal(load_classifier(tmp_path / "m.safetensors"), model)
