"""Tool formats: how a policy writes calls, one module a format; docs/formats.md lists the spellings.

To add a format, write a module with a `ToolFormat`, name it here, and add its table of spellings to the tests.
"""

from verl_cleaner.formats.base import ToolFormat
from verl_cleaner.formats.gpt_oss import GptOss
from verl_cleaner.formats.hermes import Hermes
from verl_cleaner.formats.llama3_json import Llama3Json
from verl_cleaner.formats.qwen3_coder import Qwen3Coder

FORMATS: dict[str, ToolFormat] = {
    tool_format.name: tool_format for tool_format in (Hermes(), Qwen3Coder(), GptOss(), Llama3Json())
}
"""Per `multi_turn.format`."""
