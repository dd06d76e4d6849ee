"""Reads any Hugging Face `config.json` of the common decoder architectures into a model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InputError, unknown_name
from .model import (
    DTYPES,
    MLP,
    QUANTIZATIONS,
    Attention,
    DenseMLP,
    Format,
    LatentAttention,
    LayerGroup,
    Mixer,
    ModelCard,
    MoE,
    StateSpace,
)
from .strict import describe

# What transformers assumes where a config.json of the family leaves the key out.
_TIED = {"tie_word_embeddings": True}
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "mixtral": {},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_moe": {},
    "phi3": {},
    "gpt_oss": {},
    "minimax_m2": {},
    "deepseek_v2": {},
    "deepseek_v3": {},
    "kimi_k2": {},
    "gemma": _TIED,
    "gemma2": _TIED,
    "gemma3_text": {**_TIED, "vocab_size": 262208, "sliding_window_pattern": 6, "max_position_embeddings": 131072},
    "opt": _TIED,
    "falcon": {**_TIED, "max_position_embeddings": 2048},
    "mamba2": {"expand": 2, "n_groups": 8, "conv_kernel": 4},
    "jamba": {},
    "bamba": {},
}


class _Keys:
    """The keys of a config.json, with errors that name the key."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of `names` that is there and not null."""
        return next((self.values[n] for n in names if self.values.get(n) is not None), default)

    def size(self, *names: str, default: int | None = None) -> int:
        """A whole number >= 1 under the first of `names`."""
        value = self.get(*names, default=default)
        if value is None:
            raise InputError(names[0], "missing", "a whole number")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(names[0], describe(value), "a whole number, at least 1")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.get(name, default=default))

    def per_layer(self, name: str, layers: int) -> list[Any] | None:
        """A list with one entry a layer, or None where the key is absent."""
        value = self.get(name)
        if value is not None and (not isinstance(value, list) or len(value) < layers):
            raise InputError(name, describe(value), f"a list of {layers} entries, one a layer")
        return value


def model_from_config(config: Mapping[str, Any], name: str) -> ModelCard:
    """The card of the model that a `config.json` describes.

    A nested `text_config` is followed (what it lacks comes from the outside). Unknown architectures and missing
    dimensions raise `InputError` with the key. Vision towers and multi-token-prediction layers are left out.
    """
    if isinstance(config.get("text_config"), Mapping):
        outside = {key: value for key, value in config.items() if key not in ("text_config", "model_type")}
        config = {**outside, **config["text_config"]}
    family = config.get("model_type")
    if family is None:
        raise InputError("model_type", "missing", "one of " + ", ".join(sorted(_FAMILIES)))
    if family not in _FAMILIES:
        raise unknown_name("model_type", "supported architecture", str(family), _FAMILIES)
    keys = _Keys({**_FAMILIES[family], **{k: v for k, v in config.items() if v is not None}})

    count = keys.size("num_hidden_layers", "n_layer")
    mixers = _LAYOUTS.get(family, _attention_layers)(keys, family, count)
    blocks = [_mlp(keys, family, layer) for layer in range(count)]
    shapes: dict[tuple[Mixer, MLP], int] = {}
    order = tuple(shapes.setdefault(shape, len(shapes)) for shape in zip(mixers, blocks, strict=True))
    groups = tuple(LayerGroup(order.count(group), *shape) for shape, group in shapes.items())

    dtype = _dtype(keys)
    linear, experts = _formats(keys, dtype)
    unlimited = family == "mamba2"
    positions = keys.size("max_position_embeddings") if not unlimited else None
    return ModelCard(
        name=name,
        hidden_size=keys.size("hidden_size"),
        vocab_size=keys.size("vocab_size"),
        max_position_embeddings=positions,
        dtype=dtype,
        tie_word_embeddings=keys.flag("tie_word_embeddings"),
        groups=groups,
        order=order,
        linear=linear,
        experts=experts,
        positions=(positions or 0) + 2 if family == "opt" else 0,  # OPT keeps two rows for padding
    )


