"""Machine annotators: thresholds and refusals by hand, all three kinds, CLIP loaded for real, and the control's
bookkeeping with known cheats.
"""

import builtins
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import ttest_rel

from semsim.annotate import panels
from semsim.annotate.answers import check_answers
from semsim.core.errors import InputError
from semsim.core.seeds import generator
from semsim.core.datasets import Dataset, Split, divide, load_dataset
from semsim.annotate.machine_annotators import (
    MachineAnnotator,
    machine_answers,
    answer,
    as_annotator,
    clip_annotator,
    clip_weights,
    fit_threshold,
)
from semsim.annotate.panels import (
    PANELS,
    accuracy_when,
    reconstructions_under_random_labels,
    blurred,
    training_images,
    noisy,
    recoloured,
    train_annotator,
    mix_in_reconstructions,
)
from semsim.annotate.control import ControlSet, control_set, control_summary, label_effect, label_evidence_control
from semsim.core.classifiers import build_classifier, load_classifier, save_classifier
from semsim.attack.sharing import share_gradient


def images(count=6, channels=3, size=16):
    "Random images."
    return torch.rand(count, channels, size, size, generator=generator("test", count))


def fixed(probabilities, **how):
    "An annotator that gives the same probabilities for anything."
    return MachineAnnotator("fixed", lambda shown: torch.tensor(probabilities), **how)


# Answers and thresholds


@pytest.mark.parametrize(
    "threshold, nothing, expected",
    [(0.0, -1, [0, 1, 2]), (0.6, -1, [0, -1, 2]), (0.7, -1, [0, -1, -1]), (0.0, 2, [0, 1, -1]), (0.6, 2, [0, -1, -1])],
)
def test_refuses_below_the_threshold_and_where_nothing_is_likeliest(threshold, nothing, expected):
    rows = [[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.2, 0.2, 0.6]]
    assert answer(fixed(rows, threshold=threshold, nothing=nothing), images(3)).tolist() == expected


def test_class_numbers_are_taken_as_they_are():
    numbers = MachineAnnotator("numbers", lambda shown: np.array([4, -1, 0]))
    assert answer(numbers, images(3)).tolist() == [4, -1, 0]


@pytest.mark.parametrize("unsure", [0.0, 0.05, 0.25, 0.5])
def test_threshold_is_the_quantile_of_clean_confidences(unsure):
    confidences = torch.linspace(0.51, 0.99, 41)[torch.randperm(41, generator=generator("order"))]
    settled = fit_threshold(fixed(torch.stack([confidences, 1 - confidences], 1).tolist()), images(41), unsure)
    assert settled.threshold == pytest.approx(np.quantile(confidences.numpy(), unsure), abs=1e-6)
    assert settled.card == dict(threshold=settled.threshold, unsure=unsure, clean=41)
    assert (answer(settled, images(41)) == -1).sum().item() == round(unsure * 40 + 0.4999 * (unsure * 40 % 1 > 0))


@pytest.mark.parametrize(
    "opinion, message",
    [
        (lambda shown: shown.flatten(1), "no probabilities"),
        (lambda shown: torch.full((len(shown), 2), float("nan")), "no probabilities"),
        (lambda shown: torch.full((len(shown), 3), 0.5), "no probabilities"),
        (lambda shown: torch.tensor([[1.5, -0.5]] * len(shown)), "no probabilities"),
        (lambda shown: torch.ones(1, 2) / 2, "for 3 images"),
        (lambda shown: shown, "for 3 images"),
        (lambda shown: torch.rand(len(shown)), "class numbers are whole"),
        (lambda shown: torch.tensor([0, 1, -2]), "class numbers are whole"),
    ],
)
def test_unsound_opinions_are_refused_by_name(opinion, message):
    with pytest.raises(InputError, match=message) as raised:
        answer(MachineAnnotator("odd one", opinion), images(3))
    assert "'odd one'" in str(raised.value)


def test_annotate_takes_all_kinds_together(tmp_path):
    model = build_classifier("convnet4", 4, 3, 16)
    model.card |= dict(annotator="A1", threshold=0.0)
    save_classifier(tmp_path / "a.safetensors", model)
    panel = [
        load_classifier(tmp_path / "a.safetensors"),
        fixed([[0.2, 0.8]] * 6),
        MachineAnnotator("never", lambda shown: torch.full((6,), -1)),
    ]
    table = check_answers(machine_answers(panel, images(), list("abcdef")), classes=4)
    assert table.annotator.unique().tolist() == ["A1", "fixed", "never"] and set(table.kind) == {"machine"}
    assert set(table.answer[table.annotator == "fixed"]) == {1} and set(table.answer[table.annotator == "never"]) == {
        -1
    }
    best = model(images()).argmax(1)
    assert table.answer[:6].tolist() == torch.where(best == 3, -1, best).tolist()


