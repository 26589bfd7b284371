"""The human study: pickles that are checked and never run, damaged files, the download, the command, the real table."""

import http.server
import os
import pickle
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import FOLDERS, write_public_pickles
from hypothesis import given
from hypothesis import strategies as st

import semsim.cli
import semsim.paper2309.human_study as study
from semsim.core.errors import InputError
from semsim.paper2309 import pickles
from semsim.paper2309.human_study import (
    made_up_labels, model_means, parse_model_folder, read_human_study, three_lines,
)
from semsim.paper2309.pickles import check_hash, read_plain_pickle, record_hashes

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "human_study" / "labels.csv"
PICKLES = ["label_dict_complete.pkl", "semsim_values.pkl"]


def write(folder, content, name="file.pkl"):
    "A file with these bytes."
    (folder / name).write_bytes(content)
    return folder / name


def known(folder, content):
    "A file with these bytes whose hash is recorded."
    path = write(folder, content)
    record_hashes(folder, [path.name])
    return path


# Pickles


class Calls:
    "Once unpickled, calls a function."

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class WithState:
    "An ordinary object."

    def __init__(self):
        self.state = 1


class WithPersistentId(pickle.Pickler):
    def persistent_id(self, thing):
        return "outside" if thing == "outside" else None


def evil(mark):
    "Objects whose unpickling would create the file `mark`, or import a name that no number needs; and the name."
    touch = f"open({str(mark)!r}, 'w')"
    command = Calls(os.system, f"touch '{mark}'")
    objects = np.array([command, 1], dtype=object)
    return {
        "system": (command, "system'"),
        "eval": (Calls(eval, touch), ".eval'"),
        "exec": (Calls(exec, touch), ".exec'"),
        "getattr": (Calls(getattr, "text", "upper"), ".getattr'"),
        "nested": ({"labels": [1, (2, {"deep": [command]})]}, "system'"),
        "key": ({1: 2, Calls(eval, touch): 3}, ".eval'"),
        "object array": (objects, "numpy."),
        "array in a list": ([np.arange(3), objects], "numpy."),
        "structured array": (np.zeros(2, dtype=[("a", "f8")]), "numpy."),
        "texts": (np.array(["a", "b"]), "numpy."),
        "instance": (WithState(), "names '"),
        "class": (WithState, "WithState'"),
        "function": (os.system, "system'"),
        "complex": (1j, "complex'"),
        "container type": (set, "set'"),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", evil(""))
def test_a_pickle_that_names_something_is_refused_and_not_run(tmp_path, name, protocol):
    thing, what = evil(tmp_path / "it-ran")[name]
    path = known(tmp_path, pickle.dumps(thing, protocol))
    with pytest.raises(InputError, match="refused, nothing in it was run: it names") as error:
        read_plain_pickle(path)
    assert what in str(error.value) and "labels.csv" in str(error.value) and "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["SHA256SUMS", "file.pkl"]


@pytest.mark.parametrize("name", evil(""))
def test_a_pickle_without_a_recorded_hash_is_not_opened(tmp_path, name):
    thing, _ = evil(tmp_path / "it-ran")[name]
    path = write(tmp_path, pickle.dumps(thing))
    with pytest.raises(InputError, match="refused, it was not opened: no SHA-256 is recorded .*labels.csv"):
        read_plain_pickle(path)
    record_hashes(tmp_path, [write(tmp_path, b"N.", "other.pkl").name])  # a record of other files does not help
    with pytest.raises(InputError, match="no SHA-256 is recorded"):
        read_plain_pickle(path)
    assert sorted(os.listdir(tmp_path)) == ["SHA256SUMS", "file.pkl", "other.pkl"]


def test_the_malicious_ones_would_run(tmp_path):
    "Otherwise the tests above show nothing."
    pickle.loads(pickle.dumps(evil(tmp_path / "it-ran")["nested"][0]))
    assert (tmp_path / "it-ran").exists()


def test_a_published_hash_decides(tmp_path, monkeypatch):
    path = known(tmp_path, b"N.")
    assert read_plain_pickle(path) is None
    monkeypatch.setitem(pickles.PICKLE_HASHES, "file.pkl", "0" * 64)
    with pytest.raises(InputError, match=f"its SHA-256 is [0-9a-f]{{64}}, but {'0' * 64} is recorded"):
        read_plain_pickle(path)


def test_hashes_written_by_sha256sum_are_understood(tmp_path):
    path = write(tmp_path, b"N.")
    digest = pickles.file_hash(path)
    for line in (f"{digest}  file.pkl\n", f"{digest} *file.pkl\r\n", f"{digest.upper()}  file.pkl"):
        (tmp_path / "SHA256SUMS").write_text("# a comment\n" + line)
        assert read_plain_pickle(path) is None
    (tmp_path / "SHA256SUMS").write_text("file.pkl")
    with pytest.raises(InputError, match="no SHA-256 is recorded"):
        read_plain_pickle(path)


PROGRAMS = {  # by hand: instructions that today's pickler does not write
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'true'\no.",
    "NEWOBJ": b"cbuiltins\nset\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04cbuiltins\nset\n)}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Poutside\n.",
    "BINPERSID": b"\x80\x02K\x01Q.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "dotted": b"\x80\x04\x8c\x08builtins\x8c\x0cset.__base__\x93.",
    "dotted, from an admitted name": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__base__\x93.",
    "BUILD": b"}}S'a'\nK\x01sb.",
    "BUILD of a name": b"cbuiltins\nset\n}b.",
    "BUILD of an admitted name": b"cnumpy\ndtype\n}S'a'\nK\x01sb.",
    "APPEND to a tuple": b")K\x01a.",
    "SETITEM of a list": b"]K\x01K\x02s.",
    "ADDITEMS to a list": b"\x80\x04](K\x01\x90.",
    "REDUCE of a value": b"K\x01)R.",
    "REDUCE of a class only named": b"cnumpy\nndarray\n)R.",
    "REDUCE without arguments": b"cbuiltins\nset\nK\x01R.",
    "numpy function": b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_instructions_that_make_objects_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="refused, nothing in it was run|not a readable pickle") as error:
        read_plain_pickle(known(tmp_path, PROGRAMS[name]))
    assert "\n" not in str(error.value) and "file.pkl" in str(error.value)


def test_persistent_ids_are_refused(tmp_path):
    with open(tmp_path / "file.pkl", "wb") as file:
        WithPersistentId(file).dump(["outside"])
    record_hashes(tmp_path, ["file.pkl"])
    with pytest.raises(InputError, match="not a readable pickle"):
        read_plain_pickle(tmp_path / "file.pkl")


class Scalar:
    "Pickled as NumPy's scalar of a type that holds any object."

    def __init__(self, inside):
        self.inside = inside

    def __reduce__(self):
        return np.float64(0).__reduce__()[0], (np.dtype("O"), self.inside)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_admitted_names_open_no_second_pickle(tmp_path):
    inside = pickle.dumps(evil(tmp_path / "it-ran")["system"][0])
    path = known(tmp_path, pickle.dumps(Scalar(inside)))
    try:
        assert read_plain_pickle(path) == inside
    except InputError as error:
        assert "\n" not in str(error)
    assert sorted(os.listdir(tmp_path)) == ["SHA256SUMS", "file.pkl"]


NUMBERS = [
    np.float64(9.5), np.float32(-0.25), np.float16(2), np.int64(-1), np.int8(-7), np.uint16(65535), np.bool_(True),
]


@pytest.mark.parametrize("home", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))  # bytes are plain from protocol 3 on
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy 2 warns of its old names
def test_numbers_of_both_numpy_versions(tmp_path, protocol, home):
    # The module's name is in the file with its length (from protocol 4) or up to a newline.
    content = pickle.dumps({"numbers": NUMBERS, "again": NUMBERS}, protocol)
    if protocol >= 4:
        content = content[:2] + content[11:]  # without the frame, whose length would no longer be right
    old, new = b"numpy._core.multiarray", f"{home}.multiarray".encode()
    content = content.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
    content = content.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    assert new in content
    result = read_plain_pickle(known(tmp_path, content))
    for numbers in (result["numbers"], result["again"]):
        assert numbers == NUMBERS and [type(number) for number in numbers] == [type(number) for number in NUMBERS]


