r"""Answers in the notation that math-verify reads: LaTeX for what people type or paste.

1.6×10⁻¹⁹, 1.6e-19   1.6\times 10^{-19}        1 000, 1\,000, 1’000   1000
2√3, √(x+1)          2\sqrt{3}, \sqrt{x+1}     **42**, `42`, ４２       42
x², aₙ, ½            x^{2}, a_{n}, \frac{1}{2}
"""

import re
import unicodedata

_SUPERSCRIPT = {"⁰": "0", "¹": "1", "²": "2", "³": "3", "⁴": "4", "⁵": "5", "⁶": "6", "⁷": "7", "⁸": "8", "⁹": "9",
                "⁺": "+", "⁻": "-", "⁼": "=", "⁽": "(", "⁾": ")", "ⁿ": "n", "ⁱ": "i"}  # fmt: skip
_SUBSCRIPT = {"₀": "0", "₁": "1", "₂": "2", "₃": "3", "₄": "4", "₅": "5", "₆": "6", "₇": "7", "₈": "8", "₉": "9",
              "₊": "+", "₋": "-", "ₙ": "n", "ₖ": "k", "ₓ": "x", "ₐ": "a"}  # fmt: skip
_SIGNS = {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "−": "-", "–": "-", "∕": "/", "⁄": "/",
          "≤": r"\le ", "≥": r"\ge ",
          "≠": r"\ne ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "π": r"\pi "}  # fmt: skip
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?: |\\[ ,;]|\\thinspace |['’])\d{3})+(?:\.\d+)?")
_SEPARATOR = re.compile(r" |\\[ ,;]|\\thinspace |['’]")
_EXPONENT = re.compile(r"(?<![\w.\\])(\d+(?:\.\d*)?|\.\d+)[eE]([-+]?\d+)(?![\w.])")


def latex(answer: str) -> str:
    """The same answer in LaTeX; what is LaTeX already stays as it is."""
    text = "".join(map(_plain, answer)).strip()
    for mark in ("**", "__", "`"):
        if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            text = text.removeprefix(mark).removesuffix(mark).strip()
    text = _runs(_runs(text, _SUPERSCRIPT, "^"), _SUBSCRIPT, "_")
    text = re.sub(r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[A-Za-z]))", _root, text)
    text = "".join(_SIGNS.get(character, character) for character in text)
    if _THOUSANDS.fullmatch(text):
        text = _SEPARATOR.sub("", text)
    text = _EXPONENT.sub(r"\1\\times 10^{\2}", text)
    return text.removesuffix("\\\\").rstrip(" .,;") or answer


def _plain(character: str) -> str:
    if "VULGAR FRACTION" in unicodedata.name(character, ""):
        numerator, _, denominator = unicodedata.normalize("NFKC", character).partition("⁄")
        return rf"\frac{{{numerator}}}{{{denominator}}}" if denominator else character
    if unicodedata.category(character) == "Cf":
        return ""
    if unicodedata.category(character) == "Zs":
        return " "
    # Full-width digits, letters and signs.
    return unicodedata.normalize("NFKC", character) if "\uff01" <= character <= "\uff5e" else character


def _runs(text: str, table: dict[str, str], sign: str) -> str:
    characters = "".join(map(re.escape, table))
    return re.sub(f"[{characters}]+", lambda run: f"{sign}{{{''.join(table[c] for c in run[0])}}}", text)


def _root(match: re.Match[str]) -> str:
    return rf"\sqrt{{{next(group for group in match.groups() if group is not None)}}}"
