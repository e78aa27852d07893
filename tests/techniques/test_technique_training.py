"""Models with techniques under what people train and run them with: compilers, checkpointing, DDP, PEFT, kernels."""

import copy

import pytest
import torch
import torch.distributed as dist
from packaging.version import Version
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from transformers import AttentionInterface, Dinov2Config, Dinov2ForImageClassification
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

from helpers import is_scale, random_mask, tiny_images
from hf_cb import TechniqueConfig, apply_techniques, remove_techniques, save_techniques, technique_parameters
from hf_cb.models.technique_files import load_techniques
from models_with_everything import differ
from technique_models import EVERYTHING, plain, run, with_techniques


CLOSE = {"rtol": 2e-5, "atol": 2e-5}
LABELS = torch.tensor([1, 4])
# classifiers, whose loss reaches every parameter of the techniques
CLASSIFIERS = ["vit", "deit", "deit-distilled", "beit", "dinov2", "siglip-classifier", "vit-msn", "ijepa", "swin"]

needs_tracing = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"),
    reason="torch 2.6 cannot trace the decorator on the forward methods of transformers' own models",
)


def loss_of(model, **arguments):
    """A loss that all classes of classifiers allow."""
    output = model(pixel_values=tiny_images(), **arguments)
    return torch.nn.functional.cross_entropy(output.logits, LABELS)


def gradients_of(model, forward=None, **arguments):
    model.zero_grad()
    loss_of(model if forward is None else forward, **arguments).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_parameter_of_the_techniques_gets_a_gradient(name):
    model = apply_techniques(plain(name), TechniqueConfig(**EVERYTHING))
    gradients_of(model)
    assert all(parameter.grad.abs().max() > 0 for parameter in technique_parameters(model))


# compilers


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@needs_tracing
@pytest.mark.parametrize("name", ["vit", "dinov2", "siglip-vision", "swin"])
def test_a_model_with_techniques_compiles_into_one_graph(name, dynamo):
    model = with_techniques(name)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(run(name, compiled), run(name, model), **CLOSE)


@needs_tracing
def test_a_masked_model_compiles_too(dynamo):
    model = with_techniques("vit")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for mask in (random_mask(), None, random_mask(seed=1)):
        assert_close(run("vit", compiled, attention_mask=mask), run("vit", model, attention_mask=mask), **CLOSE)


@needs_tracing
def test_compiled_code_does_not_outlive_what_it_was_compiled_from(dynamo):
    model = plain("vit")
    compiled, before = torch.compile(model, backend="eager"), run("vit", model)
    assert_close(run("vit", compiled), before, **CLOSE)
    apply_techniques(model, TechniqueConfig(context_broadcast="plain"))
    assert torch.equal(run("vit", compiled), run("vit", model)) and differ(run("vit", compiled), before)
    remove_techniques(model)
    assert_close(run("vit", compiled), before, **CLOSE)


# gradient checkpointing


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize(
    ("name", "masked"), [(name, False) for name in CLASSIFIERS] + [("vit", True), ("vit-msn", True), ("ijepa", True)]
)
def test_gradient_checkpointing_changes_no_gradient(name, masked, reentrant):
    arguments = {"attention_mask": random_mask(num_tokens=16 if name == "ijepa" else 17)} if masked else {}
    model, checkpointed = with_techniques(name).train(), with_techniques(name).train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    expected = gradients_of(model, **arguments)
    assert_close(gradients_of(checkpointed, **arguments), expected, **CLOSE)
    if masked:
        assert differ(gradients_of(model)["classifier.weight"], expected["classifier.weight"])


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_techniques_alone_train_under_gradient_checkpointing(reentrant):
    model = with_techniques("dinov2").train()
    expected = gradients_of(model)
    model.requires_grad_(False)
    for parameter in technique_parameters(model):
        parameter.requires_grad_(True)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    found = gradients_of(model)
    assert found and all(is_scale(name) for name in found)
    assert_close(found, {name: expected[name] for name in found}, **CLOSE)


# DDP


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["vit", "dinov2", "swin"])
def test_ddp_finds_every_parameter_used(name, one_process):
    model, alone = with_techniques(name), with_techniques(name)
    if name == "dinov2":
        for one in (model, alone):
            one.dinov2.embeddings.mask_token.requires_grad_(False)
    parallel = DistributedDataParallel(model)
    # a second pass is where DDP complains of parameters that the first one did not use
    for _ in range(2):
        gradients = gradients_of(model, parallel)
    assert_close(gradients, gradients_of(alone), **CLOSE)


# PEFT


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def lora_on(peft, model, projections):
    settings = peft.LoraConfig(
        r=2, target_modules=projections, modules_to_save=["attn_scale", "feat_scale", "cb"], init_lora_weights=False
    )
    torch.manual_seed(0)
    return peft.get_peft_model(model, settings).eval()


