"""VeRL's vLLM rollout on vLLM's build for CPU: what VeRL expects of vLLM that its code for CPU does not do.

Each function takes a module of vLLM after its import, in the process that holds vLLM's model.
"""

import copy
from typing import Any


def keep_weights(layers: Any) -> None:
    """vLLM's layers pack their weights for the CPU's kernels after loading, and drop the weights themselves. VeRL loads
    new ones into them at each update, and lets vLLM pack again.

    layers: `vllm.model_executor.layers.utils`.
    """
    stock = layers.dispatch_cpu_unquantized_gemm

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        stock(layer, remove_weight=False)

    layers.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm


def score_prompts_with_adapters(punica: Any) -> None:
    """The output layer gets one adapter for each token that is sampled. Where vLLM scores the tokens of a prompt
    (`rollback_logprobs=rescore`), it has more rows than that. VeRL's server has one adapter, which is that of all rows.

    punica: `vllm.lora.punica_wrapper.punica_cpu`.
    """
    stock = punica.PunicaWrapperCPU.add_lora_logits

    def add_lora_logits(wrapper: Any, y: Any, x: Any, *args: Any, **kwargs: Any) -> None:
        rows = x.shape[:-1].numel()
        if rows != len(wrapper.sampler_indices):
            adapter = wrapper.sampler_indices[:1]
            wrapper = copy.copy(wrapper)
            # `sampler_indices` is a view of the first by the length in the second.
            wrapper._sampler_indices, wrapper.indices_len = adapter.expand(rows), [rows] * len(wrapper.indices_len)
        stock(wrapper, y, x, *args, **kwargs)

    punica.PunicaWrapperCPU.add_lora_logits = add_lora_logits
