# SPDX-License-Identifier: Apache-2.0
# bash completion for snapctl: the words come from the program itself.
_snapctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} i group='' command=''
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --on) ((i++)) ;;
        -*) ;;
        *)
            if [ -z "$group" ]; then
                group=${COMP_WORDS[i]}
            elif [ -z "$command" ]; then
                command=${COMP_WORDS[i]}
            fi
            ;;
        esac
    done
    if [ -z "$group" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(snapctl --words 2>/dev/null) --json --quiet --help --version" -- "$cur")
    elif [ -z "$command" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(snapctl --words "$group" 2>/dev/null) --help" -- "$cur")
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(snapctl "$group" "$command" --usage 2>/dev/null |
            grep -o -- '--[a-z][a-z-]*' | sort -u)" -- "$cur")
    else
        compopt -o default
    fi
}
complete -F _snapctl snapctl