def test_what_is_no_annotator_is_refused():
    for other in (build_classifier("lenet"), "B1", lambda shown: shown):
        with pytest.raises(InputError, match="is no annotator"):
            as_annotator(other)


# Training sets and panels


def small_data(channels=1, count=200):
    "The digits, in colour if asked for."
    data = load_dataset("digits", 16)
    train, test = (
        Split(split.images.expand(-1, channels, -1, -1).contiguous(), split.labels, split.ids)
        for split in (data.train.take(range(count)), data.test.take(range(60)))
    )
    return Dataset("small", train, test, data.classes)


@pytest.mark.parametrize("channels", [1, 3])
def test_degraded_copies_stay_images_of_the_same_object(channels):
    clean = small_data(channels).train.images
    for degrade in (noisy, blurred, recoloured):
        degraded = degrade(clean, generator("spoil"))
        assert degraded.shape == clean.shape and 0 <= degraded.min() <= degraded.max() <= 1
        rows = torch.stack([degraded.mean(1).flatten(1), clean.mean(1).flatten(1)])
        correlations = torch.stack([torch.corrcoef(rows[:, n])[0, 1] for n in range(len(clean))])
        assert correlations.median() > 0.8, degrade.__name__
        assert not torch.equal(degrade(clean, generator("other")), degraded)
        assert torch.equal(degrade(clean, generator("spoil")), degraded)


def test_recoloured_moves_channels_apart_only_in_colour():
    grey = torch.rand(50, 1, 8, 8, generator=generator("grey"))
    assert recoloured(grey, generator("a")).shape == grey.shape
    coloured = recoloured(grey.expand(-1, 3, -1, -1), generator("a"))
    assert (coloured.amax(1) - coloured.amin(1)).amax((1, 2)).median() > 0.05


@pytest.mark.parametrize("lesson, pictures, nothing", [("clean", 1, 0), ("nothing", 4, 2), ("attacks", 4, 3)])
def test_training_sets_hold_what_they_say(lesson, pictures, nothing):
    data = small_data(count=60)
    made = training_images(data, data.train, lesson, 2, "test")
    assert (made.labels < 10).sum() == 60 * pictures and (made.labels == 10).sum() == 30 * nothing
    assert torch.equal(made.images[:60], data.train.images) and len(set(made.ids)) == len(made)


def test_reconstructions_are_sent_with_labels_that_say_nothing(monkeypatch):
    data, sent = small_data(count=60), []
    monkeypatch.setattr(
        panels,
        "share_gradient",
        lambda model, images, labels: sent.append((images, labels)) or share_gradient(model, images, labels),
    )
    made = reconstructions_under_random_labels(data, data.train, 12, "test", steps=4)
    assert len(sent) == 9 and len(made) == 9 * 3 * 16 and set(map(len, (image for image, _ in sent))) == {16}
    true = made.labels.view(9, 3, 16)
    assert (true[:, :, 12:] == 10).all() and (true[:, :, :12] < 10).all() and (true == true[:, :1]).all()
    where = {image.numpy().tobytes(): label for image, label in zip(data.train.images, data.train.labels.tolist())}
    for (pictures, _), labels in zip(sent, true[:, 0]):
        assert [where[image.numpy().tobytes()] for image in pictures[:12]] == labels[:12].tolist()
    names = torch.cat([labels[:12] for _, labels in sent])
    assert (names == torch.cat([labels[:12] for labels in true[:, 0]])).float().mean() < 0.3  # by chance one in ten
    assert torch.equal(made.images, reconstructions_under_random_labels(data, data.train, 12, "test", steps=4).images)


def test_reconstructions_replace_a_third():
    data = small_data(count=60)
    reconstructions = Split(torch.zeros(5, *data.train.images.shape[1:]), torch.full((5,), 10), tuple("abcde"))
    mixed = mix_in_reconstructions(data.train, reconstructions, generator("mix"))
    assert len(mixed) == len(data.train) and (mixed.labels == 10).sum() == len(data.train) // 3
    assert torch.equal(mixed.images[:40], data.train.images[:40]) and not mixed.images[40:].any()


