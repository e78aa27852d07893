"""Techniques saved alone and with their model, and on their way to the Hub."""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

import hf_cb
from hf_cb import TechniqueConfig, apply_techniques, load_techniques, remove_techniques, save_techniques
from hf_cb.techniques.apply import applied_techniques
from models_with_everything import differ
from technique_models import CASES, EVERYTHING, plain, run, with_techniques


FILES = {"technique_config.json", "technique_model.safetensors", "README.md"}
POSITIONS = ["mlp_end", "mlp_mid", "mlp_front", "attn_end"]

each_model = pytest.mark.parametrize("name", CASES)


def base_config(model):
    return {key: value for key, value in model.config.to_dict().items() if key != "technique_config"}


def same(first, second):
    """Not to the bit: how a convolution rounds depends on where its weights lie in memory."""
    return torch.allclose(first, second, rtol=1e-5, atol=1e-6)


# alone


@each_model
def test_techniques_saved_alone_come_back_on_the_plain_model(name, tmp_path):
    model = with_techniques(name)
    save_techniques(model, tmp_path / "techniques")
    assert {path.name for path in (tmp_path / "techniques").iterdir()} == FILES
    assert sum(path.stat().st_size for path in (tmp_path / "techniques").iterdir()) < 20_000
    loaded = plain(name)
    assert differ(run(name, loaded), run(name, model), rtol=1e-6, atol=1e-6)
    assert load_techniques(loaded, tmp_path / "techniques") is loaded
    assert torch.equal(run(name, loaded), run(name, model))


def test_techniques_go_from_a_model_to_another_class_of_it(tmp_path):
    model = with_techniques("dinov2")
    save_techniques(model, tmp_path)
    backbone = load_techniques(plain("dinov2-backbone"), str(tmp_path))
    names = [f"layers.{i}.{scale}" for i in range(3) for scale in ("attn_scale.omega", "feat_scale.dc_scale")]
    stored = load_file(tmp_path / "technique_model.safetensors")
    assert set(names) < set(stored)
    for ours, theirs in zip(hf_cb.technique_parameters(model), hf_cb.technique_parameters(backbone)):
        assert torch.equal(ours, theirs)


def test_fixed_broadcasting_is_saved_without_any_parameter(tmp_path):
    model = with_techniques("vit", context_broadcast="plain", context_broadcast_position="attn_end")
    save_techniques(model, tmp_path)
    assert load_file(tmp_path / "technique_model.safetensors") == {}
    assert torch.equal(run("vit", load_techniques(plain("vit"), tmp_path)), run("vit", model))


def test_saving_keeps_the_other_files_of_the_folder(tmp_path):
    model = with_techniques("vit")
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("my model")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_techniques(model, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert {path.name for path in tmp_path.iterdir()} == {*before, *FILES}


def test_saving_again_replaces_techniques_and_card(tmp_path):
    save_techniques(with_techniques("vit"), tmp_path)
    save_techniques(with_techniques("vit", attn_scale=True), tmp_path)
    assert set(load_file(tmp_path / "technique_model.safetensors")) == {
        f"layers.{i}.attn_scale.omega" for i in range(3)
    }
    assert "FeatScale" not in (tmp_path / "README.md").read_text().split("## References")[0]
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_the_card_says_what_was_added_to_what(tmp_path):
    plain("vit").save_pretrained(tmp_path / "base")
    model = apply_techniques(
        ViTForImageClassification.from_pretrained(tmp_path / "base"), TechniqueConfig(**EVERYTHING)
    )
    save_techniques(model, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "AttnScale" in card and "225 parameters" in card and "layers" in card
    # the way to the model is of one machine alone
    assert "from_pretrained('base')" in card and "`base` for those of the model" in card and str(tmp_path) not in card
    assert json.loads((tmp_path / "out" / "technique_config.json").read_text()) == {
        **model.vit.techniques.config.to_dict(),
        "base_model_name_or_path": str(tmp_path / "base"),
        "base_model_type": "vit",
        "base_model_layers": 3,
    }


# with the model


@each_model
def test_a_model_saved_whole_comes_back_whole(name, tmp_path):
    model = with_techniques(name)
    model.save_pretrained(tmp_path)
    loaded, info = hf_cb.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model) and not any(info.values())
    assert same(run(name, loaded.eval()), run(name, model))
    assert loaded.config.to_dict()["technique_config"] == TechniqueConfig(**EVERYTHING).to_dict()
    expected = run(name, plain(name))
    assert same(run(name, remove_techniques(loaded)), expected)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", ["vit", "beit", "dinov2", "siglip-vision", "swin"])
def test_a_model_comes_back_with_broadcasting_in_every_place(name, position, tmp_path):
    fields = {**EVERYTHING, "context_broadcast_position": position, "apply_layers": [1]}
    model = with_techniques(name, **fields)
    model.save_pretrained(tmp_path)
    assert same(run(name, hf_cb.from_pretrained(tmp_path).eval()), run(name, model))


@each_model
def test_without_hf_cb_the_plain_model_loads_and_names_what_it_ignores(name, tmp_path):
    model = with_techniques(name)
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert len(info["unexpected_keys"]) == len(list(hf_cb.technique_parameters(model)))
    assert same(run(name, loaded.eval()), run(name, plain(name)))


@pytest.mark.parametrize("name", ["vit", "swin", "clip"])
def test_removed_techniques_leave_no_trace_in_a_saved_model(name, tmp_path):
    plain(name).save_pretrained(tmp_path / "plain")
    remove_techniques(with_techniques(name)).save_pretrained(tmp_path / "removed")
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "removed" / file.name).read_bytes() == file.read_bytes()


