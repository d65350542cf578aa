"""Bash completion: adapts Hydra's, which does not support `python -m`."""

from __future__ import annotations

# Hydra's own script completes `python file.py` and installed programs
BASH = r"""
_lorasweep() {
    local words=($COMP_LINE)
    [ "${words[1]}" = -m ] || return
    case "${words[2]}" in train|evaluate|sweeper|sweeper.*) ;; *) return ;; esac
    local word="${COMP_WORDS[COMP_CWORD]}" flag='--allow-(path|class)(=| +)[^ ]*'
    case "$word" in
        --allow-path=*) COMPREPLY=($(compgen -d -P --allow-path= -- "${word#*=}")); return ;;
        --al*) COMPREPLY=($(compgen -W "--allow-path= --allow-class=" -- "$word")); return ;;
    esac
    local rest="$(sed -E "s/ $flag//g" <<< "${COMP_LINE#*-m ${words[2]}}")"
    local ask="${words[0]} -m ${words[2]} -sc query=bash"
    local choices=$(COMP_LINE="lorasweep$rest" $ask 2>/dev/null)
    COMPREPLY=($(compgen -o nospace -o default -W "$choices" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _lorasweep python python3
"""
