"""ViT-CB: transformers' ViT with Context Broadcasting, AttnScale and FeatScale. Only the difference stands here."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import (
    ViTAttention,
    ViTEmbeddings,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTLayer,
    ViTMLP,
    ViTModel,
    ViTPooler,
    ViTPreTrainedModel,
    eager_attention_forward,
)
from transformers.utils.generic import can_return_tuple

from .configuration_vit_cb import Size, ViTCBConfig, as_pair
from .layers_vit_cb import (
    AttnScale,
    ContextBroadcast,
    FeatScale,
    ZeroStart,
    is_plain,
    projection_with_context,
    scaled_projection,
)
from .loading_vit_cb import (
    rename_saved_layers,
    resample_position_embeddings,
    saved_config,
    split_off_image_size,
    warn_if_broadcasting_is_new,
)
from .ops_vit_cb import drop_path


# transformers renames the keys of ViT checkpoints by the name of the class that holds them
register_checkpoint_conversion_mapping("ViTCBModel", get_checkpoint_conversion_mapping("ViTModel"), overwrite=True)


class ViTCBAttention(ViTAttention):
    """ViT's self-attention, with AttnScale where the configuration asks for it."""

    def __init__(self, config: ViTCBConfig, attn_scale: bool):
        super().__init__(config)
        self.attn_scale = AttnScale(config.num_attention_heads) if attn_scale else None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        feat_scale: FeatScale | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, N, D] to [B, N, D] and the softmax attention A, [B, H, N, N], where the kernel returns it.

        With `feat_scale`, the former with FeatScale: what the layer would apply to it otherwise.
        """
        if self.attn_scale is None and feat_scale is None:
            return super().forward(hidden_states, attention_mask, **kwargs)
        batch_shape = hidden_states.shape[:-1]
        query, key, value = (
            projection(hidden_states).view(*batch_shape, -1, self.head_dim)  # [B, N, H, d]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attention_forward = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, attention = attention_forward(
            self,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return scaled_projection(self.o_proj, output, value, token_mask, self.attn_scale, feat_scale), attention


class ViTCBMLP(ViTMLP):
    """ViT's MLP, with Context Broadcasting before or after its second linear layer where `cb` is given."""

    def forward(
        self,
        hidden_states: Tensor,
        cb: ContextBroadcast | None = None,
        token_mask: Tensor | None = None,
        cb_position: str | None = "mlp_mid",
    ) -> Tensor:
        """[B, N, D] to [B, N, D]; `cb` is at "mlp_mid" or "mlp_end"."""
        if cb is None:
            return super().forward(hidden_states)
        hidden_states = self.activation_fn(self.fc1(hidden_states))
        if cb_position == "mlp_mid":
            return self.fc2(cb(hidden_states, token_mask))
        return projection_with_context(self.fc2, cb, hidden_states, token_mask)


class ViTCBLayer(ViTLayer):
    """ViT's layer with the techniques that the configuration asks for at this index.

    The order on the attention branch is attention, dropout, FeatScale, CB at `attn_end`, stochastic depth; on the MLP
    branch CB at `mlp_front`, MLP with CB at `mlp_mid`, dropout, CB at `mlp_end`, stochastic depth. Where dropout is off
    and no hook would notice, attention and MLP apply FeatScale and CB at `mlp_end` themselves, for less.
    """

    def __init__(self, config: ViTCBConfig, layer_index: int):
        # not ViTLayer's constructor: it would build an attention and an MLP only for them to be replaced
        GradientCheckpointingLayer.__init__(self)
        applies = config.applies_to(layer_index)
        self.attention = ViTCBAttention(config, attn_scale=applies and config.attn_scale)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTCBMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path_rate = config.drop_path_rate_of(layer_index)
        self.feat_scale = FeatScale(config.hidden_size) if applies and config.feat_scale else None
        self.cb, self.cb_position = None, None
        if applies and config.context_broadcast is not None:
            self.cb_position = config.context_broadcast_position
            width = config.intermediate_size if self.cb_position == "mlp_mid" else config.hidden_size
            self.cb = ContextBroadcast(width, scaled=config.context_broadcast == "scaled")

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, N, D], ViT's mask for its attention kernel and our [B, N] for the means, to [B, N, D]."""
        branch = self._attend(self.layernorm_before(hidden_states), attention_mask, token_mask, **kwargs)
        hidden_states = drop_path(branch, self.drop_path_rate, self.training) + hidden_states
        branch = self._transform(self.layernorm_after(hidden_states), token_mask)
        return drop_path(branch, self.drop_path_rate, self.training) + hidden_states

    def _attend(
        self, tokens: Tensor, attention_mask: Tensor | None, token_mask: Tensor | None, **kwargs: Any
    ) -> Tensor:
        inside = self.feat_scale is not None and self._leads_on(self.attention, ViTCBAttention)
        if inside:
            kwargs["feat_scale"] = self.feat_scale
        branch, _ = self.attention(tokens, attention_mask, token_mask=token_mask, **kwargs)
        branch = self.dropout(branch)
        if self.feat_scale is not None and not inside:
            branch = self.feat_scale(branch, token_mask)
        return self._broadcast_at("attn_end", branch, token_mask)

    def _transform(self, tokens: Tensor, token_mask: Tensor | None) -> Tensor:
        tokens = self._broadcast_at("mlp_front", tokens, token_mask)
        inside = self.cb_position == "mlp_mid"
        if self.cb_position == "mlp_end":
            inside = self._leads_on(self.mlp, ViTCBMLP)
        branch = self.dropout(self.mlp(tokens, self.cb if inside else None, token_mask, self.cb_position))
        return branch if inside else self._broadcast_at("mlp_end", branch, token_mask)

    def _leads_on(self, part: nn.Module, kind: type[nn.Module]) -> bool:
        """Whether what a part returns goes on as it is to what follows dropout, and nothing else looks at it."""
        if not (is_plain(self.dropout, nn.Dropout) and is_plain(part, kind)):
            return False
        return self.dropout.p == 0 or not self.dropout.training

    def _broadcast_at(self, position: str, tokens: Tensor, token_mask: Tensor | None) -> Tensor:
        return self.cb(tokens, token_mask) if self.cb_position == position else tokens


