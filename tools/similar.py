"""Pairs of submissions with nearly equal code: a hint where to read, and no verdict.

Schleimer, Wilkerson and Aiken (2003, "Winnowing") compare runs of tokens; so does this, without choosing among them.
Comments, text and layout do not count, and names that a cell makes itself are all the same. A run counts the more, the
fewer of the class have it: what everybody writes says nothing.
"""

import ast
import collections
import io
import itertools
import keyword
import math
import tokenize
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gradebook import save
from submissions import Submission

RUN = 8  # tokens
ALIKE = 0.8  # of the weight of two submissions together
SHOWN = 50  # pairs of one exercise
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def runs(sources: Iterable[str]) -> set[int]:
    """A number for each run of eight tokens in these cells."""
    found = set()
    for source in sources:
        tokens = _tokens(source)
        found |= {zlib.crc32(" ".join(tokens[i : i + RUN]).encode()) for i in range(len(tokens) - RUN + 1)}
    return found


def _tokens(source: str) -> list[str]:
    """The tokens of a cell as far as they can be read: numbers, signs, "text" and names; its own names are "name"."""
    own, docs = set(), set()
    try:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.arg):
                own.add(node.arg)
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                own.add(node.id)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                docs.add(node.lineno)
    except (SyntaxError, ValueError, RecursionError):
        own = set(source.split())
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in SKIPPED or (token.type == tokenize.STRING and token.start[0] in docs):
                continue
            name = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
            text = "name" if name and token.string in own else token.string
            found.append("text" if token.type == tokenize.STRING else text)
    except (tokenize.TokenError, SyntaxError):
        pass
    return found


def pairs(found: Mapping[str, set[int]]) -> list[tuple[float, float, str, str]]:
    """(weight of what they share, part of their weight that they share, one, other), the heaviest first."""
    times = collections.Counter(run for runs_ in found.values() for run in runs_)
    weight = {run: math.log((len(found) + 1) / many) for run, many in times.items()}
    made = []
    for (one, mine), (other, theirs) in itertools.combinations(sorted(found.items()), 2):
        both = sum(weight[run] for run in mine & theirs)
        if both and both >= ALIKE * sum(weight[run] for run in mine | theirs):
            made.append((both, both / sum(weight[run] for run in mine | theirs), one, other))
    return sorted(made, key=lambda pair: (-pair[0], *pair[2:]))


def links(made: Sequence[tuple[float, float, str, str]]) -> list[tuple[float, float, str, str]]:
    """Of pairs in this order those whose two are not linked by earlier ones: of eight equal submissions seven pairs."""
    groups: dict[str, set[str]] = {}
    kept = []
    for pair in made:
        one, other = (groups.setdefault(name, {name}) for name in pair[2:])
        if one is not other:
            groups |= dict.fromkeys(both := one | other, both)
            kept.append(pair)
    return kept


def write(found: Sequence[Submission], solutions: Mapping[str, set[int]], path: Path) -> None:
    """Write the table of pairs. solutions: the runs of the published solution of each set."""
    rows = [["exercise", "student", "other", "alike (%)", "rare code shared"]]
    for exercise in sorted(solutions):
        class_ = {one.student: set(one.runs) for one in found if one.exercise == exercise and one.runs}
        made = pairs(class_ | {"the published solution": solutions[exercise]})
        rows += [
            [exercise, one, other, f"{100 * part:.0f}", f"{both:.0f}"] for both, part, one, other in links(made)[:SHOWN]
        ]
    save(path, rows)
