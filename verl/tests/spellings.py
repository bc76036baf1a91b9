"""How models write tool calls, a table a format, and how each spelling is to be read; docs/formats.md shows the tables.

The loop's tests, the rewards' tests and the documentation read the same rows. Every row is one assistant turn without
its end token. After a change, `python verl/tests/spellings.py` writes the tables into docs/formats.md.
"""

# ruff: noqa: E501  a row of a table is one line

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

CODE = "print(6 * 7)"
TOOL = "code_interpreter"


class Stock(StrEnum):
    """What VeRL 0.9.1 makes of it."""

    SAME = "the same"
    DROPS = "drops it"
    CUTS = "runs a part"
    LENIENT = "runs it"
    ERROR = "error in the tool"
    NONE = "has no parser"


@dataclass(frozen=True)
class Row:
    """turn: as the model writes it, special tokens included. codes: of the calls that run, in order. problems: a part
    of what is said about each broken call, in order. words: what rewards see, without the messages' structure; None:
    the whole turn. name: of the calls that run. stock: VeRL's reading."""

    what: str
    turn: str
    codes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    words: str | None = ""
    name: str = TOOL
    stock: Stock = Stock.SAME

    @property
    def reading(self) -> str:
        if self.codes and self.problems:
            return "runs, and a broken call"
        return "runs" if self.codes else "broken" if self.problems else "prose"


def runs(what, turn, *codes, words="", stock=Stock.SAME, name=TOOL):
    return Row(what, turn, codes or (CODE,), (), words, name, stock)


def broken(what, turn, *problems, words="", stock=Stock.DROPS, codes=()):
    return Row(what, turn, codes, problems, words, TOOL, stock)


def prose(what, turn, stock=Stock.SAME, words=None):
    return Row(what, turn, (), (), words, TOOL, stock)


# ---- hermes --------------------------------------------------------------------------------------------------------


def hermes(code, name=TOOL, key="arguments"):
    """As Qwen's chat template writes a call."""
    return "<tool_call>\n" + json.dumps({"name": name, key: {"code": code}}, ensure_ascii=False) + "\n</tool_call>"


