# shellcheck shell=sh
# Sourced by scripts/demo, test, corners and soak: finds a Python, makes .venv and installs into it.
# Plain POSIX sh; the caller has changed to the project's folder.

# Whoever wants no __pycache__ has .gitignore for it here; tests start a thousand Pythons.
unset PYTHONDONTWRITEBYTECODE

python= # the interpreter that makes .venv, once it is looked for
stopped= # set when a signal told the script to end

# Says in one sentence what is wrong, unless it is only that somebody pressed Ctrl-C.
fail() {
    [ -n "$stopped" ] || echo "$1" >&2
    exit 1
}

# Prints a Python's version when it runs and is new enough, else nothing: the shims of version
# managers may be there and not run.
new_version() {
    "$1" -c 'import sys; sys.version_info < (3, 11) or sys.stdout.write("%d.%d.%d" % sys.version_info[:3])' \
        2>/dev/null | grep '^3\.[0-9]*\.[0-9]*$'
}

find_python() {
    asked=${PYTHON:-python3}
    for python in "$asked" python3.14 python3.13 python3.12 python3.11; do
        [ -z "$(new_version "$python")" ] || return 0
        [ -z "$PYTHON" ] || break # who names one wants that one
    done
    found=$("$asked" -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null)
    fail "mpx-channels needs Python 3.11 or newer, but $asked is ${found:-no Python that runs}: install a newer one, or name one with PYTHON=/path/to/python $0"
}

make_venv() {
    find_python
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no working venv module: install it (on Debian and Ubuntu: apt install python3-venv), or name another Python with PYTHON=/path/to/python $0"
    echo "Making .venv with $python"
    interruptible "$python" -m venv --clear .venv >/dev/null 2>&1 ||
        fail "The virtual environment could not be made; to see why, run: $python -m venv --clear .venv"
}

# set_up NAME PIP-ARGUMENT...: afterwards .venv has what the arguments name.
# The stamp .venv/.installed-NAME holds all that would make another install necessary, and is
# written last, so an interrupted install doesn't pass for a finished one.
set_up() {
    stamp=.venv/.installed-$1
    shift
    version=$(new_version .venv/bin/python)
    if [ -n "$PYTHON" ]; then
        find_python
        [ "$version" = "$(new_version "$python")" ] || version=
    fi
    sources="$(cksum <pyproject.toml) $PWD" # the folder too: an editable install points to it
    [ -n "$version" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$version $sources" ] && return

    rm -f "$stamp"
    if [ -z "$version" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        make_venv
        version=$(new_version .venv/bin/python)
    fi
    echo "Installing into .venv (the first time takes a minute)"
    interruptible .venv/bin/python -m pip install -qq --disable-pip-version-check "$@" ||
        fail "The installation failed; pip's reason is above. To try again: $0"
    echo "$version $sources" >"$stamp"
}

# install_on_debian PACKAGE WHAT: for root on Debian; elsewhere, and when it fails, it is not there.
install_on_debian() {
    [ "$(id -u)" = 0 ] && grep -qs '^ID=debian' /etc/os-release || return 0
    echo "Installing $2"
    log=$(mktemp)
    {
        export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # so that no service is started
        apt-get -q update && apt-get -qy install --no-install-recommends "$1"
    } >"$log" 2>&1 </dev/null || tail "$log" >&2
    rm -f "$log"
}

# Runs a command so that INT, TERM, HUP or QUIT ends it and all that it started. In the
# background, because a shell keeps a signal waiting for as long as a foreground command takes.
interruptible() {
    # Python itself: a version manager's shim would take the signal and not hand it on.
    runner=$("${python:-.venv/bin/python}" -c 'import sys; print(sys.executable)') || return
    "$runner" scripts/_run.py "$@" &
    trap 'stopped=yes; kill -TERM $! 2>/dev/null' INT TERM HUP QUIT
    wait $!
    result=$?
    while kill -0 $! 2>/dev/null; do # a signal cut the wait short
        wait $!
        result=$?
    done
    trap - INT TERM HUP QUIT
    return "$result"
}
