"""What must not get to the Hub does not, and says why in one line."""

import json
import re

import pytest
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

from helpers import tiny_config, tiny_vit_config
from hf_cb import ViTCBBackbone
from hf_cb.hub.client import hub_errors
from hf_cb.hub.push import HubError, check_loads_elsewhere, push_to_hub
from hub_clients import Runner
from hub_folders import classifier_folder, set_config
from local_hub import LocalHub
from local_repository import Repository


ANN = "hf_token_of_ann"


@pytest.fixture(scope="module")
def hub():
    tokens = {ANN: "ann", "hf_token_of_bob": "bob", "hf_token_of_rita": "rita"}
    with LocalHub(tokens, readers=("rita",)) as hub:
        for kind, name in (("datasets", "ann/pictures"), ("spaces", "ann/show"), ("models", "ann/public")):
            repository = hub.repositories[kind, name] = Repository(name)
            repository.commit("main", {}, "initial commit")
        hub.model("ann/public").tags["v1"] = hub.model("ann/public").branches["main"]
        yield hub


@pytest.fixture(scope="module")
def push(hub, tmp_path_factory):
    runner = Runner(hub, tmp_path_factory.mktemp("home"))
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return classifier_folder(tmp_path_factory.mktemp("good") / "run")


@pytest.fixture
def folder(tmp_path):
    return classifier_folder(tmp_path / "run")


# token, repository, further arguments, what the line says
NOT_THERE = {
    "not logged in": (None, "ann/new", [], "not logged in to the Hub: log in with `hf auth login`"),
    "wrong token": ("hf_a_wrong_token", "ann/new", [], "does not accept the token"),
    "token of no characters": ("hf_töken\nof_ann", "ann/new", [], "characters that no token has"),
    "another's": ("hf_token_of_bob", "ann/new", [], "bob, who is logged in, has no right to write to ann/new"),
    "another's that is there": ("hf_token_of_bob", "ann/public", [], "no right to write to ann/public"),
    "reading token": ("hf_token_of_rita", "rita/new", [], "The token of rita may only read"),
    "data set": (ANN, "ann/pictures", [], "ann/pictures is a data set on the Hub"),
    "space": (ANN, "ann/show", [], "ann/show is a Space on the Hub"),
    "public and not private": (ANN, "ann/public", ["--hub_private_repo"], "ann/public is there and public"),
    "name with its kind": (ANN, "datasets/ann/pictures", [], "`repo_id` must be USER/NAME"),
    "name that no repository has": (ANN, "ann/two words", [], "got 'ann/two words'"),
    "commit": (ANN, "ann/public", ["--hub_revision", "0" * 40], "`revision` must be the name of a branch"),
    "tag": (ANN, "ann/public", ["--hub_revision", "v1"], "'v1' is a tag of ann/public"),
    "pull request": (ANN, "ann/public", ["--hub_revision", "refs/pr/1"], "`revision` must be the name of a branch"),
}


@pytest.mark.parametrize(("token", "name", "more", "said"), NOT_THERE.values(), ids=NOT_THERE)
def test_a_push_that_cannot_go_there_is_one_line_and_changes_nothing(token, name, more, said, push, hub, good):
    before = {key: (dict(repository.branches), dict(repository.tags)) for key, repository in hub.repositories.items()}
    answer = push("--model_dir", good, "--hub_model_id", name, *more, token=token)
    assert answer["code"] == 2 and answer["out"] == "" and answer["err"].count("\n") == 1, answer
    assert said in answer["err"] and "Traceback" not in answer["err"]
    assert token is None or not any(part in answer["err"] for part in token.split())
    after = {key: (dict(repository.branches), dict(repository.tags)) for key, repository in hub.repositories.items()}
    assert after == before


def no_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").unlink()
    (folder / "optimizer.pt").unlink()


def plain_vit(folder):
    ViTForImageClassification(tiny_vit_config()).save_pretrained(folder)


def backbone(folder):
    ViTCBBackbone(tiny_config()).save_pretrained(folder)


def adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")


def adapter_beside_config(folder):
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}")


def techniques(folder):
    plain_vit(folder)
    (folder / "technique_config.json").write_text("{}")


