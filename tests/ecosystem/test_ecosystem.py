"""Compilers, Accelerate, FSDP and DDP take ViT-CB as they take ViT."""

import functools

import pytest
import torch
import torch.distributed as dist
from accelerate import (
    FullyShardedDataParallelPlugin,
    cpu_offload,
    disk_offload,
    infer_auto_device_map,
    init_empty_weights,
)
from packaging.version import Version
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from transformers.models.vit.modeling_vit import ViTEmbeddings
from transformers.trainer_pt_utils import get_module_class_from_name

from helpers import random_mask, tiny_config, tiny_images
from hf_cb import ViTCBForImageClassification, ViTCBForMaskedImageModeling
from hf_cb.vit_cb.modeling_vit_cb import ViTCBLayer
from models_with_everything import CASES, CLASSES, EVERYTHING, ROUNDING, build, check_same, run


LABELS = torch.tensor([1, 4])

each_case = pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
each_class = pytest.mark.parametrize("model_class", CLASSES.values(), ids=CLASSES)
either_mask = pytest.mark.parametrize("masked", [False, True], ids=["all-tokens", "masked"])

needs_tracing = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"),
    reason="torch 2.6 cannot trace the decorator on the forward method of transformers' own ViTModel",
)


# compilers


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@needs_tracing
@either_mask
@each_class
def test_a_model_compiles_into_one_graph(model_class, masked, images, dynamo):
    model, mask = build(model_class), random_mask() if masked else None
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(run(compiled, images, attention_mask=mask), run(model, images, attention_mask=mask), **ROUNDING)


@pytest.mark.slow
@needs_tracing
def test_the_default_compiler_gives_the_same_logits_and_gradients(images, dynamo):
    model = build().train()

    def logits_and_gradients(forward):
        model.zero_grad()
        output = forward(images, labels=LABELS, attention_mask=random_mask())
        output.loss.backward()
        return output.logits, {name: parameter.grad for name, parameter in model.named_parameters()}

    compiled = torch.compile(model, fullgraph=True)
    assert_close(logits_and_gradients(compiled), logits_and_gradients(model), **ROUNDING)


@either_mask
@each_case
def test_an_exported_model_takes_any_batch(fields, masked, images):
    model = build(**fields)

    def inputs(batch_size):
        mask = {"attention_mask": random_mask(batch_size)} if masked else {}
        return {"pixel_values": tiny_images(batch_size), **mask}

    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {name: {0: batch} for name in inputs(2)}
    program = torch.export.export(model, (), inputs(2), dynamic_shapes=shapes, strict=False).module()
    for batch_size in (1, 2, 8):
        arguments = inputs(batch_size)
        images = arguments.pop("pixel_values")
        logits = program(pixel_values=images, **arguments).logits
        assert_close(logits, run(model, images, **arguments), **ROUNDING)


# Accelerate and FSDP


@each_class
def test_parts_that_stay_together_are_named_by_classes_that_exist(model_class):
    model = model_class(tiny_config(**EVERYTHING))
    found = {get_module_class_from_name(model, name) for name in model._no_split_modules}
    assert found == {ViTEmbeddings, ViTCBLayer}


@each_class
def test_a_layer_is_never_split_over_devices(model_class):
    with init_empty_weights():
        model = model_class(tiny_config(**EVERYTHING))

    def is_split(no_split):
        # room for a layer and a half on each device
        room = {device: "24KB" for device in range(3)}
        devices = infer_auto_device_map(model, {**room, "cpu": "1GB"}, no_split_module_classes=no_split)
        layers = [name for name in devices if "layers." in name]
        assert layers and len(set(devices.values())) > 1
        return any(not name.split("layers.")[1].isdigit() for name in layers)

    assert not is_split(model._no_split_modules)
    assert is_split([])


@each_class
def test_a_model_loads_with_a_device_map(model_class, images, tmp_path):
    model = build(model_class)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path, device_map="cpu")
    assert loaded.device == torch.device("cpu")
    check_same(loaded, model, images)


@each_case
@either_mask
def test_offloaded_weights_give_the_same_logits(masked, fields, images, tmp_path):
    mask = random_mask() if masked else None
    expected = run(build(**fields), images, attention_mask=mask)
    for offload in (cpu_offload, functools.partial(disk_offload, offload_dir=tmp_path)):
        model = build(**fields)
        offload(model, execution_device=torch.device("cpu"))
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        assert_close(run(model, images, attention_mask=mask), expected, **ROUNDING)


def wrapped_by(policy, model):
    return {module for module in model.modules() if policy(module=module, recurse=False, nonwrapped_numel=0)}


@each_class
def test_fsdp_wraps_each_layer(model_class):
    model = model_class(tiny_config(**EVERYTHING))
    layers = set(model.base_model.layers)
    by_class = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={ViTCBLayer})
    assert wrapped_by(by_class, model) == layers
    # Accelerate's default goes by the names in `_no_split_modules`
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)
    assert wrapped_by(plugin.auto_wrap_policy, model) == layers | {model.base_model.embeddings}


# DDP and FSDP2


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


TASKS = {
    "classifier": (ViTCBForImageClassification, {"labels": LABELS}),
    "mim": (ViTCBForMaskedImageModeling, {"bool_masked_pos": torch.arange(32).view(2, 16) % 3 == 0}),
}


@each_case
@pytest.mark.parametrize(("model_class", "targets"), TASKS.values(), ids=TASKS)
def test_ddp_finds_no_unused_parameter(model_class, targets, fields, images, one_process):
    model, alone = build(model_class, **fields).train(), build(model_class, **fields).train()
    parallel = DistributedDataParallel(model)
    # a second pass is where DDP complains of parameters that the first one did not use
    for forward in (parallel, parallel, alone, alone):
        forward(images, **targets).loss.backward()
    assert_close([p.grad for p in model.parameters()], [p.grad for p in alone.parameters()], **ROUNDING)


SHARDED = {
    "layers": lambda layer: [],
    "attention": lambda layer: [layer.attention],
    "projections": lambda layer: [layer.attention.o_proj, layer.mlp.fc2],
    "techniques": lambda layer: [layer.attention.attn_scale, layer.feat_scale, layer.cb],
}


@each_case
@pytest.mark.parametrize("parts", SHARDED.values(), ids=SHARDED)
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_fsdp2_gives_the_gradients_whatever_is_sharded_apart(parts, fields, images, one_process):
    model, alone = build(**fields).train(), build(**fields).train()
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.vit.layers:
        for part in parts(layer):
            if part is not None:
                fully_shard(part, mesh=mesh)
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for forward in (model, alone):
        forward(images, labels=LABELS).loss.backward()
    whole = [parameter.grad.full_tensor() for parameter in model.parameters()]
    assert_close(whole, [parameter.grad for parameter in alone.parameters()], **ROUNDING)


def test_ddp_finds_an_unused_parameter(images, one_process):
    model = build().train()
    model.unused = nn.Parameter(torch.zeros(1))
    parallel = DistributedDataParallel(model)
    parallel(images, labels=LABELS).loss.backward()
    with pytest.raises(RuntimeError, match="find_unused_parameters"):
        parallel(images, labels=LABELS)
