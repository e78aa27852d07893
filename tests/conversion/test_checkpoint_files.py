"""Reading somebody's checkpoint: nothing in it is executed, and a bad file is refused in one line that names it."""

import argparse
import collections
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints import Malicious, save, timm_vit
from hf_cb.conversion.checkpoint import CheckpointError
from hf_cb.conversion.files import read_checkpoint
from hf_cb.conversion.pickles import NumpyValue, load_pickle
from hf_cb.errors import UsageError


WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
WRITERS = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "protocol 4": lambda content, path: torch.save(content, path, pickle_protocol=4),
    "plain pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "protocol 0": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
}


def equal(tensors, expected):
    return tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("writer", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "prefix", "entry"),
    [
        pytest.param(WEIGHTS, "", "", id="bare"),
        pytest.param({name: torch.nn.Parameter(tensor) for name, tensor in WEIGHTS.items()}, "", "", id="parameters"),
        pytest.param({f"module.{name}": tensor for name, tensor in WEIGHTS.items()}, "module.", "", id="data parallel"),
        pytest.param(
            {"model": WEIGHTS, "epoch": 1, "args": argparse.Namespace(lr=1)}, "", "model", id="published script"
        ),
        pytest.param({"state_dict": WEIGHTS}, "", "state_dict", id="timm's script"),
    ],
)
def test_a_state_dict_is_found_in_every_container(content, prefix, entry, writer, tmp_path):
    WRITERS[writer](content, tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert equal(checkpoint.tensors, WEIGHTS)
    assert (checkpoint.prefix, checkpoint.entry) == (prefix, entry)
    assert checkpoint.named("a") == repr(f"{prefix}a")
    assert not any(tensor.requires_grad for tensor in checkpoint.tensors.values())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".anything"])
def test_a_file_is_what_its_contents_say(suffix, tmp_path):
    file = save(WEIGHTS, tmp_path / "file.safetensors").rename(tmp_path / f"renamed{suffix}")
    assert equal(read_checkpoint(file).tensors, WEIGHTS)


def test_the_moving_average_is_taken_on_request_and_the_rest_is_listed(tmp_path):
    average = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    torch.save({"model": WEIGHTS, "model_ema": average, "epoch": 3}, tmp_path / "file.pth")
    assert equal(read_checkpoint(tmp_path / "file.pth", use_ema=True).tensors, average)
    assert read_checkpoint(tmp_path / "file.pth").left_out == ["model_ema", "epoch"]


@pytest.mark.parametrize("content", [WEIGHTS, {"model": WEIGHTS, "epoch": 1}], ids=["bare", "without it"])
def test_a_moving_average_that_is_not_there_is_an_error(content, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="model_ema"):
        read_checkpoint(tmp_path / "file.pth", use_ema=True)


