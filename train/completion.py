"""The Tab key: Hydra's completion, which knows no `python -m`, taught it."""

from __future__ import annotations

# what Hydra prints itself completes `python file.py` and installed programs
BASH = r"""
_lorasweep() {
    local words=($COMP_LINE)
    [ "${words[1]}" = -m ] || return
    case "${words[2]}" in train|evaluate|sweeper|sweeper.*) ;; *) return ;; esac
    local rest="${COMP_LINE#*-m ${words[2]}}"
    local ask="${words[0]} -m ${words[2]} -sc query=bash"
    local choices=$(COMP_LINE="lorasweep$rest" $ask 2>/dev/null)
    COMPREPLY=($(compgen -o nospace -o default -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _lorasweep python python3
"""
