"""Loading a causal language model from the Hugging Face ecosystem, and what recall and rank need of it.

Only this package knows about transformers' internals: which part of a model computes hidden states,
how logits come out of them, how LoRA is put in and merged.
"""

import os
from collections.abc import Mapping, Sequence
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

from notellm.backbone.source import asks_for_code, check_folder, code_message, first_line, local_folder
from notellm.backbone.tokenizer import load_tokenizer
from notellm.errors import ConfigError, MissingDependencyError, ModelError, NotellmError

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters (peft). The defaults are BinLLM's: rank 8, alpha 16, dropout 0.05.

    Attributes:
        targets: names of the linear layers to adapt; None is what peft knows for the architecture.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    targets: Sequence[str] | None = None


def load_backbone(
    name_or_path: str | Path,
    *new_tokens: str,
    dtype: torch.dtype | str = torch.float32,
    trust_remote_code: bool = False,
    saved: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its hardened tokenizer, by hub name or local path.

    The embedding matrix grows where new tokens need it. Only safetensors are opened, and the model's
    ``generation_config.json`` is not: notellm decodes in its own way.

    Args:
        name_or_path: a folder, or a name on the hub (``owner/name``). What looks like a path is only looked
            for on this machine.
        new_tokens: special tokens to add where they are missing.
        dtype: of the weights; "auto" is the one they were saved in.
        trust_remote_code: allow the model to be Python code that comes with it; that code then runs.
        saved: the folder is one that notellm saved. Then nothing but the folder is read, and weights that the
            model has no place for are an error, too.

    Raises:
        ModelError: there is no causal language model or no usable tokenizer, a file is missing or damaged, or
            the model asks for something that is not allowed (see :mod:`notellm.backbone.source`).
    """
    folder = local_folder(name_or_path, trust_remote_code=trust_remote_code)
    try:
        check_folder(folder, trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(folder, *new_tokens, trust_remote_code=trust_remote_code)
        # Trusted code may lie in another repository, but never that of a saved model.
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
        model, loading = cast("PreTrainedModel", loaded[0]), loaded[1]
        _check_loading(folder, loading, saved=saved)
        embedding = cast("nn.Embedding", model.get_input_embeddings())
        if len(tokenizer) > embedding.num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        check_label_logits(model)
    except NotellmError:
        raise
    except Exception as error:  # a damaged model fails in many ways, in transformers and in its own layers
        if not trust_remote_code and asks_for_code(folder, "config.json"):
            raise ModelError(code_message(folder, "config.json")) from error
        raise ModelError(
            f"no causal language model at {name_or_path}: {first_line(error)} "
            "(give a local model directory, or a hub name with a network connection)"
        ) from error
    return model, tokenizer


def own_decoding(tokenizer: PreTrainedTokenizerBase, **options: Any) -> GenerationConfig:
    """How notellm decodes: greedily, whatever the backbone's own settings are.

    Args:
        tokenizer: names the tokens that begin, end and fill up a sequence.
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
    """Refuse a model part of which is not in its files: transformers fills it with random numbers.

    Raises:
        ModelError: a weight is missing, or a saved model has weights that its configuration has no place for.
    """
    if missing := sorted(map(str, loading["missing_keys"])):
        raise ModelError(
            f"{folder} is no whole causal language model: its weights lack {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; copy or download it again"
        )
    if saved and (unexpected := sorted(map(str, loading["unexpected_keys"]))):
        raise ModelError(
            f"the weights and the config.json of {folder} do not belong together: there is no place for "
            f"{unexpected[0]}; copy the model again"
        )


def to_accelerator(module: _Module) -> _Module:
    """The module where it computes fastest: on the accelerator of this process, if there is one.

    One of several processes of a training (``LOCAL_RANK`` is set) leaves it to the trainer to place it.
    """
    device = torch.accelerator.current_accelerator(check_available=True)
    return module if device is None or "LOCAL_RANK" in os.environ else module.to(device)


def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states after the final norm, (batch, length, hidden); no logits are computed."""
    output = model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


def label_logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Logits, (n, vocabulary), of chosen hidden states, (n, hidden), exactly as the model's own head.

    Some architectures scale or cap what their output embedding gives; the known three ways are applied
    here, and :func:`check_label_logits` refuses a model that does something else.
    """
    logits: Tensor = model.get_output_embeddings()(states)  # type: ignore[no-untyped-call]
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
    """Make sure that :func:`label_logits` is the model's own head, on two tokens.

    Raises:
        ModelError: it is not; the architecture needs a line in :func:`label_logits`.
    """
    ids = torch.tensor([[1, 2]], device=model.device)
    mask = torch.ones_like(ids)
    training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        full = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].float()
        ours = label_logits(model, hidden_states(model, ids, mask)[0]).float()
    model.train(training)
    if not torch.allclose(full, ours, rtol=1e-2, atol=1e-2 * float(full.abs().max().clamp(min=1.0))):
        raise ModelError(
            f"{type(model).__name__} treats its logits in a way notellm does not know; "
            "choose another backbone"
        )


def add_lora(model: PreTrainedModel, options: LoraOptions) -> Any:
    """Wrap a model with trainable low-rank adapters; everything else is frozen.

    Returns:
        peft's ``PeftModel``; its ``get_base_model()`` is ``model`` with the adapters inside.

    Raises:
        MissingDependencyError: peft is not installed.
        ConfigError: a target does not exist in this architecture.
    """
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise MissingDependencyError("LoRA needs peft: pip install 'notellm[lora]'") from error
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.targets) if options.targets is not None else None,
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
    """The weights of a model by name, as if LoRA adapters had been merged into them.

    The model in memory stays as it is, adapters apart.
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
    """Save a causal language model as transformers would; LoRA adapters are merged into the weights.

    Returns:
        The type that holds all of the saved weights exactly.
    """
    state = merged_state(model)
    model.save_pretrained(folder, state_dict=state)
    kinds = {weight.dtype for weight in state.values() if weight.is_floating_point()}
    if len(kinds) == 1:
        return kinds.pop()
    return torch.float64 if torch.float64 in kinds else torch.float32
