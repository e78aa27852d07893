"""Model cards: metadata that huggingface_hub takes, text that holds for the run, no figure that was not measured."""

import re

import pytest
from huggingface_hub import ModelCard
from transformers import ViTForImageClassification

from helpers import tiny_config, tiny_vit_config
from hf_cb.data.digits import DIGITS
from hf_cb.reports.card_blocks import loading_block, replace_block
from hf_cb.reports.cards import DataDescription, render_card, render_untold_card, techniques_of
from hf_cb.reports.technique_card import render_technique_card
from hf_cb.techniques.apply import apply_techniques, need_techniques
from hf_cb.techniques.config import TechniqueConfig
from hub_folders import EVERYTHING, RESULTS
from reviewed_cards import MODEL_CARDS, reviewed_cards


PICTURES = DataDescription("pictures", "imagefolder", "`pictures`: 3 classes.", "It answers with one of its classes.")
CONFIG = tiny_config(**EVERYTHING, num_labels=10)


def card_of(data=DIGITS, config=None, arguments=None, **results):
    results = {**RESULTS, **results, "arguments": {**RESULTS["arguments"], **(arguments or {})}}
    return render_card(config or CONFIG, results, data, "python scripts/train.py --seed 0", "run")


def reread(card, tmp_path):
    card.save(tmp_path / "README.md")
    return ModelCard.load(tmp_path / "README.md")


@pytest.mark.parametrize("name", ["vit-cb-digits.md", "attnscale_small_12.md", "featscale_small_12.md"])
def test_a_reviewed_card_is_what_the_templates_give(name, tmp_path):
    reviewed_cards()[name].save(tmp_path / name)
    expected = (tmp_path / name).read_text()
    assert (MODEL_CARDS / name).read_text() == expected, "python tests/reviewed_cards.py writes the cards anew"
    assert "{{" not in expected and "{%" not in expected and "None" not in expected


def test_every_reviewed_card_is_tested_and_every_picture_of_one_is_there():
    pictures = {name for card in reviewed_cards().values() for name in re.findall(r"!\[[^]]+\]\((.+)\)", card.text)}
    assert pictures == {"training_curves.png"}
    assert {file.name for file in MODEL_CARDS.iterdir()} == reviewed_cards().keys() | pictures


@pytest.mark.parametrize("name", ["attnscale_small_12.md", "featscale_small_12.md"])
def test_the_card_of_a_published_checkpoint_claims_no_accuracy(name):
    card = ModelCard.load(MODEL_CARDS / name)
    assert card.data.eval_results is None and card.data.license == "mit"
    assert card.data.base_model == "peihaowang/vit-anti-oversmoothing"
    assert not re.search(r"\b\d\d\.\d\b|\b0\.[789]\d\b", card.text.replace("crop_pct", ""))


def test_the_metadata_is_complete_and_accuracy_comes_first(tmp_path):
    data = reread(card_of(), tmp_path).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    assert data.tags == ["vision", "vit_cb", "context-broadcasting", "attnscale", "featscale", "hf_cb"]
    assert data.datasets == ["sklearn-digits"] and data.metrics == ["accuracy"]
    assert [(result.metric_name, result.metric_value) for result in data.eval_results] == [
        ("accuracy", 0.9),
        ("top 5 accuracy", 0.99),
    ]
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    assert data.get("base_model") is None


@pytest.mark.parametrize("technique", ["context_broadcast", "attn_scale", "feat_scale"])
def test_both_papers_are_linked_whatever_the_technique(technique, tmp_path):
    off = {"context_broadcast": None, "attn_scale": False, "feat_scale": False}
    config = tiny_config(**{**off, technique: {"context_broadcast": "plain"}.get(technique, True)})
    card = reread(card_of(config=config), tmp_path)
    for paper in ("2210.08457", "2203.05962"):
        assert (
            f"](https://arxiv.org/abs/{paper})" in card.text and f"url = {{https://arxiv.org/abs/{paper}}}" in card.text
        )
    ((name, _),) = techniques_of(config)
    assert f"- **{name}**: " in card.text
    assert len([tag for tag in card.data.tags if tag in ("context-broadcasting", "attnscale", "featscale")]) == 1


def test_the_three_lines_to_load_pin_a_revision_beside_trust():
    lines = re.search(r"```python\n(.*?)```", card_of().text, re.DOTALL)[1].strip().splitlines()
    assert len([line for line in lines if line]) == 3
    assert 'revision="REVISION", trust_remote_code=True' in lines[2]


def test_the_training_is_told_as_it_was():
    text = card_of(num_processes=4, train_runtime=99.6).text
    assert "python scripts/train.py --seed 0" in text
    assert "2 epochs in 100 s on x86_64 CPU, 2 cores (4 processes), seed 0, with torch 2.15.0, transformers" in text
    assert "moving average" not in text
    averaged = card_of(arguments={"save_ema": True, "ema_decay": 0.999}).text
    assert "The saved weights are a moving average of the trained ones, of decay 0.999." in averaged
    assert "moving average" not in card_of(arguments={"save_ema": False, "ema_decay": 0.999}).text


