/** Scripts that make a shell ask berth for completions: see complete.ts for what it answers. */

/**
 * bash splits words at `:` and `=` too, and replaces only what follows the last of them. So the words are taken from the line, and what
 * stands before that place is cut from each candidate.
 */
const BASH = String.raw`_PROGRAM_complete() {
  local line=${'$'}{COMP_LINE:0:COMP_POINT} word shell= answer
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  local current=${'$'}{words[-1]}
  local kept=${'$'}{current%"${'$'}{current##*[$COMP_WORDBREAKS]}"}
  COMPREPLY=()
  while IFS= read -r answer; do
    case $answer in
      :files) shell=-f ;;
      :directories) shell=-d ;;
      :*) ;;
      *) word=${'$'}{answer%%$'\t'*}; COMPREPLY+=("${'$'}{word#"$kept"}") ;;
    esac
  done < <("${'$'}{words[0]}" __complete "${'$'}{words[@]:1}" 2>/dev/null)
  if [[ -n $shell ]]; then
    compopt -o filenames
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen "$shell" -- "${'$'}{current##*[:=]}")
  fi
  # More is to come after these.
  [[ ${'$'}{#COMPREPLY[@]} -eq 1 && ${'$'}{COMPREPLY[0]} == *[:=/] ]] && compopt -o nospace
}
complete -F _PROGRAM_complete PROGRAM
`;

const ZSH = String.raw`#compdef PROGRAM
_PROGRAM() {
  local answer word
  local -a values shown
  local shell=
  while IFS= read -r answer; do
    case $answer in
      :*) shell=${'$'}{answer#:} ;;
      *) word=${'$'}{answer%%$'\t'*}; values+=("$word"); shown+=("${'$'}{answer/$'\t'/  }") ;;
    esac
  done < <("${'$'}{(Q)words[1]}" __complete "${'$'}{(@Q)words[2,CURRENT]}" 2>/dev/null)
  (( ${'$'}{#values} )) && compadd -l -d shown -a values
  # The path of oci:PATH and of --flag=PATH.
  [[ -n $shell ]] && compset -P '*[:=]'
  case $shell in
    files) _files ;;
    directories) _files -/ ;;
  esac
}
compdef _PROGRAM PROGRAM
`;

const FISH = `function __PROGRAM_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l current $words[-1]
  for answer in ($words[1] __complete $words[2..] 2>/dev/null)
    switch $answer
      case ':files'
        __fish_complete_path $current
      case ':directories'
        __fish_complete_directories $current
      case ':*'
      case '*'
        echo $answer
    end
  end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
`;

const SCRIPTS: Readonly<Record<string, string>> = {bash: BASH, zsh: ZSH, fish: FISH};

/** @param shell bash, zsh or fish @param program the name that is completed */
export const completionScript = (shell: string, program: string): string => SCRIPTS[shell]!.replaceAll('PROGRAM', program);
