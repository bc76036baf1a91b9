"""What is changed in vLLM's build for CPU, with what vLLM's own functions do in short. The build itself is tried by the
cells `vllm_cpu` of the matrix."""

from types import SimpleNamespace

import torch

from verl_cleaner.engine.cpu import vllm_build


def test_weights_that_vllm_packed_can_be_loaded_again():
    def dispatch_cpu_unquantized_gemm(layer, remove_weight):
        layer.packed = layer.weight.clone()
        if remove_weight:
            layer.weight = torch.empty(0)

    module = SimpleNamespace(dispatch_cpu_unquantized_gemm=dispatch_cpu_unquantized_gemm)
    vllm_build.keep_weights(module)
    layer = SimpleNamespace(weight=torch.zeros(2, 3))
    for update in (1.0, 2.0):
        layer.weight.copy_(torch.full((2, 3), update))
        module.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
        assert torch.equal(layer.packed, torch.full((2, 3), update))


def test_all_rows_of_a_scored_prompt_get_the_adapter():
    class PunicaWrapperCPU:
        _sampler_indices = torch.tensor([1, 1, 7, 7, 7, 7])
        indices_len = (4, 2, 4)

        @property
        def sampler_indices(self):
            return self._sampler_indices[: self.indices_len[1]]

        def add_lora_logits(self, y, x, weights, *, scale):
            y += scale * weights[self.sampler_indices] * x.sum(-1, keepdim=True)

    vllm_build.score_prompts_with_adapters(SimpleNamespace(PunicaWrapperCPU=PunicaWrapperCPU))
    wrapper, weights = PunicaWrapperCPU(), torch.tensor([[0.0], [3.0]])
    for rows in (2, 5, 1):
        logits = torch.ones(rows, 1)
        wrapper.add_lora_logits(logits, torch.ones(rows, 4), weights, scale=0.5)
        assert logits.flatten().tolist() == [7.0] * rows
        assert wrapper.sampler_indices.tolist() == [1, 1]