H = hermes(CODE)
H_JSON = H.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
HERMES = [
    runs("the chat template's spelling", H),
    runs("on one line", f"<tool_call>{H_JSON}</tool_call>"),
    runs("behind thoughts", f"<think>\nwhy\n</think>\n\n{H}", words="<think>\nwhy\n</think>\n\n"),
    runs("in the middle of a line", f"I compute: {H}", words="I compute: "),
    runs("with words behind it", f"{H}\nLet us see.", words="\nLet us see."),
    runs("two calls", f"{H}\n{hermes('1')}", CODE, "1", words="\n"),
    runs(
        "keys in another order", f'<tool_call>\n{{"arguments": {{"code": "{CODE}"}}, "name": "{TOOL}"}}\n</tool_call>'
    ),
    runs("pretty-printed", "<tool_call>\n" + json.dumps(json.loads(H_JSON), indent=2) + "\n</tool_call>"),
    runs("a key more", H.replace('{"name"', '{"id": 7, "name"')),
    runs("`</tool_call>` in the code", hermes('print("</tool_call>")'), 'print("</tool_call>")', stock=Stock.DROPS),
    runs("both tags in the code", hermes(f"x = '''{H}'''"), f"x = '''{H}'''", stock=Stock.DROPS),
    runs("escapes and other scripts", hermes("print('日本\\n\\té')"), "print('日本\\n\\té')"),
    runs("of an unknown tool", hermes(CODE, name="search"), name="search"),
    broken("no closing tag", H.removesuffix("\n</tool_call>"), "</tool_call> is missing"),
    broken("no closing tag, another call", f"<tool_call>\n{H_JSON}\n{H}", "</tool_call> is missing", codes=(CODE,)),
    broken("cut off in the code", H[:70], "not valid JSON: Unterminated string"),
    broken("a brace too few", H.replace("}}", "}"), "not valid JSON: Expecting ',' delimiter"),
    broken("a brace too many", H.replace("}}", "}}}"), "not valid JSON: unexpected '}' after the object"),
    broken("a line break in a string", H.replace("print", "\n"), r"write a line break in a string as \n"),
    broken("a backslash in a string", H.replace("print", r"\d"), r"write a backslash in a string as \\"),
    broken("a Python dictionary", H.replace('"', "'"), "Expecting property name enclosed in double quotes"),
    broken("two objects in one tag", H.replace("\n</", f"\n{H_JSON}\n</"), "unexpected"),
    broken("a list", f"<tool_call>\n[{H_JSON}]\n</tool_call>", "got a list"),
    broken("no name", '<tool_call>\n{"arguments": {"code": "1"}}\n</tool_call>', 'expected {"name": ...'),
    broken("`parameters` for `arguments`", hermes(CODE, key="parameters"), 'got an object with "name", "parameters"'),
    broken(
        "arguments as text",
        H.replace('{"code"', '"code"').replace("}}", "}").replace(f': "{CODE}"', ""),
        "must be an object",
        stock=Stock.ERROR,
    ),
    broken(
        "a key twice", H.replace('{"code"', '{"code": "1", "code"'), 'the key "code" is given twice', stock=Stock.CUTS
    ),
    broken("in a code fence", f"<tool_call>\n```json\n{H_JSON}\n```\n</tool_call>", "got '```json"),
    broken("as a function call", f"<tool_call>\n{TOOL}({CODE!r})\n</tool_call>", f'got "{TOOL}('),
    broken(
        "in the tags of qwen3_coder",
        f"<tool_call>\n<function={TOOL}>\n</function>\n</tool_call>",
        f"got '<function={TOOL}>",
    ),
    broken("nothing in the tags", "Now.\n<tool_call>\n</tool_call>", "got ''", words="Now.\n"),
    broken("no opening tag", f"Now.\n{H_JSON}\n</tool_call>", "<tool_call> is missing", words="Now.\n"),
    broken("no tag at all", f"Now.\n{H_JSON}", "<tool_call> and </tool_call> are missing", words=f"Now.\n{H_JSON}"),
    prose("no call", "The answer is \\boxed{42}."),
    prose("a tag in a sentence", "No further <tool_call> is needed. The answer is \\boxed{42}."),
    prose("a tool response's tag in a sentence", "The <tool_response> says \\boxed{42}."),
    prose("both tags in a sentence", "I write <tool_call> and </tool_call> around it: \\boxed{42}.", stock=Stock.SAME),
    prose("a tag in a program's string", 'So:\n```python\nprint("<tool_call>")\n```'),
    prose("a tag in a program's pattern", 'So:\n```python\nre.findall(r"<tool_call>(.*?)</tool_call>", s)\n```'),
    prose("a tag before an f-string's field", "```python\ns = f'<tool_call>{json.dumps(x)}</tool_call>'\n```"),
    prose("a broken call in quotes", 'I wrote \'<tool_call>{"name": "f"\' before.'),
    prose("a tag in backticks", "The tag `<tool_call>` with `{}` in it."),
    prose(
        "the instructions repeated",
        '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    ),
    prose("an object that is no call", 'So {"name": "Ann", "age": 3}.'),
]

# ---- qwen3_coder ---------------------------------------------------------------------------------------------------


def qwen3_coder(code, name=TOOL):
    """As Qwen3-Coder's chat template writes a call."""
    return f"<tool_call>\n<function={name}>\n<parameter=code>\n{code}\n</parameter>\n</function>\n</tool_call>"


Q = qwen3_coder(CODE)
Q_BODY = Q.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
QWEN3_CODER = [
    runs("the chat template's spelling", Q),
    runs("on one line", Q.replace("\n", "")),
    runs("behind words", f"I compute.\n\n{Q}", words="I compute.\n\n"),
    runs("with words behind it", f"{Q}\nLet us see.", words="\nLet us see."),
    runs("two calls", f"{Q}\n{qwen3_coder('1')}", CODE, "1", words="\n"),
    runs("several lines", qwen3_coder("if a:\n    b()\n\nc()"), "if a:\n    b()\n\nc()"),
    runs("blank lines at the ends of the value", qwen3_coder("\n1\n"), "\n1\n"),
    runs("no `</parameter>`", Q.replace("</parameter>\n", "")),
    runs("no `</function>`", Q.replace("</function>\n", "")),
    runs("no `</tool_call>` at the end", Q.removesuffix("\n</tool_call>")),
    runs("`</parameter>` in the code", qwen3_coder('print("</parameter>")'), 'print("</parameter>")', stock=Stock.CUTS),
    runs("`</function>` in the code", qwen3_coder('print("</function>")'), 'print("</function>")', stock=Stock.CUTS),
    runs("`</tool_call>` in the code", qwen3_coder('print("</tool_call>")'), 'print("</tool_call>")', stock=Stock.CUTS),
    runs("`<tool_call>` in the code", qwen3_coder('print("<tool_call>")'), 'print("<tool_call>")'),
    runs("`<parameter=` in the code", qwen3_coder('print("<parameter=x>")'), 'print("<parameter=x>")'),
    runs("hermes in the code", qwen3_coder(f"x = {H_JSON!r}"), f"x = {H_JSON!r}"),
    runs("of an unknown tool", qwen3_coder(CODE, name="search"), name="search"),
    broken("cut off in the code", Q[:60], "</parameter> is missing", stock=Stock.CUTS),
    broken("cut off behind the value", Q[: Q.index("</function>")], "</parameter> is missing", stock=Stock.LENIENT),
    broken("no closing tag but the last", Q.replace("</parameter>\n</function>\n", ""), "</parameter> is missing", stock=Stock.LENIENT),
    broken("a call's end in the code", qwen3_coder("1\n</parameter>\n</function>\n</tool_call>\n2"), "a value seems to hold the tag", stock=Stock.CUTS),
    broken("a call's end and a broken call in the code", qwen3_coder("1\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=f>\n2"), "a value seems to hold the tag", "</function> is missing", stock=Stock.CUTS),
    broken("a parameter's end and beginning in the code", qwen3_coder("1</parameter><parameter=x>2"), "unknown parameter x", stock=Stock.CUTS),
    broken("its own parameter in the code", qwen3_coder("1</parameter><parameter=code>2"), "is given twice", stock=Stock.CUTS),
    broken("a second function in the code", qwen3_coder(f"1</parameter></function><function={TOOL}><parameter=code>2"), "expected one function", stock=Stock.CUTS),
    broken("a tag on a line of its own in the code", qwen3_coder("1\n<parameter=x>\n2"), "a value seems to hold the tag <parameter=x>", stock=Stock.LENIENT),
    broken("two functions in one tag", Q.replace("</function>", f"</function>\n{Q_BODY}"), "expected one function", stock=Stock.LENIENT),
    broken("no opening tag", f"Now.\n{Q_BODY}\n</tool_call>", "<tool_call> is missing", words="Now.\n"),
    broken("no tag around the function", f"Now.\n{Q_BODY}", "<tool_call> is missing", words="Now.\n"),
    broken("no function", "<tool_call>\n<parameter=code>\n1\n</parameter>\n</tool_call>", "expected <function=NAME>"),
    broken("an unknown parameter", Q.replace("parameter=code", "parameter=cmd"), "unknown parameter cmd", stock=Stock.ERROR),
    broken("as hermes writes it", H, "expected <function=NAME>"),
    broken("as a function call", f"<tool_call>\n{TOOL}({CODE})\n</tool_call>", "expected <function=NAME>"),
    broken("nothing in the tags", "Now.\n<tool_call>\n</tool_call>", "expected <function=NAME>", words="Now.\n"),
    prose("no call", "The answer is \\boxed{42}."),
    prose("a tag in a sentence", "No further <tool_call> is needed. The answer is \\boxed{42}."),
    prose("a tag in a program's string", 'So:\n```python\nprint("<tool_call>", "<function=f>")\n```', stock=Stock.ERROR),
    prose("tags in a sentence", "I write <function=NAME> and <parameter=NAME>: \\boxed{42}."),
    prose("the instructions repeated", "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n</function>\n</tool_call>", stock=Stock.LENIENT),
]  # fmt: skip

# ---- gpt-oss -------------------------------------------------------------------------------------------------------


def gpt_oss(code, name=TOOL):
    """As the Harmony format has it, behind the prompt's `<|start|>assistant`."""
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json.dumps({'code': code}, ensure_ascii=False)}<|call|>"


