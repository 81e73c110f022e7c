"""Which series and labels a PromQL expression names: enough of a parser for our checks.

Prometheus itself says whether an expression is valid; what it does not say is that a series or a
label does not exist, because to it that is only an empty answer.
"""
import dataclasses
import re

TOKEN = re.compile(r"""
    (?P<space>\s+|\#[^\n]*)
  | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
  | (?P<range>\[[^\]]*\])
  | (?P<number>(?:0x[0-9a-f]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?(?:(?:ms|[smhdwy])(?:\d+(?:ms|[smhdwy]))*)?|\.\d+)(?![\w:]))
  | (?P<name>[A-Za-z_:][\w:]*)
  | (?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},@])
""", re.VERBOSE | re.IGNORECASE)

GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = GROUPING | {"and", "or", "unless", "bool", "offset", "inf", "nan", "atan2"}
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}


@dataclasses.dataclass
class Selector:
    name: str
    matchers: list  # of (label, operator, value)
    text: str       # as written, without range and offset


@dataclasses.dataclass
class Grouping:
    keyword: str
    labels: list
    selectors: list  # those that the grouping is about


def tokens(expression):
    """List of (kind, text, begin), spaces and comments left out."""
    out, at = [], 0
    while at < len(expression):
        match = TOKEN.match(expression, at)
        if not match:
            raise ValueError(f"not PromQL at {expression[at:at + 20]!r}")
        if match.lastgroup != "space":
            out.append((match.lastgroup, match.group(), at))
        at = match.end()
    return out


def _closing(toks, i):
    """Index of the parenthesis that closes the one at i."""
    depth = 0
    for j in range(i, len(toks)):
        depth += {"(": 1, ")": -1}.get(toks[j][1], 0)
        if depth == 0:
            return j
    raise ValueError("unbalanced parentheses")


def _opening(toks, i):
    depth = 0
    for j in range(i, -1, -1):
        depth += {")": 1, "(": -1}.get(toks[j][1], 0)
        if depth == 0:
            return j
    raise ValueError("unbalanced parentheses")


def _matchers(toks, i):
    """Matchers of `{…}` that opens at i, and the index after it."""
    out, i = [], i + 1
    while toks[i][1] != "}":
        label, operator, value = toks[i][1], toks[i + 1][1], toks[i + 2]
        if value[0] != "string":
            raise ValueError(f"matcher of {label}: {value[1]} is no string")
        out.append((label, operator, value[1][1:-1].replace("\\\\", "\\")))
        i += 3
        if toks[i][1] == ",":
            i += 1
    return out, i + 1


def parse(expression):
    """(selectors, groupings) of an expression."""
    toks = tokens(expression)
    selectors, spans, lists = [], [], []  # spans: index of a selector's first token
    i = 0
    while i < len(toks):
        kind, text, begin = toks[i]
        following = toks[i + 1][1] if i + 1 < len(toks) else ""
        if kind == "name" and text.lower() in GROUPING and following == "(":
            end = _closing(toks, i + 1)
            lists.append((i, end, text.lower(), [t[1] for t in toks[i + 2:end] if t[0] == "name"]))
            i = end + 1
        elif kind == "name" and text.lower() not in WORDS and following != "(" and not (
                following in GROUPING):
            name, matchers, end = text, [], i + 1
            if following == "{":
                matchers, end = _matchers(toks, i + 1)
            stop = toks[end - 1][2] + len(toks[end - 1][1])
            selectors.append(Selector(name, matchers, expression[begin:stop]))
            spans.append(i)
            i = end
        elif text == "{":  # without a name: __name__ must be a matcher
            matchers, end = _matchers(toks, i)
            name = next((v for label, op, v in matchers if label == "__name__" and op == "="), "")
            selectors.append(Selector(name, [m for m in matchers if m[0] != "__name__"],
                                      expression[begin:toks[end - 1][2] + 1]))
            spans.append(i)
            i = end
        else:
            i += 1
    return selectors, [_grouping(toks, selectors, spans, *entry) for entry in lists]


def _grouping(toks, selectors, spans, begin, end, keyword, labels):
    """by and without are about the argument, before or after them; the others about everything."""
    first, last = 0, len(toks)
    if keyword in ("by", "without"):
        if end + 1 < len(toks) and toks[end + 1][1] == "(":
            first, last = end + 1, _closing(toks, end + 1)
        else:
            first, last = _opening(toks, begin - 1), begin
    about = [s for s, at in zip(selectors, spans) if first <= at <= last]
    return Grouping(keyword, labels, about)


def without_conditions(expression):
    """The expression with comparisons that answer 0 or 1 instead of dropping series, and with no
    offset: an alert of a healthy server, which has no past yet, then answers with a series."""
    out, toks = [], tokens(expression)
    i = 0
    while i < len(toks):
        kind, text, _ = toks[i]
        if kind == "operator" and text in COMPARISONS:
            out.append(text)
            out.append("bool")
            if toks[i + 1][1] == "bool":
                i += 1
        elif kind == "name" and text.lower() == "offset":
            i += 1
        elif text == "{":
            end = i
            while toks[end][1] != "}":
                end += 1
            out.append("".join(t[1] for t in toks[i:end + 1]))
            i = end
        else:
            out.append(text)
        i += 1
    return " ".join(out)
