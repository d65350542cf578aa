"""Hostile texts in place of names, captions and reasons."""

from __future__ import annotations

MARKUP = "</script></title><img src=x onerror=\"document.title='PWNED'\">"
TEXTS = {
    "markup": MARKUP,
    "attribute": "\" onmouseover=\"document.title='PWNED'\" x='",
    "template": "{{ 7 * 191 }}{% raw %}",
    "line break": "fine\nverdict: identical\r\ndone",
    "separators": "fine\x0b\x0c\x85\u2028\u2029done",
    "ansi": "\x1b[2J\x1b[31mred\x1b]0;title\x07\x9b31m",
    "bidi": "photo\u202egnp.exe\u2066\u200f\u061c",
    "invisible": "a\u200b\u2060\ufeff\U000e0041\xadb",
    "surrogate": "\ud800 \udcff",
    "shell": "x; touch PWNED",
    "substitution": "$(touch PWNED)`touch PWNED`$HOME!!",
    "quotes": "'; touch PWNED; '\"; touch PWNED; \"\\",
    "control in quotes": "\x01'; touch PWNED; \\'; touch PWNED #",
    "python": '"); open("PWNED", "w"); ("\\',
    "python lines": '"""\n\'\'\'\nopen("PWNED", "w")\n',
    "rich": "[v2] [/x] [bold red] [link=file:///etc/passwd]a[/link] :smile:",
    "formula": r"$\foo$ $x$ $ \$ $$ ^_{",
    "markdown": "[a](http://x.invalid) ![b](http://x.invalid/c.png) `c` | d | *e* __f__ <b>",
    "backticks": "`` a ``` b",
    "flag": "--config-dir=/tmp",
    "none": "",
    "languages": "Jürgen 人物 фото عربي עברית 👩‍🎨",
}
