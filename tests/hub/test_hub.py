"""A model goes to the Hub and comes back, with and without `hf_cb`: the real clients, on the loopback interface."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from helpers import tiny_config, tiny_images
from hf_cb import ViTCBForImageClassification
from hf_cb.hub.folder import read_model_folder
from hub_clients import Runner, load_from
from hub_folders import EVERYTHING, RESULTS, classifier_folder, converted_folder, picture, plain_vit_folder
from local_hub import LocalHub


ANN = "hf_token_of_ann"

MODEL_FILES = {
    "config.json",
    "model.safetensors",
    *(f"{name}_vit_cb.py" for name in ("configuration", "layers", "loading", "modeling", "ops")),
}
CLASSIFIER_FILES = MODEL_FILES | {"README.md", "preprocessor_config.json", "all_results.json", "training_curves.png"}
ATTRIBUTES = {".gitattributes"}


@pytest.fixture(scope="module")
def hub():
    tokens = {ANN: "ann", "hf_token_of_bob": "bob", "hf_token_of_rita": "rita"}
    with LocalHub(tokens, readers=("rita",)) as hub:
        yield hub


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def push(hub, root):
    runner = Runner(hub, root / "home")
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def folders(root):
    return {
        "classifier": classifier_folder(root / "classifier"),
        "plain": plain_vit_folder(root / "plain"),
        "converted": converted_folder(root / "converted"),
    }


@pytest.fixture(scope="module")
def pushed(push, folders):
    """Three models on the Hub; the converted one is private."""

    def push_one(name, *more, checked):
        return push("--model_dir", folders[name], "--hub_model_id", f"ann/{name}", *more, token=ANN, checked=checked)

    return {
        "classifier": push_one("classifier", checked=True),
        "plain": push_one("plain", checked=False),
        "converted": push_one("converted", "--hub_private_repo", checked=True),
    }


@pytest.fixture(scope="module")
def loaded(hub, push, pushed, folders, root):
    """What processes with empty caches find there, one with the package and no trust, one without and with it.

    The code of `ann/pinned` changed after its push.
    """
    push("--model_dir", folders["classifier"], "--hub_model_id", "ann/pinned", token=ANN)
    pinned = hub.model("ann/pinned")
    changed = {**pinned.files(), "modeling_vit_cb.py": b"raise RuntimeError('not what was read')"}
    pinned.commit("main", changed, "another version")
    save_file({"images": tiny_images(), "converted": larger_images()}, root / "images.safetensors")
    picture(root / "picture.png")
    with_package = load_from(hub, root / "with")
    return {"with": with_package, "without": load_from(hub, root / "without", hidden=("hf_cb",))}


def larger_images():
    """Of the size that the converted model takes."""
    return torch.nn.functional.interpolate(tiny_images(), size=(32, 32))


@torch.no_grad()
def logits_of(folder, images):
    return AutoModelForImageClassification.from_pretrained(folder).eval()(images).logits


def seen(root, place, name):
    return load_file(root / place / f"{name}.safetensors")["output"]


def test_a_push_is_one_commit_of_what_a_model_needs_and_checkpoints_stay_at_home(pushed, hub):
    assert [answer["code"] for answer in pushed.values()] == [0, 0, 0], pushed
    assert hub.model("ann/classifier").titles == ["initial commit", "Upload a ViT-CB with hf_cb"]
    assert hub.model("ann/classifier").files().keys() == CLASSIFIER_FILES | ATTRIBUTES
    assert hub.model("ann/plain").files().keys() == MODEL_FILES | {"README.md"} | ATTRIBUTES
    processor = {"README.md", "preprocessor_config.json", "image_processing_vit_cb.py"}
    assert hub.model("ann/converted").files().keys() == MODEL_FILES | processor | ATTRIBUTES
    assert [hub.model(f"ann/{name}").private for name in pushed] == [False, False, True]


def test_what_is_pushed_equals_the_folder_but_for_the_cards_lines_on_loading(pushed, folders, hub):
    files = hub.model("ann/classifier").files()
    same = CLASSIFIER_FILES - {"README.md"}
    assert all(files[name] == (folders["classifier"] / name).read_bytes() for name in same)
    card = (folders["classifier"] / "README.md").read_text()
    assert 'model="USER/classifier", revision="REVISION", trust_remote_code=True' in card
    assert 'model="ann/classifier", revision="upload-' in files["README.md"].decode()


@pytest.mark.parametrize("name", ["classifier", "plain", "converted"])
def test_the_card_on_the_hub_pins_a_tag_of_the_commit_that_has_it(name, pushed, hub):
    repository = hub.model(f"ann/{name}")
    card = repository.files()["README.md"].decode()
    (tag,) = re.findall(r'revision="([^"]+)", trust_remote_code=True', card)
    assert repository.tags == {tag: repository.branches["main"]}
    assert ModelCard(card).data.pipeline_tag == "image-classification"
    assert f"the tag {tag}" in pushed[name]["out"]


@pytest.mark.parametrize("place", ["with", "without"])
@pytest.mark.parametrize("name", ["classifier", "plain"])
def test_from_the_hub_a_model_gives_its_logits_to_the_bit(name, place, loaded, folders, root):
    expected = logits_of(folders[name], tiny_images())
    assert torch.equal(seen(root, place, name), expected)
    report = loaded[place][name]
    origin = "transformers_modules.ann." if place == "without" else "hf_cb.vit_cb.modeling_vit_cb"
    assert report["module"].startswith(origin) and report["class"] == "ViTCBForImageClassification"
    assert report["strays"] == {}


def test_the_models_on_the_hub_differ(loaded, root):
    assert not torch.equal(seen(root, "without", "classifier"), seen(root, "without", "plain"))


@pytest.mark.parametrize("place", ["with", "without"])
def test_a_private_converted_model_loads_with_a_token_and_its_processor_with_it(place, loaded, folders, root):
    assert torch.equal(seen(root, place, "converted"), logits_of(folders["converted"], larger_images()))
    image = Image.open(root / "picture.png")
    processor = AutoImageProcessor.from_pretrained(folders["converted"])
    assert torch.equal(seen(root, place, "pixels"), processor(image, return_tensors="pt")["pixel_values"])
    assert re.match("OSError|RepositoryNotFoundError|GatedRepoError", loaded[place]["private"])


@pytest.mark.parametrize("place", ["with", "without"])
def test_config_base_model_and_pipeline_load_from_the_hub(place, loaded, folders, root):
    model_type, module, layers = loaded[place]["config"]
    assert (model_type, layers) == ("vit_cb", [0, 2])
    assert module.startswith("transformers_modules." if place == "without" else "hf_cb.")
    assert loaded[place]["base"]["class"] == "ViTCBModel"
    model = AutoModelForImageClassification.from_pretrained(folders["classifier"]).eval()
    with torch.no_grad():
        assert torch.equal(seen(root, place, "base"), model.vit(tiny_images()).last_hidden_state)
    task, answer = loaded[place]["pipeline"]
    processor = AutoImageProcessor.from_pretrained(folders["classifier"])
    pixel_values = processor(Image.open(root / "picture.png"), return_tensors="pt")["pixel_values"]
    scores = logits_of(folders["classifier"], pixel_values)[0].softmax(-1)
    assert task == "image-classification"
    assert [entry["score"] for entry in answer] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)


def test_the_cards_own_lines_load_the_code_that_they_pin(loaded):
    assert loaded["without"]["card"] == loaded["without"]["pipeline"][1]
    assert loaded["without"]["unpinned"] == "RuntimeError: not what was read"


def test_without_the_package_and_without_trust_a_model_is_refused(loaded):
    assert all("trust_remote_code=True" in answer for answer in loaded["without"]["untrusted"])


def test_saved_again_on_either_side_a_model_loads_on_the_other(loaded, folders, root):
    expected = logits_of(folders["classifier"], tiny_images())
    assert torch.equal(seen(root, "without", "from-with"), expected)
    assert torch.equal(logits_of(root / "without" / "resaved", tiny_images()), expected)
    assert torch.equal(seen(root, "without", "pixels-from-with"), seen(root, "with", "pixels"))
    back = AutoImageProcessor.from_pretrained(root / "without" / "resaved-processor")
    image = Image.open(root / "picture.png")
    assert torch.equal(back(image, return_tensors="pt")["pixel_values"], seen(root, "with", "pixels"))


def test_a_second_push_is_a_new_commit_without_what_is_gone_and_the_first_keeps_its_tag(push, hub, tmp_path):
    arguments = ["--model_dir", classifier_folder(tmp_path / "run"), "--hub_model_id", "ann/again"]
    assert push(*arguments, token=ANN)["code"] == 0
    repository = hub.model("ann/again")
    first = repository.branches["main"]
    repository.files()["discussion.md"] = b"somebody's"
    repository.files()["model-00002-of-00002.safetensors"] = b"of an earlier push"
    assert push(*arguments, token=ANN)["code"] == 0
    (tmp_path / "run" / "training_curves.png").unlink()
    results = {**RESULTS, "eval_accuracy": 0.95}
    (tmp_path / "run" / "all_results.json").write_text(json.dumps(results))
    assert push(*arguments, token=ANN)["code"] == 0
    assert repository.files().keys() == CLASSIFIER_FILES - {"training_curves.png"} | ATTRIBUTES | {"discussion.md"}
    assert first in repository.tags.values() and len(set(repository.tags.values())) == len(repository.tags)
    assert json.loads(repository.files()["all_results.json"])["eval_accuracy"] == 0.95


def test_of_a_model_in_several_files_the_files_of_its_index_go(tmp_path):
    folder = classifier_folder(tmp_path / "run")
    (folder / "model.safetensors").unlink()
    model = ViTCBForImageClassification(tiny_config(**EVERYTHING))
    model.save_pretrained(folder, max_shard_size="12KB")
    (folder / "model-00009-of-00009.safetensors").write_bytes(b"of another run")
    weights = {name for name in read_model_folder(folder).files if name.startswith("model")}
    shards = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert weights == shards | {"model.safetensors.index.json", "modeling_vit_cb.py"} and len(shards) > 1


def test_the_same_push_again_makes_no_commit(push, hub, folders):
    arguments = ["--model_dir", folders["plain"], "--hub_model_id", "ann/same"]
    assert push(*arguments, token=ANN)["code"] == push(*arguments, token=ANN)["code"] == 0
    assert len(hub.model("ann/same").titles) == 2 and len(hub.model("ann/same").tags) == 1


def test_a_revision_is_a_branch_of_its_own(push, hub, folders):
    arguments = ["--model_dir", folders["plain"], "--hub_model_id", "branched", "--hub_revision", "trial"]
    assert push(*arguments, token=ANN)["code"] == 0
    repository = hub.model("ann/branched")
    assert repository.files("main").keys() == ATTRIBUTES
    assert repository.files("trial").keys() == MODEL_FILES | {"README.md"} | ATTRIBUTES
    assert list(repository.tags.values()) == [repository.branches["trial"]]


# the client asks five times for the place of the weights before it gives up, which takes 23 seconds
WEIGHTS = pytest.param("POST .*/lfs/objects/batch", id="weights", marks=pytest.mark.slow)


@pytest.mark.parametrize("lost", [pytest.param("POST .*/commit/main", id="commit"), WEIGHTS])
def test_an_interrupted_push_leaves_the_last_commit_and_the_next_one_goes_through(lost, push, hub, tmp_path):
    folder, name = classifier_folder(tmp_path / "run"), f"ann/lost-{len(lost)}"
    arguments = ["--model_dir", folder, "--hub_model_id", name]
    assert push(*arguments, token=ANN)["code"] == 0
    repository = hub.model(name)
    before, tags = repository.branches["main"], dict(repository.tags)
    classifier_folder(folder, feat_scale=False, results={**RESULTS, "eval_accuracy": 0.5})
    hub.lose = lost
    answer = push(*arguments, token=ANN)
    hub.lose = None
    assert answer["code"] == 2 and answer["err"].count("\n") == 1 and "Traceback" not in answer["err"], answer
    assert "connection" in answer["err"] and ANN not in answer["err"]
    assert repository.branches["main"] == before and repository.tags == tags
    assert push(*arguments, token=ANN)["code"] == 0
    assert json.loads(repository.files()["all_results.json"])["eval_accuracy"] == 0.5


def test_a_tag_that_was_not_set_is_set_by_the_same_push_again(push, hub, folders):
    arguments = ["--model_dir", folders["plain"], "--hub_model_id", "ann/untagged"]
    hub.lose = "POST .*/tag/.*"
    answer = push(*arguments, token=ANN)
    hub.lose = None
    assert answer["code"] == 2 and "not the tag" in answer["err"] and answer["err"].count("\n") == 1
    assert push(*arguments, token=ANN)["code"] == 0
    repository = hub.model("ann/untagged")
    assert list(repository.tags.values()) == [repository.branches["main"]] and len(repository.titles) == 2
