"""Hostile and invalid values. OUTSIDE stands for a folder that no case may access."""

from __future__ import annotations

from random import Random
from typing import Any

OUTSIDE = "@OUTSIDE@"  # replaced by the folder's path when a case is written
MODULE = "lorafuzz_canary"  # writes a file when it is imported
SECRET_NAME = "LORAFUZZ_SECRET"
LONG, DEEP = 200_000, 5_000  # characters, levels of nesting

CLASSES = (
    f"{MODULE}.Adam", f"{MODULE}.inner.Adam", "mlruns.studies.friend.evil.Adam", "os.system",
    "subprocess.Popen", "builtins.eval", "venv.__main__.main", "antigravity.fly", "this.that",
    "torch.optim.LBFGS", "torch.utils.data.DataLoader", "torch.hub.load", "torch.optim.nosuch",
    "hydra._internal.main.main", "idlelib.idle.main", "torch..optim.AdamW", ".AdamW", "AdamW",
    "torch.optim.AdamW.step", "turtledemo.__main__.main", "lib2to3.__main__.main",
)  # fmt: skip
ADDRESSES = (
    "hf-hub:evil/model", "evil/model", "https://example.invalid/x.safetensors",
    f"file://{OUTSIDE}/x", f"sqlite:///{OUTSIDE}/new.db", "sqlite:///new.db",
    "grpc://127.0.0.1:1", "postgresql://127.0.0.1:1/x", "http://127.0.0.1:1", "local-dir:/",
    f"ViT-B-32@{OUTSIDE}/x.safetensors", "ViT-B-32/openai", "mysql://127.0.0.1:1/x",
)  # fmt: skip
PATHS = (
    OUTSIDE, f"{OUTSIDE}/secret.txt", f"{OUTSIDE}/pictures", f"{OUTSIDE}/new/file", "../../x",
    "../outside/secret.txt", "../outside", "/", "/dev/zero", "/dev/stdin", "/proc/self/environ",
    "/etc/passwd", "~", "~root/x", "~nobody-such/x", "C:\\x", "\\\\server\\share", ".", "..", "",
    "a" * 300, "a/" * 3000, "/any/where", "nul\0byte", f"/../..{OUTSIDE}/secret",
)  # fmt: skip
TEXTS = (
    f"${{oc.env:{SECRET_NAME}}}", f"${{oc.decode:${{oc.env:{SECRET_NAME}}}}}", "${a}", "${",
    "${..x}", "${now:%Y}", "${eval:1+1}", "${oc.create:{a: 1}}", "???", "{x.__class__}", "{0}",
    "{subject", "{subject:>99999999999}", "{subject!r:^9999999}", "{subject.__init__.__globals__}",
    "{}", "%s%n", "%(x)s", "[v2]", "[/x]", "[red]x[/red]", "[link=http://x]x[/link]",
    "<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{7*7}}", "{% raw %}",
    "x; touch pwned", "$(touch pwned)", "`touch pwned`", "a\nb", "a\r\nb", "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07", "\u202eabc\u202c", "\u2066x\u2069", "\ud800", "\udcff", "\0", "\x7f\x85",
    "\ufeff", "e\u0301" * 50, "\U0001f600", "null", "true", "nan", "inf", "-inf", "1e999", "0x10",
    "1_000", "²", "٣", "-1", "*", "a*b*c", "choice(1,2)", "--multirun", "-m", "=", "key=value",
    "+x=1", "~data", "((((((((((a+)+)+)+)+)+)+)+)+)$", "(a|a)*" * 8 + "b",
    "__import__('os').system('touch pwned')", "!!python/object/apply:os.system [x]",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 2**31, 2**31 - 1, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63), 10**9, 10**12, 10**30,
    10**400, 0.0, -0.0, 1e-320, 1e-9, 0.5, 1.5, 1e9, 1e38, 1e300, 1.7e308, float("nan"),
    float("inf"), float("-inf"), True, False,
)  # fmt: skip
KEYS = (
    "__class__", "_target_", "_args_", "_partial_", "__proto__", "", " ", "a.b", "a:b", "${x}",
    "\0", "1", "null", "\u202e", "a" * 2000, "defaults", "hydra", "study", "cache_path", "root",
)  # fmt: skip


def hostile_value(random: Random) -> Any:
    """Returns a random value of any kind."""
    pick = random.random()
    if pick < 0.30:
        return random.choice(NUMBERS)
    if pick < 0.55:
        return random.choice(TEXTS)
    if pick < 0.67:
        return random.choice(PATHS)
    if pick < 0.75:
        return random.choice(ADDRESSES)
    if pick < 0.82:
        return random.choice(CLASSES)
    return odd_value(random)


def hostile_text(random: Random) -> str:
    """Returns a text that may have side effects: a class, path, address or interpolation."""
    texts: tuple[str, ...] = random.choice((TEXTS, PATHS, ADDRESSES, CLASSES))
    return random.choice(texts)


def odd_value(random: Random) -> Any:
    """Returns a value that is neither a short text nor a number, such as None or a container."""
    return random.choice((
        lambda: None, list, dict, lambda: [[]], lambda: {"": None}, lambda: [None, {}, [], "x"],
        lambda: {random.choice(KEYS): random.choice(TEXTS)}, lambda: "x" * LONG,
        lambda: nested_value(random.choice((13, 40, 400, DEEP)), random.random() < 0.5),
        lambda: list(range(random.choice((100, 20_000)))),
        lambda: {f"k{i}": i for i in range(2000)},
        lambda: {"_target_": random.choice(CLASSES), "lr": 1e-3},
        lambda: random.choice(TEXTS) * random.choice((2, 50)),
    ))()  # fmt: skip


def nested_value(levels: int, lists: bool) -> Any:
    """Returns a value inside this many nested lists or dictionaries."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if lists else {"a": value}
    return value
