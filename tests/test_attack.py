"""The exported attack and defenses: what the attacker gets, what he can do with it, and what he cannot see."""

import gc
from concurrent.futures import Executor, Future
from dataclasses import replace
from types import FunctionType, ModuleType

import pytest
import torch
import torch.nn.functional as F
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio

import semsim.attack.inversion
from semsim.attack.objectives import OBJECTIVES, PRESETS, PRIORS, features_of, given_features
from semsim.attack.inversion import invert
from semsim.core.errors import InputError
from semsim.core.seeds import generator
from semsim.core.files import to_tensor
from semsim.core.datasets import load_dataset, pick
from semsim.attack.transforms import AUGMENTATIONS, TABLE, apply_policy, parse_policy, training_input
from semsim.core.classifiers import build_classifier, load_classifier, save_classifier
from semsim.attack.sharing import share_gradient
from semsim.attack.labels import infer_labels, label_accuracy
from semsim.attack.training import variant_options

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way


@pytest.fixture(scope="module")
def digits():
    "Six held-out digits of 16 pixels."
    return pick(load_dataset("digits", size=16).test, 6)


@pytest.fixture(scope="module")
def lenet():
    return build_classifier("lenet", channels=1, size=16, init="torch")


@pytest.fixture(scope="module")
def shared(lenet, digits):
    return share_gradient(lenet, digits.images, digits.labels)


# How well it works


def crops(picture, count, side=32):
    "Crops, at random places, of a photograph at a quarter of its size."
    small = F.interpolate(to_tensor(picture)[None], scale_factor=0.25, mode="area")[0]
    random = generator("crops", count)
    places = [
        [torch.randint(length - side, (1,), generator=random).item() for length in small.shape[1:]]
        for _ in range(count)
    ]
    return torch.stack([small[:, top : top + side, left : left + side] for top, left in places])


def twelve_digits():
    return pick(load_dataset("digits", size=32).test, 12, seed=1).images


def twelve_crops():
    return torch.cat(
        [crops(picture, 4) for picture in (photographs.astronaut(), photographs.coffee(), photographs.chelsea())]
    )


@pytest.mark.parametrize("images", [twelve_digits, twelve_crops], ids=["digits", "photographs"])
def test_inverting_gradients_recovers_what_an_untrained_lenet_saw(images):
    images, labels = images(), torch.arange(12) % 10
    model = build_classifier("lenet", channels=images.shape[1], init="torch")
    found = invert(share_gradient(model, images, labels, reveal=["batch_size"]), width=12).images
    quality = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(images, found)]
    assert len(quality) == 12 and sum(quality) / 12 > 18


@pytest.mark.parametrize("init", ["torch", ""], ids=["torch-init", "default-init"])
@pytest.mark.parametrize("arch", ["lenet", "convnet8", "resnet20-0.5"])
def test_labels_are_read_off_random_networks(arch, init):
    forty = pick(load_dataset("digits", size=16).test, 40)
    for seed in range(3):
        model = build_classifier(arch, channels=1, size=16, init=init, seed=seed)
        inferred = infer_labels(share_gradient(model, forty.images, forty.labels, reveal=["batch_size"]))
        assert inferred.tolist() == forty.labels.tolist()


def test_labels_are_inferred_only_where_they_were_not_revealed(lenet, shared, digits):
    hidden = share_gradient(lenet, digits.images, digits.labels, reveal=["batch_size"])
    assert hidden.labels is None and invert(hidden, steps=1).labels.tolist() == digits.labels.tolist()
    wrong = replace(shared, labels=(digits.labels + 1) % 10)
    assert invert(wrong, steps=1).labels.tolist() == wrong.labels.tolist()


# The distance


def gradients(shared, *numbers):
    return [{name: rows[number] for name, rows in shared.gradients.items()} for number in numbers]


@pytest.fixture(scope="module")
def equal(shared):
    return dict.fromkeys(shared.gradients, torch.tensor(1.0))


