"""Recipes: DeiT's beside its table, every value with a flag that overrides it, and a user's own."""

import math
from dataclasses import asdict

import pytest
import torch

from helpers import tiny_config
from hf_cb.cli.parser import ArgumentParser, config_overrides
from hf_cb.errors import UsageError
from hf_cb.training.learner import LearningRate, peak_learning_rate
from hf_cb.training.recipes import RECIPES, as_flag, parse_with_recipe, read_recipe
from hf_cb.training.start import make_image_processor, make_model


@pytest.fixture(scope="module")
def parse(train_script):
    """A command line to its dataclasses, by their class."""

    def parse(*words):
        parts = parse_with_recipe(ArgumentParser(*train_script.ARGUMENTS), words, train_script.default_recipe)
        return dict(zip(train_script.ARGUMENTS, parts))

    return parse


@pytest.fixture(scope="module")
def values(parse):
    def values(*words):
        return {name: value for part in parse(*words).values() for name, value in asdict(part).items()}

    return values


# table 9 of https://arxiv.org/abs/2012.12877, column DeiT-B, and the defaults of its released code
DEIT = {
    "num_train_epochs": 300,
    "learning_rate": 5e-4,
    "learning_rate_batch_size": 512,
    "min_learning_rate": 1e-5,
    "lr_step": "epoch",
    "warmup_epochs": 5,
    "warmup_learning_rate": 1e-6,
    "weight_decay": 0.05,
    "max_grad_norm": 0,
    "ema_decay": 0.99996,
    "save_ema": False,
    "label_smoothing_factor": 0.1,
    "drop_path_rate": 0.1,
    "hidden_dropout_prob": None,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_prob": 1.0,
    "mixup_switch_prob": 0.5,
    "repeated_augmentation": 3,
    "random_resized_crop": [0.08, 1.0],
    "train_interpolation": "bicubic",
    "horizontal_flip": 0.5,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "eval_crop_ratio": 0.875,
    "eval_interpolation": "bicubic",
}


def test_the_deit_recipe_has_the_values_of_deits_table(values):
    resolved = values("--recipe", "deit")
    assert {name: resolved[name] for name in DEIT} == DEIT


def test_eight_processes_of_the_deit_recipe_make_its_batch(values):
    assert values("--recipe", "deit")["per_device_train_batch_size"] * 8 == 1024


@pytest.mark.parametrize("batch_size", [512, 1024, 4096])
def test_deits_learning_rate_follows_its_closed_form(batch_size, parse):
    loop = next(part for part in parse("--recipe", "deit").values() if hasattr(part, "lr_step"))
    peak = peak_learning_rate(loop, batch_size)
    assert peak == 5e-4 * batch_size / 512
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = LearningRate(optimizer, loop, updates_per_epoch=1251)
    for epoch in (0, 1, 4, 5, 6, 150, 299):
        expected = 1e-5 + (peak - 1e-5) * (1 + math.cos(math.pi * epoch / 300)) / 2
        if epoch < 5:
            expected = 1e-6 + (peak - 1e-6) * epoch / 5
        # the rate stays within an epoch
        assert schedule.set(epoch, 0) == schedule.set(epoch, 1250) == pytest.approx(expected, rel=1e-12), epoch


def test_a_rate_by_updates_rises_and_falls_within_epochs(parse):
    words = (
        "--lr_step update --warmup_epochs 1 --num_train_epochs 10 --learning_rate 1 --warmup_learning_rate 0".split()
    )
    loop = next(part for part in parse(*words).values() if hasattr(part, "lr_step"))
    schedule = LearningRate(torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0), loop, 20)
    assert [schedule.set(0, update) for update in (0, 5, 10)] == pytest.approx([0, 0.25, 0.5])
    assert schedule.set(5, 0) == pytest.approx(0.5) and 0 < schedule.set(9, 19) < 1e-3


def test_deits_image_processor_crops_the_centre_of_256_pixels(parse, train_script):
    parts = parse("--recipe", "deit")
    model_arguments, preprocessing = (parts[train_script.ModelArguments], parts[train_script.PreprocessingArguments])
    processor = make_image_processor(model_arguments, tiny_config(image_size=224), preprocessing)
    assert dict(processor.size) == {"shortest_edge": 256}
    assert dict(processor.crop_size) == {"height": 224, "width": 224}
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]


def test_the_deit_recipe_trains_deits_small_model(parse, train_script):
    parts = parse("--recipe", "deit")
    overrides = config_overrides(parts[train_script.ConfigArguments])
    config = make_model(parts[train_script.ModelArguments], overrides, ["a", "b"])[0].config
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (384, 6, 12)
    assert (config.image_size, config.patch_size, config.drop_path_rate) == (224, 16, 0.1)
    assert config.layer_norm_eps == 1e-6


