"""The loss of BinLLM, as a plain function of tensors (arXiv 2406.03210).

L = mean over rows of BCE(label, logit("Yes") - logit("No"))
"""

from torch import Tensor
from torch.nn import functional


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of answers.

    Args:
        logits: (n,) logit of "Yes" less that of "No".
        labels: (n,) float32, 1 where the user enjoyed the note.
    """
    return functional.binary_cross_entropy_with_logits(logits, labels)