def test_a_figure_that_was_not_measured_is_absent(tmp_path):
    unknown = ("eval_top_5_accuracy", "train_runtime", "hardware", "num_processes", "epoch")
    card = reread(card_of(**dict.fromkeys(unknown)), tmp_path)
    assert [result.metric_name for result in card.data.eval_results] == ["accuracy"]
    assert "top-5" not in card.text and "None" not in card.text and " epochs" not in card.text
    assert "seed 0, with torch 2.15.0" in card.text


@pytest.mark.parametrize(("skipped", "number"), [(3, 3), ({"train": 2, "evaluation": 5}, 7), (0, None), (None, None)])
def test_images_that_were_skipped_are_counted(skipped, number):
    text = card_of(skipped_images=skipped).text
    assert ("Images that could not be read and took no part: " in text) == (number is not None)
    assert number is None or f"took no part: {number}." in text


def test_other_data_and_a_base_model_of_the_hub_are_named(tmp_path):
    base = "google/vit-base-patch16-224"
    card = reread(card_of(PICTURES, arguments={"model_name_or_path": base}), tmp_path)
    assert (card.data.base_model, card.data.base_model_relation) == (base, "finetune")
    assert card.data.datasets == ["imagefolder"] and card.data.license == "unknown"
    assert card.data.eval_results[0].dataset_split is None
    assert f"[{base}](https://huggingface.co/{base})" in card.text and "fine-tuned with hf_cb" in card.text
    assert "`pictures`: 3 classes." in card.text and "digits" not in card.text


def test_a_base_model_on_the_disk_is_not_taken_for_one_on_the_hub(tmp_path):
    (tmp_path / "my-vit").mkdir()
    card = reread(card_of(arguments={"model_name_or_path": str(tmp_path / "my-vit")}), tmp_path)
    assert card.data.get("base_model") is None and card.data.get("base_model_relation") is None
    assert "a local model, `my-vit`" in card.text and str(tmp_path) not in card.text


@pytest.mark.parametrize(("num_labels", "is_shown"), [(2, False), (5, False), (6, True)])
def test_the_first_five_of_so_few_classes_are_no_result(num_labels, is_shown, tmp_path):
    card = reread(card_of(config=tiny_config(num_labels=num_labels)), tmp_path)
    assert [result.metric_name for result in card.data.eval_results] == ["accuracy", "top 5 accuracy"][: 1 + is_shown]
    assert ("top-5 accuracy" in card.text) == is_shown


def test_the_curves_are_shown_where_they_were_drawn():
    link = "![Loss and accuracy over the epochs](training_curves.png)"
    assert link not in card_of().text
    assert f"and every epoch.\n\n{link}\n\n## Results" in card_of(history=[{"epoch": 1}]).text


COMMANDS = {
    "hf-cb train --train_dir /home/ann/photos --seed 0": "hf-cb train --train_dir photos --seed 0",
    "python x.py --train_file=/data/a.parquet /data/b.parquet": "python x.py --train_file=a.parquet b.parquet",
    r"python x.py --train_dir 'C:\Users\ann\my photos'": "python x.py --train_dir 'my photos'",
    "python x.py --train_dir ../photos --a='1  2'": "python x.py --train_dir ../photos --a='1  2'",
}


@pytest.mark.parametrize(("command", "shown"), COMMANDS.items())
def test_the_command_of_a_card_has_no_way_of_one_machine(command, shown):
    card = render_card(CONFIG, RESULTS, PICTURES, command, "run")
    assert f"```bash\n{shown}\n```" in card.text


@pytest.mark.parametrize(
    ("base", "shown", "repository"),
    [
        ("/home/ann/my-vit", "my-vit", None),
        ("user/vit", "user/vit", "user/vit"),
        ("tests/goldens", "tests/goldens", None),
    ],
)
def test_the_card_of_techniques_names_no_way_of_one_machine(base, shown, repository, monkeypatch):
    monkeypatch.chdir(MODEL_CARDS.parent)
    model = ViTForImageClassification(tiny_vit_config())
    applied = need_techniques(apply_techniques(model, TechniqueConfig(attn_scale=True)))
    card = ModelCard(render_technique_card(applied, base, "mine"))
    assert f"from_pretrained('{shown}')" in card.text and "/home" not in card.text
    assert card.data.get("base_model") == repository


def test_a_card_without_the_block_stays_as_it_is():
    assert replace_block("# mine", "loading", loading_block("image-classification", "a/b", "v1")) == "# mine"


@pytest.mark.parametrize("architecture", ["ViTCBModel", "ViTCBForImageClassification"])
def test_a_model_without_a_card_gets_one_that_says_what_is_not_known(architecture, tmp_path):
    card = reread(render_untold_card(tiny_config(), "mine", architecture), tmp_path)
    tag = "image-classification" if "Class" in architecture else "image-feature-extraction"
    assert (card.data.pipeline_tag, card.data.license) == (tag, "unknown")
    assert card.data.eval_results is None and "Nothing is recorded" in card.text and f'pipeline("{tag}"' in card.text
