"""Processes that use the loopback Hub: one that runs scripts on request, and two that load what was pushed."""

import json
import subprocess
import sys
from pathlib import Path

from local_hub import LocalHub


# reads requests from stdin, a line each, and answers each with exit code, stdout and stderr
RUNNER = """
import importlib, json, os, sys, tempfile

answers = os.fdopen(os.dup(1), "w")
import hf_cb.hub.push
from hf_cb.cli.parser import run

check = hf_cb.hub.push.check_loads_elsewhere

def main_of(script):
    sys.argv[0] = f"{script}.py"
    return importlib.import_module(f"hf_cb.commands.{script}").main

def captured(main, arguments):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        for stream, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), stream)
        try:
            run(main, arguments)
        except SystemExit as exit_:
            code = exit_.code
        sys.stdout.flush(), sys.stderr.flush()
        out.seek(0), err.seek(0)
        return {"code": code, "out": out.read(), "err": err.read()}

for line in sys.stdin:
    asked = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if asked["token"] is not None:
        os.environ["HF_TOKEN"] = asked["token"]
    # what is not about the check saves its seconds
    hf_cb.hub.push.check_loads_elsewhere = check if asked["checked"] else lambda folder: None
    print(json.dumps(captured(main_of(asked["script"]), asked["arguments"])), file=answers, flush=True)
"""

# argv: a folder for what it saves, and the packages to hide; a token is in the environment or not
LOADER = """
import json, re, sys

hidden = sys.argv[2:]
for name in hidden:
    sys.modules[name] = None
if not hidden:
    import hf_cb
from pathlib import Path
import torch, transformers
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file, save_file

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
place, trust, report = Path(sys.argv[1]), {"trust_remote_code": True} if hidden else {}, {}
inputs = load_file(place.parent / "images.safetensors")
picture = str(place.parent / "picture.png")

def save(name, tensor):
    save_file({"output": tensor.contiguous()}, place / f"{name}.safetensors")

def load(name, repository, auto="AutoModelForImageClassification", **arguments):
    model, info = getattr(transformers, auto).from_pretrained(
        repository, output_loading_info=True, **trust, **arguments
    )
    with torch.no_grad():
        save(name, model.eval()(inputs[name] if name in inputs else inputs["images"])[0])
    strays = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    report[name] = {"module": type(model).__module__, "class": type(model).__name__, "strays": strays}
    return model

def refusal(repository, **arguments):
    try:
        transformers.AutoModelForImageClassification.from_pretrained(repository, **arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

# before a cache has it
report["private"] = refusal("ann/converted", token=False, **trust)
load("classifier", "ann/classifier").save_pretrained(place / "resaved")
load("base", "ann/classifier", "AutoModel")
load("plain", "ann/plain")
processor = transformers.AutoImageProcessor.from_pretrained("ann/converted", token="hf_token_of_ann", **trust)
save("pixels", processor(Image.open(picture), return_tensors="pt")["pixel_values"])
processor.save_pretrained(place / "resaved-processor")
load("converted", "ann/converted", token="hf_token_of_ann")
config = transformers.AutoConfig.from_pretrained("ann/classifier", **trust)
report["config"] = [config.model_type, type(config).__module__, config.apply_layers]
untold = transformers.pipeline(model="ann/classifier", device="cpu", **trust)
report["pipeline"] = [untold.task, untold(picture)]
if hidden:
    report["untrusted"] = [refusal("ann/classifier"), refusal("ann/classifier", trust_remote_code=False)]
    card = Path(hf_hub_download("ann/pinned", "README.md")).read_text()
    lines = re.search("```python\\n(.*?)```", card, re.DOTALL)[1].replace("image.png", picture)
    variables = {"print": lambda answer: report.update(card=answer)}
    exec(lines, variables)
    report["unpinned"] = refusal("ann/pinned", trust_remote_code=True)
    for other in sorted(place.parent.glob("with/resaved*")):
        if other.name == "resaved":
            load("from-with", other)
            continue
        processor = transformers.AutoImageProcessor.from_pretrained(other, **trust)
        save("pixels-from-with", processor(Image.open(picture), return_tensors="pt")["pixel_values"])
(place / "report.json").write_text(json.dumps(report))
"""


class Runner:
    """Runs the project's scripts in one process, for any user of a Hub."""

    def __init__(self, hub: LocalHub, home: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            env=hub.environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, *arguments: object, token: str | None = None, checked: bool = False, script: str = "push_to_hub"
    ) -> dict:
        asked = {"arguments": [str(part) for part in arguments], "token": token, "checked": checked, "script": script}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def load_from(hub: LocalHub, place: Path, hidden: tuple[str, ...] = ()) -> dict:
    """What a new process with empty caches finds on the Hub; `place` then holds outputs and what was saved again."""
    place.mkdir()
    environment = hub.environment(place / "home")
    if hidden:
        environment.pop("PYTHONPATH", None)
    ran = subprocess.run(
        [sys.executable, "-c", LOADER, str(place), *hidden],
        cwd=place if hidden else None,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads((place / "report.json").read_text())