@pytest.mark.parametrize("factor", [1e-4, 0.5, 3, 1e4])
def test_cosine_distance_ignores_lengths(shared, equal, factor):
    cosine, (one, other) = OBJECTIVES["cosine"], gradients(shared, 0, 1)
    flat = [torch.cat([tensor.flatten() for tensor in gradient.values()]) for gradient in (one, other)]
    expected = 1 - F.cosine_similarity(*flat, dim=0).item()
    assert 0.01 < expected < 1.99
    scaled = {name: factor * tensor for name, tensor in other.items()}
    assert cosine(one, scaled, equal).item() == pytest.approx(expected, abs=1e-5)
    assert cosine(scaled, other, equal).item() == pytest.approx(0, abs=1e-5)
    assert cosine(scaled, {name: -tensor for name, tensor in other.items()}, equal).item() == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_distance_is_0_at_the_truth_and_positive_elsewhere(shared, equal, name):
    one, other = gradients(shared, 0, 1)
    assert (
        OBJECTIVES[name](one, one, equal).item() == pytest.approx(0, abs=1e-5)
        and OBJECTIVES[name](one, other, equal) > 1e-3
    )


@pytest.mark.parametrize("name", ["squared", "absolute"])
def test_weights_of_layers_count(shared, equal, name):
    one, other = gradients(shared, 0, 1)
    parts = [
        OBJECTIVES[name](one, other, equal | {each: torch.tensor(float(each == only)) for each in equal})
        for only in equal
    ]
    assert sum(parts).item() == pytest.approx(OBJECTIVES[name](one, other, equal).item(), rel=1e-5)


def test_priors_of_a_constant_image():
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert (
        PRIORS["tv"](flat) == 0
        and PRIORS["tv_isotropic"](flat).item() == pytest.approx(0, abs=2e-4)
        and PRIORS["l2"](flat) == 0.25
    )


# Rows stand alone


@pytest.fixture(scope="module", params=["lenet", "convnet8"])
def clients(request, digits):
    return share_gradient(build_classifier(request.param, channels=1, size=16), digits.images, digits.labels)


def test_a_row_does_not_depend_on_its_neighbours_or_on_how_many_there_are(clients):
    settings = dict(width=4, steps=6)
    six = invert(clients, **settings)  # a full chunk and a half-filled one
    for count in (1, 3, 4, 5):
        fewer = invert(clients.take(range(count)), **settings)
        assert torch.equal(fewer.images, six.images[:count]) and torch.equal(fewer.losses, six.losses[:count])
    others = invert(clients.take([4, 1, 5, 0, 2, 5]), **settings)
    assert torch.equal(others.images[[1, 5]], six.images[[1, 5]])
    assert not torch.equal(others.images[[0, 2, 3, 4]], six.images[[0, 2, 3, 4]])


def test_a_row_does_not_depend_on_its_slot(clients):
    "With restarts, tasks take other slots at other times."
    settings = dict(width=4, steps=6)
    once, thrice = invert(clients, **settings), invert(clients, restarts=3, **settings)
    assert all(
        torch.equal(a, b) for a, b, c, d in zip(once.images, thrice.images, once.losses, thrice.losses) if c == d
    )
    assert (once.losses == thrice.losses).any() and (thrice.losses <= once.losses).all()


def test_widths_agree_in_double_precision(clients):
    narrow, wide = (invert(clients, width=width, steps=10, precision="float64") for width in (1, 8))
    assert (narrow.images - wide.images).abs().max() < 1e-4


@pytest.mark.parametrize(
    "attack, changes",
    [("inverting_gradients", {}), ("inversed-sim-out", {}), ("inverting_gradients", dict(restarts=2, patience=3))],
    ids=str,
)
def test_recorded_steps_give_the_same_bits(clients, monkeypatch, attack, changes):
    found = {}
    for record_from in (1, 1_000_000):
        monkeypatch.setattr(semsim.attack.inversion, "RECORD_FROM", record_from)
        found[record_from] = invert(clients, attack, steps=8, width=4, **changes)
    recorded, interpreted = found.values()
    assert torch.equal(recorded.images, interpreted.images) and torch.equal(recorded.losses, interpreted.losses)


