"""Command lines: every configuration field is a flag, and a mistake is one line and exit code 2."""

from dataclasses import dataclass

import pytest

from hf_cb import ViTCBConfig
from hf_cb.cli.flags import HfArg
from hf_cb.cli.parser import ArgumentParser, ConfigArguments, config_overrides, run
from hf_cb.errors import UsageError
from hf_cb.training.arguments import LoopArguments


def parse(*arguments):
    (parsed,) = ArgumentParser(ConfigArguments).parse(arguments)
    return config_overrides(parsed)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([], {}, id="nothing given"),
        pytest.param(["--context_broadcast", "none"], {"context_broadcast": None}, id="none is None"),
        pytest.param(["--context_broadcast", "scaled"], {"context_broadcast": "scaled"}, id="string"),
        pytest.param(["--attn_scale"], {"attn_scale": True}, id="bare switch"),
        pytest.param(["--feat_scale", "false"], {"feat_scale": False}, id="switch with a value"),
        pytest.param(["--apply_layers", "0", "2"], {"apply_layers": [0, 2]}, id="list"),
        pytest.param(["--apply_layers"], {"apply_layers": []}, id="empty list"),
        pytest.param(["--apply_layers", "none"], {"apply_layers": None}, id="no list"),
        pytest.param(["--image_size", "32"], {"image_size": 32}, id="one size"),
        pytest.param(["--image_size", "32", "64"], {"image_size": [32, 64]}, id="a pair of sizes"),
        pytest.param(["--drop_path_rate", "0.1"], {"drop_path_rate": 0.1}, id="float"),
        pytest.param(["--hidden_size", "48"], {"hidden_size": 48}, id="int"),
        pytest.param(["--out_features", "stem", "stage2"], {"out_features": ["stem", "stage2"]}, id="names"),
        pytest.param(["--out_indices", "0", "-1"], {"out_indices": [0, -1]}, id="indices"),
    ],
)
def test_a_flag_sets_the_configuration_field_of_its_name(arguments, expected):
    assert parse(*arguments) == expected


def test_what_a_command_line_gives_is_told_from_what_it_leaves_out():
    parser = ArgumentParser(LoopArguments)
    # a default that was given counts as given, and so does None
    words = ["--num_train_epochs", "70", "--warmup-ratio=none", "--compile"]
    given = parser.given(words)
    assert given == {"num_train_epochs": 70, "warmup_ratio": None, "compile": True}
    assert parser.build(given) == parser.parse(words)
    with pytest.raises(UsageError, match="--no_such_flag"):
        parser.given(["--no_such_flag"])
    with pytest.raises(UsageError, match="`num_train_epochs` must be at least 1, got 0"):
        parser.build({"num_train_epochs": 0})


def test_every_field_of_vit_and_vit_cb_is_a_flag():
    flags = set(ConfigArguments.__dataclass_fields__)
    assert {"hidden_size", "patch_size", "qkv_bias", "pooler_act", "encoder_stride", "layer_norm_eps"} <= flags
    assert {name.lstrip("_") for name in ViTCBConfig.__annotations__} - {"model_type"} <= flags