def _attention_layers(keys: _Keys, family: str, count: int) -> list[Mixer]:
    """Layers of plain attention, with the windows the family gives them."""
    hidden, heads = keys.size("hidden_size"), keys.size("num_attention_heads", "n_head")
    if family == "falcon":
        many = heads if not keys.flag("multi_query", True) else 1
        kv_heads = keys.size("num_kv_heads", default=heads) if keys.flag("new_decoder_architecture") else many
        bias = output_bias = keys.flag("bias")
    else:
        kv_heads = keys.size("num_key_value_heads", default=heads)
        bias = keys.flag("attention_bias") or family in ("qwen2", "qwen2_moe") or _opt_bias(keys, family)
        output_bias = keys.flag("attention_bias") or _opt_bias(keys, family)
    head_dim = keys.get("head_dim")
    if head_dim is None and hidden % heads:
        found = f"missing, and hidden_size {hidden} is no multiple of {heads} heads"
        raise InputError("head_dim", found, "a whole number")
    head_dim = keys.size("head_dim", default=hidden // heads)
    if heads % kv_heads:
        raise InputError("num_key_value_heads", describe(kv_heads), f"a divisor of the {heads} attention heads")
    normed = family in ("qwen3", "qwen3_moe")
    return [
        Attention(heads, kv_heads, head_dim, window, bias, output_bias, normed)
        for window in _windows(keys, family, count)
    ]


def _windows(keys: _Keys, family: str, count: int) -> list[int | None]:
    """Of each layer, how many tokens a token sees (None: all), by the rule of its family."""
    if keys.get("sliding_window") is None or not keys.flag("use_sliding_window", not family.startswith("qwen")):
        return [None] * count
    window = keys.size("sliding_window")
    kinds = keys.per_layer("layer_types", count)
    if kinds is not None:
        sizes = {"full_attention": None, "sliding_attention": window}
        for layer, kind in enumerate(kinds[:count]):
            if kind not in sizes:
                raise unknown_name(f"layer_types[{layer}]", "supported layer type", str(kind), sizes)
        return [sizes[kind] for kind in kinds[:count]]
    if family in ("mistral", "mixtral", "phi3"):
        return [window] * count
    if family in ("gemma2", "gpt_oss"):
        return [window if layer % 2 == 0 else None for layer in range(count)]
    if family == "gemma3_text":
        every = keys.size("sliding_window_pattern")
        return [window if (layer + 1) % every else None for layer in range(count)]
    if family in ("qwen2", "qwen3"):
        first = keys.get("max_window_layers", default=count)
        return [window if layer >= first else None for layer in range(count)]
    return [None] * count


def _latent_layers(keys: _Keys, family: str, count: int) -> list[Mixer]:
    rank = keys.get("q_lora_rank")
    mixer = LatentAttention(
        heads=keys.size("num_attention_heads"),
        kv_lora_rank=keys.size("kv_lora_rank"),
        qk_nope_head_dim=keys.size("qk_nope_head_dim"),
        qk_rope_head_dim=keys.size("qk_rope_head_dim"),
        v_head_dim=keys.size("v_head_dim"),
        q_lora_rank=None if rank is None else keys.size("q_lora_rank"),
    )
    return [mixer] * count


def _mamba2_layers(keys: _Keys, family: str, count: int) -> list[Mixer]:
    """Mamba-2: the keys carry the prefix `mamba_` in hybrids."""
    hidden = keys.size("hidden_size")
    inner = keys.size("mamba_expand", "expand", default=2) * hidden
    heads, groups = keys.size("mamba_n_heads", "num_heads"), keys.size("mamba_n_groups", "n_groups")
    state = keys.size("mamba_d_state", "state_size")
    channels = inner + 2 * groups * state
    kernel = keys.size("mamba_d_conv", "conv_kernel")
    return [StateSpace(inner, state, channels, kernel, projection=inner + channels + heads)] * count


def _hybrid_layers(keys: _Keys, family: str, count: int) -> list[Mixer]:
    """Mamba layers with attention between: by list, by indices (Bamba) or by period (Jamba)."""
    kinds = keys.per_layer("layers_block_type", count)
    if kinds is not None:
        attention = {layer for layer, kind in enumerate(kinds[:count]) if kind == "attention"}
    elif family == "bamba":
        attention = set(keys.get("attn_layer_indices", default=()))
    else:
        period, offset = keys.size("attn_layer_period"), keys.get("attn_layer_offset", default=0)
        attention = {layer for layer in range(count) if layer % period == offset}
    state = _mamba2_layers(keys, family, 1)[0] if family == "bamba" else _mamba1(keys)
    full = _attention_layers(keys, family, 1)[0]
    return [full if layer in attention else state for layer in range(count)]


def _mamba1(keys: _Keys) -> StateSpace:
    inner = keys.size("mamba_expand", default=2) * keys.size("hidden_size")
    state, kernel, rank = (keys.size(f"mamba_{key}") for key in ("d_state", "d_conv", "dt_rank"))
    return StateSpace(inner, state, inner, kernel, projection=2 * inner, dt_rank=rank)


_LAYOUTS: dict[str, Callable[[_Keys, str, int], list[Mixer]]] = {
    "deepseek_v2": _latent_layers,
    "deepseek_v3": _latent_layers,
    "kimi_k2": _latent_layers,
    "mamba2": _mamba2_layers,
    "jamba": _hybrid_layers,
    "bamba": _hybrid_layers,
}


def _mlp(keys: _Keys, family: str, layer: int) -> MLP:
    """The feed-forward block of one layer."""
    if family == "mamba2":
        return None
    experts = keys.get("num_local_experts", "num_experts", "n_routed_experts")
    if experts is None or not _sparse(keys, family, layer):
        if family == "falcon":
            wide = keys.size("ffn_hidden_size", default=4 * keys.size("hidden_size"))
            return DenseMLP(wide, gated=False, bias=keys.flag("bias"))
        if family == "opt":
            return DenseMLP(keys.size("ffn_dim"), gated=False, bias=_opt_bias(keys, family))
        return DenseMLP(keys.size("intermediate_size"), bias=keys.flag("mlp_bias"))
    intermediate = keys.size("moe_intermediate_size", "intermediate_size")
    shared = keys.get("n_shared_experts", default=0) * intermediate
    return MoE(
        experts=keys.size("num_local_experts", "num_experts", "n_routed_experts"),
        top_k=keys.size("num_experts_per_tok", "experts_per_token"),
        intermediate=intermediate,
        shared_intermediate=keys.get("shared_expert_intermediate_size", default=shared),
        bias=family == "gpt_oss",
    )


def _sparse(keys: _Keys, family: str, layer: int) -> bool:
    """Whether a layer of a mixture-of-experts model has experts."""
    if family in ("qwen2_moe", "qwen3_moe"):
        step = keys.size("decoder_sparse_step", default=1)
        return layer not in keys.get("mlp_only_layers", default=()) and (layer + 1) % step == 0
    if family in ("deepseek_v2", "deepseek_v3", "kimi_k2"):
        every = keys.size("moe_layer_freq", default=1)
        return layer >= int(keys.get("first_k_dense_replace", default=0)) and layer % every == 0
    if family == "jamba":
        offset = int(keys.get("expert_layer_offset", default=1))
        return layer % keys.size("expert_layer_period", default=2) == offset
    return True


def _opt_bias(keys: _Keys, family: str) -> bool:
    return family == "opt" and keys.flag("enable_bias", True)


def _dtype(keys: _Keys) -> str:
    """Where nothing or float32 is given, engines serve float16 (vLLM's `--dtype auto`)."""
    name = str(keys.get("dtype", "torch_dtype", default="float16")).removeprefix("torch.")
    if name not in DTYPES:
        raise unknown_name("torch_dtype", "supported number type", name, DTYPES)
    return "float16" if name == "float32" else name


def _formats(keys: _Keys, dtype: str) -> tuple[Format, Format]:
    """Storage of the plain matrices and of the experts, from `quantization_config`."""
    plain = DTYPES[dtype]
    given = keys.get("quantization_config")
    if not isinstance(given, Mapping):
        return plain, plain
    where = "quantization_config."
    method = str(given.get("quant_method", ""))
    if method == "compressed-tensors":
        stored = _compressed_tensors(given, plain, where)
    elif method == "modelopt":
        algorithm = str(given.get("quant_algo", "")).lower()
        if algorithm not in ("fp8", "nvfp4"):
            raise InputError(f"{where}quant_algo", describe(given.get("quant_algo")), "FP8 or NVFP4")
        stored = _format(algorithm, plain)
    elif method in ("awq", "gptq"):
        group = int(given.get("group_size", 128))
        bits = int(given.get("bits", given.get("w_bit", 4)))
        stored = Format(bits + ((16 + bits) / group if group > 0 else 0), plain.compute)
    elif method in QUANTIZATIONS:
        stored = _format(method, plain)
    else:
        known = [*QUANTIZATIONS, "compressed-tensors", "modelopt"]
        raise unknown_name(f"{where}quant_method", "supported weight format", method, known)
    untouched = given.get("modules_to_not_convert") or given.get("ignore") or ()
    return plain if any("self_attn" in str(module) for module in untouched) else stored, stored


def _format(name: str, plain: Format) -> Format:
    bits, compute = QUANTIZATIONS[name]
    return Format(bits, compute or plain.compute)


def _compressed_tensors(given: Mapping[str, Any], plain: Format, where: str) -> Format:
    groups = given.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping) or not isinstance(weights.get("num_bits"), int):
        raise InputError(f"{where}config_groups", describe(groups), "a group with weights.num_bits")
    bits, group = weights["num_bits"], weights.get("group_size") or 0
    scales = 16 / group if group > 0 else 0
    activations = isinstance(first, Mapping) and first.get("input_activations")
    kind = "fp" if weights.get("type") == "float" else "int"
    return Format(bits + scales, f"{kind}{bits}" if activations else plain.compute)