def test_the_way_to_multiply_is_put_back(shared):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    invert(shared, precision="tf32", steps=1)
    assert (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
    ) == before


class Noting(Executor):
    "An executor that notes what it is given."

    def __init__(self):
        self.calls = []

    def submit(self, function, *arguments):
        self.calls.append(arguments)
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.mark.parametrize("attack", ["inverting_gradients", "idlg"])
def test_a_worker_is_given_its_own_clients_only(shared, attack):
    executor, settings = Noting(), dict(width=4, steps=1, restarts=2)
    spread = invert(shared, attack, executor=executor, **settings)
    assert torch.equal(spread.images, invert(shared, attack, **settings).images)
    width = 1 if attack == "idlg" else 4
    assert len(executor.calls) == 12 // width and all(len(part) <= max(1, width // 2) for part, *_ in executor.calls)


@pytest.mark.parametrize("optimizer", ["signed_adam", "adam", "sgd", "lbfgs"])
def test_every_optimizer_brings_the_gradient_nearer(digits, optimizer):
    few = share_gradient(build_classifier("lenet", channels=1, size=16), digits.images[:2], digits.labels[:2])
    near, far = (
        invert(few, optimizer=optimizer, priors=(), lr=0.1 if "adam" in optimizer else 1.0, steps=steps).losses
        for steps in (20, 1)
    )
    assert (near < far).all()


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "latent"])  # needs a generator
def test_every_preset_runs(shared, digits, name):
    model = build_classifier("convnet8", channels=1, size=16)
    sent = share_gradient(model, digits.images[:1], digits.labels[:1]) if name == "gradinversion" else shared.take([0])
    found = invert(sent, name, steps=2, restarts=2)
    assert (
        found.images.shape == (1, 1, 16, 16)
        and 0 <= found.images.min() <= found.images.max() <= 1
        and found.losses.isfinite().all()
    )


@pytest.mark.parametrize(
    "how",
    [dict(batch=2), dict(local_epochs=3), dict(mode="train"), dict(batch=2, local_epochs=2, local_batch=1)],
    ids=str,
)
def test_every_client_can_be_attacked(digits, how):
    model = build_classifier("convnet8", channels=1, size=16)
    clients = share_gradient(model, digits.images[:4], digits.labels[:4], **how)
    near, far = (invert(clients, steps=steps) for steps in (40, 1))
    assert near.images.shape == (4, 1, 16, 16) and (near.losses < far.losses).all()


def test_a_client_in_train_mode_gives_pytorchs_gradient_and_keeps_its_statistics(digits):
    model = build_classifier("convnet8", channels=1, size=16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clients = share_gradient(model, digits.images, digits.labels, batch=6, mode="train")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items()) and not model.training
    loss = F.cross_entropy(model.train()(digits.images), digits.labels)
    for ours, theirs in zip(clients.gradients.values(), torch.autograd.grad(loss, list(model.parameters()))):
        torch.testing.assert_close(ours[0], theirs, rtol=1e-3, atol=1e-5)


