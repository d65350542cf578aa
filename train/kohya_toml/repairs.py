"""What copying from a web page or a chat does to a TOML text, undone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from train.files.untrusted import Tree, UntrustedFileError, parse_toml

DOUBLE, SINGLE, DASHES = "“”„‟″＂«»", "‘’‚‛′`´", "‐‑‒–—―−"
SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
INVISIBLE = "\u00ad\u200b-\u200f\u2060\ufeff"
PLAIN = str.maketrans({**dict.fromkeys(DASHES, "-"), "＝": "="})
BAD_ESCAPE = re.compile(r'(?<!\\)(?:\\\\)*\\(?![btnfr"\\]|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})')
# in double quotes, a path of Windows whose backslashes are single ones: those of \train and \new
# would be escapes without an error
WINDOWS_PATH = re.compile(r'"(?:[A-Za-z]:\\(?!\\)|\\\\(?!\\)[^"\\\n]+\\(?!\\))')
# the parts of a TOML text that are to be told apart; a string of straight quotes comes first, so
# that what is written right stays as it is
PARTS = re.compile(
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
PAIR = re.compile(r"([ \t]*[\w.-]+[ \t]*=[ \t]*)([^\s\"'{#=].*)")  # whose value is not quoted
ITEM = re.compile(r"[^,()]+(?:\([^()]*\)[^,()]*)*")  # of a list; commas in brackets are its own
# characters; what is longer is left as it is, since the time grows with the square of a line's
LONGEST, LONGEST_LINE = 100_000, 5_000


def repair(text: str) -> tuple[str, list[str]]:
    """What copying has done to a TOML text, undone; and what that was, in words."""
    found: dict[str, None] = {}
    if len(text) > LONGEST or any(len(line) > LONGEST_LINE for line in text.split("\n")):
        return text, []

    def replaced(part: re.Match[str]) -> str:
        """One part of the text as it should be; what was wrong with it goes into `found`."""
        kind, whole = part.lastgroup, part.group()
        if kind in ("double", "single"):
            found["typographic quotes"] = None
            return _string(part[kind])
        if kind == "basic" and (BAD_ESCAPE.search(whole) or WINDOWS_PATH.match(whole)):
            found["backslashes in double quotes"] = None
            return _string(whole[1:-1])
        if kind == "bool":
            found["True and False with a capital"] = None
            return whole.lower()
        if kind == "fence":
            found["lines of ```"] = None
            return ""
        if kind == "odd":
            found["typographic dashes and spaces"] = None
            return plain(whole)
        return whole

    straight = PARTS.sub(replaced, text)
    lines = []
    for line, shape in _lines(straight):
        pairs = _pairs(line, shape)
        if len(pairs) > 1:
            found["several pairs on one line"] = None
            if "=" in (comment := line[shape.index("#") :] if "#" in shape else ""):
                found[f"left out, for it stands behind a #: {comment.strip('# ')}"] = None
        lines += [_quoted_where_bare(pair, found) for pair in pairs]
    return "\n".join(lines), list(found)


def plain(text: str) -> str:
    """Typographic dashes and spaces as those that are typed; invisible characters left out."""
    return re.sub(f"[{INVISIBLE}]", "", re.sub(f"[{SPACES}]", " ", text.translate(PLAIN)))


def _string(content: str) -> str:
    """A TOML string; a literal one where there are backslashes, as in the paths of Windows."""
    if "\\" in content and "'" not in content:
        return f"'{content}'"
    return '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a text, those of one list or string together; each with its shape.

    In the shape a string is all " and a comment all #, so that what is in them counts for nothing.
    """
    masked = PARTS.sub(
        lambda part: ("#" if part.lastgroup == "comment" else '"') * len(part.group()), text
    )
    start = depth = 0
    for position, character in enumerate(f"{masked}\n"):
        depth = max(0, depth + (character in "[{") - (character in "]}"))
        if character == "\n" and (not depth or position == len(masked)):
            yield text[start:position], masked[start:position]
            start = position + 1


def _pairs(line: str, shape: str) -> list[str]:
    """The pairs and names of sections of one line."""
    if len(line) > LONGEST_LINE:
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


def _quoted_where_bare(line: str, found: dict[str, None]) -> str:
    """A line whose value is no TOML because it lacks quotes, with them."""
    if len(line) > LONGEST_LINE or _is_toml(line):
        return line
    pair, comment = PAIR.fullmatch(line), re.search(r"\s#", line)
    code = line[: comment.start() if comment else None].rstrip()
    if code[-1:] in (",", ";") and _is_toml(code.rstrip(" \t,;")):
        found["commas at the ends of lines"] = None
        return code.rstrip(" \t,;")
    if not code.startswith("[[") and re.fullmatch(HEADER, code.strip()):
        found["names of sections without quotes"] = None
        return f'["{code.strip()[1:-1]}"]'
    if not pair:
        return line
    value = code[pair.start(2) :].rstrip(" \t,;")
    if value.startswith("["):
        if not value.endswith("]"):
            return line
        items = [item.strip() for item in ITEM.findall(value[1:-1])]
        items = [item if _is_toml(f"x = {item}") else _string(item) for item in items]
        value = f"[{', '.join(items)}]"
    else:
        value = _string(value)
    found["values without quotes"] = None
    return f"{pair[1]}{value}"


def _is_toml(line: str) -> bool:
    try:
        parse_toml(line, Tree, "")
    except UntrustedFileError:
        return False
    return True
