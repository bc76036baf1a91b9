"""When an output is the expected one."""

from decimal import Decimal, InvalidOperation


def same_text(output: str, expected: str) -> bool:
    """Equal but for blanks around the whole."""
    return output.strip() == expected.strip()


def same_lines(output: str, expected: str) -> bool:
    """As LiveCodeBench compares: as many lines, each equal but for blanks around it, or the same row of numbers."""
    if same_text(output, expected):
        return True
    lines, expected_lines = ([line.strip() for line in text.strip().split("\n")] for text in (output, expected))
    return len(lines) == len(expected_lines) and all(map(_same_line, lines, expected_lines))


def _same_line(line: str, expected: str) -> bool:
    if line == expected:
        return True
    words, expected_words = line.split(), expected.split()
    if len(words) != len(expected_words):
        return False
    try:
        return all(Decimal(word) == Decimal(other) for word, other in zip(words, expected_words, strict=True))
    except InvalidOperation:
        return False
