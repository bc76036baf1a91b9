"""Prompt lengths in tokens, for many prompts: rendered in batches, tokenized only where that could matter."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

TOOL_CONFIG = Path(__file__).parents[1] / "conf" / "code_interpreter.yaml"
"""Our tools, as VeRL's `multi_turn.tool_config_path` names them."""


def tool_schemas(path: Path = TOOL_CONFIG) -> list[dict[str, Any]]:
    """The tools of a configuration, as prompts show them."""
    import yaml

    return [tool["tool_schema"] for tool in yaml.safe_load(path.read_text())["tools"]]


def prompt_lengths(
    tokenizer: Any, prompts: Any, *, tools: Any = None, exact_above: int = 0, batch: int = 512, **template: Any
) -> list[int]:
    """Tokens of each prompt in the chat template, with the tools' schemas.

    Texts of at most `exact_above` bytes are not tokenized but count with their bytes: a token is at least one of them.
    """
    template = {key: template[key] for key in template.keys() - {"tokenize", "return_dict", "return_tensors"}}
    lengths: list[int] = []
    for start in tqdm(range(0, len(prompts), batch), "prompt lengths", unit_scale=batch, unit="row", mininterval=2):
        texts = tokenizer.apply_chat_template(
            list(prompts[start : start + batch]), tools=tools, add_generation_prompt=True, tokenize=False, **template
        )
        counts = [len(text.encode()) for text in texts]
        long = [index for index, count in enumerate(counts) if count > exact_above]
        if long:
            ids = tokenizer([texts[index] for index in long], add_special_tokens=False)["input_ids"]
            for index, tokens in zip(long, ids, strict=True):
                counts[index] = len(tokens)
        lengths += counts
    return lengths