G = gpt_oss(CODE)
START = "<|start|>assistant"
THOUGHT = "<|channel|>analysis<|message|>Let me compute.<|end|>"
T = "Let me compute."
G_JSON = G[G.index("{") : G.index("<|call|>")]
GPT_OSS = [
    runs("behind thoughts", THOUGHT + START + G, words=T),
    runs("the turn's first message", G, stock=Stock.DROPS),
    runs("with the prompt's beginning", START + G),
    runs("no blank before `<|constrain|>`", THOUGHT + START + G.replace(" <|con", "<|con"), words=T, stock=Stock.DROPS),
    runs("`json` without `<|constrain|>`", THOUGHT + START + G.replace("<|constrain|>", ""), words=T, stock=Stock.DROPS),
    runs("no type of content", THOUGHT + START + G.replace(" <|constrain|>json", ""), words=T, stock=Stock.DROPS),
    runs("`code` as the type", THOUGHT + START + G.replace("<|constrain|>json", "code"), words=T, stock=Stock.DROPS),
    runs("in the channel analysis", THOUGHT + START + G.replace("commentary", "analysis"), words=T),
    runs("the recipient before the channel", THOUGHT + f"{START} to=functions.{TOOL}<|channel|>commentary <|constrain|>json<|message|>{G_JSON}<|call|>", words=T, stock=Stock.DROPS),
    runs("the recipient first of all", f" to=functions.{TOOL}<|channel|>commentary json<|message|>{G_JSON}<|call|>", stock=Stock.DROPS),
    runs("no `<|start|>` behind thoughts", THOUGHT + G, words=T, stock=Stock.DROPS),
    runs("thoughts without their end", THOUGHT.removesuffix("<|end|>") + START + G, words=T),
    runs("a preamble", f"<|channel|>commentary<|message|>First this.<|end|>{START}{G}", words="First this."),
    runs("blanks around the JSON", START + G.replace("{", " {\n").replace("}", "}\n"), stock=Stock.SAME),
    runs("`<|call|>` in the code", START + gpt_oss('print("<|call|>")'), 'print("<|call|>")', stock=Stock.ERROR),
    runs("other tokens in the code", START + gpt_oss('print("<|end|><|start|>")'), 'print("<|end|><|start|>")'),
    runs("of an unknown tool", START + gpt_oss(CODE, name="search"), name="search"),
    broken("no `<|call|>`", START + G.removesuffix("<|call|>"), "<|call|> is missing"),
    broken("`<|end|>` for `<|call|>`", START + G.replace("<|call|>", "<|end|>"), "<|call|> is missing"),
    broken("cut off in the code", START + G[:90], "not valid JSON: Unterminated string"),
    broken("a brace too few", START + G.replace("}", ""), "not valid JSON", stock=Stock.ERROR),
    broken("a brace too many", START + G.replace("}", "}}"), "unexpected '}' after the object", stock=Stock.ERROR),
    broken("code for JSON", START + G.replace(G_JSON, CODE), f"must be a JSON object, got {CODE!r}", stock=Stock.ERROR),
    broken("nothing for JSON", START + G.replace(G_JSON, ""), "must be a JSON object, got ''", stock=Stock.ERROR),
    broken("a list for an object", START + G.replace(G_JSON, f"[{G_JSON}]"), "must be a JSON object, got '[{", stock=Stock.ERROR),
    broken("a key twice", START + G.replace('{"code"', '{"code": "1", "code"'), 'the key "code" is given twice', stock=Stock.CUTS),
    broken("a recipient without `functions.`", START + G.replace("functions.", ""), f"got to={TOOL}"),
    broken("a tool of the model's own", THOUGHT + f"{START}<|channel|>analysis to=python code<|message|>{CODE}<|call|>", "got to=python", words=T),
    broken("no `<|message|>`", START + G.replace("<|message|>", ""), "<|message|> is missing"),
    broken("words between JSON and `<|call|>`", START + G.replace("<|call|>", " done<|call|>"), "unexpected 'done'", stock=Stock.ERROR),
    prose("an answer", THOUGHT + START + "<|channel|>final<|message|>It is \\boxed{42}."),
    prose("a call in the thoughts' words", "<|channel|>analysis<|message|>I could call to=functions.x with {}.<|end|>"),
    prose("no message at all", "The answer is \\boxed{42}."),
    prose("the format in an answer", "<|channel|>final<|message|>Write to=functions.NAME and json{...}: \\boxed{42}"),
    prose("tags of another format", "<|channel|>final<|message|>No <tool_call> is needed: \\boxed{42}"),
    prose("a preamble alone", "<|channel|>commentary<|message|>I will compute."),
]  # fmt: skip