def test_a_malicious_pickle_would_run_if_it_were_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("place", ["whole", "model", "args", "beside"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_malicious_pickle_is_refused_by_name_and_does_not_run(writer, place, tmp_path):
    bad, weights = Malicious(tmp_path / "ran"), {"a": 1.0}
    content = {
        "whole": bad,
        "model": {"model": {**weights, "b": bad}},
        "args": {"model": weights, "args": argparse.Namespace(lr=bad)},
        "beside": {"model": weights, "extra": bad},
    }[place]
    WRITERS[writer](content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"asks for .*\.mkdir'.*nothing in it was executed") as error:
        read_checkpoint(tmp_path / "file.pth")
    assert str(tmp_path / "file.pth") in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        pytest.param(Path("somewhere"), "Path", id="path"),
        pytest.param(np.random.default_rng(0), "numpy.random", id="numpy's generator"),
        pytest.param(print, "print", id="builtin"),
        pytest.param(torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear", id="a whole module"),
    ],
)
def test_a_pickle_that_asks_for_what_the_published_scripts_do_not_store_is_refused(value, named, tmp_path):
    torch.save({"model": WEIGHTS, "extra": value}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="asks for") as error:
        read_checkpoint(tmp_path / "file.pth")
    assert named in str(error.value)


def test_torch_refuses_whatever_its_names_are_taken_for(tmp_path, monkeypatch):
    torch.save({"model": Malicious(tmp_path / "ran")}, tmp_path / "file.pth")
    monkeypatch.setattr("hf_cb.conversion.pickles._unsafe_globals", lambda path: [])
    with pytest.raises(CheckpointError, match="UnpicklingError"):
        read_checkpoint(tmp_path / "file.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("writer", ["zip", "legacy"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.float64(73.2), id="float64"),
        pytest.param(np.float32(73.2), id="float32"),
        pytest.param(np.int32(3), id="int32"),
        pytest.param(np.int64(3), id="int64"),
        pytest.param(np.bool_(True), id="bool"),
        pytest.param(np.array(73.2), id="array of one"),
        pytest.param({"best": [np.float64(1), np.arange(3)]}, id="inside"),
        pytest.param(np.random.RandomState(0).get_state(), id="state of a generator"),
        pytest.param(argparse.Namespace(lr=np.float64(1e-3)), id="argument"),
        pytest.param(collections.Counter("a"), id="counter"),
        pytest.param(torch.Size([1]), id="size"),
    ],
)
def test_what_training_scripts_store_beside_the_weights_is_left_out(value, writer, tmp_path):
    WRITERS[writer]({"model": WEIGHTS, "extra": value}, tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert equal(checkpoint.tensors, WEIGHTS) and checkpoint.left_out == ["extra"]


@pytest.mark.parametrize("writer", ["zip", "legacy"])
@pytest.mark.parametrize("core", ["core", "_core"])
def test_a_number_of_either_numpy_is_read_without_calling_numpy(core, writer, tmp_path):
    # numpy would make a number of 200 MB of these few bytes, and a list of them would fill the memory
    number = b"cnumpy.%s.multiarray\nscalar\ncnumpy\ndtype\nX\x0a\0\0\0V200000000\x85R\x85R" % core.encode()
    WRITERS[writer]({"model": WEIGHTS, "extra": "here"}, tmp_path / "file.pth")
    file = replace_in_pickle(tmp_path / "file.pth", b"X\x04\0\0\0here", number)
    assert equal(read_checkpoint(file).tensors, WEIGHTS)
    assert type(load_pickle(file, mmap=False)["extra"]) is NumpyValue


def replace_in_pickle(path, old, new):
    """The file with other bytes in its pickle."""
    if not zipfile.is_zipfile(path):
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        return path
    target = path.with_name(f"changed-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for record in source.infolist():
            content = source.read(record)
            assert record.filename != "file/data.pkl" or content.count(old) == 1
            archive.writestr(record.filename, content.replace(old, new))
    return target


def test_a_numpy_number_in_the_place_of_a_tensor_is_named(tmp_path):
    torch.save({**WEIGHTS, "step": np.float64(3)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="'step' is NumpyValue, no tensor"):
        read_checkpoint(tmp_path / "file.pth")


def test_a_refusal_says_how_to_save_the_weights_alone(tmp_path):
    torch.save({"model": WEIGHTS, "extra": Path("somewhere")}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"Save the weights alone: torch\.save\(model\.state_dict\(\), FILE\)\.$"):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("protocol", [4, 5])
def test_another_protocol_is_told_from_damage(protocol, tmp_path):
    torch.save(WEIGHTS, tmp_path / "file.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=f"pickle of protocol {protocol}, and must be one of 2"):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("writer", ["plain pickle", "legacy"])
def test_a_malicious_pickle_that_breaks_off_after_its_call_does_not_run_either(writer, tmp_path):
    WRITERS[writer]({"model": Malicious(tmp_path / "ran"), "rest": list(range(100))}, tmp_path / "file.pth")
    content = (tmp_path / "file.pth").read_bytes()
    # the call is made before the end is missed
    (tmp_path / "file.pth").write_bytes(content[: content.index(b"rest") + 4])
    with pytest.raises(CheckpointError, match=r"asks for .*\.mkdir'"):
        read_checkpoint(tmp_path / "file.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "module._orig_mod.module._orig_mod."]
    + ["_fsdp_wrapped_module.", "_orig_mod._fsdp_wrapped_module."],
)
def test_what_is_around_a_model_is_taken_off_the_names(prefix, tmp_path):
    torch.save({f"{prefix}{name}": tensor for name, tensor in WEIGHTS.items()}, tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert equal(checkpoint.tensors, WEIGHTS) and checkpoint.prefix == prefix
    # one that is there, and one that is not
    assert checkpoint.named("a") == repr(f"{prefix}a") and checkpoint.named("c") == repr(f"{prefix}c")


@pytest.mark.parametrize(
    ("stored", "inner"),
    [
        ("blocks.0._orig_mod.norm1.weight", "blocks.0.norm1.weight"),
        ("module.blocks.0._orig_mod.norm1.weight", "blocks.0.norm1.weight"),
        ("blocks.0.module._orig_mod.norm1.weight", "blocks.0.norm1.weight"),
        ("_orig_mod.blocks.0._checkpoint_wrapped_module.norm1.weight", "blocks.0.norm1.weight"),
        ("head._orig_mod.weight", "head.weight"),
        # names of a model's own
        ("blocks.module.weight", "blocks.module.weight"),
        ("my_orig_mod.weight", "my_orig_mod.weight"),
    ],
)
def test_what_is_around_a_part_of_a_model_is_taken_off_its_names(stored, inner, tmp_path):
    before = "module." if stored.startswith("module.") else ""
    torch.save({f"{before}a": WEIGHTS["a"], stored: WEIGHTS["b"]}, tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert equal(checkpoint.tensors, {"a": WEIGHTS["a"], inner: WEIGHTS["b"]})
    assert checkpoint.named(inner) == repr(stored)


def test_two_tensors_that_would_have_one_name_are_both_named(tmp_path):
    torch.save({"a": WEIGHTS["a"], "_orig_mod.a": WEIGHTS["b"]}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="'a' and '_orig_mod.a'"):
        read_checkpoint(tmp_path / "file.pth")


def test_an_array_that_is_a_pickle_is_refused_and_does_not_run(tmp_path):
    objects = np.array([Malicious(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "file.npz", good=np.ones(2), bad=objects)
    with pytest.raises(CheckpointError, match="'bad'"):
        read_checkpoint(tmp_path / "file.npz")
    assert not (tmp_path / "ran").exists()


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "file.safetensors", "file.npz"])
def test_a_truncated_file_is_refused(name, share, tmp_path):
    weights, path = timm_vit().state_dict(), tmp_path / name
    WRITERS["legacy"](weights, path) if name == "legacy.pth" else save(weights, path)
    with pytest.raises(CheckpointError, match="truncated|damaged|no checkpoint") as error:
        read_checkpoint(cut(path, share))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["zip.pth", "file.npz"])
def test_a_flipped_bit_is_found(name, tmp_path):
    path = save(timm_vit().state_dict(), tmp_path / name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def zip_of(name, text):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, text)

    return write


def expanded(path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, path)


def compressed(path):
    torch.save(WEIGHTS, path.with_suffix(".tmp"))
    with (
        zipfile.ZipFile(path.with_suffix(".tmp")) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    path.with_suffix(".tmp").unlink()


NO_CHECKPOINTS = {
    "nothing there": (lambda path: None, "no such file"),
    "folder": (Path.mkdir, "is a folder"),
    "empty": (Path.touch, "empty"),
    "text": (lambda path: path.write_text("hello world\n" * 20), "no checkpoint"),
    "picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50)), "no checkpoint"),
    "zip of a text": (zip_of("notes.txt", "hello"), "neither torch.save nor numpy.savez"),
    "zip with a broken pickle": (zip_of("x/data.pkl", b"\x80\x02hello"), "no checkpoint"),
    "compressed": (compressed, "compressed"),
    "pickled number": (lambda path: path.write_bytes(pickle.dumps(1)), "no checkpoint"),
    "list": (lambda path: torch.save([torch.ones(1)], path), "list"),
    "nothing in it": (lambda path: torch.save({}, path), "an empty one"),
    "entry of another kind": (lambda path: torch.save({"model": None}, path), "'model'"),
    "number among tensors": (lambda path: torch.save({**WEIGHTS, "step": 3}, path), "'step'"),
    "names that are numbers": (lambda path: torch.save({1: torch.ones(1)}, path), "1 is Tensor"),
    "nested tensor": (lambda path: torch.save({"a": torch.nested.nested_tensor([torch.ones(1)])}, path), "nested"),
    "sparse tensor": (lambda path: torch.save({"a": torch.ones(2, 2).to_sparse()}, path), "sparse"),
    "one number seen as many": (expanded, "claims 4000000000000 bytes"),
    "text among arrays": (lambda path: np.savez(path.open("wb"), text=np.array("a")), "'text'"),
}


@pytest.mark.parametrize("case", NO_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(case, tmp_path):
    write, named = NO_CHECKPOINTS[case]
    path = tmp_path / "file.pth"
    write(path)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ") and named in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_an_error_of_a_checkpoint_is_a_users_mistake_and_a_value_error():
    assert issubclass(CheckpointError, UsageError) and issubclass(CheckpointError, ValueError)


def test_a_long_or_broken_name_stays_on_one_short_line(tmp_path):
    torch.save({"a\nb" * 1000: 3}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "file.pth")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
