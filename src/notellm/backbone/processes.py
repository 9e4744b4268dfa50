"""Which process of a distributed training this is, as torchrun says in the environment.

    torchrun --nproc-per-node 8 --no-python notellm train split -o model ...

Every process runs the whole job. All of them compute the same model; the main one writes it and speaks.
"""

import os


def is_main_process() -> bool:
    """Return whether this is the only process, or the one that writes results and messages."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int | None:
    """Return the number of this process on its machine, which is that of its GPU; None if there is one."""
    rank = os.environ.get("LOCAL_RANK")
    return None if rank is None else int(rank)