# ---- llama3-json ---------------------------------------------------------------------------------------------------


def llama3_json(code, name=TOOL, key="parameters"):
    """As Llama 3.1's chat template writes a call."""
    return json.dumps({"name": name, key: {"code": code}}, ensure_ascii=False)


L = llama3_json(CODE)
TAG = "<|python_tag|>"
LLAMA3_JSON = [
    Row(row.what, row.turn, row.codes, row.problems, row.words, row.name, Stock.NONE)
    for row in (
        runs("the chat template's spelling", L),
        runs("behind the tag", TAG + L),
        runs("behind words and the tag", f"I compute.\n{TAG}{L}", words="I compute.\n"),
        runs("behind words", f"I compute.\n\n{L}", words="I compute.\n\n"),
        runs("in a sentence", f"I compute: {L}", words="I compute: "),
        runs("with a sentence behind it", f"{L} This computes it.", words=" This computes it."),
        runs("with a line behind it", f"{L}\n\nWould you like more?", words="\n\nWould you like more?"),
        runs("two calls, apart by `;`", f"{L}; {llama3_json('1')}", CODE, "1", words="; "),
        runs("two calls, apart by a line", f"{L}\n{llama3_json('1')}", CODE, "1", words="\n"),
        runs("two calls, two tags", f"{TAG}{L}{TAG}{llama3_json('1')}", CODE, "1"),
        runs("with its type", L.replace('{"name"', '{"type": "function", "name"')),
        runs("`arguments` for `parameters`", llama3_json(CODE, key="arguments")),
        runs("keys in another order", f'{{"parameters": {{"code": "{CODE}"}}, "name": "{TOOL}"}}'),
        runs("pretty-printed", json.dumps(json.loads(L), indent=2)),
        runs("in a code fence", f"```json\n{L}\n```", words="```json\n\n```"),
        runs("braces and quotes in the code", llama3_json('print({"a": "}"})'), 'print({"a": "}"})'),
        runs("a call in the code", llama3_json(f"x = {L!r}"), f"x = {L!r}"),
        runs("of an unknown tool", llama3_json(CODE, name="search"), name="search"),
        broken("cut off in the code", L[:60], "not valid JSON: Unterminated string"),
        broken("a brace too few", L.removesuffix("}"), "not valid JSON: Expecting ',' delimiter"),
        broken("a line break in a string", L.replace("print", "\n"), r"write a line break in a string as \n"),
        broken("a Python dictionary", L.replace('"', "'"), "Expecting property name enclosed in double quotes"),
        broken("no parameters", f'{TAG}{{"name": "{TOOL}"}}', 'expected {"name": ..., "parameters": {...}}'),
        broken("no parameters and no tag", f'{{"name": "{TOOL}"}}', 'expected {"name": ..., "parameters"', words=f'{{"name": "{TOOL}"}}'),
        broken("parameters as text", f'{{"name": "{TOOL}", "parameters": "1"}}', "parameters must be an object"),
        broken("both keys", L.replace('"parameters"', '"arguments": {}, "parameters"'), "got both"),
        broken("a key twice", L.replace('{"code"', '{"code": "1", "code"'), 'the key "code" is given twice'),
        broken("the function in an object", f'{{"type": "function", "function": {L}}}', 'got an object with "type", "function"'),
        broken("a list", f"[{L}]", "got a list"),
        broken("the template's built-in tools", f'{TAG}{TOOL}.call(code="{CODE}")', f"behind {TAG}, got '{TOOL}.call("),
        broken("plain code", f"{TAG}{CODE}", f"behind {TAG}, got '{CODE}'"),
        broken("the tags of Llama's other format", f'<function={TOOL}>{{"code": "1"}}</function>', f"got <function={TOOL}>"),
        broken("a good call, then a cut one", f"{L}; {L[:40]}", "not valid JSON", codes=(CODE,), words="; "),
        broken("cut off in a sentence", f"So: {L[:60]}", "Unterminated string", words=None),
        prose("no call", "The answer is \\boxed{42}."),
        prose("an object as an example", 'Here is an example: {"name": "Ann", "age": 3}. The answer is 4.'),
        prose("an object as the answer", '{"name": "Ann", "age": 3}'),
        prose("an answer cut off in an object", '{"name": "Ann", "age'),
        prose("the instructions repeated", 'I respond with {"name": function name, "parameters": dictionary}.'),
        prose("a call of no known tool in a sentence", 'So {"name": "f", "parameters": {}} it is.', words="So  it is."),
        prose("a dictionary in a program", "```python\nd = {'a': 1}\nprint({'name': d})\n```"),
        prose("a call in a program's string", f"```python\ns = '{L}'\n```"),
        prose("tags of another format", "No further <tool_call> is needed: \\boxed{42}"),
    )
]  # fmt: skip