def test_federated_averaging_shares_the_weights_way(digits):
    model = build_classifier("convnet8", channels=1, size=16)
    shared = share_gradient(model, digits.images[:2], digits.labels[:2], batch=2, local_epochs=3, local_lr=0.05)
    moved = build_classifier("convnet8", channels=1, size=16)
    optimizer = torch.optim.SGD(moved.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad(), F.cross_entropy(moved(digits.images[:2]), digits.labels[:2]).backward(), optimizer.step()
    for name, before, after in zip(shared.gradients, model.parameters(), moved.parameters()):
        torch.testing.assert_close(
            shared.gradients[name][0], ((before - after) / (0.05 * 3)).detach(), rtol=1e-2, atol=1e-4
        )


@pytest.mark.parametrize("batch", [1, 2, 5, 10])
def test_labels_of_batches_leak(batch):
    hundred = pick(load_dataset("digits", size=16).test, 100)
    shuffled = torch.randperm(100, generator=generator("shuffled"))
    images, labels = hundred.images[shuffled], hundred.labels[shuffled]
    shared = share_gradient(
        build_classifier("convnet8", channels=1, size=16), images, labels, reveal=["batch_size"], batch=batch
    )
    assert label_accuracy(infer_labels(shared), labels, batch) >= (1.0 if batch == 1 else 0.85)


@pytest.mark.parametrize("attack", ["inverting_gradients", "dlg"])
def test_the_seed_decides(shared, attack):
    few, steps = shared.take([0, 1]), 3
    first, again, other = (invert(few, attack, seed=seed, steps=steps) for seed in (5, 5, 6))
    assert torch.equal(first.images, again.images) and torch.equal(first.losses, again.losses)
    assert not torch.equal(first.images, other.images)


def test_the_attackers_own_loss_chooses_among_restarts(shared):
    few, settings = shared.take([0, 1, 2]), dict(width=4, steps=10)
    one, three = invert(few, **settings), invert(few, restarts=3, **settings)
    assert (three.losses <= one.losses).all() and (three.losses < one.losses).any()


# What the attacker cannot see


def reachable(thing):
    "Every object that a chain of attributes, items, closures or references leads to, short of modules and classes."
    seen, todo = {}, [thing]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType)):
            continue
        seen[id(one)] = one
        if isinstance(one, FunctionType):
            todo += [one.__closure__, one.__defaults__, one.__kwdefaults__]
        else:
            todo += gc.get_referents(one)
        if isinstance(one, torch.Tensor):
            todo += [one._base, one.grad if one.is_leaf else one.grad_fn]
    return seen.values()


def holds(tensor, images):
    "Whether one of the images is anywhere in the tensor's memory, of which a slice keeps all alive."
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).float()
    if len(memory) < images[0].numel():
        return False
    windows = memory.unfold(0, images[0].numel(), 1)
    return any((windows == image.flatten()).all(1).any() for image in images)


def leaks(thing, images):
    "Tensors that hold one of the images, or remember how they were computed from something."
    tensors = [one for one in reachable(thing) if isinstance(one, torch.Tensor)]
    return [tensor for tensor in tensors if tensor.grad_fn is not None or holds(tensor, images)]


def test_originals_are_out_of_the_attackers_reach(lenet, digits):
    hidden = share_gradient(lenet, digits.images, digits.labels, reveal=["batch_size"])
    found = invert(hidden, width=4, steps=2)
    for thing in (hidden, found):
        assert sum(isinstance(one, torch.Tensor) for one in reachable(thing)) >= 2
        assert not leaks(thing, digits.images)


@pytest.mark.parametrize(
    "hide",
    [
        pytest.param(lambda images: {"a": [images[2]]}, id="view"),
        pytest.param(lambda images: [images.clone().double()], id="copy"),
        pytest.param(lambda images: lambda: images, id="closure"),
        pytest.param(lambda images: images.clone().requires_grad_() * 2, id="graph"),
        pytest.param(lambda images: torch.cat([torch.zeros(1), images.flatten()])[:1], id="storage"),
    ],
)
def test_hidden_originals_would_be_found(shared, digits, hide):
    assert leaks(replace(shared, card={"notes": hide(digits.images.clone())}), digits.images)


# Bad input


@pytest.fixture
def spoilt_model():
    model = build_classifier("lenet", channels=1, size=16)
    model.backbone[2].weight.data[3, 1, 0, 0] = float("nan")
    return model


def test_nan_in_a_model_is_named(spoilt_model, digits, tmp_path):
    with pytest.raises(InputError, match=r"backbone\.2\.weight holds NaN"):
        share_gradient(spoilt_model, digits.images, digits.labels)
    save_classifier(tmp_path / "model.safetensors", spoilt_model)
    with pytest.raises(InputError, match=r"backbone\.2\.weight holds NaN"):
        load_classifier(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "change, said",
    [
        pytest.param(lambda images, labels: (images, labels * 0 - 1), "labels span -1 to -1", id="label-below"),
        pytest.param(lambda images, labels: (images, labels * 0 + 10), "classes 0 to 9", id="label-above"),
        pytest.param(lambda images, labels: (images, labels[:5]), "6 images, but 5 labels", id="too-few-labels"),
        pytest.param(lambda images, labels: (images / 0 * 0, labels), "holds NaN", id="nan-image"),
        pytest.param(lambda images, labels: (images * 255, labels), "values span", id="0-255-image"),
    ],
)
def test_bad_images_and_labels_are_refused(lenet, digits, change, said):
    with pytest.raises(InputError, match=said):
        share_gradient(lenet, *change(digits.images, digits.labels))