PROJECTIONS = {
    "vit": ["q_proj", "v_proj", "o_proj", "fc1", "fc2"],
    "dinov2": ["q_proj", "v_proj", "o_proj", "fc1", "fc2"],
    "siglip-classifier": ["q_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "swin": ["q_proj", "v_proj", "o_proj", "fc1", "fc2"],
}


@pytest.mark.parametrize("position", ["mlp_end", "mlp_mid"])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_lora_on_top_equals_merged_weights(name, position, peft):
    fields = {**EVERYTHING, "context_broadcast_position": position}
    adapted = lora_on(peft, with_techniques(name, **fields), PROJECTIONS[name])
    expected = run(name, adapted)
    assert differ(expected, run(name, with_techniques(name, **fields)))
    merged = adapted.merge_and_unload()
    assert_close(run(name, merged), expected, **CLOSE)
    # and so do techniques that come after
    scales = {key: tensor for key, tensor in merged.state_dict().items() if is_scale(key)}
    again = apply_techniques(remove_techniques(merged), TechniqueConfig(**fields))
    again.load_state_dict(scales, strict=False)
    assert_close(run(name, again), expected, **CLOSE)


def test_techniques_trained_through_peft_are_saved_as_trained(peft, tmp_path):
    adapted = lora_on(peft, with_techniques("vit"), ["q_proj"])
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad and is_scale(name)}
    assert len(trained) == 12 and all("modules_to_save" in name for name in trained)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.5)
    expected = run("vit", adapted)
    save_techniques(adapted, tmp_path)
    loaded = load_techniques(plain("vit"), tmp_path)
    values = [parameter.flatten() for parameter in trained.values()]
    assert_close(torch.cat([p.flatten() for p in technique_parameters(loaded)]), torch.cat(values), rtol=0, atol=0)
    assert_close(run("vit", adapted.merge_and_unload()), expected, **CLOSE)


# kernels


def flash_like(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """A kernel with the interface of flash attention, which looks up its own name and takes no argument of ours."""
    assert module.config._attn_implementation == "technique_kernel_stand_in" and not module.is_causal
    assert "token_mask" not in kwargs and (attention_mask is None or attention_mask.dim() == 2)
    bias = None if attention_mask is None else attention_mask[:, None, None, :].bool()
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=scaling)
    return output.transpose(1, 2), None


@pytest.fixture(scope="module")
def kernel():
    # a name with "flash" in it makes transformers look for a kernel of that name
    AttentionInterface.register("technique_kernel_stand_in", flash_like)
    AttentionMaskInterface.register("technique_kernel_stand_in", flash_attention_mask)
    return "technique_kernel_stand_in"


@pytest.mark.parametrize("masked", [False, True], ids=["all-tokens", "masked"])
@pytest.mark.parametrize("fields", [EVERYTHING, {**EVERYTHING, "apply_layers": [1]}], ids=["all", "layer-1"])
def test_a_kernel_with_flashs_interface_agrees_with_sdpa(kernel, fields, masked):
    model = with_techniques("vit", **fields)
    arguments = {"attention_mask": random_mask()} if masked else {}
    expected = run("vit", model, **arguments)
    model.set_attn_implementation(kernel)
    # masked tokens come out otherwise, and no other token looks at them
    assert_close(run("vit", model, **arguments), expected, **CLOSE)


@pytest.mark.parametrize("name", ["vit", "dinov2", "siglip-vision"])
def test_flex_attention_agrees_with_sdpa(name):
    model = with_techniques(name)
    expected = run(name, model)
    with torch.compiler.set_stance("force_eager"):
        model.set_attn_implementation("flex_attention")
        assert_close(run(name, model), expected, **CLOSE)


# training


def test_training_only_the_techniques_of_a_frozen_random_dinov2_lowers_the_loss_on_digits():
    torch.manual_seed(0)
    config = Dinov2Config(
        initializer_range=0.2,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=8,
        patch_size=2,
        num_labels=10,
    )
    model = apply_techniques(Dinov2ForImageClassification(config), TechniqueConfig(**EVERYTHING))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not is_scale(name)}
    model.requires_grad_(False)
    for parameter in technique_parameters(model):
        parameter.requires_grad_(True)
    digits = load_digits()
    images = torch.tensor(digits.images[:256] / 8 - 1, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target[:256])
    optimiser = torch.optim.AdamW(technique_parameters(model), lr=0.05)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = model(pixel_values=images, labels=labels).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if not is_scale(name))


def test_in_training_dropout_and_stochastic_depth_fall_as_in_the_plain_model():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=16, patch_size=4, drop_path_rate=0.5
    )
    model = Dinov2ForImageClassification(config).train()
    with_zero = apply_techniques(copy.deepcopy(model), TechniqueConfig(**EVERYTHING))
    outputs = []
    for one in (model, with_zero):
        torch.manual_seed(1)
        outputs.append(one(pixel_values=tiny_images()).logits)
    assert_close(*outputs, rtol=0, atol=1e-6)