TABLES = {"hermes": HERMES, "qwen3_coder": QWEN3_CODER, "gpt-oss": GPT_OSS, "llama3-json": LLAMA3_JSON}
RENDER = {"hermes": hermes, "qwen3_coder": qwen3_coder, "gpt-oss": gpt_oss, "llama3-json": llama3_json}
"""The call of a program, as the model's chat template writes it."""
TOKENIZERS = {"hermes": "qwen3", "qwen3_coder": "qwen3", "gpt-oss": "gptoss", "llama3-json": "llama3_1"}
TAGS = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<function=code_interpreter>", "<function=f>", "</function>",
    "<parameter=code>", "<parameter=x>", "</parameter>",
    "<|start|>assistant", "<|channel|>commentary to=functions.code_interpreter ", "<|constrain|>json", "<|message|>",
    "<|call|>", "<|end|>", "<|return|>", "<|python_tag|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|im_start|>",
)  # fmt: skip
"""Of every format."""

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


def markdown(name: str) -> str:
    """A format's table for the documentation."""
    lines = ["| spelling | as the model writes it | reading | VeRL 0.9.1 |", "|---|---|---|---|"]
    for row in TABLES[name]:
        reading = row.reading + (f": {', '.join(map(_code, row.problems))}" if row.problems else "")
        lines.append(f"| {row.what} | {_code(row.turn)} | {reading} | {row.stock} |")
    return "\n".join(line.replace("<|", "<\\|").replace("|>", "\\|>") for line in lines)


def _code(text: str) -> str:
    text = text.replace("\n", "⏎")
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    blank = " " if len(fence) > 1 or text != text.strip() else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def rewrite(page: Path) -> None:
    """Put the tables into the page, each under the heading that names its format."""
    text = page.read_text(encoding="utf-8")
    for name in TABLES:
        text = re.sub(
            rf"(?ms)(^## `{name}`.*?\n\n)\| spelling .*?(?=\n\n|\Z)", lambda found, n=name: found[1] + markdown(n), text
        )
    page.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    rewrite(PAGE)