MISTAKES = [
    pytest.param(["--no_such_flag", "1"], "--no_such_flag", id="unknown flag"),
    pytest.param(["--hidden", "64"], "--hidden", id="shortened flag"),
    pytest.param(["stray"], "stray", id="stray word"),
    pytest.param(["--hidden_size", "many"], "hidden_size", id="wrong type"),
    pytest.param(["--context_broadcast", "everything"], "everything", id="unknown technique variant"),
    pytest.param(["--context_broadcast_position", "here"], "mlp_end", id="unknown position"),
    pytest.param(["--apply_layers", "9"], "apply_layers", id="layer out of range"),
    pytest.param(["--apply_layers", "-1"], "apply_layers", id="negative layer"),
    pytest.param(["--apply_layers", "1", "1"], "[1, 1]", id="repeated layer"),
    pytest.param(["--apply_layers", "first"], "first", id="layer that is no number"),
    pytest.param(["--drop_path_rate", "1"], "[0, 1)", id="drop path of 1"),
    pytest.param(["--image_size", "17"], "patch_size", id="patches do not tile"),
    pytest.param(["--num_attention_heads", "65"], "num_attention_heads", id="more heads than dimensions"),
    pytest.param(["--num_channels", "1"], "RGB", id="grey model"),
    pytest.param(["--hidden_act", "gelo"], "hidden_act", id="unknown activation"),
    pytest.param(["--num_train_epochs", "0"], "num_train_epochs", id="no epochs"),
    pytest.param(["--per_device_train_batch_size", "0"], "per_device_train_batch_size", id="empty batch"),
    pytest.param(["--learning_rate", "0"], "learning_rate", id="no learning rate"),
    pytest.param(["--learning_rate", "nan"], "learning_rate", id="rate that is no number"),
    pytest.param(["--weight_decay", "-0.1"], "weight_decay", id="negative decay"),
    pytest.param(["--seed", "-1"], "seed", id="negative seed"),
    pytest.param(["--initializer_range", "0"], "initializer_range", id="no initialisation"),
    pytest.param(["--num_cpu_threads", "99999999999"], "num_cpu_threads", id="threads beyond counting"),
    pytest.param(["--out_features", "stage9"], "stage9", id="unknown stage"),
    pytest.param(["--mixed_precision", "fp7"], "mixed_precision", id="unknown precision"),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES)
def test_a_mistake_is_one_line_on_stderr_with_exit_code_2_and_leaves_nothing(
    arguments, named, train_script, tmp_path, capsys
):
    output_dir = tmp_path / "runs" / "out"
    with pytest.raises(SystemExit) as exit_:
        run(train_script.main, ["--output_dir", str(output_dir), *arguments])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == "" and err.count("\n") == 1 and err.endswith("\n")
    assert named in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_run_is_refused_by_name(train_script, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as exit_:
        run(train_script.main, ["--output_dir", str(tmp_path)])
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert str(tmp_path) in err and "--overwrite_output_dir" in err and err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["README.md", "all_results.json", "model.safetensors"])
def test_a_folder_with_any_file_that_a_run_writes_is_refused(name, train_script, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    with pytest.raises(SystemExit):
        run(train_script.main, ["--output_dir", str(tmp_path)])
    assert name in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "with\0null"], ids=["file", "below", "long", "null"])
def test_an_output_path_that_can_be_no_folder_is_refused(name, train_script, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as exit_:
        run(train_script.main, ["--output_dir", str(tmp_path / name)])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_bug_keeps_its_traceback():
    def main(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main, [])


def test_an_interruption_ends_with_130(capsys):
    def main(arguments):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        run(main, [])
    assert exit_.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_usage_error_of_several_lines_is_printed_as_one(capsys):
    def main(arguments):
        raise UsageError("first\n  second")

    with pytest.raises(SystemExit):
        run(main, [])
    assert capsys.readouterr().err.endswith("error: first second\n")


def test_a_flag_with_another_name_than_it_had_is_taken_and_told_of(capsys):
    @dataclass
    class Renamed:
        OLD_SPELLINGS = {"old_name": "name"}

        name: str = HfArg(default="", help="A name.")

    for words in (["--old_name", "x"], ["--old-name=x"]):
        (parsed,) = ArgumentParser(Renamed).parse(words)
        assert parsed.name == "x"
        assert "--old_name is now called --name" in capsys.readouterr().err


def test_the_techniques_come_first_in_help_with_a_sentence_each():
    told = ArgumentParser(ConfigArguments, prog="x").format_help()
    assert told.index("techniques:") < told.index("model:")
    told = told[told.index("techniques:") :]
    assert told.index("--attn_scale") < told.index("model:") < told.index("--hidden_size")
