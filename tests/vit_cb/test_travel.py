"""A saved folder carries its code: it loads with `trust_remote_code=True` where `hf_cb` cannot be imported."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTForImageClassification,
)

import hf_cb
from helpers import randomise_, tiny_config, tiny_images, tiny_vit_config
from hf_cb import ViTCBForImageClassification, ViTCBForMaskedImageModeling, ViTCBModel


AUTO = {
    "AutoModel": AutoModel,
    "AutoModelForImageClassification": AutoModelForImageClassification,
    "AutoModelForMaskedImageModeling": AutoModelForMaskedImageModeling,
}
TRAVELLERS = sorted((Path(hf_cb.__file__).parent / "vit_cb").glob("*_vit_cb.py"))
# the image processor travels with folders that have one: see `test_conversion.py`
MODEL_FILES = [path for path in TRAVELLERS if path.name != "image_processing_vit_cb.py"]

# folder: the Auto classes that load it
SAVED = {
    "classifier": ["AutoModelForImageClassification", "AutoModel"],
    "began-as-plain-vit": ["AutoModelForImageClassification", "AutoModel"],
    "base": ["AutoModel"],
    "masked-images": ["AutoModelForMaskedImageModeling"],
}
CASES = [(folder, loader) for folder, loaders in SAVED.items() for loader in loaders]

each_case = pytest.mark.parametrize(("folder", "loader"), CASES, ids=[f"{folder}-{loader}" for folder, loader in CASES])

# argv: a folder of saved models, one to save them to again, and one for what was seen
ELSEWHERE = """
import json, sys
sys.modules["hf_cb"] = None
from pathlib import Path
import torch, transformers
from safetensors.torch import load_file

torch.set_num_threads(1)
source, resaved, seen = map(Path, sys.argv[1:])
images, bool_masked_pos = torch.load(source / "inputs.pt")
report = {}

def run(model):
    arguments = {"bool_masked_pos": bool_masked_pos} if "MaskedImage" in type(model).__name__ else {}
    with torch.no_grad():
        return model.eval()(images, **arguments)[-1 if arguments else 0]

for folder, loaders in json.loads((source / "saved.json").read_text()).items():
    config = transformers.AutoConfig.from_pretrained(source / folder, trust_remote_code=True)
    report[folder] = {"model_type": config.model_type, "config": config.to_dict(), "module": type(config).__module__}
    for loader in loaders:
        model, info = getattr(transformers, loader).from_pretrained(
            source / folder, trust_remote_code=True, output_loading_info=True
        )
        info = {name: sorted(map(str, keys)) for name, keys in info.items()}
        report[folder][loader] = {"class": type(model).__name__, "module": type(model).__module__, "info": info}
        torch.save(run(model), seen / f"{folder}-{loader}.pt")
        if loader == loaders[0]:
            model.save_pretrained(resaved / folder)
            # strict: it knows the names in the file
            model.load_state_dict(load_file(resaved / folder / "model.safetensors"))

for name, arguments in {"untold": {}, "refused": {"trust_remote_code": False}}.items():
    try:
        transformers.AutoModelForImageClassification.from_pretrained(source / "classifier", **arguments)
        report[name] = "loaded"
    except ValueError as error:
        report[name] = str(error)
