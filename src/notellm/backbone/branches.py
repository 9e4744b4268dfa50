"""Read many prompts once, then continuations of each that branch like a tree, level by level.

All continuations of a prompt are tokens of one sequence. A token attends to its prompt and to its own
ancestors, which an attention mask of shape (prompts, 1, tokens, keys) says (tree attention, SpecInfer, arXiv
2305.09781). So the keys and values of a prompt are computed once and never copied. Models that do not take
such a mask or cache (state-space layers, for instance) read every continuation as a whole sequence.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.batch import pad
from notellm.backbone.load import evaluation_mode, hidden_states
from notellm.backbone.wanted import last_layer_at

_MASKED = float("-inf")
_DEEPEST = 64  # tokens of a continuation that a sliding window leaves room for


class Branches:
    """The continuations of a batch of prompts.

    Args:
        model: a causal language model in evaluation mode.
        prompts: token ids of each prompt, none of them empty.
        tokenizer: its tokenizer, which pads.
        read_at: index of a further token of each prompt whose state is needed; None for the last one.
        whole: read every continuation as a whole sequence, see :func:`can_branch`.
        shared: number of first tokens that all prompts share, fewer than ``read_at``; they are computed once.

    Attributes:
        model: the model.
        states: (n, hidden), the last hidden state at the last token of each prompt.
        states_read: (n, hidden), the last hidden state at the tokens ``read_at``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        read_at: Sequence[int] | None = None,
        whole: bool = False,
        shared: int = 0,
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._prompts = [list(prompt) for prompt in prompts]
        self._paths: list[list[list[int]]] = []  # the tokens from the prompt to each token of the last level
        batch = pad(self._prompts, tokenizer, model.device)
        rows = torch.arange(len(self._prompts), device=model.device)
        ends = batch["position"]
        read = ends if read_at is None else torch.tensor(read_at, device=model.device)
        self._cache: DynamicCache | None = None
        # The mask of a branch knows no window, so that a layer with one would look back too far.
        window = getattr(model.config.get_text_config(), "sliding_window", None)
        if whole or (window is not None and batch["input_ids"].shape[1] + _DEEPEST > window):
            states = hidden_states(model, batch["input_ids"], batch["attention_mask"])
        else:
            self._cache = DynamicCache()
            if shared:
                first = batch["input_ids"][:1, :shared]
                model.base_model(input_ids=first, past_key_values=self._cache, use_cache=True)
                self._cache.batch_repeat_interleave(len(rows))
                read, ends = read - shared, ends - shared
            with last_layer_at(model, rows.repeat(2), torch.cat([read, ends])):
                states = model.base_model(
                    input_ids=batch["input_ids"][:, shared:],
                    attention_mask=batch["attention_mask"],
                    past_key_values=self._cache,
                    use_cache=True,
                ).last_hidden_state
        self.states: Tensor = states[rows, ends]
        self.states_read: Tensor = states[rows, read]
        self._prompt_mask = batch["attention_mask"].bool()
        self._lengths = batch["attention_mask"].sum(dim=1)
        self._level = 0
        self._ancestors = torch.zeros(len(self._prompts), 1, 0, dtype=torch.bool, device=model.device)

    def extend(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Read the next level of tokens.

        Args:
            tokens: (n, T) int64, T tokens for each prompt; fill up with any token.
            parents: (n, T) int64, the column of each token's parent in the level before; 0 in the first
                level.

        Returns:
            The last hidden state of each token, (n, T, hidden).
        """
        count, width = tokens.shape
        self._level += 1
        if self._cache is None:
            return self._whole(tokens, parents)
        own = torch.eye(width, dtype=torch.bool, device=tokens.device).expand(count, -1, -1)
        slots = self._ancestors.shape[2]
        before = self._ancestors.gather(1, parents[:, :, None].expand(-1, -1, slots))
        self._ancestors = torch.cat([before, own], dim=2)
        visible = torch.cat([self._prompt_mask[:, None].expand(-1, width, -1), self._ancestors], dim=2)
        dtype = self.states.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=tokens.device).masked_fill(~visible, _MASKED)
        positions = (self._lengths + self._level - 1)[:, None].expand(-1, width)
        output = self.model.base_model(
            input_ids=tokens,
            attention_mask=mask[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        states: Tensor = output.last_hidden_state
        return states

    def _whole(self, tokens: Tensor, parents: Tensor) -> Tensor:
        rows = zip(tokens.tolist(), parents.tolist(), strict=True)
        self._paths = [
            [
                [*(self._paths[row][parent] if self._level > 1 else ()), token]
                for token, parent in zip(row_tokens, row_parents, strict=True)
            ]
            for row, (row_tokens, row_parents) in enumerate(rows)
        ]
        states = []
        for prompt, paths in zip(self._prompts, self._paths, strict=True):
            batch = pad([prompt + path for path in paths], self._tokenizer, self.model.device)
            read = hidden_states(self.model, batch["input_ids"], batch["attention_mask"])
            states.append(read[torch.arange(len(paths), device=read.device), batch["position"]])
        return torch.stack(states)


def can_branch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a model reads branches as it reads whole sequences; tried on a few tokens."""
    prompts = [[1, 2, 3, 1], [1, 2]]
    steps = [
        (torch.tensor([[1, 2], [2, 3]]), torch.zeros(2, 2, dtype=torch.int64)),
        (torch.tensor([[3, 1, 2], [1, 1, 3]]), torch.tensor([[1, 0, 1], [0, 1, 1]])),
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            both = [
                Branches(model, prompts, tokenizer, shared=1),
                Branches(model, prompts, tokenizer, whole=True),
            ]
            for tokens, parents in steps:
                found, wanted = (
                    branches.extend(tokens.to(model.device), parents.to(model.device)) for branches in both
                )
                size = float(wanted.abs().max())
                if not torch.allclose(found, wanted, rtol=1e-2, atol=1e-2 * size):
                    return False
    except (
        AttributeError,
        IndexError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return False  # its layers take no cache, or no mask of this form
    return True