SIMPLE_VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = SIMPLE_VALUES | st.binary()
SIMPLE = st.recursive(
    SIMPLE_VALUES,
    lambda inner: st.lists(inner) | st.dictionaries(SIMPLE_VALUES, inner) | st.tuples(inner, inner),
    max_leaves=15,
)
PLAIN = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(VALUES, inner)
        | st.tuples(inner, inner)
        | st.sets(VALUES)
        | st.frozensets(VALUES)
    ),
    max_leaves=15,
)


def check_same(folder, thing, protocol):
    "A plain thing is read as it was written."
    content = pickle.dumps(thing, protocol)
    again = read_plain_pickle(known(folder, content))
    assert again == thing and repr(again) == repr(pickle.loads(content))


@given(thing=PLAIN, protocol=st.integers(4, pickle.HIGHEST_PROTOCOL))
def test_plain_things_are_read_as_written(tmp_path_factory, thing, protocol):
    check_same(tmp_path_factory.getbasetemp(), thing, protocol)


@given(thing=SIMPLE, protocol=st.integers(0, 3))  # there sets, and bytes before protocol 3, need names
def test_simple_things_are_read_as_written_in_old_protocols(tmp_path_factory, thing, protocol):
    check_same(tmp_path_factory.getbasetemp(), thing, protocol)


