"""Continuations that branch are read as the whole sequences are that they spell."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from notellm.backbone.branches import Branches, can_branch
from notellm.backbone.load import hidden_states
from notellm.backbone.tiny import train_tokenizer

SIZE = 60
SHAPE: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = SHAPE | {"num_key_value_heads": 2}


def randomized(model: PreTrainedModel) -> PreTrainedModel:
    """The model with weights that are large enough for tokens to differ."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape) * 0.3)
    model.eval()
    return model


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["some text"], vocabulary=300)


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return randomized(LlamaForCausalLM(LlamaConfig(**GROUPED)))


def tree(prompts: int, levels: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens and parents of some levels of different width; parents are shared, and some have no children."""
    generator = torch.Generator().manual_seed(seed)
    steps, before = [], 1
    for level in range(levels):
        width = 2 + (level * 3) % 5
        tokens = torch.randint(3, SIZE, (prompts, width), generator=generator)
        parents = torch.randint(0, before, (prompts, width), generator=generator)
        steps.append((tokens, parents))
        before = width
    return steps


def read_whole(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """The last hidden state of a sequence that is read alone, without padding."""
    given = torch.tensor([ids])
    with torch.no_grad():
        return hidden_states(model, given, torch.ones_like(given))[0, -1]


PROMPTS = [[5], [7, 8, 9, 10, 11, 12, 13], [20, 21, 22], [31, 7] * 10]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_branch_is_read_as_its_whole_sequence(llama, tokenizer, whole, seed):
    with torch.no_grad():
        branches = Branches(llama, PROMPTS, tokenizer, whole=whole)
        paths: list[list[list[int]]] = [[[]] for _ in PROMPTS]
        for tokens, parents in tree(len(PROMPTS), 5, seed):
            states = branches.extend(tokens, parents)
            assert states.shape == (*tokens.shape, 32)
            paths = [
                [
                    [*paths[row][parent], token]
                    for token, parent in zip(tokens[row].tolist(), parents[row].tolist(), strict=True)
                ]
                for row in range(len(PROMPTS))
            ]
            for row, prompt in enumerate(PROMPTS):
                for column, path in enumerate(paths[row]):
                    torch.testing.assert_close(
                        states[row, column], read_whole(llama, prompt + path), rtol=1e-4, atol=1e-4
                    )


@pytest.mark.parametrize("whole", [False, True])
def test_the_states_of_the_prompts(llama, tokenizer, whole):
    with torch.no_grad():
        branches = Branches(llama, PROMPTS, tokenizer, whole=whole)
        for row, prompt in enumerate(PROMPTS):
            torch.testing.assert_close(branches.states[row], read_whole(llama, prompt), rtol=1e-4, atol=1e-4)
        positions = [0, 3, 1, 12]
        read = Branches(llama, PROMPTS, tokenizer, read_at=positions, whole=whole)
        torch.testing.assert_close(read.states, branches.states, rtol=1e-4, atol=1e-4)
        for row, position in enumerate(positions):
            wanted = read_whole(llama, PROMPTS[row][: position + 1])
            torch.testing.assert_close(read.states_read[row], wanted, rtol=1e-4, atol=1e-4)


def test_siblings_do_not_see_each_other(llama, tokenizer):
    """The same token twice has the same state, whatever its neighbours are."""
    with torch.no_grad():
        alone = Branches(llama, PROMPTS[:1], tokenizer).extend(torch.tensor([[9]]), torch.tensor([[0]]))
        beside = Branches(llama, PROMPTS[:1], tokenizer).extend(
            torch.tensor([[40, 9, 9, 50]]), torch.tensor([[0, 0, 0, 0]])
        )
    torch.testing.assert_close(beside[0, 1], alone[0, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(beside[0, 2], alone[0, 0], rtol=1e-5, atol=1e-5)


TRANSFORMERS: dict[str, PreTrainedModel] = {
    "llama": LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen3": Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "neox": GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)),
    "gemma3": Gemma3ForCausalLM(
        Gemma3TextConfig(
            **GROUPED, head_dim=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        )
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_can_branch(tokenizer, name):
    assert can_branch(randomized(TRANSFORMERS[name]), tokenizer)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_models_in_bfloat16_can_branch(tokenizer, name):
    kinds: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    }
    torch.manual_seed(0)
    model = kinds[name]().to(torch.bfloat16).eval()
    assert can_branch(model, tokenizer)


def test_a_state_space_model_cannot_branch_and_is_read_whole(tokenizer):
    model = MambaForCausalLM(
        MambaConfig(vocab_size=SIZE, hidden_size=16, state_size=4, num_hidden_layers=2, pad_token_id=0)
    ).eval()
    assert not can_branch(model, tokenizer)
    with torch.no_grad():
        branches = Branches(model, PROMPTS, tokenizer, whole=True)
        (tokens, parents), *_ = tree(len(PROMPTS), 1, 0)
        states = branches.extend(tokens, parents)
    wanted = read_whole(model, [*PROMPTS[1], int(tokens[1, 0])])
    torch.testing.assert_close(states[1, 0], wanted, rtol=1e-4, atol=1e-4)


def test_the_trial_leaves_the_mode_alone(llama, tokenizer):
    llama.train()
    assert can_branch(llama, tokenizer)
    assert llama.training
    llama.eval()


def test_a_window_shorter_than_the_prompts(tokenizer):
    model = randomized(MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=12)))
    whole = not can_branch(model, tokenizer)
    with torch.no_grad():
        states = Branches(model, PROMPTS, tokenizer, whole=whole).extend(*tree(len(PROMPTS), 1, 0)[0])
    tokens = tree(len(PROMPTS), 1, 0)[0][0]
    for row, prompt in enumerate(PROMPTS):
        wanted = read_whole(model, [*prompt, int(tokens[row, 0])])
        torch.testing.assert_close(states[row, 0], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shared", [1, 5])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_beginning_that_is_computed_once_changes_nothing(tokenizer, name, shared):
    model = randomized(TRANSFORMERS[name])
    prompts = [[7, 8, 9, 10, 11, *prompt] for prompt in PROMPTS]
    positions = [5 + len(prompt) // 2 for prompt in PROMPTS]
    with torch.no_grad():
        plain = Branches(model, prompts, tokenizer, read_at=positions)
        once = Branches(model, prompts, tokenizer, read_at=positions, shared=shared)
        torch.testing.assert_close(once.states, plain.states, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(once.states_read, plain.states_read, rtol=1e-4, atol=1e-4)
        for tokens, parents in tree(len(PROMPTS), 3, 1):
            found, wanted = (each.extend(tokens, parents) for each in (once, plain))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
