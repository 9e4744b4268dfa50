"""Load and save causal language models, compute their hidden states and logits, add and merge LoRA adapters.

Only the package ``backbone`` depends on the internals of transformers: which module computes hidden states,
how logits are computed from them, and how adapters are added and merged.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from notellm.backbone.gguf import gguf_file, gguf_message, gguf_model
from notellm.backbone.processes import local_rank
from notellm.backbone.source import asks_for_code, check_folder, code_message, first_line, local_folder
from notellm.backbone.tokenizer import load_tokenizer
from notellm.errors import ConfigError, MissingDependencyError, ModelError, NotellmError

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class LoraOptions:
    """Options of low-rank adapters (peft); the defaults are those of arXiv 2406.03210.

    Attributes:
        rank: rank of each adapter.
        alpha: the adapter's output is multiplied by alpha / rank.
        dropout: share of the adapter's inputs that is dropped in training.
        targets: names of the linear layers that get an adapter; None takes peft's choice for the
            architecture.
        last_layers: only the last layers, that many, get adapters; None puts them into all.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    targets: Sequence[str] | None = None
    last_layers: int | None = None


def load_backbone(
    name_or_path: str | Path,
    *new_tokens: str,
    dtype: torch.dtype | str = torch.float32,
    trust_remote_code: bool = False,
    saved: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its hardened tokenizer.

    The embedding matrix grows if new tokens need more rows. Weights are only read from safetensors, or from a
    GGUF file, whose quantized weights are unpacked. The model's ``generation_config.json`` is ignored, since
    it would change how texts are generated.

    Args:
        name_or_path: a folder, a GGUF file or a folder with one and no safetensors, or a name on the hub
            (``owner/name``). A name that looks like a path is never looked up on the hub.
        new_tokens: special tokens, added where they are missing.
        dtype: dtype of the weights; "auto" keeps the one they were saved in.
        trust_remote_code: allow the model to be Python code that comes with it; that code then runs.
        saved: whether notellm saved the folder. Then no file outside the folder is read, and weights without
            a place in the model are an error.

    Returns:
        The model in evaluation mode, and the tokenizer.

    Raises:
        ModelError: if there is no causal language model or no usable tokenizer, a file is missing or damaged,
            or the model needs something that is not allowed (see :mod:`notellm.backbone.source`).
        MissingDependencyError: if it is a GGUF file and the package gguf is not installed.
    """
    file = None if saved else gguf_file(name_or_path)
    folder = local_folder(name_or_path, trust_remote_code=trust_remote_code) if file is None else file
    try:
        if file is not None:
            tokenizer = load_tokenizer(file, *new_tokens)
            model, loading = gguf_model(file, dtype=dtype, generation_config=own_decoding(tokenizer))
        else:
            check_folder(folder, trust_remote_code=trust_remote_code)
            tokenizer = load_tokenizer(folder, *new_tokens, trust_remote_code=trust_remote_code)
            model, loading = _load_model(
                folder, tokenizer, dtype=dtype, trust_remote_code=trust_remote_code, saved=saved
            )
        _check_loading(folder, loading, saved=saved)
        embedding = cast("nn.Embedding", model.get_input_embeddings())
        if len(tokenizer) > embedding.num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        check_label_logits(model)
    except NotellmError:
        raise
    except Exception as error:  # a damaged model fails in many ways, in transformers and in its layers
        if file is not None:
            raise ModelError(gguf_message(file, error)) from error
        if not trust_remote_code and asks_for_code(folder, "config.json"):
            raise ModelError(code_message(folder, "config.json")) from error
        raise ModelError(
            f"no causal language model at {name_or_path}: {first_line(error)} "
            "(give a local model directory, or a hub name with a network connection)"
        ) from error
    return model, tokenizer


def _load_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype | str,
    trust_remote_code: bool,
    saved: bool,
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Return the model of a checked folder, and what transformers says about loading it."""
    # Trusted code may come from another repository, except for a model that notellm saved.
    source = {"trust_remote_code": trust_remote_code, "local_files_only": saved or not trust_remote_code}
    config = AutoConfig.from_pretrained(str(folder), **source)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(folder),
        config=config,
        dtype=dtype,
        use_safetensors=True,
        generation_config=own_decoding(tokenizer),
        output_loading_info=True,
        **source,
    )
    return cast("PreTrainedModel", loaded[0]), loaded[1]


def own_decoding(tokenizer: PreTrainedTokenizerBase, **options: Any) -> GenerationConfig:
    """Return the generation settings of notellm: greedy decoding, independent of the backbone's settings.

    Args:
        tokenizer: the tokenizer, for the ids of its [BOS], [EOS] and padding tokens.
        options: further fields of transformers' ``GenerationConfig``.
    """
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **options,
    )


