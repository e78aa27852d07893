"""scripts/study.py: statistics, and runs that survive being killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from helpers import tiny_config
from hf_cb import ViTCBForImageClassification
from hf_cb.analysis.study import Run, RunPool, StudyFolder
from hf_cb.analysis.study_results import mean_over_seeds, paired_interval, render_table, summarise
from hf_cb.cli.parser import ArgumentParser, ConfigArguments, config_overrides, run
from hf_cb.errors import UsageError
from hf_cb.techniques.variants import VARIANTS


# in the place of scripts/train.py: notes that it ran, waits if it is told to, and writes results
STAND_IN = """
import json, pathlib, sys, time
flags = dict(zip(sys.argv, sys.argv[1:]))
folder = pathlib.Path(flags["--output_dir"])
assert "--overwrite_output_dir" in sys.argv
started = pathlib.Path(__file__).parent / "started"
started.mkdir(exist_ok=True)
(started / folder.name).touch()
if folder.name == flags.get("--fail"):
    sys.exit("train.py: error: this one fails")
if folder.name == flags.get("--wait"):
    time.sleep(60)
folder.mkdir(parents=True, exist_ok=True)
(folder / "all_results.json").write_text(json.dumps({"eval_accuracy": int(flags["--seed"]) / 10}))
"""
RUNS = [Run(2, variant, seed) for seed in (0, 1) for variant in ("plain", "cb")]
SETTINGS = {"training_arguments": [], "num_train_epochs": 1}


@pytest.fixture
def stand_in(tmp_path):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return script


def started(script):
    folder = script.parent / "started"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def train(script, folder, runs=RUNS, arguments=(), num_workers=2):
    done = []
    RunPool(folder, [sys.executable, str(script)], list(arguments), num_workers).train(runs, done.append)
    return done


def names_in(folder):
    return sorted(path.name for path in folder.runs.iterdir())


def test_each_run_becomes_a_folder_with_its_results(stand_in, tmp_path):
    folder = StudyFolder(tmp_path / "study", SETTINGS)
    done = train(stand_in, folder)
    assert set(done) == set(RUNS) and all(folder.is_complete(one) for one in RUNS)
    assert names_in(folder) == sorted(one.name for one in RUNS)
    assert folder.results(Run(2, "cb", 1)) == {"eval_accuracy": 0.1}


def test_a_failure_is_told_with_its_last_line_and_nothing_of_it_stays(stand_in, tmp_path):
    folder = StudyFolder(tmp_path / "study", SETTINGS)
    with pytest.raises(UsageError, match="depth2-cb-seed0 failed .*: train.py: error: this one fails"):
        train(stand_in, folder, arguments=["--fail", "depth2-cb-seed0"], num_workers=1)
    assert folder.is_complete(RUNS[0])
    assert names_in(folder) == ["depth2-plain-seed0"]


KILLED = """
import sys
from pathlib import Path
from hf_cb.analysis.study import Run, StudyFolder, RunPool
runs = [Run(2, variant, seed) for seed in (0, 1) for variant in ("plain", "cb")]
folder = StudyFolder(Path(sys.argv[1]), {"training_arguments": [], "num_train_epochs": 1})
RunPool(folder, [sys.executable, sys.argv[2]], ["--wait", "depth2-cb-seed0"], 1).train(runs, lambda run: None)
"""


def wait_until(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited a minute for {what}"
        time.sleep(0.05)


def test_a_study_that_was_killed_loses_the_run_under_way_alone(stand_in, tmp_path):
    folder = StudyFolder(tmp_path / "study", SETTINGS)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "study"), str(stand_in)])
    wait_until(lambda: "depth2-cb-seed0" in started(stand_in), "the second run")
    process.kill()
    process.wait()
    assert [one.name for one in RUNS if folder.is_complete(one)] == ["depth2-plain-seed0"]

    folder.check_settings()
    (stand_in.parent / "started" / "depth2-plain-seed0").unlink()
    left = [one for one in RUNS if not folder.is_complete(one)]
    assert set(train(stand_in, folder, left)) == set(RUNS[1:])
    # the complete one was not trained again
    assert "depth2-plain-seed0" not in started(stand_in)
    assert names_in(folder) == sorted(one.name for one in RUNS)


def test_a_request_to_end_ends_the_runs_under_way(study_script, stand_in, tmp_path):
    folder = StudyFolder(tmp_path / "study", SETTINGS)
    pool = RunPool(folder, [sys.executable, str(stand_in)], ["--wait", "depth2-plain-seed0"], 1)

    def request(*_):
        wait_until(lambda: started(stand_in), "the first run")
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), study_script.ended_by_sigterm():
        signal.signal(signal.SIGALRM, request)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        pool.train(RUNS, lambda one: None)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [process.poll() is not None for process in pool.processes] == [True]
    assert not any(folder.is_complete(one) for one in RUNS)


def test_runs_of_other_settings_are_not_mixed(stand_in, tmp_path):
    folder = StudyFolder(tmp_path / "study", SETTINGS)
    train(stand_in, folder, RUNS[:1])
    folder.check_settings()
    other = StudyFolder(tmp_path / "study", {**SETTINGS, "num_train_epochs": 2})
    with pytest.raises(UsageError, match="num_train_epochs being 1 and not 2.*--overwrite_output_dir"):
        other.check_settings()
    (other.runs / "notes").mkdir()
    other.remove_runs()
    other.check_settings()
    assert names_in(other) == ["notes"]


def test_a_folder_without_a_record_is_no_complete_run_and_is_trained_again(stand_in, tmp_path):
    folder = StudyFolder(tmp_path / "study", SETTINGS)
    folder.path(RUNS[0]).mkdir(parents=True)
    (folder.path(RUNS[0]) / "all_results.json").write_text('{"eval_accuracy": 0.9}')
    assert not folder.is_complete(RUNS[0])
    train(stand_in, folder, RUNS[:1])
    assert folder.is_complete(RUNS[0]) and folder.results(RUNS[0]) == {"eval_accuracy": 0.0}


# statistics


@pytest.mark.parametrize("differences", [[0.01, 0.02, 0.015, -0.005, 0.03], [0.1, 0.3]], ids=["five", "two"])
def test_the_interval_is_that_of_a_paired_t_test(differences):
    first = np.linspace(0.9, 0.95, len(differences))
    expected = stats.ttest_rel(first + differences, first).confidence_interval(0.95)
    mean, low, high = paired_interval(differences)
    assert mean == pytest.approx(np.mean(differences))
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_a_single_pair_has_no_interval():
    assert paired_interval([0.1]) is None and paired_interval([]) is None


def result(accuracy):
    return {"eval_accuracy": accuracy, "eval_loss": 0.5, "train_loss": 0.25, "train_runtime": 10.0}


def test_differences_are_taken_seed_by_seed():
    accuracies = {"plain": [0.9, 0.8, 0.7], "cb": [0.91, 0.82, 0.73]}
    results = {Run(6, v, s): result(a) for v, values in accuracies.items() for s, a in enumerate(values)}
    plain, cb = summarise(results)
    assert plain["difference"] is None and plain["n"] == cb["n"] == 3
    assert cb["eval_accuracy"] == {"mean": pytest.approx(0.82), "std": pytest.approx(0.09)}
    # the spread between seeds, a tenth, is not in the interval
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert cb["difference"] == pytest.approx((0.02, 0.02 - half, 0.02 + half))


def test_a_seed_that_plain_lacks_has_no_difference():
    results = {Run(6, "cb", 0): result(0.9), Run(6, "cb", 1): result(0.8), Run(12, "plain", 0): result(0.7)}
    assert [row["difference"] for row in summarise(results)] == [None, None]


def test_layers_are_averaged_over_seeds():
    analyses = {
        Run(2, "cb", seed): {"token_similarity": {"layers": [0, 1, 2], "mean": [0.0, 0.1 + seed, 0.2]}}
        for seed in (0, 1)
    }
    found = mean_over_seeds(analyses)["2"]["cb"]
    assert list(found) == ["token_similarity"]
    assert found["token_similarity"]["mean"] == pytest.approx([0.0, 0.6, 0.2])
    assert found["token_similarity"]["std"] == pytest.approx([0.0, 0.5**0.5, 0.0])


def test_the_table_leaves_cells_empty_that_were_not_measured():
    table = render_table(summarise({Run(6, "plain", 0): result(0.9)}), {"6": {"plain": {}}}, "Words.")
    assert "| 6 | plain | 0.9000 |  | 0.250 | 1 |" in table
    assert "| 6 | plain |  |  |  |  |" in table


def test_all_variants_of_a_seed_start_with_the_same_weights():
    starts = []
    for fields in (
        {"context_broadcast": None},
        {"context_broadcast": "scaled"},
        {"context_broadcast": "plain", "attn_scale": True, "feat_scale": True},
    ):
        torch.manual_seed(0)
        starts.append(ViTCBForImageClassification(tiny_config(**fields)).state_dict())
    for start in starts[1:]:
        assert all(torch.equal(start[name], value) for name, value in starts[0].items())


# the script


def failing(script, arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(script.main, arguments)
    err = capsys.readouterr().err
    assert exit_.value.code == 2 and err.count("\n") == 1
    return err


MISTAKES = {
    "unknown variant": (["--variants", "plain", "cbx"], "cbx"),
    "no seed": (["--seeds"], "seeds"),
    "a seed twice": (["--seeds", "1", "1"], "[1, 1]"),
    "no layer": (["--depths", "0"], "depths"),
    "no epoch": (["--num_train_epochs", "0"], "num_train_epochs"),
    "no worker": (["--num_workers", "0"], "num_workers"),
    "a seed for all": (["--seed", "3"], "--seeds"),
    "a technique for all": (["--attn_scale=true"], "--variants"),
    "layers for all, with hyphens": (["--num-hidden-layers", "3"], "--num_hidden_layers is decided by the study"),
    "stray word": (["stray"], "stray"),
    "data twice": (["--train_dir", "a", "--train_file", "b.parquet"], "one place"),
}


@pytest.mark.parametrize(("arguments", "named"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, named, study_script, tmp_path, capsys):
    err = failing(study_script, ["--output_dir", str(tmp_path / "out"), *arguments], capsys)
    assert named in err and list(tmp_path.iterdir()) == []


SMALL = "--hidden_size 16 --num_attention_heads 2 --intermediate_size 16 --num_train_epochs 1 --disable_tqdm"


@pytest.mark.slow
def test_a_miniature_study_writes_table_numbers_and_picture_and_goes_on_where_it_ended(
    study_script, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    out = tmp_path / "study"
    arguments = [*SMALL.split(), "--depths", "1", "--seeds", "0", "--output_dir", str(out)]
    study_script.main([*arguments, "--variants", "plain"])
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    study_script.main([*arguments, "--variants", "plain", "cb"])
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())

    study = json.loads((out / "study.json").read_text())
    assert [(row["variant"], row["n"]) for row in study["summary"]] == [("plain", 1), ("cb", 1)]
    accuracy = json.loads((out / "runs" / "depth1-cb-seed0" / "all_results.json").read_text())["eval_accuracy"]
    assert study["runs"][1]["eval_accuracy"] == accuracy
    assert len(study["layers"]["1"]["cb"]["high_frequency_ratio"]["mean"]) == 2
    assert f"| 1 | cb | {accuracy:.4f} |" in (out / "study.md").read_text()
    assert (out / "study.md").read_text() in capsys.readouterr().out
    assert min(Image.open(out / "study.png").size) > 500
    assert sorted(path.name for path in out.iterdir()) == ["runs", "study.json", "study.md", "study.png"]

    assert "num_train_epochs" in failing(study_script, [*arguments, "--num_train_epochs", "2"], capsys)


def test_flags_that_are_not_the_studys_reach_the_training_and_its_mistakes_come_back(
    study_script, stand_in, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(study_script, "TRAIN_COMMAND", (sys.executable, str(stand_in)))
    arguments = ["--disable_tqdm", "--variants", "cb", "--output_dir", str(tmp_path / "out")]
    err = failing(study_script, [*arguments, "--fail", "depth6-cb-seed0"], capsys)
    assert "depth6-cb-seed0 failed (1): train.py: error: this one fails" in err


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_flags_of_a_run_are_its_variants_fields(variant):
    *flags, _, seed = Run(6, variant, 3).flags
    (config,) = ArgumentParser(ConfigArguments).parse(flags)
    assert config_overrides(config) == {"num_hidden_layers": 6, **VARIANTS[variant]} and seed == "3"


def test_every_technique_is_a_variant():
    assert list(VARIANTS) == ["plain", "cb", "cb_s", "attn_scale", "feat_scale", "all"]