@pytest.mark.parametrize(
    "options", [dict(attack="deep_leakage"), dict(step=5), dict(steps=0), dict(restarts=0)], ids=str
)
def test_bad_settings_of_the_attack_are_refused(shared, options):
    with pytest.raises(InputError):
        invert(shared, **options)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(compile=True), "needs a C\\+\\+ compiler"),
        (dict(device="cuda"), "finds no GPU"),
        (dict(precision="half"), "precision"),
    ],
    ids=str,
)
def test_what_the_machine_lacks_is_said_before_any_work(shared, monkeypatch, options, said):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=said):
        invert(shared, **options)


# Defenses


@pytest.mark.parametrize("percent", [1, 70, 99.5])
def test_pruning_drops_the_exact_share_of_the_smallest(lenet, shared, digits, percent):
    pruned = share_gradient(lenet, digits.images, digits.labels, defense=f"prune_{percent}")
    for name, raw in shared.gradients.items():
        for before, after in zip(raw.flatten(1), pruned.gradients[name].flatten(1)):
            dropped = int(before.numel() * percent / 100)
            smallest = before.abs().argsort()[:dropped]
            assert after.eq(0).sum() == dropped and not after[smallest].any()
            assert torch.equal(after[after != 0], before[after != 0])


def test_gaussian_noise_is_seeded_of_the_given_strength_and_new_for_each_client(lenet, shared, digits):
    def noise(seed):
        noisy = share_gradient(lenet, digits.images, digits.labels, defense="gaussian_1e-2", seed=seed).gradients
        return torch.cat([(noisy[name] - raw).flatten(1) for name, raw in shared.gradients.items()], 1)

    first = noise(1)
    assert torch.equal(first, noise(1)) and not torch.equal(first, noise(2))
    assert first.std().item() == pytest.approx(1e-2, rel=0.02) and abs(first.mean().item()) < 3e-4
    assert first.corrcoef().fill_diagonal_(0).abs().max() < 0.05


@pytest.mark.parametrize(
    "text", ["prune_100", "prune", "prune_-1", "gaussian_", "laplace", "dpsgd_1", "gaussian_1e-3x", "Prune_70"]
)
def test_unknown_defenses_are_refused(lenet, digits, text):
    with pytest.raises(InputError, match=f"defense {text!r}"):
        share_gradient(lenet, digits.images, digits.labels, defense=text)
    with pytest.raises(InputError, match=text):
        variant_options(text)


# Transformation policies


@pytest.mark.parametrize("text", ["0", "49", "3-1-7", "43-18-18", "3-1-7+43-18-18", "-".join(map(str, range(50)))])
def test_policies_are_accepted(digits, text):
    assert "+".join("-".join(map(str, part)) for part in parse_policy(text)) == text
    assert variant_options(f"policy_{text}")["policy"] == text
    images = training_input(digits.images, "crop", text, generator("policy", 1))
    assert (
        images.shape == digits.images.shape
        and images.dtype == torch.float32
        and 0 <= images.min()
        and images.max() <= 1
    )
    assert torch.equal(images, training_input(digits.images, "crop", text, generator("policy", 1)))


@pytest.mark.parametrize("text", ["", "50", "3-1-50", "3-1-", "-1", "3--1", "3,1", "3-1-7+", "+3", "x", "3 1", "3.5"])
def test_policies_are_refused(digits, text):
    for use in (
        parse_policy,
        lambda text: variant_options(f"policy_{text}"),
        lambda text: apply_policy(digits.images, text, generator(0)),
    ):
        with pytest.raises(InputError, match="policy"):
            use(text)