def _check_loading(folder: Path, loading: Mapping[str, Any], *, saved: bool) -> None:
    """Refuse a model with missing weights, which transformers would fill with random numbers.

    Raises:
        ModelError: if a weight is missing, or a saved model has weights without a place in its configuration.
    """
    if missing := sorted(map(str, loading["missing_keys"])):
        raise ModelError(
            f"{folder} is not a complete causal language model: its weights lack {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; copy or download it again"
        )
    if saved and (unexpected := sorted(map(str, loading["unexpected_keys"]))):
        raise ModelError(
            f"the weights and the config.json of {folder} do not belong together: there is no place for "
            f"{unexpected[0]}; copy the model again"
        )


def to_accelerator(module: _Module) -> _Module:
    """Move a module to the accelerator, if there is one; in distributed training to that of this process."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return module
    rank = local_rank()
    if rank is not None:  # a process may see fewer devices than there are processes, as accelerate allows
        device = torch.device(device.type, rank % torch.accelerator.device_count())
    return module.to(device)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation mode (no dropout), and back afterwards if it was in training mode."""
    training = module.training
    if training:  # switching visits every layer, which takes as long as a short prompt
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()


def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the last hidden states after the final norm, (batch, length, hidden); computes no logits."""
    output = model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


def label_logits(model: PreTrainedModel, states: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Return the logits, (n, vocabulary), of hidden states, (n, hidden), exactly as the model computes them.

    Some architectures scale or cap the product with their output embedding. Three ways are known here;
    :func:`check_label_logits` refuses a model that does something else.

    Args:
        model: the model.
        states: (n, hidden).
        tokens: (t,) int64, the tokens whose logits are returned, (n, t); None returns all.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if tokens is not None and type(head) is nn.Linear:
        bias = None if head.bias is None else head.bias[tokens]
        logits: Tensor = nn.functional.linear(states, head.weight[tokens], bias)
    else:  # a head with an adapter, for instance, is called as a whole
        logits = head(states) if tokens is None else head(states)[:, tokens]
    config = model.config.get_text_config()
    if getattr(config, "logit_scale", None) is not None:  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) is not None:  # Granite
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def check_label_logits(model: PreTrainedModel) -> None:
    """Compare :func:`label_logits` with the model's own logits on two tokens.

    Raises:
        ModelError: if they differ; then :func:`label_logits` does not know the architecture.
    """
    ids = torch.tensor([[1, 2]], device=model.device)
    mask = torch.ones_like(ids)
    with evaluation_mode(model), torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].float()
        computed = label_logits(model, hidden_states(model, ids, mask)[0]).float()
    if not torch.allclose(wanted, computed, rtol=1e-2, atol=1e-2 * float(wanted.abs().max().clamp(min=1.0))):
        raise ModelError(
            f"{type(model).__name__} treats its logits in a way that notellm does not know; "
            "choose another backbone"
        )


def add_lora(model: PreTrainedModel, options: LoraOptions) -> Any:
    """Add trainable low-rank adapters to a model and freeze everything else.

    Returns:
        peft's ``PeftModel``; its ``get_base_model()`` is ``model``, which holds the adapters.

    Raises:
        MissingDependencyError: if peft is not installed.
        ConfigError: if a target does not exist in this architecture.
    """
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise MissingDependencyError("LoRA needs peft: pip install 'notellm[lora]'") from error
    total = model.config.get_text_config().num_hidden_layers
    first = 0 if options.last_layers is None else max(0, total - options.last_layers)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.targets) if options.targets is not None else None,
        layers_to_transform=list(range(first, total)) if first else None,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        names = sorted(
            {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        )
        raise ConfigError(
            f"LoRA targets {options.targets} do not fit this backbone; its linear layers are "
            f"{', '.join(names)}"
        ) from error


def merged_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights of a model by name, with LoRA adapters merged into them.

    The model itself does not change: its adapters stay separate.
    """
    state: dict[str, Tensor] = model.state_dict()
    adapters = {name: part for name, part in model.named_modules() if hasattr(part, "get_delta_weight")}
    if adapters:
        for name, part in adapters.items():
            delta = sum(part.get_delta_weight(adapter) for adapter in part.active_adapters)
            state[f"{name}.base_layer.weight"] = part.base_layer.weight.detach() + delta
        state = {
            name.replace(".base_layer.", "."): weight
            for name, weight in state.items()
            if ".lora_" not in name
        }
    return state


def save_backbone(model: PreTrainedModel, folder: Path) -> torch.dtype:
    """Save a causal language model in the format of transformers, with LoRA adapters merged into the weights.

    Returns:
        A dtype that holds all saved weights exactly.
    """
    state = merged_state(model)
    model.save_pretrained(folder, state_dict=state)
    dtypes = {weight.dtype for weight in state.values() if weight.is_floating_point()}
    if len(dtypes) == 1:
        return dtypes.pop()
    return torch.float64 if torch.float64 in dtypes else torch.float32