assert sys.modules["hf_cb"] is None
(seen / "report.json").write_text(json.dumps(report))
"""


def bool_masked_pos():
    return torch.arange(16).repeat(2, 1) % 3 == 0


@torch.no_grad()
def output_of(model):
    """Hidden states, logits or a reconstruction."""
    if "MaskedImage" in type(model).__name__:
        return model.eval()(tiny_images(), bool_masked_pos=bool_masked_pos()).reconstruction
    return model.eval()(tiny_images())[0]


def models(folder):
    """One randomised model of each kind; the mixture of techniques differs."""
    ViTForImageClassification(tiny_vit_config()).save_pretrained(folder)
    every = {"context_broadcast": "scaled", "attn_scale": True, "feat_scale": True, "apply_layers": [0, 2]}
    return {
        "classifier": ViTCBForImageClassification(tiny_config(**every)),
        "began-as-plain-vit": ViTCBForImageClassification.from_pretrained(folder, attn_scale=True),
        "base": ViTCBModel(tiny_config(feat_scale=True, context_broadcast_position="mlp_mid")),
        "masked-images": ViTCBForMaskedImageModeling(tiny_config(attn_scale=True)),
    }


def run_elsewhere(source, resaved, home):
    """Run the script in a process without `hf_cb` and with a cache of its own; its report."""
    home.mkdir()
    environment = {**os.environ, "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", ELSEWHERE, str(source), str(resaved), str(home)]
    ran = subprocess.run(
        command, env=environment, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads((home / "report.json").read_text())


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """Models saved here, loaded and saved again elsewhere, and loaded from there in yet another place."""
    root = tmp_path_factory.mktemp("journey")
    here, there = root / "here", root / "there"
    for folder in (here, there):
        folder.mkdir()
        torch.save((tiny_images(), bool_masked_pos()), folder / "inputs.pt")
        (folder / "saved.json").write_text(json.dumps(SAVED))
    for name, model in models(root / "plain").items():
        randomise_(model).save_pretrained(here / name)
    return {
        "root": root,
        "first": run_elsewhere(here, there, root / "first"),
        "second": run_elsewhere(there, root / "third", root / "second"),
    }


@pytest.mark.parametrize("stop", ["first", "second"], ids=["saved-here", "saved-again-there"])
@each_case
def test_elsewhere_a_model_gives_the_same_output_to_the_bit(folder, loader, stop, journey):
    here = AUTO[loader].from_pretrained(journey["root"] / "here" / folder)
    there = torch.load(journey["root"] / stop / f"{folder}-{loader}.pt")
    assert torch.equal(output_of(here), there)


def test_the_models_that_travel_give_different_outputs(journey):
    outputs = [torch.load(path) for path in sorted((journey["root"] / "first").glob("*.pt"))]
    assert len(outputs) == len(CASES)
    assert not any(a.shape == b.shape and torch.equal(a, b) for index, a in enumerate(outputs) for b in outputs[:index])


@pytest.mark.parametrize("stop", ["first", "second"], ids=["saved-here", "saved-again-there"])
@each_case
def test_elsewhere_the_code_of_the_folder_runs_and_nothing_is_missing(folder, loader, stop, journey):
    report = journey[stop][folder][loader]
    assert report["module"].startswith("transformers_modules.")
    assert report["class"].startswith("ViTCB")
    # the base model takes no head from a classifier and starts a pooler of its own
    strays = loader == "AutoModel" and folder != "base"
    expected = {
        "missing_keys": ["pooler.dense.bias", "pooler.dense.weight"] if strays else [],
        "unexpected_keys": ["classifier.bias", "classifier.weight"] if strays else [],
        "mismatched_keys": [],
        "error_msgs": [],
    }
    assert report["info"] == expected


@pytest.mark.parametrize("stop", ["first", "second"], ids=["saved-here", "saved-again-there"])
@pytest.mark.parametrize("folder", SAVED)
def test_elsewhere_the_configuration_is_the_same(folder, stop, journey):
    report = journey[stop][folder]
    assert report["model_type"] == "vit_cb"
    assert report["module"].startswith("transformers_modules.")
    here = AUTO[SAVED[folder][0]].from_pretrained(journey["root"] / "here" / folder).config.to_dict()
    ignored = ("_name_or_path", "auto_map")
    there = {name: value for name, value in report["config"].items() if name not in ignored}
    assert there == {name: value for name, value in json.loads(json.dumps(here)).items() if name not in ignored}


@each_case
def test_a_model_saved_elsewhere_comes_back(folder, loader, journey):
    root = journey["root"]
    back, info = AUTO[loader].from_pretrained(root / "there" / folder, output_loading_info=True)
    assert type(back).__module__ == "hf_cb.vit_cb.modeling_vit_cb"
    assert "pooler.dense.weight" in info["missing_keys"] or not info["missing_keys"]
    assert torch.equal(output_of(back), torch.load(root / "first" / f"{folder}-{loader}.pt"))


@pytest.mark.parametrize("place", ["here", "there", "third"])
@pytest.mark.parametrize("folder", SAVED)
def test_a_saved_folder_holds_the_code_and_the_whole_auto_map(folder, place, journey):
    saved = journey["root"] / place / folder
    assert {path.name for path in saved.glob("*.py")} == {path.name for path in MODEL_FILES}
    assert all((saved / path.name).read_text() == path.read_text() for path in MODEL_FILES)
    auto_map = json.loads((saved / "config.json").read_text())["auto_map"]
    assert {"AutoConfig", *AUTO} <= auto_map.keys()
    assert all((saved / f"{target.split('.')[0]}.py").is_file() for target in auto_map.values())


@pytest.mark.parametrize("answer", ["untold", "refused"])
def test_without_trust_a_folder_is_refused(answer, journey):
    assert "trust_remote_code=True" in journey["first"][answer]


# how transformers finds the files that a modelling file needs (`dynamic_module_utils.get_relative_imports`)
RELATIVE_IMPORT = re.compile(r"^\s*(?:import\s+\.(\S+)\s*$|from\s+\.(\S+)\s+import)", re.MULTILINE)
ALLOWED_PACKAGES = {*sys.stdlib_module_names, "torch", "transformers", "huggingface_hub"}


def complaints(source):
    """What keeps a file from travelling: imports, and lines that transformers would take for one."""
    found, siblings = [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            siblings.add(node.module)
            if node.level > 1 or node.module is None or not re.fullmatch(r"\w+_vit_cb", node.module):
                found.append(f"relative import of {'.' * node.level}{node.module or ''}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"import of {name}" for name in names if name.split(".")[0] not in ALLOWED_PACKAGES]
    matches = {first or second for first, second in RELATIVE_IMPORT.findall(source)}
    found += [f"text that reads as an import of {name}" for name in matches - siblings]
    return found + [f"line {line!r}" for line in docstring_lines(source) if line.lstrip().startswith("from .")]


def docstring_lines(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield from (ast.get_docstring(node) or "").splitlines()


def test_equations_modules_configuration_and_models_travel():
    names = {path.stem.removesuffix("_vit_cb") for path in TRAVELLERS}
    assert names >= {"ops", "layers", "configuration", "modeling"}


@pytest.mark.parametrize("path", TRAVELLERS, ids=[path.name for path in TRAVELLERS])
def test_a_file_that_travels_imports_nothing_that_stays(path):
    assert complaints(path.read_text()) == []
    imported = re.findall(r"^from \.(\w+) import", path.read_text(), re.MULTILINE)
    assert {f"{name}.py" for name in imported} <= {path.name for path in TRAVELLERS}


def siblings_of(name):
    """The files that a file that travels imports, by their names without `.py`."""
    source = next(path for path in TRAVELLERS if path.stem == name).read_text()
    return set(re.findall(r"^from \.(\w+) import", source, re.MULTILINE))


@pytest.mark.parametrize("path", TRAVELLERS, ids=[path.name for path in TRAVELLERS])
def test_a_file_that_travels_imports_what_its_imports_need(path):
    # transformers 5.9 copies from a folder what a file imports itself, not what those import in turn
    direct = siblings_of(path.stem)
    assert set().union(*map(siblings_of, direct)) <= direct


CANNOT_TRAVEL = {
    "sibling-as-module": "from . import ops_vit_cb",
    "sibling-that-stays": "from .training import train",
    "subfolder": "from .sub.ops_vit_cb import mix_tokens",
    "parent": "from ..ops_vit_cb import mix_tokens",
    "package": "from hf_cb.ops_vit_cb import mix_tokens",
    "package-whole": "import hf_cb",
    "third-party": "import timm",
    "inside-a-function": "def late():\n    import numpy as np",
    "docstring-names-a-file": '"""Use it so:\n\n    from .nowhere import thing\n"""',
    "docstring-line": '"""from .ops_vit_cb import mix_tokens"""\nfrom .ops_vit_cb import mix_tokens',
}


@pytest.mark.parametrize("source", CANNOT_TRAVEL.values(), ids=CANNOT_TRAVEL)
def test_a_file_that_could_not_travel_is_found_out(source):
    assert complaints(source)