def test_texts_of_python_2(tmp_path):
    assert read_plain_pickle(known(tmp_path, b"\x80\x02}U\x03keyU\x05valueK\x01\x86s.")) == {"key": ("value", 1)}
    assert read_plain_pickle(known(tmp_path, b"(dS'key'\nI01\nsS'long'\nL5L\ns.")) == {"key": True, "long": 5}


def test_a_damaged_pickle_is_one_line(tmp_path):
    "A cut or changed file is not opened; one that was cut before its hash was recorded is refused."
    content = pickle.dumps({"labels": [-1, 40], "metrics": {"psnr": np.float32(9.5)}, "pair": (1.5, None)})
    path, random = known(tmp_path, content), np.random.default_rng(0)
    damaged = [content[:length] for length in range(len(content))]
    for _ in range(300):
        changed = bytearray(content)
        changed[random.integers(len(content))] ^= random.integers(1, 256)
        damaged.append(bytes(changed))
    for part in damaged:
        path.write_bytes(part)
        with pytest.raises(InputError, match="refused, it was not opened: its SHA-256 is") as error:
            read_plain_pickle(path)
        assert "\n" not in str(error.value) and "file.pkl" in str(error.value)
    for length in range(len(content)):
        with pytest.raises(InputError, match="not a readable pickle") as error:
            read_plain_pickle(known(tmp_path, content[:length]))
        assert "\n" not in str(error.value)


def test_pickles_that_would_crash_or_fill_the_memory_are_not_opened(tmp_path):
    deep = b")" + b"\x85" * 10**6  # a tuple in a tuple in a tuple ...: its hash would overflow the stack
    for content in (b"}" + deep + b"K\x01s.", b"\x80\x04j\xff\xff\xff\xff.", b"]r\xff\xff\xff\xff."):
        with pytest.raises(InputError, match="refused, it was not opened"):
            read_plain_pickle(write(tmp_path, content))
    with pytest.raises(InputError, match="larger than 99 bytes"):
        check_hash(known(tmp_path, b"N" * 100), limit=99)


def test_a_small_pickle_of_endlessly_many_paths(tmp_path):
    laughs = [[]]
    for _ in range(60):
        laughs = [laughs, laughs]
    with pytest.raises(InputError, match="cannot be told"):
        study.folder_flags(read_plain_pickle(known(tmp_path, pickle.dumps(laughs))))


