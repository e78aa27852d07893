"""Models that were published keep loading: folders as hf_cb saved them, code included, are never changed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

import hf_cb  # noqa: F401


SAVED = Path(__file__).parents[1] / "saved_models"
# by version of hf_cb: SHA-256 of the files' names and contents. Saved with transformers 5.23.
DIGESTS = {"0.1.0": "865d1593f7229c137a3c9d9925d7cc445d61b252d41a5791706719c3cb34ddbc"}
# float32 in another version of torch: sums of at most 48 products of order 1
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}

each_version = pytest.mark.parametrize("version", DIGESTS)

# argv: the folder, and the file with what it gave when it was saved
ELSEWHERE = """
import json, sys

sys.modules["hf_cb"] = None
import torch, transformers
from PIL import Image
from safetensors.torch import load_file

folder, file = sys.argv[1:]
torch.set_num_threads(1)
expected, trust = load_file(file), {"trust_remote_code": True}
processor = transformers.AutoImageProcessor.from_pretrained(folder, **trust)
pixel_values = processor(Image.fromarray(expected["image"].numpy()), return_tensors="pt")["pixel_values"]
classifier, info = transformers.AutoModelForImageClassification.from_pretrained(
    folder, output_loading_info=True, **trust
)
base = transformers.AutoModel.from_pretrained(folder, **trust)
with torch.no_grad():
    outputs = {
        "pixel_values": pixel_values,
        "logits": classifier.eval()(expected["pixel_values"]).logits,
        "last_hidden_state": base.eval()(expected["pixel_values"]).last_hidden_state,
    }
differences = {name: (output - expected[name]).abs().max().item() for name, output in outputs.items()}
print(json.dumps({"differences": differences, "strays": {name: list(keys) for name, keys in info.items() if keys}}))
"""


def saved(version):
    return SAVED / f"hf_cb-{version}", load_file(SAVED / f"hf_cb-{version}.safetensors")


@each_version
def test_a_folder_saved_by_an_earlier_version_is_as_it_was_saved(version):
    digest = hashlib.sha256()
    for file in sorted((SAVED / f"hf_cb-{version}").glob("*.*")):
        digest.update(file.name.encode() + file.read_bytes())
    assert digest.hexdigest() == DIGESTS[version]


@each_version
@torch.no_grad()
def test_a_model_saved_by_an_earlier_version_loads_with_the_package_and_gives_its_logits(version):
    folder, expected = saved(version)
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert type(model).__module__ == "hf_cb.vit_cb.modeling_vit_cb"
    assert not any(info.values())
    assert_close(model.eval()(expected["pixel_values"]).logits, expected["logits"], **ROUNDING)
    base = AutoModel.from_pretrained(folder).eval()
    assert_close(base(expected["pixel_values"]).last_hidden_state, expected["last_hidden_state"], **ROUNDING)
    with_plain_cb = AutoModelForImageClassification.from_pretrained(folder, context_broadcast="plain").eval()
    logits = with_plain_cb(expected["pixel_values"]).logits
    assert_close(logits, expected["logits_with_plain_cb"], **ROUNDING)
    assert (logits - expected["logits"]).abs().max() > 0.01


@each_version
def test_a_config_and_a_processor_saved_by_an_earlier_version_load(version):
    folder, expected = saved(version)
    config = AutoConfig.from_pretrained(folder)
    assert (config.context_broadcast, config.attn_scale, config.feat_scale) == ("scaled", True, True)
    assert config.apply_layers == [0, 1] and config.id2label == {0: "zero", 1: "one", 2: "two"}
    processor = AutoImageProcessor.from_pretrained(folder)
    pixel_values = processor(Image.fromarray(expected["image"].numpy()), return_tensors="pt")["pixel_values"]
    assert_close(pixel_values, expected["pixel_values"], **ROUNDING)


@each_version
def test_a_folder_saved_by_an_earlier_version_loads_without_the_package(version, tmp_path):
    folder, _ = saved(version)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    ran = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), f"{folder}.safetensors"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert report["strays"] == {}
    assert max(report["differences"].values()) < ROUNDING["atol"], report
