# shellcheck shell=bash
# Sourced by scripts that start processes which have to end with them. Each child has
#  - a process group of its own: a Ctrl-C at the terminal comes to the script alone, which then
#    stops its children in the right order;
#  - the kernel's promise to be sent a SIGTERM should the script be killed with -9.

# shellcheck disable=SC2034 # child_log is for the messages of the scripts
declare -A child_pid=() child_log=()
step_pid=""

# spawn COMMAND...: starts it in the background; its process id, and that of its group, is $!
spawn() {
    set -m
    setpriv --pdeathsig TERM -- "$@" </dev/null &
    set +m
}

# start NAME LOG COMMAND...: a child that is to live until it is stopped; keeps the log of last time
start() {
    local name=$1 log=$2
    shift 2
    [ ! -e "$log" ] || mv "$log" "$log.1"
    spawn "$@" >"$log" 2>&1
    child_pid[$name]=$!
    child_log[$name]=$log
}

# step LOG COMMAND...: runs it to its end, like a plain command, except that a signal to the script
# does not have to wait for that end; its output goes to LOG, or with `-` to the terminal. (A
# redirection of the whole step would also catch what the script says in a trap meanwhile.)
step() {
    local status=0 log=$1
    shift
    if [ "$log" = - ]; then spawn "$@"; else spawn "$@" >"$log" 2>&1; fi
    step_pid=$!
    wait "$step_pid" || status=$?
    step_pid=""
    return "$status"
}

# gone PID: has it ended?
gone() { ! kill -0 "$1" 2>/dev/null; }

# dead_child: prints the name of a child that has ended, or fails if all are alive
dead_child() {
    local name
    for name in "${!child_pid[@]}"; do
        if gone "${child_pid[$name]}"; then
            echo "$name"
            return 0
        fi
    done
    return 1
}

# stop SIGNAL SECONDS NAME...: asks these children to end, and kills those that take longer
stop() {
    local signal=$1 deadline=$((SECONDS + $2)) name pid
    shift 2
    for name; do
        pid=${child_pid[$name]:-}
        [ -z "$pid" ] || kill -"$signal" "$pid" 2>/dev/null || true
    done
    for name; do
        pid=${child_pid[$name]:-}
        [ -n "$pid" ] || continue
        until gone "$pid"; do
            if ((SECONDS >= deadline)); then
                echo "$name does not stop, killing it" >&2
                kill -KILL -- "-$pid" 2>/dev/null || true
            fi
            sleep 0.05
        done
        # A child that ended by itself may have left its own children, as a killed nginx does.
        kill -KILL -- "-$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        unset "child_pid[$name]"
    done
}

# stop_step: ends the step that a signal has interrupted, with all that it started
stop_step() {
    [ -n "$step_pid" ] || return 0
    kill -TERM -- "-$step_pid" 2>/dev/null || true
    wait "$step_pid" 2>/dev/null || true
    step_pid=""
}
