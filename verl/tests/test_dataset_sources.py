"""The table of sources and prompt templates, ours and one laid over it."""

import pytest

from cleaner_lab.nano.tasks import FAMILIES, UNSEEN
from verl_cleaner.dataset import synthetic
from verl_cleaner.reward.sources import Kind, load


@pytest.mark.parametrize(
    ("source", "kind", "category"),
    [
        ("math_dapo", Kind.MATH, "math"),
        ("mega-science", Kind.MATH, "science"),
        ("train-math-deepscaler", Kind.MATH, "math"),
        ("train-code-taco-medium_hard", Kind.CODE, "code"),
        ("train-code-leetcode-Hard", Kind.CODE, "code"),
        ("test-code-leetcode-Medium", Kind.CODE, "code"),
        ("AIME2024", Kind.MATH, "math"),
        ("AIME2025", Kind.MATH, "math"),
        ("gpqa_diamond", Kind.CHOICE, "science"),
        ("LiveCodeBench_v6", Kind.CODE, "code"),
        ("HumanEval", Kind.CODE, "code"),
        *((f"reasoning_gym/{family}", Kind.REASONING_GYM, "reasoning_gym") for family in [*FAMILIES, UNSEEN]),
    ],
)
def test_kinds(source, kind, category):
    found = load().find(source)
    assert (found.kind, found.category) == (kind, category)
    assert load().kind(source) == kind


def test_an_unknown_source_is_named_with_its_row():
    with pytest.raises(
        ValueError, match=r"^x\.parquet, row 7: data_source 'gsm8k' is unknown, expected one of AIME2024"
    ):
        load().find("gsm8k", where="x.parquet, row 7")


def test_prompts_speak_of_tools_only_where_there_are_tools():
    sources = load()
    for name in [*synthetic.SOURCES, "AIME2024", "gpqa_diamond", "LiveCodeBench_v6"]:
        problem = next(r for r in synthetic.training_rows(50, seed=1) if r["data_source"] == "math_dapo")["prompt"][0]
        with_tools, without = (sources.shape(name, problem["content"], tools=tools) for tools in (True, False))
        assert "tool" in with_tools
        assert "tool" not in without
        assert "interpreter" not in without
        assert "Let $a =" in without
        end = "```python" if sources.kind(name) == Kind.CODE else "\\boxed{}"
        assert end in with_tools.rsplit("\n\n", 1)[-1]
        assert end in without.rsplit("\n\n", 1)[-1]


def test_only_sentences_on_tools_are_removed():
    problem = "A tool costs 3 euros. The toolbox holds {4}.\n\nThe tool could be used for more precise calculation."
    assert load().shape("reasoning_gym/gcd", problem, tools=False) == "A tool costs 3 euros. The toolbox holds {4}."
    assert load().shape("reasoning_gym/gcd", problem, tools=True) == problem


def test_the_release_s_words_on_tools_are_removed():
    code = "Sort.\nYou can utilize tools to check your code, once sure, do not call the tools again and submit."
    assert load().shape("reasoning_gym/gcd", code, tools=False) == "Sort.\nonce sure, submit."
    math = (
        "**Note: first plan, then utilize the tools.** Once sure, do not call the tools again and directly output it."
    )
    assert load().shape("reasoning_gym/gcd", math, tools=False) == " Once sure, output it."


def test_a_problem_with_braces_is_left_alone():
    assert "{problem} {x} \\frac{1}{2}" in load().shape("AIME2024", "{problem} {x} \\frac{1}{2}", tools=True)


def test_a_yaml_of_the_user_is_laid_over_ours(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "templates: {short: {tools: 'T {problem}', no_tools: 'N {problem}'}}\n"
        "sources:\n"
        "  math_dapo: {kind: math, template: short}\n"
        "  my-*: {kind: choice, template: short, category: law}\n"
        "  my-own-*: {kind: math, template: plain}\n"
        "tool_talk: ['Ask the tool.']\n"
    )
    sources = load(path)
    assert sources.shape("math_dapo", "1?", tools=True) == "T 1?"
    assert sources.shape("math_dapo", "1? Ask the tool.", tools=False) == "N 1? "
    assert (sources.find("my-set").kind, sources.find("my-set").category) == (Kind.CHOICE, "law")
    assert sources.find("my-own-set").kind == Kind.MATH  # the longer prefix
    assert sources.shape("AIME2024", "1?", tools=True) == load().shape("AIME2024", "1?", tools=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sources: {a: {kind: maths, template: math}}",
            r"sources\.a\.kind must be one of math, choice, code, .* 'maths'",
        ),
        (
            "sources: {a: {kind: math, template: none}}",
            r"sources\.a\.template 'none' is unknown, expected one of choice",
        ),
        ("sources: {a: {kind: math}}", r"sources\.a must have kind, template and may have category, got kind"),
        ("sources: [a]", r"sources must be a mapping of names, got \['a'\]"),
        (
            "templates: {a: {tools: x, no_tools: '{problem}'}}",
            r"templates\.a\.tools must be a text with {problem} once",
        ),
        ("templates: {a: {tools: '{problem}'}}", r"templates\.a must have no_tools, tools, got tools"),
        ("template: {}", r"mine\.yaml needs no key and may have sources, templates, tool_talk, got template"),
        ("tool_talk: ['(']", r"tool_talk: '\(' is no regular expression"),
        ("a: [", r"mine\.yaml cannot be read"),
    ],
)
def test_a_bad_yaml_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_missing_yaml_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no\.yaml cannot be read"):
        load(tmp_path / "no.yaml")