def test_panels_share_neither_architecture_nor_members():
    assert len(set(PANELS.values())) == len(PANELS) == 2
    data = small_data()
    pools = divide(data.train, {"A": 0.5, "B": 0.5})
    assert not set(pools["A"].ids) & set(pools["B"].ids)
    first, second = (train_annotator("A", member, data, pools["A"], 300, lesson="nothing") for member in (0, 1))
    assert (first.card["annotator"], second.card["annotator"]) == ("A1", "A2") and first.card["arch"] != PANELS["B"]
    assert not torch.equal(first.head.weight, second.head.weight)
    again = train_annotator("A", 0, data, pools["A"], 300, lesson="nothing")
    assert torch.equal(first.head.weight, again.head.weight) and first.card["threshold"] == again.card["threshold"]
    assert first.card["clean"] == 20 and first.card["trained_on"] <= 300


# The control


def known_control(originals=20, models=("m", "n")):
    "A control without attacks: rows whose truth is known."
    rows = [
        dict(
            item=f"{model}/{sent}/{n}",
            model=model,
            sent=sent,
            original=str(n),
            label=(n + (sent == "wrong label")) % 10,
            true=-1 if sent == "noise" else n % 10,
        )
        for model in models
        for sent in ("noise", "wrong label", "right label")
        for n in range(originals)
    ]
    return ControlSet(images(len(rows), 1), pd.DataFrame(rows))


def saying(name, column):
    "An annotator that says what a function of the control's table gives."
    return lambda control: label_evidence_control(
        [MachineAnnotator(name, lambda shown: torch.tensor(column(control.items).values))], control
    )


def test_control_tells_readers_of_labels_from_those_who_see_and_refuse():
    control = known_control()
    shares = {
        name: control_summary(saying(name, column)(control), ["sent"])
        for name, column in {
            "reader": lambda items: items.label,
            "seer": lambda items: items.true,
            "refuser": lambda items: 0 * items.label - 1,
        }.items()
    }
    assert shares["reader"].label_sent.tolist() == [1, 1, 1] and not shares["reader"].passes.any()
    assert (
        shares["seer"].refused.tolist() == [1, 0, 0]
        and shares["seer"].true_class.tolist() == [0, 1, 1]
        and shares["seer"].label_sent.tolist() == [0, 0, 1]
    )
    assert shares["refuser"].passes.all() and (shares["refuser"].another == 0).all()


def test_control_counts_by_hand():
    control = known_control(4, ("m",))
    answers = label_evidence_control(
        [MachineAnnotator("hand", lambda shown: torch.tensor([-1, -1, 2, 9, -1, 1, 3, 8, 0, 1, -1, 5]))], control
    )
    table = control_summary(answers, ["sent"])
    assert table.refused.tolist() == [0.5, 0.25, 0.25]
    assert table.label_sent.tolist() == [
        0.25,
        0.25,
        0.5,
    ]  # noise: 2; wrong labels are 1, 2, 3, 4 and the answer 3 is that of the third
    assert table.true_class.tolist() == [0, 0.25, 0.5] and table.another.tolist() == [0.25, 0.25, 0.25]
    assert table.n.tolist() == table.originals.tolist() == [4, 4, 4]


def wilson(successes, n, z=1.959964):
    "Wilson's interval by its formula."
    share, spread = successes / n, z * np.sqrt(successes / n * (1 - successes / n) / n + z**2 / (4 * n**2))
    return (share + z**2 / (2 * n) - spread) / (1 + z**2 / n), (share + z**2 / (2 * n) + spread) / (1 + z**2 / n)


def test_interval_is_wilsons_over_originals():
    control = known_control(20)
    half = saying("half", lambda items: (items.model == "m").astype(int) - 1)(control)
    row = control_summary(half, ["sent"]).loc["noise"]
    assert (row.n, row.originals, row.refused) == (40, 20, 0.5)
    assert (row.low, row.high) == pytest.approx(wilson(10, 20), abs=1e-6)


def test_label_effect_is_a_paired_t_interval():
    control, random = known_control(), np.random.default_rng(0)
    answers = saying(
        "some",
        lambda items: items.true.where(random.random(len(items)) < np.where(items.sent == "right label", 0.8, 0.4), -1),
    )(control)
    wide = (
        answers[answers.true >= 0]
        .assign(named=lambda table: table.answer == table.true)
        .pivot_table(index="original", columns="sent", values="named")
    )
    expected = ttest_rel(wide["right label"], wide["wrong label"])
    row = label_effect(answers).loc["some"]
    assert (row.low, row.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-9)
    assert row.difference == pytest.approx((wide["right label"] - wide["wrong label"]).mean()) and row.originals == 20