@pytest.mark.parametrize("thing", [[1], "text", np.dtype("f8"), np.float64(1), None])
def test_a_plain_pickle_that_is_no_study_is_refused(tmp_path, thing):
    found = read_plain_pickle(known(tmp_path, pickle.dumps(thing)))
    with pytest.raises(InputError, match="expected a filled dictionary"):
        study.label_rows(found)
    with pytest.raises(InputError, match="cannot be told"):
        study.folder_flags(found)


# The models


def test_all_fourteen_folders():
    variants = ["none", "crop", "3-1-7", "43-18-18", "hybrid", "prune70", "gauss1e-3"]
    models = [f"{arch} {variant}" for arch in ("ResNet20-4", "ConvNet") for variant in variants]
    expected = dict(zip(models, FOLDERS, strict=True))
    assert list(study.HUMAN_STUDY_MODELS.items()) == list(expected.items())
    for model, folder in expected.items():
        for name in (folder, f"img/{folder}/", f"C:\\img\\{folder}", folder + "_fix"):
            assert " ".join(parse_model_folder(name)) == model


@pytest.mark.parametrize(
    "folder",
    [
        "",
        "ConvNet",
        "ConvNet_200_inversed_aug_auglist_9-9-9_rlabel_False",
        "ConvNet_200_inversed_crop_auglist_3-1-7_rlabel_False",
        "ConvNet_200_inversed_crop_auglist__rlabel_False_defense_prune_7",
        "ConvNet_200_inversed_aug_auglist__rlabel_False_ori",
    ],
)
def test_other_folders_are_refused(folder):
    with pytest.raises(InputError, match="human study"):
        parse_model_folder(folder)


# Sources


@pytest.fixture
def labels():
    return made_up_labels(4)


def same(one, other):
    "Both tables equal, to the last bit."
    for left, right in zip(one, other, strict=True):
        pd.testing.assert_frame_equal(left, right, check_exact=True)


def by_csv(labels, folder, originals=4):
    "Read back by way of a CSV file, its rows in another order."
    labels.sample(frac=1, random_state=0).to_csv(folder / "labels.csv", index=False)
    return read_human_study(folder / "labels.csv", originals)


def test_csv_and_pickles_give_the_same_tables(labels, tmp_path):
    write_public_pickles(labels, tmp_path / "public")
    scores, annotations = tables = by_csv(labels, tmp_path)
    same(tables, read_human_study(tmp_path / "public", 4))
    same(tables, read_human_study(tmp_path, 4))  # a folder that holds a labels.csv
    assert scores.columns.tolist() == [
        "model", "arch", "variant", "original", "label", "psnr", "ssim", "mse255", "lpips[squeeze]", "dreamsim",
    ]
    assert annotations.columns.tolist() == [
        "model",
        "original",
        "label",
        *(f"answer_{n}" for n in range(1, 6)),
        *(f"right_{n}" for n in range(1, 6)),
        "flag",
        "flag_source",
        "majority",
        "mean",
    ]
    assert scores.model.unique().tolist() == list(study.HUMAN_STUDY_MODELS)
    for row, answers in zip(labels.itertuples(), annotations.itertuples(), strict=True):
        given = [row.a1, row.a2, row.a3, row.a4, row.a5]
        right = [answers.right_1, answers.right_2, answers.right_3, answers.right_4, answers.right_5]
        assert (row.image_id, row.gt_label) == (answers.original, answers.label)
        assert given == [answers.answer_1, answers.answer_2, answers.answer_3, answers.answer_4, answers.answer_5]
        assert right == [float(answer == row.gt_label) for answer in given]
        assert (answers.mean, answers.majority) == (pytest.approx(sum(right) / 5), float(sum(right) > 2.5))
        assert (answers.flag, answers.flag_source) == (row.recognizable_flag, row.flag_source.split("_")[0])