def test_a_model_loads_in_the_precision_and_with_the_attention_asked_for(tmp_path):
    model = with_techniques("dinov2")
    model.save_pretrained(tmp_path)
    loaded = hf_cb.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager").eval()
    assert loaded.config._attn_implementation == "eager"
    assert all(parameter.dtype == torch.float64 for parameter in loaded.parameters())
    assert torch.allclose(run("dinov2", loaded).float(), run("dinov2", model), rtol=1e-4, atol=1e-5)


def test_a_model_in_many_shards_loads_whole(tmp_path):
    model = with_techniques("vit")
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same(run("vit", hf_cb.from_pretrained(tmp_path).eval()), run("vit", model))


def test_another_head_may_replace_the_saved_one(tmp_path):
    with_techniques("vit").save_pretrained(tmp_path)
    loaded = hf_cb.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert loaded.classifier.out_features == 7 and applied_techniques(loaded) is not None


def test_techniques_alone_bring_the_model_that_they_were_saved_from(tmp_path):
    plain("dinov2").save_pretrained(tmp_path / "base")
    model = type(plain("dinov2")).from_pretrained(tmp_path / "base").eval()
    apply_techniques(model, TechniqueConfig(**EVERYTHING))
    save_techniques(model, tmp_path / "techniques")
    loaded = hf_cb.from_pretrained(tmp_path / "techniques").eval()
    assert type(loaded) is type(model) and same(run("dinov2", loaded), run("dinov2", model))


def test_models_without_techniques_and_vit_cbs_load_too(tmp_path, images):
    plain("vit").save_pretrained(tmp_path / "vit")
    assert type(hf_cb.from_pretrained(tmp_path / "vit")) is ViTForImageClassification
    hf_cb.ViTCBForImageClassification(hf_cb.ViTCBConfig.from_preset("tiny", 1)).save_pretrained(tmp_path / "vit_cb")
    assert type(hf_cb.from_pretrained(tmp_path / "vit_cb")) is hf_cb.ViTCBForImageClassification


# the Hub


class Uploads:
    """Stands for the Hub: keeps what was asked of it."""

    def __init__(self, monkeypatch):
        self.created, self.uploaded = [], []
        monkeypatch.setattr(HfApi, "create_repo", self.create)
        monkeypatch.setattr(HfApi, "upload_folder", self.upload)

    def create(self, repo_id, **arguments):
        self.created.append((repo_id, arguments))
        return type("Url", (), {"repo_id": f"me/{repo_id}"})()

    def upload(self, repo_id, folder_path, **arguments):
        kept = shutil.copytree(folder_path, self.keep_in / f"upload-{len(self.uploaded)}")
        self.uploaded.append((repo_id, kept, arguments))
        return "commit"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Uploads(monkeypatch)
    hub.keep_in = tmp_path
    return hub


