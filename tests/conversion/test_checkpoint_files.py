"""Reading somebody's checkpoint: nothing in it is executed, and a bad file is refused in one line that names it."""

import argparse
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints import Malicious, save, timm_vit
from hf_cb.conversion.files import CheckpointError, read_checkpoint
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
        pytest.param({f"_orig_mod.{name}": t for name, t in WEIGHTS.items()}, "_orig_mod.", "", id="compiled"),
        pytest.param(
            {"model": {f"_orig_mod.module.{name}": t for name, t in WEIGHTS.items()}, "best": np.float64(0.7)},
            "_orig_mod.module.",
            "model",
            id="compiled around data parallel, with numpy's number",
        ),  # fmt: skip
        pytest.param(
            {"model": {f"module._orig_mod.module.{name}": t for name, t in WEIGHTS.items()}, "best": np.ones(2)},
            "module._orig_mod.module.",
            "model",
            id="every wrapping, with numpy's array",
        ),  # fmt: skip
        pytest.param({"model": WEIGHTS, "epochs": np.int32(3), "ok": np.bool_(True)}, "", "model", id="numpy's others"),
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
    # torch can name what a file asks for in the formats that it writes itself; all others it does not read at all
    said = r"asks for .*\.mkdir'.*nothing in it was executed" if writer in ("zip", "legacy") else "is .*no checkpoint"
    with pytest.raises(CheckpointError, match=said) as error:
        read_checkpoint(tmp_path / "file.pth")
    assert str(tmp_path / "file.pth") in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        pytest.param(Path("somewhere"), "Path", id="path"),
        pytest.param(print, "print", id="builtin"),
        pytest.param(torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear", id="a whole module"),
    ],
)
def test_a_pickle_that_asks_for_what_the_published_scripts_do_not_store_is_refused(value, named, tmp_path):
    torch.save({"model": WEIGHTS, "extra": value}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="asks for") as error:
        read_checkpoint(tmp_path / "file.pth")
    assert named in str(error.value)


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