def test_every_way_to_sort_the_flags(labels, tmp_path):
    write_public_pickles(labels, tmp_path)
    names = list(read_plain_pickle(tmp_path / "semsim_values.pkl"))
    expected = study.folder_flags(names)
    folders, words = {}, {}
    for folder, name in (name.split("/") for name in names):
        folders.setdefault(folder, {})[name] = np.float32(1)
        word = "unrecognizable" if folder[0] == "-" else "recognizable"
        words.setdefault(folder.strip("-"), {}).setdefault(word, {})[name] = (1.0, 2.0)
    layouts = [
        folders,
        {int(folder): found for folder, found in folders.items()},
        words,
        [(name, 1.0) for name in names],
        {"data": {"names": names}},
        {f"/data/img{int(name[0] == '-')}/{name}": 1.0 for name in names},
        {f"D:\\img\\{name}".replace("/", "\\"): 1.0 for name in names},
    ]
    for layout in layouts:
        assert study.folder_flags(layout) == expected


FAULTS = {  # what happened to labels.csv -> what the error says
    "a column is gone": (lambda rows: rows.drop(columns="dreamsim"), "no column 'dreamsim'"),
    "no rows": (lambda rows: rows[:0], "no rows"),
    "cut between models": (
        lambda rows: rows[:-4],
        r"no row for ConvNet gauss1e-3, original 5001 \(4 rows are missing\)",
    ),
    "cut within a model": (lambda rows: rows[:-1], "no row for ConvNet gauss1e-3, original 5004"),
    "an original less": (lambda rows: rows[rows.image_id != 5002], "3 originals, expected 4"),
    "a row twice": (
        lambda rows: pd.concat([rows, rows[:1]]),
        "line 58: ResNet20-4 none, original 5001 comes a second time",
    ),
    "another model": (
        lambda rows: rows.assign(model_folder=rows.model_folder.str.replace("ConvNet", "VGG")),
        "unknown model of the human study 'VGG none'",
    ),
    "another folder": (lambda rows: rows.assign(model_folder="here"), "'here': not a folder of the human study"),
    "two labels": (
        lambda rows: rows.assign(gt_label=[1] + rows.gt_label.tolist()[1:]),
        "line 6: the label is 37, but in other rows of this original 1",
    ),
    "an answer of 100": (
        lambda rows: rows.assign(a3=[-1] * 9 + [100] * 47),
        "line 11: a3 is '100', expected a whole number from -1 to 99",
    ),
    "an answer of -2": (lambda rows: rows.assign(a5=-2), "line 2: a5 is '-2'"),
    "half an answer": (lambda rows: rows.assign(a1=0.5), "line 2: a1 is '0.5'"),
    "no answer": (lambda rows: rows.assign(a1=None), "line 2: a1 is ''"),
    "a flag of 2": (lambda rows: rows.assign(recognizable_flag=2), "recognizable_flag is '2'"),
    "another source": (lambda rows: rows.assign(flag_source="guess"), "flag_source is 'guess'"),
    "no number": (lambda rows: rows.assign(psnr="loud"), "line 2: psnr is 'loud', expected a finite number"),
    "infinite": (lambda rows: rows.assign(ssim=np.inf), "ssim is 'inf'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_csv_is_one_line(labels, tmp_path, name):
    change, message = FAULTS[name]
    change(labels).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(InputError, match=message) as error:
        read_human_study(tmp_path / "labels.csv", 4)
    assert str(error.value).startswith(str(tmp_path / "labels.csv")) and "\n" not in str(error.value).strip()


def test_files_that_are_no_csv(labels, tmp_path):
    for content in (b"", b"\xff\xfe\x00", b"<html>404</html>", b'a,b\n"open'):
        with pytest.raises(InputError, match="not a readable CSV|no column"):
            read_human_study(write(tmp_path, content, "labels.csv"))
    text = labels.to_csv(index=False)
    half = text[: len(text) // 2].rpartition(",")[0]  # cut within a row
    with pytest.raises(InputError, match=r"line \d+: \w+ is ''"):
        read_human_study(write(tmp_path, half.encode(), "labels.csv"), 4)
    read_human_study(write(tmp_path, (text + "\n\n").encode(), "labels.csv"), 4)  # blank lines at the end are no damage


def test_pickles_that_do_not_fit(labels, tmp_path):
    def refused(message, change=lambda answers: None, **other):
        for name, rows in {"complete": labels, **other}.items():
            write_public_pickles(rows, tmp_path / name)
        answers = read_plain_pickle(tmp_path / "complete" / "label_dict_complete.pkl")
        change(answers)
        folder = tmp_path / (list(other) or ["complete"])[0]
        (folder / "label_dict_complete.pkl").write_bytes(pickle.dumps(answers))
        record_hashes(folder, PICKLES)
        with pytest.raises(InputError, match=message):
            read_human_study(folder, 4)

    first = "ResNet20-4_200_inversed_aug_auglist__rlabel_False"
    entry = "5002_74_gt.txt"
    refused("do not belong together", other=labels.assign(a2=-1, a4=-1))
    refused("a flag for it, but no answers", lambda answers: answers.pop(first))
    refused("no flag for it", other=labels[labels.model_folder != first])
    refused("cannot be told", other=labels.assign(recognizable_flag=1))
    refused("expected five answers", lambda answers: answers[first][entry].update(labels=[1, 2]))
    refused("expected five answers", lambda answers: answers[first][entry].pop("labels"))
    refused("no 'lpips' among its metrics", lambda answers: answers[first][entry]["metrics"].pop("lpips"))
    refused("metrics: expected a filled dictionary", lambda answers: answers[first][entry].pop("metrics"))
    refused(
        "expected a name like ID_LABEL_gt.txt",
        lambda answers: answers[first].update(other=answers[first].pop(entry)),
    )
    refused(f"{entry}: psnr is .*nan", lambda answers: answers[first][entry]["metrics"].update(psnr=float("nan")))
    refused(f"{entry}: ssim is of type list", lambda answers: answers[first][entry]["metrics"].update(ssim=[0.5]))
    refused(f"{entry}: a1 is of type int", lambda answers: answers[first][entry]["labels"].__setitem__(0, 10**5000))
    refused("expected a filled dictionary", lambda answers: answers.update({7: 8}))
    with pytest.raises(InputError, match="expected in it labels.csv, or label_dict_complete.pkl"):
        read_human_study(tmp_path)
    with pytest.raises(InputError, match="expected a labels.csv, or the folder"):
        read_human_study(tmp_path / "complete" / "semsim_values.pkl")


# The download


@pytest.fixture
def served(tmp_path):
    "A folder, and the address at which a server on this machine shows it."

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "served")

        def log_message(self, *args):
            pass

        def end_headers(self):
            if (tmp_path / "served" / "claim").exists():
                self._headers_buffer = [
                    line for line in self._headers_buffer if not line.lower().startswith(b"content-length")
                ]
                self.send_header("Content-Length", "100000000")
            super().end_headers()

    (tmp_path / "served").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "served", f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


BY_HAND = "could not download .*label_dict_complete.pkl and semsim_values.pkl by hand .* --from FOLDER, .* --from FILE"


def test_download(labels, served, tmp_path, monkeypatch):
    folder, base = served
    write_public_pickles(labels, folder)
    same(read_human_study(None, 4, base), by_csv(labels, tmp_path))
    (folder / "semsim_values.pkl").write_bytes(pickle.dumps(Calls(os.system, f"touch '{tmp_path / 'it-ran'}'")))
    with pytest.raises(InputError, match=f"^{base}semsim_values.pkl: refused"):
        read_human_study(None, 4, base)
    assert not (tmp_path / "it-ran").exists()
    monkeypatch.setitem(pickles.PICKLE_HASHES, "semsim_values.pkl", "0" * 64)
    with pytest.raises(InputError, match=f"^{base}semsim_values.pkl: refused, it was not opened"):
        read_human_study(None, 4, base)
    (folder / "semsim_values.pkl").unlink()
    with pytest.raises(InputError, match=f"{base}semsim_values.pkl .*404.*{BY_HAND[19:]}"):
        read_human_study(None, 4, base)


def test_what_is_too_long_or_cut_short_is_not_kept(labels, served, tmp_path, monkeypatch):
    folder, base = served
    write_public_pickles(labels, folder)
    (folder / "claim").touch()
    with pytest.raises(InputError, match=BY_HAND):
        study.download_human_study(tmp_path / "cut", base)
    (folder / "claim").unlink()
    monkeypatch.setattr(study, "PICKLE_LIMIT", 1000)
    with pytest.raises(InputError, match=BY_HAND):
        study.download_human_study(tmp_path / "long", base)
    assert not any(path.exists() for path in (tmp_path / "cut", tmp_path / "long"))


def test_a_server_that_is_silent_is_given_up_on(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match=BY_HAND):
        study.download_human_study(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.2)


def test_the_address_is_pinned_and_encrypted():
    commit = "2eaa620cf02fa11c4f506a5af9ff3bbc0c4a172f"
    assert study.HUMAN_STUDY_FILES == f"https://raw.githubusercontent.com/gparrella12/SemSim/{commit}/"


# The command


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    "Runs `semsim ...` in `tmp_path`, in this process."

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["semsim", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            semsim.cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def full():
    return made_up_labels(600)


def test_the_command_writes_both_tables(full, command, tmp_path):
    full.to_csv(tmp_path / "made up.csv", index=False)
    code, out, err = command("data", "human-study", "--from", "made up.csv")
    assert (code, err) == (0, "")
    written, origin, following = out.splitlines()
    assert "8400 reconstructions (14 models x 600 originals)" in written
    assert "2309.13038" in origin and "gparrella12/SemSim" in origin and "Apache-2.0" in origin
    tables, options = "human_study/scores.csv human_study/annotations.csv", "--lower mse255 --lower dreamsim"
    assert following == f"Next: semsim analyse {tables} --target flag {options}"
    for name, table in zip(("scores", "annotations"), read_human_study("made up.csv"), strict=True):
        pd.testing.assert_frame_equal(
            pd.read_csv(f"human_study/{name}.csv", float_precision="round_trip"),
            table,
            check_exact=True,
        )
    assert sorted(os.listdir("human_study")) == ["annotations.csv", "scores.csv"]


def test_the_command_downloads(full, command, served, tmp_path, monkeypatch):
    folder, base = served
    monkeypatch.setattr(study, "HUMAN_STUDY_FILES", base)
    code, out, err = command("data", "human-study")
    assert code == 2 and not out and len(err.splitlines()) == 1 and "by hand" in err and "--from FOLDER" in err
    assert not (tmp_path / "human_study").exists()
    write_public_pickles(full, folder)
    code, out, err = command("data", "human-study", "--out", "my tables")
    assert (code, err) == (0, "") and "semsim analyse 'my tables/scores.csv' 'my tables/annotations.csv'" in out


@pytest.mark.parametrize(
    "change, message",
    [(lambda rows: rows[:-1], "1 rows are missing"), (lambda rows: rows.drop(columns="a1"), "no column 'a1'")],
)
def test_the_command_writes_nothing_of_a_damaged_file(full, command, tmp_path, change, message):
    change(full).to_csv(tmp_path / "labels.csv", index=False)
    code, out, err = command("data", "human-study", "--from", "labels.csv")
    assert code == 2 and not out and message in err and len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == ["labels.csv"]


def test_both_tables_are_written_or_neither(labels, tmp_path, monkeypatch):
    scores, annotations = by_csv(labels, tmp_path)
    monkeypatch.setattr(annotations, "to_csv", lambda *args, **options: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        study.write_human_study(tmp_path / "out", scores, annotations)
    assert os.listdir(tmp_path / "out") == []


def test_the_command_names_what_is_not_there(command):
    for arguments, message in (
        (["human-study", "--from", "nowhere"], "nowhere: no such file or folder"),
        (["human-studies"], "No such command"),
    ):
        code, out, err = command("data", *arguments)
        assert code == 2 and not out and message in err


# The real study

PRINTED = """
ResNet20-4 none      |469|131|368|10.088|.0918|7115.7|.5745|.6538
ResNet20-4 crop      |540| 60|381| 9.833|.0398|7273.7|.5520|.6213
ResNet20-4 3-1-7     |309|291|215| 9.002|.0211|8640.7|.5881|.6395
ResNet20-4 43-18-18  |467|133|343| 9.161|.0239|8398.6|.5898|.6275
ResNet20-4 hybrid    |394|206|265| 8.969|.0199|8741.6|.5891|.6353
ResNet20-4 prune70   |488|112|451| 9.342|.0275|8145.9|.5854|.6568
ResNet20-4 gauss1e-3 |574| 26|531| 9.899|.0416|7173.1|.5441|.6179
ConvNet none         |203|397|150| 9.219|.0422|8235.2|.6380|.7362
ConvNet crop         |449|151|345| 9.736|.0484|7422.2|.5533|.6371
ConvNet 3-1-7        |293|307|204| 8.892|.0140|8776.9|.5916|.6670
ConvNet 43-18-18     |440|160|356| 9.256|.0239|8239.3|.5857|.6301
ConvNet hybrid       |364|236|278| 8.987|.0195|8660.3|.5910|.6498
ConvNet prune70      |430|170|408| 9.611|.0424|7677.0|.5708|.6504
ConvNet gauss1e-3    |420|180|361| 9.958|.0529|7094.8|.5501|.6388
"""  # computed from the public file apart from this module, rounded


@pytest.fixture(scope="module")
def real():
    if not REAL.is_file():
        pytest.skip("the human study (shared/data/human_study/labels.csv) is not beside the repository")
    return read_human_study(REAL)


def test_real_model_means(real):
    means = model_means(*real)
    expected = [[part.strip() for part in line.split("|")] for line in PRINTED.strip().splitlines()]
    assert means.index.tolist() == [row[0] for row in expected]
    assert means.columns.tolist() == [
        "flagged", "unrecognised", "majority", "psnr", "ssim", "mse255", "lpips[squeeze]", "dreamsim",
    ]
    for column, digits, *values in zip(means, (0, 0, 0, 3, 4, 1, 4, 4), *(row[1:] for row in expected)):
        assert np.abs(means[column] - np.array(values, float)).max() <= 0.5 * 10**-digits + 1e-9, column


def test_real_answers(real):
    scores, annotations = real
    assert (
        len(scores), scores.model.nunique(), scores.original.nunique(), scores.label.nunique(),
    ) == (8400, 14, 600, 96)
    answers, right = annotations.filter(like="answer_"), annotations.filter(like="right_")
    shares = right.to_numpy().mean(), (answers == -1).to_numpy().mean()
    assert np.round(shares, 4).tolist() == [0.5405, 0.3886]
    assert right.sum(axis=1).value_counts().sort_index().tolist() == [1303, 1298, 1143, 1291, 1582, 1783]
    assert annotations.flag_source.value_counts().to_dict() == {"folder": 7686, "inferred": 714}
    assert annotations.flag[annotations.flag_source == "inferred"].eq(1).all() and annotations.flag.sum() == 5840


def test_real_flag_is_no_function_of_the_answers(real):
    annotations = real[1][real[1].flag_source == "folder"]
    right = annotations.filter(like="right_").sum(axis=1)
    agreement = [((right >= needed) == annotations.flag).mean() for needed in range(7)]
    assert [round(agreement[needed], 3) for needed in (2, 3)] == [0.862, 0.811] and max(agreement) == agreement[2]


def test_real_study_by_way_of_the_pickles(real, tmp_path):
    "The check digit in the names of the sorted images, too, agrees with all answers."
    write_public_pickles(pd.read_csv(REAL), tmp_path)
    for table, expected in zip(read_human_study(tmp_path), real, strict=True):
        pd.testing.assert_frame_equal(table, expected)


# The lines of the paper's script


def test_three_lines():
    random = np.random.default_rng(0)
    metric = random.normal(size=40)
    target = metric + random.normal(size=40) / 4
    names = [line.split(":")[0] for line in three_lines(metric, target)]
    assert names == ["Spearman's rho", "Pearson's r", "Kendall's tau"]
    assert three_lines(metric, target)[0].endswith("(p<0.001)")
    assert three_lines([1, 2], [1, 2])[2] == "Kendall's tau: undefined (fewer than 3 points)"
