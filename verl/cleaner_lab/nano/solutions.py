"""For each task the words a model opens with and Python that prints the answer."""

import re
from datetime import date

from reasoning_gym.arithmetic.leg_counting import ANIMALS

from cleaner_lab.nano.tasks import Task

OPENINGS = {
    "gcd": "Compute the gcd.",
    "lcm": "Compute the lcm.",
    "chain_sum": "Compute the sum.",
    "products": "Compute the product.",
    "count_bits": "Count the bits.",
    "count_primes": "Count the primes.",
    "fraction_simplification": "Simplify the fraction.",
    "base_conversion": "Read the number, then divide by the new base.",
    "calendar_arithmetic": "Ask the calendar.",
    "leg_counting": "Add up the legs.",
    "prime_factorization": "Divide by each factor in turn.",
    "letter_counting": "Count the letter.",
    "bitwise_arithmetic": "Compute the expression.",
    "spell_backward": "Reverse the word.",
}

_BASES = {"binary": "2", "hexadecimal": "16"}
_NUMBER = r"-?\d+(?:\.\d+)?"


def solve(task: Task) -> str:
    """Python that prints the answer."""
    question = task.question
    numbers = re.findall(_NUMBER, question)
    match task.family:
        case "gcd" | "lcm":
            return f"import math\nprint(math.{task.family}({', '.join(numbers)}))"
        case "chain_sum":
            return f"print({question.split(': ')[1].removesuffix('=').strip()})"
        case "products":
            return f"print({' * '.join(numbers)})"
        case "count_bits":
            return f'print(bin({numbers[-1]}).count("1"))'
        case "count_primes":
            low, high = numbers[:2]
            test = "n > 1 and all(n % d for d in range(2, n))"
            return f"t = 0\nfor n in range({low}, {high} + 1):\n    t += {test}\nprint(t)"
        case "fraction_simplification":
            return f"from fractions import Fraction\nprint(Fraction({numbers[0]}, {numbers[1]}))"
        case "base_conversion":
            source, number, target = re.findall(r"(\S+) number (\w+) to (\S+)$", question)[0]
            source, target = (_BASES.get(base) or base.removeprefix("base-") for base in (source, target))
            digits = f's = "0123456789abcdef"[n % {target}] + s'
            return f'n = int("{number}", {source})\ns = ""\nwhile n:\n    {digits}\n    n //= {target}\nprint(s)'
        case "calendar_arithmetic" if "leap" in question:
            return f'import calendar\nprint("Yes" if calendar.isleap({numbers[0]}) else "No")'
        case "calendar_arithmetic":
            day = date.fromisoformat(task.entry["metadata"]["target_date"])
            return f'from datetime import date\nprint(date({day.year}, {day.month}, {day.day}).strftime("%A"))'
        case "leg_counting":
            animals = re.findall(r"(\d+) (" + "|".join(ANIMALS) + ")", question)
            return f"print({' + '.join(f'{count} * {ANIMALS[name]}' for count, name in animals)})"
        case "prime_factorization":
            loop = "if n % d:\n        d += 1\n    else:\n        f.append(str(d))\n        n //= d"
            return f'n, d, f = {numbers[0]}, 2, []\nwhile n > 1:\n    {loop}\nprint(" × ".join(f))'
        case "letter_counting":
            letter, text = re.findall(r'letter "(.)" appear in the text: "(.*)"', question)[0]
            return f'print("{text}".lower().count("{letter}"))'
        case "bitwise_arithmetic":
            return f"print(hex({question.split('value. ')[1]}))"
        case "spell_backward":
            return f'print("{question.rpartition(": ")[2]}"[::-1])'
    raise ValueError(f"no solution is known for family {task.family!r}")