def test_alternatives_of_a_policy_are_both_used_each_image_by_one():
    assert TABLE[0] == "invert7"
    images = pick(load_dataset("digits", size=16).test, 40).images.mul(255).round().div(255)
    mixed = apply_policy(images, "0+0-0", generator("alternatives"))  # inverted once, or twice and so back
    inverted = torch.tensor([torch.allclose(a, 1 - b, atol=1e-6) for a, b in zip(mixed, images)])
    untouched = torch.tensor([torch.allclose(a, b, atol=1e-6) for a, b in zip(mixed, images)])
    assert (inverted ^ untouched).all() and 8 < inverted.sum() < 32


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_seeded(digits, name):
    first, again, other = (training_input(digits.images, name, "", generator("augment", seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "none") == torch.equal(first, digits.images)


# Modern components


MODERN = [
    dict(noise=0.2),
    dict(optimizer="soft_signed_adam", decay="cosine", warmup=0.1),
    dict(coarse=4, start="patterned"),
    dict(group=2, consistency=0.01),
    dict(features=0.1),
    dict(statistics=0.01, statistics_of="running"),
]


@pytest.mark.parametrize("changes", MODERN, ids=str)
def test_modern_rows_stand_alone_too(digits, changes):
    clients = share_gradient(build_classifier("convnet8", channels=1, size=16), digits.images, digits.labels)
    settings = dict(width=4, steps=6, **changes)
    six, two = invert(clients, **settings), invert(clients.take([4, 1]), **settings)
    assert six.images.shape == digits.images.shape and six.losses.isfinite().all() and six.gave_up == []
    assert torch.equal(two.images[1], six.images[1])
    plain = invert(clients, width=4, steps=6)
    assert not torch.equal(six.images, plain.images)


def test_a_heads_gradient_gives_features_away(digits):
    model = build_classifier("convnet8", channels=1, size=16)
    clients = share_gradient(model, digits.images, digits.labels)
    features = model.features(digits.images).detach()
    given = torch.cat([given_features(clients, digits.labels[row : row + 1], row) for row in range(6)])
    torch.testing.assert_close(given, features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features_of(clients.client, digits.images, "head"), features, rtol=1e-4, atol=1e-5)


def test_an_attack_on_features_is_recorded(digits):
    "A hundred steps and more replay a record, in which nothing may depend on numbers."
    clients = share_gradient(build_classifier("convnet8", channels=1, size=16), digits.images[:1], digits.labels[:1])
    found = invert(clients, features=0.1, statistics=1e-3, statistics_of="running", group=2, noise=0.1, steps=100)
    assert found.losses.isfinite().all() and found.card["steps_taken"] == [100]


def test_large_shapes_first_finds_more_of_a_photograph(digits):
    photographs = twelve_crops()[::4]
    shared = share_gradient(build_classifier("lenet"), photographs, torch.arange(3))
    prior = dict(priors=(("tv", 1e-3),), steps=150)
    fine, coarse = (invert(shared, coarse=side, **prior).images for side in (1, 4))
    quality = [-10 * (photographs - found).square().mean((1, 2, 3)).log10().mean() for found in (fine, coarse)]
    assert quality[1] > quality[0] + 2


def test_an_attack_that_fails_says_so(shared, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "failing", lambda gradient, target, weights: torch.tensor(float("nan")))
    found = invert(shared.take([0, 1]), objective="failing", steps=3)
    assert found.gave_up == [0, 1] and found.table.gave_up.all() and found.losses.isinf().all()
    assert (found.images == 0.5).all()


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(statistics=1.0, statistics_of="running"), "no BatchNorm"),
        (dict(statistics=1.0), "no BatchNorm"),
        (dict(coarse=3), "1, 2, 4, 8"),
        (dict(decay="linear"), "unknown decay"),
        (dict(group=0), "1 start or more"),
        (dict(group=2, optimizer="lbfgs"), "L-BFGS cannot"),
    ],
    ids=str,
)
def test_modern_settings_that_make_no_sense_are_refused(shared, changes, said):
    with pytest.raises(InputError, match=said):
        invert(shared, **changes)
