"""Completion of `htmap-exec htmap ...` by bash, zsh and fish.

click's own scripts complete commands of one word. These also complete `htmap`, which is HTMap's own script or a user's
alias, and take the words up to there away. All of them read what click prints for bash: one line for each word, alike
in every click from 8.0 on, and no descriptions.
"""

import os
import sys
from pathlib import Path
from typing import Tuple

VARIABLE = "_HTMAP_COMPLETE"

_BASH = r"""
_htmap_exec_completion() {
    local words=("${COMP_WORDS[@]}") cword=$COMP_CWORD type value
    if [[ ${words[0]##*/} == htmap-exec ]]; then
        if [[ $cword == 1 || ${words[1]} != htmap ]]; then
            [[ $cword != 1 ]] || COMPREPLY=($(compgen -W htmap -- "${words[1]}"))
            compopt -o default
            return
        fi
        words=("${words[@]:1}")
        cword=$((cword - 1))
    fi
    local IFS=$'\n'
    while IFS=, read -r type value; do
        case $type in
            plain) COMPREPLY+=("$value") ;;
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
        esac
    done < <(env COMP_WORDS="${words[*]}" COMP_CWORD="$cword" _HTMAP_COMPLETE=bash_complete \
        htmap-exec htmap 2>/dev/null)
}
complete -o nosort -F _htmap_exec_completion htmap-exec htmap
"""

_ZSH = r"""
_htmap_exec_completion() {
    local -a line
    local answer
    line=("${(@)words[1,CURRENT]}")
    if [[ ${line[1]:t} == htmap-exec ]]; then
        if (( CURRENT == 2 )) || [[ ${line[2]} != htmap ]]; then
            (( CURRENT != 2 )) || compadd htmap
            _files
            return
        fi
        shift line
    fi
    for answer in "${(@f)$(env COMP_WORDS="${(F)line}" COMP_CWORD=$(( $#line - 1 )) \
        _HTMAP_COMPLETE=bash_complete htmap-exec htmap 2>/dev/null)}"; do
        case $answer in
            plain,*) compadd -- "${answer#plain,}" ;;
            dir,*) _path_files -/ ;;
            file,*) _files ;;
        esac
    done
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _htmap_exec_completion htmap-exec htmap
"""

_FISH = r"""
function _htmap_exec_completion
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    if string match -qr '(^|/)htmap-exec$' -- $words[1]
        set -e words[1]
    end
    for answer in (env COMP_WORDS=(string join ' ' -- $words "$current") COMP_CWORD=(count $words) \
            _HTMAP_COMPLETE=bash_complete htmap-exec htmap 2>/dev/null)
        switch $answer
            case 'plain,*'
                string replace 'plain,' '' -- $answer
            case 'dir,*' 'file,*'
                __fish_complete_path $current
        end
    end
end
complete -c htmap-exec -n __fish_use_subcommand -a htmap
complete -c htmap-exec -n '__fish_seen_subcommand_from htmap' -f -a '(_htmap_exec_completion)'
complete -c htmap -f -a '(_htmap_exec_completion)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_POSIX = '! command -v htmap-exec >/dev/null || eval "$(env {}={}_source htmap-exec htmap)"'
_FISH_LINE = "type -q htmap-exec; and env {}=fish_source htmap-exec htmap | source"


def asked() -> bool:
    """Whether a shell asks for completions, and nobody for a command."""
    return VARIABLE in os.environ


def print_script() -> bool:
    """Print the script that a shell asks for when it starts, and tell whether it did: without importing HTMap, which
    would delay every shell.
    """
    shell, _, instruction = os.environ.get(VARIABLE, "").partition("_")
    if instruction != "source" or shell not in _SCRIPTS:
        return False
    sys.stdout.write(_SCRIPTS[shell].lstrip())
    return True


def startup(shell: str) -> Tuple[str, Path]:
    """The line that makes a shell complete, and the file that it belongs to."""
    home = Path.home()
    if shell == "fish":
        # Read when htmap-exec is completed first: https://fishshell.com/docs/current/completions.html
        return _FISH_LINE.format(VARIABLE), home / ".config" / "fish" / "completions" / "htmap-exec.fish"
    return _POSIX.format(VARIABLE, shell), home / f".{shell}rc"