def test_control_set_sends_what_it_says():
    data = small_data()
    originals = data.test.take(range(8))
    control = control_set(
        {"lenet": build_classifier("lenet", 10, 1, 16), "other": build_classifier("lenet", 10, 1, 16, seed=1)},
        originals,
        steps=2,
        width=8,
    )
    items = control.items
    assert len(items) == len(control.images) == 2 * 3 * 8 and items.item.is_unique
    truth = dict(zip(originals.ids, originals.labels.tolist()))
    wrong = items[items.sent == "wrong label"]
    assert (
        (wrong.true == wrong.original.map(truth)).all()
        and (wrong.label != wrong.true).all()
        and wrong.label.between(0, 9).all()
    )
    right = items[items.sent == "right label"]
    assert (right.label == right.true).all() and (items.true[items.sent == "noise"] == -1).all()
    with pytest.raises(InputError, match="models of the same classes"):
        control_set({"a": build_classifier("lenet", 10, 1, 16), "b": build_classifier("lenet", 4, 1, 16)}, originals)


def test_accuracy_when_counts_refusals_as_missed():
    data = small_data()
    table = accuracy_when(
        [
            MachineAnnotator("ones", lambda shown: torch.ones(len(shown), dtype=torch.long)),
            MachineAnnotator("never", lambda shown: torch.full((len(shown),), -1)),
        ],
        data.test,
    )
    assert (
        table.loc["ones"].tolist() == pytest.approx([(data.test.labels == 1).float().mean().item()] * 4)
        and (table.loc["never"] == 0).all()
    )


# CLIP


TINY = dict(
    embed_dim=16,
    vision_cfg=dict(image_size=32, layers=1, width=16, patch_size=16, head_width=8),
    text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1),
)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    "A tiny CLIP of random weights, known to open_clip by name and saved as a file: (name, path, network)."
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / "semsim-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "semsim-tiny.json")
    torch.manual_seed(0)
    net = open_clip.create_model("semsim-tiny").eval()
    save_file(net.state_dict(), folder / "tiny.safetensors")
    return "semsim-tiny", folder / "tiny.safetensors", net


def test_clip_loads_its_file_and_names_the_nearest_sentence(tiny_clip):
    import open_clip

    name, path, net = tiny_clip
    classes = ("cat", "motor_bike", "tree")
    annotator = fit_threshold(clip_annotator(classes, name, str(path)), images(12), 0.25)
    shown = images(5, size=32)  # the network's own size: nothing is resized, only rounded to 8 bits and normalised
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        texts = net.encode_text(
            open_clip.get_tokenizer(name)(["a photo of a cat.", "a photo of a motor bike.", "a photo of a tree."])
        )
        seen = net.encode_image(((shown * 255).round() / 255 - mean) / std)
        expected = (
            net.logit_scale.exp() * torch.nn.functional.cosine_similarity(seen[:, None], texts[None], dim=-1)
        ).softmax(1)
    assert torch.allclose(annotator.opinion(shown), expected, atol=1e-4)
    assert (
        annotator.card["clip"] == name
        and annotator.card["clean"] == 12
        and annotator.card["weights"] == "tiny.safetensors"
    )
    table = machine_answers([annotator], images(4, channels=1), list("abcd"))  # grey images, another size
    assert set(table.annotator) == {"CLIP semsim-tiny"} and table.answer.between(-1, 2).all()


def test_clip_mistakes_name_the_way_out(tiny_clip, tmp_path):
    name, path, net = tiny_clip
    torch.save(net.state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(InputError, match="only .safetensors files are read"):
        clip_annotator(("a", "b"), name, str(tmp_path / "tiny.pt"))
    with pytest.raises(InputError, match="no such file"):
        clip_annotator(("a", "b"), name, str(tmp_path / "none.safetensors"))
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not the weights of semsim-tiny"):
        clip_annotator(("a", "b"), name, str(tmp_path / "other.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="not the weights of semsim-tiny"):
        clip_annotator(("a", "b"), name, str(tmp_path / "bad.safetensors"))
    with pytest.raises(InputError, match="unknown weights of ViT-B-32"):
        clip_annotator(("a", "b"), "ViT-B-32", "lion")


def test_clip_weights_by_tag_are_only_had_as_safetensors(monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repository, file: asked.append((repository, file)) or "weights.safetensors",
    )
    clip_weights("ViT-B-32", "laion2b_s34b_b79k")
    assert asked == [("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors")]

    def offline(*_):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(InputError, match="could not be had .ConnectionError.; download open_clip_model.safetensors"):
        clip_weights("ViT-B-32", "laion2b_s34b_b79k")
    import open_clip

    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: dict(url="https://example.org/weights.pt"))
    with pytest.raises(InputError, match="not published as safetensors"):
        clip_weights("ViT-B-32", "laion2b_s34b_b79k")


def test_clip_without_its_package(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install open-clip-torch"):
        clip_annotator(("a", "b"), "ViT-B-32", "openai")