class ViTCBPreTrainedModel(ViTPreTrainedModel):
    """Initialisation, loading and saving of the ViT-CB models."""

    config: ViTCBConfig
    config_class = ViTCBConfig
    _no_split_modules = ["ViTEmbeddings", "ViTCBLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ZeroStart):
            module.reset_parameters()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. Plain ViT checkpoints load whole, in both of ViT's layouts.

        With another `image_size` than the checkpoint's, as an argument or in `config`, the position embeddings are
        resampled on load (`resize_position_embeddings`).

        Fixed CB changes what a plain ViT computes, the learned techniques at their zero start do not: a warning says
        so where a checkpoint that is not of ViT-CB is loaded with `context_broadcast="plain"`.
        """
        saved = saved_config(pretrained_model_name_or_path, kwargs)
        kwargs, image_size = split_off_image_size(saved, kwargs)
        result = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = result[0] if isinstance(result, tuple) else result
        if image_size is not None:
            model.resize_position_embeddings(image_size)
        warn_if_broadcasting_is_new(pretrained_model_name_or_path, saved, model.config)
        return result

    def resize_position_embeddings(self, image_size: Size) -> None:
        """Make the model take images of another size, in place: for fine-tuning at another resolution.

        The position embeddings are resampled bicubically, so that the model computes what it computed before with
        `interpolate_pos_encoding=True`. An image processor has to be told the new size too.

        Args:
            image_size: side in pixels, or height and width; a multiple of `config.patch_size`.

        Raises:
            ValueError: patches do not tile an image of this size.
        """
        config = type(self.config).from_dict({**self.config.to_dict(), "image_size": image_size})
        embeddings = next(module for module in self.modules() if isinstance(module, ViTEmbeddings))
        patches, (patch_height, patch_width) = embeddings.patch_embeddings, as_pair(config.patch_size)
        height, width = as_pair(config.image_size)
        old_height, old_width = as_pair(patches.image_size)
        with torch.no_grad():
            resampled = resample_position_embeddings(
                embeddings.position_embeddings,
                (old_height // patch_height, old_width // patch_width),
                (height // patch_height, width // patch_width),
            )
        embeddings.position_embeddings = nn.Parameter(resampled, embeddings.position_embeddings.requires_grad)
        embeddings.image_size = patches.image_size = (height, width)
        patches.num_patches = resampled.shape[1] - 1
        self.config.image_size = config.image_size


class ViTCBModel(ViTCBPreTrainedModel, ViTModel):
    """The bare ViT-CB: hidden states without a head. Arguments are those of `ViTModel`.

    Raises:
        ValueError: the configuration holds a value that is not allowed.
    """

    def __init__(self, config: ViTCBConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        # not ViTModel's constructor: replacing its layers afterwards would initialise them twice
        super(ViTModel, self).__init__(config)
        if config.model_type != ViTCBConfig.model_type:
            raise ValueError(
                f"ViT-CB models need a `ViTCBConfig`, got {type(config).__name__}: make one with"
                " `ViTCBConfig(**config.to_dict())`, or leave `config` out of `from_pretrained`."
            )
        # not `validate`, which refuses `output_attentions` for implementations that only warn of it in other models
        config.validate_geometry()
        self.embeddings = ViTEmbeddings(config, use_mask_token=use_mask_token)
        self.layers = nn.ModuleList(ViTCBLayer(config, index) for index in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.post_init()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        # `load_state_dict`, of this model or of one that holds it, calls this with a copy of its own: Trainer and
        # others give it the file that transformers saved, names and all
        rename_saved_layers(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | BaseModelOutputWithPooling:
        """As `ViTModel`.

        Args:
            pixel_values: [B, C, height, width].
            bool_masked_pos: [B, N - 1], True where the mask token stands for a patch.
            interpolate_pos_encoding: resample the position embeddings to the images' size.
            attention_mask: [B, N] over all tokens, class token first, 0 where a token is to be left out. A token left
                out is attended by none and takes part in no mean.

        Raises:
            ValueError: `attention_mask` has another shape, or no `pixel_values` are given.
        """
        if pixel_values is None:
            raise ValueError("You have to specify `pixel_values`, of shape (batch, channels, height, width).")
        if attention_mask is not None:
            kwargs["token_mask"] = self._token_mask(attention_mask, pixel_values)
        return super().forward(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            **kwargs,
        )

    def _token_mask(self, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        patch_height, patch_width = self.embeddings.patch_embeddings.patch_size
        num_patches = (pixel_values.shape[-2] // patch_height) * (pixel_values.shape[-1] // patch_width)
        expected = (pixel_values.shape[0], num_patches + 1)
        if tuple(attention_mask.shape) != expected:
            raise ValueError(
                f"`attention_mask` must be of shape {expected}, (batch, 1 + patches) with the class token first, got"
                f" {tuple(attention_mask.shape)}."
            )
        return attention_mask.to(device=pixel_values.device, dtype=torch.bool)


class ViTCBForImageClassification(ViTCBPreTrainedModel, ViTForImageClassification):
    """ViT-CB with a linear classifier on the class token. Arguments are those of `ViTForImageClassification`."""

    def __init__(self, config: ViTCBConfig):
        # not ViTForImageClassification's constructor: it would build a plain ViT first
        super(ViTForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.vit = ViTCBModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()


class ViTCBForMaskedImageModeling(ViTCBPreTrainedModel, ViTForMaskedImageModeling):
    """ViT-CB that reconstructs masked patches (SimMIM). Arguments are those of `ViTForMaskedImageModeling`."""

    def __init__(self, config: ViTCBConfig):
        # not ViTForMaskedImageModeling's constructor: it would build a plain ViT first
        super(ViTForMaskedImageModeling, self).__init__(config)
        self.vit = ViTCBModel(config, add_pooling_layer=False, use_mask_token=True)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.hidden_size, config.encoder_stride**2 * config.num_channels, kernel_size=1),
            nn.PixelShuffle(config.encoder_stride),
        )
        self.post_init()


class ViTCBBackbone(BackboneMixin, ViTCBPreTrainedModel):
    """ViT-CB as a backbone, after `Dinov2Backbone`: one feature map for each stage in `config.out_features`.

    The stages are `"stem"` (the embeddings) and `"stage1"` to the last layer's. Maps pass the final layer norm and
    come without the class token. Images of another size than `config.image_size` get resampled position embeddings.
    """

    def __init__(self, config: ViTCBConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        # held, not inherited: transformers renames the keys of checkpoints for a part that is called ViTCBModel
        self.vit = ViTCBModel(config, add_pooling_layer=False)
        self.post_init()

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BackboneOutput:
        """Images to feature maps.

        Args:
            pixel_values: [B, C, height, width].
            attention_mask: [B, N] as in `ViTCBModel`.

        Returns:
            `feature_maps`, each [B, D, height / patch, width / patch]; `hidden_states` and `attentions` on request.
        """
        patch_height, patch_width = self.vit.embeddings.patch_embeddings.patch_size
        batch_size, _, height, width = pixel_values.shape
        kwargs["interpolate_pos_encoding"] = (height, width) != tuple(self.vit.embeddings.image_size)
        kwargs["output_hidden_states"] = True
        output = self.vit(pixel_values, attention_mask=attention_mask, **kwargs)
        feature_maps = tuple(
            self.vit.layernorm(hidden_states)[:, 1:]
            .transpose(1, 2)
            .reshape(batch_size, -1, height // patch_height, width // patch_width)  # [B, D, height / p, width / p]
            for stage, hidden_states in zip(self.stage_names, output.hidden_states)
            if stage in self.out_features
        )
        return BackboneOutput(
            feature_maps=feature_maps, hidden_states=output.hidden_states, attentions=output.attentions
        )


ViTCBModel.register_for_auto_class("AutoModel")
ViTCBForImageClassification.register_for_auto_class("AutoModelForImageClassification")
ViTCBForMaskedImageModeling.register_for_auto_class("AutoModelForMaskedImageModeling")
ViTCBBackbone.register_for_auto_class("AutoBackbone")

__all__ = [
    "ViTCBBackbone",
    "ViTCBForImageClassification",
    "ViTCBForMaskedImageModeling",
    "ViTCBModel",
    "ViTCBPreTrainedModel",
]
