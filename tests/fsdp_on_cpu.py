# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
FSDP2 on CPU processes, for tests: Accelerate shards across accelerators only, while what it calls, PyTorch's
`fully_shard`, also shards across CPU processes.
"""

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


def shard_across_cpus() -> None:
    """From now on, in this process."""
    set_up_state = AcceleratorState.__init__

    def set_up_state_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        set_up_state(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = set_up_state_with_fsdp