def other_value(name, value):
    """Words that give a flag another value than a recipe does."""
    texts = {
        "lr_step": "update" if value == "epoch" else "epoch",
        "train_interpolation": "lanczos",
        "eval_interpolation": "nearest",
        "auto_augment": "none",
        "checkpointing_steps": "none",
        "preset": "base",
    }
    if name in texts:
        return texts[name], None if texts[name] == "none" else texts[name]
    if isinstance(value, list):
        return "0.25 0.5 0.75"[: 3 + 5 * (len(value) - 1) + (len(value) == 3)], [0.25, 0.5, 0.75][: len(value)]
    new = value + 1 if isinstance(value, int) else value / 2
    return str(new), new


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_value_of_a_recipe_has_a_flag_that_overrides_it(recipe, values):
    loop, model = read_recipe(recipe)
    assert {name: values("--recipe", recipe)[name] for name in loop} == loop
    for name, value in {**loop, **model}.items():
        text, expected = other_value(name, value)
        if isinstance(expected, list):
            text = " ".join(map(str, expected))
        found = values("--recipe", recipe, f"--{name}", *text.split())[name]
        # sizes come as words, since they may be pairs
        assert (found == [text]) if name in ("image_size", "patch_size") else (found == expected), name


def test_numbers_that_a_recipe_gives_can_be_taken_back(values):
    words = "--learning_rate_batch_size none --eval_crop_ratio none --random_resized_crop --warmup_epochs none".split()
    resolved = values("--recipe", "deit", *words)
    names = ("learning_rate_batch_size", "eval_crop_ratio", "random_resized_crop", "warmup_epochs")
    assert [resolved[name] for name in names] == [None] * 4


def test_a_warm_up_of_the_user_replaces_the_recipes(values):
    for flag in ("--warmup_ratio", "--warmup-ratio"):
        resolved = values("--recipe", "deit", flag, "0.1")
        assert (resolved["warmup_ratio"], resolved["warmup_epochs"]) == (0.1, None)
    resolved = values("--recipe", "digits", "--warmup_epochs", "2")
    assert (resolved["warmup_ratio"], resolved["warmup_epochs"]) == (None, 2)


def test_what_goes_together_only_with_the_recipe_is_allowed(values):
    assert values("--recipe", "deit", "--save_ema")["ema_decay"] == 0.99996


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ([], "digits"),
        (["--train_dir", "photos"], "deit"),
        (["--dataset_name", "imagenet-1k"], "deit"),
        (["--model_name_or_path", "a/b"], "finetune"),
        (["--model_name_or_path", "a/b", "--train_dir", "photos"], "finetune"),
        (["--train_dir", "photos", "--recipe", "digits"], "digits"),
    ],
)
def test_the_recipe_follows_from_model_and_data_unless_it_is_named(words, recipe, values):
    assert values(*words)["recipe"] == recipe


def test_a_preset_or_a_pretrained_model_takes_the_place_of_the_recipes_model(values):
    assert values("--recipe", "digits")["hidden_size"] == 64
    assert values("--recipe", "digits", "--preset", "tiny")["hidden_size"] is None
    assert values("--recipe", "digits", "--model_name_or_path", "a/b")["hidden_size"] is None


def test_a_recipe_of_ones_own_is_a_file(values, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'num_train_epochs = 7\nsave_ema = true\nema_decay = 0.9\n[model]\npreset = "tiny"\n'
    )
    resolved = values("--recipe", str(tmp_path / "mine.toml"), "--ema_decay", "0.5")
    assert (resolved["num_train_epochs"], resolved["ema_decay"], resolved["save_ema"]) == (7, 0.5, True)
    assert resolved["preset"] == "tiny"


OWN = {
    "no flag": ("learning_rte = 1", "learning_rte"),
    "another kind of value": ('learning_rate = "high"', "learning_rate"),
    "a list for a number": ("learning_rate = [1, 2]", "does not fit"),
    "a part of an epoch": ("num_train_epochs = 1.5", "num_train_epochs"),
    "a value out of range": ("mixup_prob = 2", "mixup_prob"),
    "no TOML": ("learning_rate", "is no TOML"),
    "an unknown table": ("[loop]\nnum_train_epochs = 1", "loop"),
}


@pytest.mark.parametrize(("text", "named"), OWN.values(), ids=OWN)
def test_a_recipe_with_a_mistake_is_refused_by_name(text, named, values, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=named) as error:
        values("--recipe", str(tmp_path / "mine.toml"))
    assert "mine.toml" in str(error.value)


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are(values):
    with pytest.raises(UsageError, match="deit, digits, finetune or a TOML file, got 'dite'"):
        values("--recipe", "dite")


def test_flags_are_written_as_on_a_command_line():
    assert as_flag("save_ema", True) == ["--save_ema", "true"]
    assert as_flag("random_resized_crop", [0.08, 1.0]) == ["--random_resized_crop", "0.08", "1.0"]
