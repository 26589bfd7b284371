"""No answer is lost when a session meets a full disk, a kill or a changed folder; plans reveal nothing."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from semsim.annotate.answer_log import standing
from semsim.annotate.plan import latin_square, make_plan
from semsim.annotate.session import Session, answers_path, check_annotator, keys_of, read_answers
from semsim.annotate.widget import LabellingWidget
from semsim.core.errors import InputError
from semsim.core.datasets import Split
from semsim.core.folders import write_reconstructions


def make_folder(folder, models=("one", "two"), originals=8):
    "Reconstructions of random pictures."
    random = torch.Generator().manual_seed(0)
    split = Split(
        torch.rand(originals, 1, 8, 8, generator=random), torch.arange(originals) % 3, tuple(map(str, range(originals)))
    )
    for model in models:
        write_reconstructions(folder / model, split, torch.rand(split.images.shape, generator=random))
    (folder / "classes.txt").write_text("cat\ndog\nbird\n")
    return folder


def open_tab(session):
    return session.handle(dict(kind="open", client="c", tab="t", to="0"))


def answer(session, position, given=0, name=None):
    return session.handle(
        dict(
            kind="answer",
            client="c",
            to="1",
            id=name or f"answer {position}",
            position=position,
            answer=given,
            milliseconds=5,
        )
    )


FORK = get_context("fork")  # another process at once: a new interpreter would load torch again


def start(function, *arguments):
    "Run a function in another process; it, and the end of a pipe on which it speaks."
    here, there = FORK.Pipe()
    process = FORK.Process(target=function, args=(there, *arguments))
    process.start()
    there.close()  # so that a dead process is the end of the pipe
    return process, here


def test_the_line_is_on_the_disk_before_the_reply(tmp_path, monkeypatch):
    session, events = Session(make_folder(tmp_path), "ann"), []
    open_tab(session)
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (fsync(file), events.append(Path(session.log.path).read_text().count("\n")))
    )
    assert answer(session, 0)["state"]["done"] == 1
    assert events == [2]


def fill_the_disk(pipe, folder):
    "Answer once, then with room for ten bytes, then with room again."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    session = Session(folder, "ann")
    open_tab(session)
    answer(session, 0)
    full, (soft, hard) = session.log.path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full + 10, hard))
    replies = [answer(session, 1), answer(session, 1)]
    left = session.log.path.stat().st_size - full
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    pipe.send([*replies, answer(session, 1), left])


def test_full_disk(tmp_path):
    """Where the line does not fit nothing of it stays, the reply says so, and the same answer goes in once there is
    room."""
    process, pipe = start(fill_the_disk, make_folder(tmp_path))
    first, second, third, left = pipe.recv()
    process.join()
    assert first["error"] and second["error"] and "state" not in first and left == 0
    assert third["state"]["done"] == 2
    assert [line["id"] for line in Session(tmp_path, "ann").log.lines[1:]] == ["answer 0", "answer 1"]


def answer_on_and_on(pipe, folder):
    session = Session(folder, "ann")
    open_tab(session)
    for position in range(150):
        if answer(session, position).get("state"):
            pipe.send(position)


def test_killed_in_the_middle(tmp_path):
    "Whatever was acknowledged before the kill is in the file, and the next process may go on at once."
    process, pipe = start(answer_on_and_on, make_folder(tmp_path, originals=150))
    acknowledged = [pipe.recv() for _ in range(25)]
    process.kill()
    process.join()
    with suppress(EOFError):
        while True:
            acknowledged.append(pipe.recv())
    session = Session(tmp_path, "ann")
    assert acknowledged == list(range(len(acknowledged))) and 25 <= len(acknowledged) <= len(session.answers) < 150
    assert session.position == len(session.answers)


def begin(pipe, folder, annotator):
    pipe.recv()
    try:
        pipe.send(Session(folder, annotator).log.lines[0])
    except InputError as error:
        pipe.send(str(error))


def test_another_process_is_refused(tmp_path):
    "While a session is open in one process, and no longer."
    session = Session(make_folder(tmp_path), "ann")
    for expected in ("open in another process", "plan"):
        process, pipe = start(begin, tmp_path, "ann")
        pipe.send("go")
        assert expected in pipe.recv()
        process.join()
        session.log.close()


def test_places_are_given_once(tmp_path):
    "Annotators who begin at the same moment take different places in the Latin square."
    make_folder(tmp_path, models=[f"model {number}" for number in range(4)])
    started = [start(begin, tmp_path, name) for name in "abcd"]
    for _, pipe in started:
        pipe.send("go")
    headers = [pipe.recv() for _, pipe in started]
    for process, _ in started:
        process.join()
    assert sorted(header["place"] for header in headers) == [0, 1, 2, 3]
    shown = Counter(key for header in headers for key in header["plan"] if key.startswith("item:"))
    assert sorted(shown.values()) == [1] * 28 + [4]  # one of the eight originals is shown alike to all


@pytest.mark.parametrize(
    "tail", [b'{"id": "x", "answ', b"\x00" * 40, b"\xff\xfe", b'{"id": "x"}', b"[1, 2]\n", b"no json\n"]
)
def test_damaged_last_line(tmp_path, tail):
    session = Session(make_folder(tmp_path), "ann")
    open_tab(session)
    answer(session, 0, 2)
    sound = session.log.path.read_bytes()
    session.log.close()
    session.log.path.write_bytes(sound + tail)
    with pytest.warns(UserWarning, match="last line was cut short"):
        session = Session(tmp_path, "ann")
    assert session.log.path.read_bytes() == sound and session.position == 1
    assert session.log.path.with_suffix(".damaged").read_bytes() == tail + b"\n"
    assert "cut short" in open_tab(session)["state"]["notes"][0]


def test_damage_elsewhere_is_refused_and_untouched(tmp_path):
    session = Session(make_folder(tmp_path), "ann")
    open_tab(session)
    for position in range(3):
        answer(session, position)
    session.log.close()
    lines = session.log.path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], lines[2][:10] + b"\n", *lines[3:]])
    session.log.path.write_bytes(damaged)
    with pytest.raises(InputError, match="line 3 of 4 is damaged"):
        Session(tmp_path, "ann")
    assert session.log.path.read_bytes() == damaged


def test_a_plan_cut_short_is_drawn_again(tmp_path):
    "The process died while it wrote the first line, so no answer is lost."
    path = answers_path(make_folder(tmp_path), "ann", "name")
    path.parent.mkdir()
    path.write_bytes(b'{"annotator": "ann", "pl')
    with pytest.warns(UserWarning, match="cut short"):
        session = Session(tmp_path, "ann")
    assert open_tab(session)["state"]["position"] == 0


def test_a_removed_file_is_noticed(tmp_path):
    session = Session(make_folder(tmp_path), "ann")
    open_tab(session)
    session.log.path.unlink()
    assert "the file was removed" in answer(session, 0)["error"]


@pytest.mark.parametrize("name", ["../ann", "a/b", "a\\b", ".hidden", "", "ann\n", "x" * 65, "ann.", None, 3])
def test_bad_names(tmp_path, name):
    with pytest.raises(InputError, match="annotator"):
        Session(make_folder(tmp_path), name)
    assert not (tmp_path / "answers").exists()


def test_items_that_are_gone(tmp_path):
    "Their answers stay, the rest goes on, and the annotator is told."
    session = Session(make_folder(tmp_path), "ann")
    open_tab(session)
    answer(session, 0, 1)
    first = session.keys[0].removeprefix("item:")
    model, original = first.split("/")
    for path in tmp_path.glob(f"*/{original}_*.png"):
        path.unlink()
    with pytest.warns(UserWarning, match="1 answers for such pictures stay in the file"):
        session = Session(tmp_path, "ann")
    assert session.position == 0 and all(not key.endswith(f"/{original}") for key in session.keys)
    answered = read_answers(tmp_path)
    assert answered["item"].tolist() == [first] and answered.answer.tolist() == [1]


def test_new_originals_are_said(tmp_path):
    Session(make_folder(tmp_path), "ann").log.close()
    make_folder(tmp_path, originals=10)
    with pytest.warns(UserWarning, match="2 originals came after the plan was made"):
        session = Session(tmp_path, "ann")
    assert len(session.keys) == len(session.log.lines[0]["plan"])


def test_changed_classes(tmp_path):
    session = Session(make_folder(tmp_path), "ann")
    open_tab(session)
    answer(session, 0)
    before = session.log.path.read_bytes()
    for classes, message in [
        ("cat\nbird\ndog\n", "number 1 = 'dog', now it is 3 classes with number 1 = 'bird'"),
        ("cat\ndog\n", "number 2 = 'none'"),
        ("cat\ndog\nbird\nowl\n", "number 3 = 'owl'"),
    ]:
        (tmp_path / "classes.txt").write_text(classes)
        with pytest.raises(InputError) as caught:
            Session(tmp_path, "ann")
        assert message.replace("'none'", "none").replace("'", "") in str(caught.value).replace("'", "")
        assert session.log.path.read_bytes() == before


def test_a_picture_that_cannot_be_read_is_named_at_the_start(tmp_path):
    path = make_folder(tmp_path) / "one" / "3_0_rec.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="3_0_rec.png"):
        Session(tmp_path, "ann", every=True)
    assert not answers_path(tmp_path, "ann", "name").exists()


def test_the_view_is_told_nothing_that_gives_the_answer_away(tmp_path):
    "No model, no id, no file name, no role, and the original only under the protocol that asks for it."
    session = Session(make_folder(tmp_path, models=("leaky", "safe")), "ann")
    for position in range(len(session.keys)):
        state = open_tab(session)["state"]
        text = json.dumps({name: value for name, value in state.items() if name != "picture"})
        assert not any(word in text for word in ("leaky", "safe", "gold", "repeat", "item", ".png", str(tmp_path)))
        assert state["beside"] is None
        answer(session, position)


def test_one_tab_at_a_time(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("semsim.annotate.session.time.monotonic", lambda: clock[0])
    session = Session(make_folder(tmp_path), "ann")
    say = lambda kind, client, tab: session.handle(
        dict(
            kind=kind,
            client=client,
            tab=tab,
            id=f"{client}{clock[0]}",
            position=session.position,
            answer=0,
            milliseconds=1,
        )
    )
    assert "state" in say("open", "first", "1")
    assert (
        "another tab" in say("open", "second", "2")["refused"]
        and "another tab" in say("answer", "second", "2")["refused"]
    )
    assert "state" in say("answer", "first", "1")
    assert "state" in say("open", "first reloaded", "1")  # the same tab
    assert "refused" in say("answer", "first", "1")
    clock[0] += 9
    assert "refused" not in say("beat", "first reloaded", "1")
    clock[0] += 9
    assert "refused" in say("open", "second", "2")
    say("leave", "first reloaded", "1")
    assert "state" in say("open", "second", "2")
    clock[0] += 11
    assert "state" in say("open", "third", "3")
    assert len(standing(session.log.lines[1:])) == 1


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"kind": "drop"},
        {"kind": ["open"]},
        {"kind": "answer"},
        {"kind": "answer", "id": "x"},
        {"kind": "undo"},
        {"kind": "answer", "id": "x", "position": 0, "answer": True, "milliseconds": 1},
        {"kind": "answer", "id": "x", "position": 0, "answer": 1.0, "milliseconds": 1},
        {"kind": "answer", "id": "x", "position": 0, "answer": 3, "milliseconds": 1},
        {"kind": "answer", "id": {}, "position": 0, "answer": 1, "milliseconds": 1},
        {"kind": "answer", "id": "x", "position": 0, "answer": 1, "milliseconds": -1},
    ],
)
def test_senseless_messages_write_nothing(tmp_path, message):
    session = Session(make_folder(tmp_path), "ann")
    open_tab(session)
    reply = session.handle({"client": "c", "to": "9"} | message)
    assert reply["to"] == "9" and (reply.get("error") or reply["state"]["position"] == 0)
    assert len(session.log.lines) == 1


@settings(max_examples=40, deadline=None)
@given(
    models=st.integers(1, 6),
    originals=st.integers(2, 60),
    place=st.integers(0, 9),
    protocol=st.sampled_from(["name", "same"]),
    every=st.booleans(),
)
def test_plans(models, originals, place, protocol, every):
    "Every item once, every check after what it must follow."
    table = pd.DataFrame(
        [(f"m{m}", str(i)) for m in range(models) for i in range(originals)], columns=["model", "original"]
    )
    plan = make_plan(table, "ann", place, protocol, every)
    items = [key[5:] for key in plan if key.startswith("item:")]
    expected = table if every else latin_square(table, place)
    assert sorted(items) == sorted(expected.model + "/" + expected.original)
    assert (
        plan == make_plan(table, "ann", place, protocol, every) != make_plan(table, "bo", place, protocol, every)
        or len(plan) < 4
    )
    assert len(plan) == len(set(plan))
    for row, key in enumerate(plan):
        role, name = key.split(":")
        if role == "repeat":
            assert f"item:{name}" in plan[:row]
        if role == "gold":
            assert not any(
                one.split("/")[-1] == name.split("/")[0] and not one.startswith("gold") for one in plan[row:]
            )


def test_models_take_turns_for_everybody():
    """Fourteen annotators: each original once for each, each reconstruction once for all, but for the five originals
    that are shown alike."""
    table = pd.DataFrame([(f"m{m}", str(i)) for m in range(14) for i in range(50)], columns=["model", "original"])
    squares = [latin_square(table, place) for place in range(14)]
    assert all(square.original.is_unique and len(square) == 50 for square in squares)
    times = np.bincount(np.concatenate([square.index for square in squares]), minlength=700)
    assert np.bincount(times).tolist() == [5 * 13, 45 * 14] + [0] * 12 + [5]
    assert latin_square(table, 14).equals(squares[0])


def test_messages_through_the_widget(tmp_path):
    "Thirty answers sent without waiting arrive one by one, in order."
    widget, heard = LabellingWidget(make_folder(tmp_path, originals=40), "ann"), []
    widget.send = heard.append
    widget._handle_custom_msg(dict(kind="open", client="c", tab="t", to="0"), [])
    for position in range(30):
        widget._handle_custom_msg(
            dict(
                kind="answer",
                client="c",
                to=str(position),
                id=str(position),
                position=position,
                answer=position % 3,
                milliseconds=1,
            ),
            [],
        )
    assert [reply["to"] for reply in heard[1:]] == [str(position) for position in range(30)]
    assert [line["answer"] for line in widget.session.log.lines[1:]] == [position % 3 for position in range(30)]


WITHOUT_EXTRA = """
import sys
for name in ("anywidget", "filelock", "jinja2", "starlette", "uvicorn"):
    sys.modules[name] = None