def test_pushing_uploads_what_saving_writes_in_one_commit(hub):
    model = with_techniques("vit")
    assert hf_cb.push_techniques_to_hub(model, "mine", private=True, revision="dev", commit_message="Mine") == "commit"
    assert hub.created == [("mine", {"private": True, "exist_ok": True})]
    ((repo_id, folder, arguments),) = hub.uploaded
    assert repo_id == "me/mine" and arguments["revision"] == "dev" and arguments["commit_message"] == "Mine"
    assert {path.name for path in folder.iterdir()} == FILES
    assert "# mine" in (folder / "README.md").read_text()
    assert torch.equal(run("vit", load_techniques(plain("vit"), folder)), run("vit", model))


def test_what_cannot_be_saved_is_not_uploaded(hub, monkeypatch):
    with pytest.raises(ValueError, match="has no techniques"):
        hf_cb.push_techniques_to_hub(plain("vit"), "mine")
    monkeypatch.setattr("hf_cb.models.technique_files.save_file", lambda *arguments, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hf_cb.push_techniques_to_hub(with_techniques("vit"), "mine")
    assert hub.created == hub.uploaded == []


def test_a_failed_save_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    save_techniques(with_techniques("vit", attn_scale=True), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("hf_cb.models.technique_files.render_technique_card", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_techniques(with_techniques("vit"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# bad files


def edited(**changes):
    def edit(folder):
        file = folder / "technique_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


def tensors(change):
    def edit(folder):
        file = folder / "technique_model.safetensors"
        found = load_file(file)
        change(found)
        save_file(found, file)

    return edit


BAD_FILES = {
    "no config": (lambda folder: (folder / "technique_config.json").unlink(), "must hold technique_config.json"),
    "no weights": (lambda folder: (folder / "technique_model.safetensors").unlink(), "technique_model.safetensors"),
    "damaged config": (lambda folder: (folder / "technique_config.json").write_text("{"), "is damaged"),
    "config of another kind": (lambda folder: (folder / "technique_config.json").write_text("[1]"), "has list"),
    "binary config": (lambda folder: (folder / "technique_config.json").write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "unknown field": (edited(lora_rank=3), "lora_rank"),
    "bad value": (edited(context_broadcast="full"), "`context_broadcast` must be None, 'plain'"),
    "layers too many": (edited(apply_layers=[0, 7]), "from 0 to 2"),
    "another architecture": (edited(base_model_type="deit"), "'deit'"),
    "another depth": (edited(base_model_layers=12), "12"),
    "damaged weights": (lambda folder: (folder / "technique_model.safetensors").write_bytes(b"abc"), "is damaged"),
    "a tensor too few": (tensors(lambda found: found.pop("layers.1.attn_scale.omega")), "lacks 'layers.1.attn_scale"),
    "a tensor too many": (tensors(lambda found: found.update(x=torch.ones(1))), "'x'"),
    "another shape": (tensors(lambda found: found.update({"layers.2.cb.context_scale": torch.ones(7)})), "shape [7]"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_an_error_that_names_it_and_the_model_stays_plain(case, tmp_path):
    damage, named = BAD_FILES[case]
    save_techniques(with_techniques("vit"), tmp_path)
    damage(tmp_path)
    model = plain("vit")
    with pytest.raises(ValueError) as error:
        load_techniques(model, tmp_path)
    assert named in str(error.value)
    assert list(hf_cb.technique_parameters(model)) == [] and applied_techniques(model) is None
    assert torch.equal(run("vit", model), run("vit", plain("vit")))


def without_its_scales(folder):
    file = folder / "model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if "omega" not in key}, file, {"format": "pt"})


BAD_FOLDERS = {
    "nothing": (lambda folder: shutil.rmtree(folder), "neither a model (config.json) nor techniques"),
    "empty": (
        lambda folder: [file.unlink() for file in folder.iterdir()],
        "neither a model (config.json) nor techniques",
    ),
    "no weights of the techniques": (without_its_scales, "omega"),
    "no class": (lambda folder: _edit_config(folder, architectures=None), "`architectures`"),
    "an unknown class": (lambda folder: _edit_config(folder, architectures=["NoSuchModel"]), "'NoSuchModel'"),
    "bad techniques": (lambda folder: _edit_config(folder, technique_config={"attn_scale": 3}), "`attn_scale` must be"),
}


def _edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_an_error_that_says_what_is_wrong(case, tmp_path):
    damage, named = BAD_FOLDERS[case]
    with_techniques("vit").save_pretrained(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ValueError) as error:
        hf_cb.from_pretrained(tmp_path / "model")
    assert named in str(error.value)
