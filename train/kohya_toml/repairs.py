"""Repairs TOML text that was damaged by copying it from a web page or a chat."""

from __future__ import annotations

import re
from collections.abc import Iterator

from train.files.untrusted import Tree, UntrustedFileError, parse_toml

DOUBLE, SINGLE, DASHES = "“”„‟″＂«»", "‘’‚‛′`´", "‐‑‒–—―−"
SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
INVISIBLE = "\u00ad\u200b-\u200f\u2060\ufeff"
PLAIN = str.maketrans({**dict.fromkeys(DASHES, "-"), "＝": "="})
BAD_ESCAPE = re.compile(r'(?<!\\)(?:\\\\)*\\(?![btnfr"\\]|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})')
# in double quotes, a Windows path with single backslashes: those of \train and \new would be
# escapes without an error
WINDOWS_PATH = re.compile(r'"(?:[A-Za-z]:\\(?!\\)|\\\\(?!\\)[^"\\\n]+\\(?!\\))')
# the tokens of a TOML text; a string of straight quotes comes first, so that correct text is kept
TOKENS = re.compile(
    rf"""(?P<long>\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z))
    |(?P<fence>^[ \t]*```[^\n]*)
    |(?P<comment>\#[^\n]*)
    |(?P<basic>"(?:[^"\\\n]|\\[^\n])*")
    |(?P<literal>'[^'\n]*')
    |["{DOUBLE}](?P<double>[^"{DOUBLE}\n]*)["{DOUBLE}]
    |['{SINGLE}](?P<single>[^'{SINGLE}\n]*)['{SINGLE}]
    |(?P<bool>\b(?:True|False|TRUE|FALSE)\b)
    |(?P<odd>[{DASHES}{SPACES}{INVISIBLE}＝])""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
HEADER = r"\[{1,2}[A-Za-z_][\w. -]*\]{1,2}"
NEXT_PAIR = re.compile(rf"(?:[ \t]*[,;])?[ \t]+(?=[A-Za-z_][\w.-]*[ \t]*=(?!=)|{HEADER}(?:\s|$))")
PAIR = re.compile(r"([ \t]*[\w.-]+[ \t]*=[ \t]*)([^\s\"'{#=].*)")  # with an unquoted value
LIST_ITEM = re.compile(
    r"[^,()]+(?:\([^()]*\)[^,()]*)*"
)  # of a list; commas in brackets belong to it
# characters; longer texts are not repaired, since the time grows with the square of a line's length
MAX_CHARACTERS, MAX_LINE_CHARACTERS = 100_000, 5_000


def repair(text: str) -> tuple[str, list[str]]:
    """The repaired text, and the repairs in words."""
    repairs: dict[str, None] = {}
    if len(text) > MAX_CHARACTERS or any(
        len(line) > MAX_LINE_CHARACTERS for line in text.split("\n")
    ):
        return text, []

    def replaced(part: re.Match[str]) -> str:
        """The repaired token; records the repair."""
        kind, whole = part.lastgroup, part.group()
        if kind in ("double", "single"):
            repairs["typographic quotes"] = None
            return _string(part[kind])
        if kind == "basic" and (BAD_ESCAPE.search(whole) or WINDOWS_PATH.match(whole)):
            repairs["backslashes in double quotes"] = None
            return _string(whole[1:-1])
        if kind == "bool":
            repairs["True and False with a capital"] = None
            return whole.lower()
        if kind == "fence":
            repairs["lines of ```"] = None
            return ""
        if kind == "odd":
            repairs["typographic dashes and spaces"] = None
            return replace_typography(whole)
        return whole

    straight = TOKENS.sub(replaced, text)
    lines = []
    for line, shape in _lines(straight):
        pairs = _pairs(line, shape)
        if len(pairs) > 1:
            repairs["several pairs on one line"] = None
            if "=" in (comment := line[shape.index("#") :] if "#" in shape else ""):
                repairs[f"left out, as it follows a #: {comment.strip('# ')}"] = None
        lines += [_with_quotes(pair, repairs) for pair in pairs]
    return "\n".join(lines), list(repairs)


def replace_typography(text: str) -> str:
    """Replaces typographic dashes and spaces by plain ones, and removes invisible characters."""
    return re.sub(f"[{INVISIBLE}]", "", re.sub(f"[{SPACES}]", " ", text.translate(PLAIN)))


def _string(content: str) -> str:
    """A TOML string; a literal one if there are backslashes, as in Windows paths."""
    if "\\" in content and "'" not in content:
        return f"'{content}'"
    return '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a text, with multi-line lists and strings as one; each with its shape.

    In the shape, strings are all " and comments all #, so that their content is ignored.
    """
    masked = TOKENS.sub(
        lambda part: ("#" if part.lastgroup == "comment" else '"') * len(part.group()), text
    )
    start = depth = 0
    for position, character in enumerate(f"{masked}\n"):
        depth = max(0, depth + (character in "[{") - (character in "]}"))
        if character == "\n" and (not depth or position == len(masked)):
            yield text[start:position], masked[start:position]
            start = position + 1


def _pairs(line: str, shape: str) -> list[str]:
    """The pairs and section headers in one line."""
    if len(line) > MAX_LINE_CHARACTERS:
        return [line]
    pairs, start, depth = [], 0, 0
    for position, character in enumerate(shape):
        depth += (character in "[{") - (character in "]}")
        if depth or character not in " \t,;" or shape[max(0, position - 1)] in " \t,;":
            continue
        before = shape[start:position].strip()
        complete = before.startswith("[") or ("=" in before and before[-1] != "=")
        if complete and (match := NEXT_PAIR.match(shape, position)):
            pairs.append(line[start:position])
            start = match.end()
    return [*pairs, line[start:]]


def _with_quotes(line: str, repairs: dict[str, None]) -> str:
    """Adds missing quotes to the value of a line that is not TOML."""
    if len(line) > MAX_LINE_CHARACTERS or _is_toml(line):
        return line
    pair, comment = PAIR.fullmatch(line), re.search(r"\s#", line)
    code = line[: comment.start() if comment else None].rstrip()
    if code[-1:] in (",", ";") and _is_toml(code.rstrip(" \t,;")):
        repairs["commas at the ends of lines"] = None
        return code.rstrip(" \t,;")
    if not code.startswith("[[") and re.fullmatch(HEADER, code.strip()):
        repairs["names of sections without quotes"] = None
        return f'["{code.strip()[1:-1]}"]'
    if not pair:
        return line
    value = code[pair.start(2) :].rstrip(" \t,;")
    if value.startswith("["):
        if not value.endswith("]"):
            return line
        items = [item.strip() for item in LIST_ITEM.findall(value[1:-1])]
        items = [item if _is_toml(f"x = {item}") else _string(item) for item in items]
        value = f"[{', '.join(items)}]"
    else:
        value = _string(value)
    repairs["values without quotes"] = None
    return f"{pair[1]}{value}"


def _is_toml(line: str) -> bool:
    try:
        parse_toml(line, Tree, "")
    except UntrustedFileError:
        return False
    return True