import semsim.annotate
from semsim.core.errors import InputError
print(len(semsim.annotate.read_answers(sys.argv[1])))
for use in (lambda: semsim.annotate.LabellingWidget, lambda: semsim.annotate.serve_annotation_page(None)):
    try:
        use()
    except InputError as error:
        print(error)
"""


def test_only_labelling_needs_the_optional_packages(tmp_path):
    "Without them answers can be read; the widget and the page say in one line what to install."
    session = Session(make_folder(tmp_path), "ann")
    open_tab(session)
    answer(session, 0)
    command = [sys.executable, "-c", WITHOUT_EXTRA, str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    missing = 'needs packages that are not installed: pip install "semsim[annotate]"'
    assert lines == ["1", f"the labelling widget {missing}", f"the annotation page {missing}"]


def test_reading_while_somebody_answers(tmp_path):
    "A line that is just being written is not read, and the file is not touched."
    session = Session(make_folder(tmp_path), "ann")
    open_tab(session)
    answer(session, 0, 2)
    with open(session.log.path, "ab") as file:
        file.write(b'{"id": "half')
    assert read_answers(tmp_path).answer.tolist() == [2]
    assert session.log.path.read_bytes().endswith(b"half")


def test_folders_with_different_classes_are_not_mixed(tmp_path):
    for annotator, classes in (("ann", "cat\ndog\nbird\n"), ("bo", "cat\nbird\ndog\n")):
        make_folder(tmp_path)
        (tmp_path / "classes.txt").write_text(classes)
        session = Session(tmp_path, annotator)
        open_tab(session)
        answer(session, 0)
    with pytest.raises(InputError, match="bo.name.jsonl: its classes are not those of ann.name.jsonl"):
        read_answers(tmp_path)


def test_names_and_keys():
    for name in ("ann", "Änne", "ann b", "a.b@c-d_e", "7"):
        assert check_annotator(name) == name
    assert (
        keys_of(["no", "yes"]) == ["n", "y"]
        and keys_of(list("abcdefghijk"))[:2] == ["a", "b"]
        and keys_of(["x"] * 27) == []
    )