def shard_missing(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_card(old, new):
    def change(folder):
        card = folder / "README.md"
        text = card.read_text()
        assert old in text
        card.write_text(text.replace(old, new, 1))

    return change


def with_line(file, line):
    return lambda folder: (folder / file).write_text(f"{line}\n{(folder / file).read_text()}")


# what is done to a folder that could go there, and what the line says
NOT_FIT = {
    "no folder": (lambda folder: folder.rename(folder.with_name("elsewhere")), "must be a folder that holds a model"),
    "no model": (
        lambda folder: (folder / "config.json").unlink(),
        "must hold a ViT-CB, its config.json and weights, and holds none",
    ),
    "adapter": (adapter, "holds an adapter"),
    "adapter beside a configuration": (adapter_beside_config, "holds an adapter: merge it"),
    "techniques": (techniques, "share them with `hf_cb.push_techniques_to_hub`"),
    "no weights": (no_weights, "must hold a model's weights"),
    "pickles alone": (lambda folder: (folder / "model.safetensors").unlink(), "only safetensors go to the Hub"),
    "shard missing": (shard_missing, "are not all there: model-00002-of-00002.safetensors"),
    "plain ViT": (plain_vit, "must hold a ViT-CB, and holds a model of type 'vit'"),
    "backbone": (backbone, "config.json names ViTCBBackbone"),
    "config that is no JSON": (with_line("config.json", "{"), "config.json: cannot be read as JSON"),
    "config with a bad value": (lambda folder: set_config(folder, attn_scale="often"), "`attn_scale` must be"),
    "code missing": (lambda folder: (folder / "ops_vit_cb.py").unlink(), "ops_vit_cb.py is missing"),
    "no auto_map": (lambda folder: set_config(folder, auto_map=None), "`auto_map` in config.json does not name"),
    "code of the package": (with_line("ops_vit_cb.py", "import hf_cb"), "ops_vit_cb.py imports hf_cb"),
    "code of others": (with_line("layers_vit_cb.py", "from timm import x"), "layers_vit_cb.py imports timm"),
    "code above": (with_line("layers_vit_cb.py", "from ..x import y"), "imports from outside the folder"),
    "code that is none": (with_line("layers_vit_cb.py", "def"), "layers_vit_cb.py is no Python"),
    "card without a task": (with_card("pipeline_tag: image-classification\n", ""), "must have `pipeline_tag: image-cl"),
    "card of another library": (with_card("library_name: transformers", "library_name: timm"), "got 'timm'"),
    "card that is no YAML": (with_card("license: apache-2.0", "license: [apache"), "metadata is not valid"),
    "card whose results are none": (with_card("    - type: accuracy\n", "    - kind: x\n"), "metadata is not valid"),
    "card that the Hub does not take": (with_card("license: apache-2.0", "license: apache2"), "must be one of"),
    "token in the results": (with_line("all_results.json", ANN), "holds your token"),
}


@pytest.mark.parametrize(("spoil", "said"), NOT_FIT.values(), ids=NOT_FIT)
def test_a_folder_that_is_not_fit_is_one_line_and_makes_no_repository(spoil, said, push, hub, folder):
    spoil(folder)
    answer = push("--model_dir", folder, "--hub_model_id", "ann/unfit", token=ANN)
    assert answer["code"] == 2 and answer["out"] == "" and answer["err"].count("\n") == 1, answer
    assert said in answer["err"] and "Traceback" not in answer["err"] and ANN not in answer["err"]
    assert hub.model("ann/unfit") is None


def test_a_hub_that_does_not_answer_is_one_line(push, hub, good):
    hub.lose = ".*"
    answer = push("--model_dir", good, "--hub_model_id", "ann/new", token=ANN)
    hub.lose = None
    assert answer["code"] == 2 and answer["err"].count("\n") == 1
    assert "cannot be asked" in answer["err"] and "the connection to the Hub failed" in answer["err"]


def test_a_push_beside_another_is_refused_and_keeps_the_others_commit(push, hub, good):
    # between this push's look at the branch and its commit, another one arrives
    repository = Repository("ann/raced")
    repository.commit("main", {}, "initial commit")
    hub.repositories["models", "ann/raced"] = repository
    hub.before["POST .*/commit/main"] = lambda: repository.commit("main", {"theirs": b""}, "another push")
    answer = push("--model_dir", good, "--hub_model_id", "ann/raced", token=ANN)
    hub.before.clear()
    assert answer["code"] == 2 and "somebody else has pushed there meanwhile" in answer["err"]
    assert repository.files().keys() == {"theirs"} and repository.tags == {}


def test_a_dry_run_tells_what_would_go_where_and_asks_nothing(push, hub, good):
    hub.requests.clear()
    answer = push("--model_dir", good, "--hub_model_id", "ann/new", "--hub_private_repo", "--dry_run")
    assert answer["code"] == 0 and answer["err"] == ""
    assert "would go to ann/new, a private repository if it is new, branch main" in answer["out"]
    named = re.findall(r"bytes  (\S+)", answer["out"])
    assert "model.safetensors" in named and "README.md" in named and "notes.txt" not in named
    assert f"{(good / 'model.safetensors').stat().st_size:,} bytes  model.safetensors" in answer["out"]
    assert hub.requests == []


def test_training_asks_the_hub_before_it_starts(push, hub, tmp_path):
    arguments = ["--output_dir", tmp_path / "run", "--push_to_hub", "--hub_model_id", "ann/trained"]
    answer = push(*arguments, token="hf_token_of_bob", script="train")
    assert answer["code"] == 2 and "bob, who is logged in, has no right" in answer["err"]
    answer = push(*arguments[:2], "--hub_model_id", "ann/trained", token=ANN, script="train")
    assert answer["code"] == 2 and "`hub_model_id` is given without `push_to_hub`" in answer["err"]
    assert not (tmp_path / "run").exists() and hub.model("ann/trained") is None


def test_a_trained_model_goes_to_the_hub_or_stays_whole_and_says_how_to_push_it(push, hub, tmp_path):
    size = "--hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 16"
    arguments = ["--num_train_epochs", 1, *size.split(), "--disable_tqdm", "--output_dir", tmp_path / "run"]
    hub.lose = "POST .*/commit/main"
    answer = push(*arguments, "--push_to_hub", "--hub_private_repo", token=ANN, script="train")
    hub.lose = None
    assert answer["code"] == 2 and answer["err"].count("\n") == 1, answer
    again = re.search("`python scripts/push_to_hub.py (.*)` pushes it", answer["err"])[1].split()
    assert hub.model("ann/run").private and hub.model("ann/run").titles == ["initial commit"]
    assert push(*again, token=ANN)["code"] == 0
    assert hub.model("ann/run").files()["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    answer = push(*arguments, "--overwrite_output_dir", "--push_to_hub", "--seed", 1, token=ANN, script="train")
    assert answer["code"] == 0 and len(hub.model("ann/run").titles) == 3, answer


# the check itself; `push` above leaves it out where it is not the point


def test_code_that_computes_something_else_is_found_out(folder):
    code = folder / "modeling_vit_cb.py"
    changed = code.read_text().replace("self.classifier = nn.Linear(", "self.classifier = Louder(")
    code.write_text(changed + LOUDER)
    with pytest.raises(HubError, match="without hf_cb the output differs from the package's"):
        push_to_hub(folder, "ann/changed", dry_run=True)


LOUDER = """

class Louder(nn.Linear):
    def forward(self, hidden_states):
        return 1.001 * super().forward(hidden_states)
"""


@pytest.mark.parametrize(("spoil", "said"), [("missing", "missing keys"), ("nan", "not finite")])
def test_weights_that_are_not_whole_are_found_out(spoil, said, folder):
    weights = load_file(folder / "model.safetensors")
    name = "classifier.weight"
    weights = {key: tensor for key, tensor in weights.items() if spoil == "nan" or key != name}
    if spoil == "nan":
        weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HubError, match=said):
        check_loads_elsewhere(folder)


OTHER = f"hf_{'Ab3' * 11}"


def test_an_error_never_holds_the_token():
    with pytest.raises(HubError) as caught, hub_errors("It failed", "secret-of-ann"):
        raise ValueError(f"Illegal header value b'Bearer secret-of-ann' and {OTHER}")
    assert "secret-of-ann" not in str(caught.value) and OTHER not in str(caught.value)
    assert caught.value.__suppress_context__
