#!/bin/sh
# One command per chore. On a bare Debian with Python 3.11 it installs its requirements, into .venv.
#   ./do demo    JupyterLab with the notebooks, on a real PostgreSQL (--no-browser prints the URL)
#   ./do test    all tests; arguments go to pytest (./do test tests/sync -x)
#   ./do help    the rest
set -eu
cd "$(dirname "$0")"
bin=$PWD/.venv/bin
# Many containers set it. Without bytecode, each of the hundreds of interpreters started by tests (kernels,
# servers, scripts) compiles pandas again, in 1.4 s of processor time instead of 0.5 s.
unset PYTHONDONTWRITEBYTECODE

say() { printf '\033[2m%s\033[0m\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "This needs root once: $*" >&2; return 1
    fi
}

debian() { # debian PACKAGE...: install Debian packages
    command -v apt-get >/dev/null || { echo "Please install: $*" >&2; return 1; }
    say "installing $* (Debian)"
    as_root apt-get update -qq >/dev/null 2>&1 || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

python() { # the newest Python that the package supports
    for each in python3.14 python3.13 python3.12 python3.11 python3; do
        if command -v $each >/dev/null && $each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo $each
            return
        fi
    done
    echo "notebook_rt needs Python 3.11 or newer" >&2
    return 1
}

install() { # install PACKAGES...: into .venv, again only when pyproject.toml or the request changed
    wanted="$(cksum <pyproject.toml) $*"
    [ -x "$bin/python" ] && [ -f .venv/wanted ] && grep -qxF "$wanted" .venv/wanted && return
    if ! [ -x "$bin/pip" ]; then
        py=$(python)
        if ! $py -c 'import ensurepip' 2>/dev/null; then
            debian "python$($py -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
        fi
        $py -m venv .venv
    fi
    say "installing into .venv"
    "$bin/pip" install -q --disable-pip-version-check "uv>=0.5"
    VIRTUAL_ENV=$PWD/.venv "$bin/uv" pip install -q "$@"
    touch .venv/wanted
    echo "$wanted" >>.venv/wanted
}

workers() { # more than cores, because most tests wait
    cores=$(getconf _NPROCESSORS_ONLN)
    echo $((cores < 8 ? cores + 2 : 10))
}

users() { install -e ".[all]"; }
developers() { install -e ".[all]" --group dev; }

with_node() { # for the tests of supabase-js and of the widgets' JavaScript
    if ! command -v npm >/dev/null || ! node -e "process.exit(parseInt(process.versions.node) < 20)" 2>/dev/null; then
        install -e ".[all]" --group dev --group node
        PATH=$bin:$PATH
        export PATH
    fi
}

packages() { # the tools that check and bundle the JavaScript, into node_modules
    with_node
    wanted=$(cksum <package-lock.json)
    [ -f node_modules/wanted ] && [ "$(cat node_modules/wanted)" = "$wanted" ] && return
    say "installing into node_modules"
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
    echo "$wanted" >node_modules/wanted
}

browser() { # for the browser tests
    if ! command -v chromium >/dev/null || ! /sbin/ldconfig -p | grep -q 'libatomic\.so\.1'; then
        debian chromium fonts-dejavu-core libatomic1 # the last one is for playwright's node
    fi
    with_node
}

chore=${1:-help}
[ $# -gt 0 ] && shift

case $chore in
demo) users; exec "$bin/notebook-rt" demo "$@" ;;
test) # in the order of the folders, so that long files (browser, faults) are not last (-n 0: one at a time)
    developers; browser; exec "$bin/python" -m pytest -m "not nightly" -n "$(workers)" --dist loadfile --no-loadscope-reorder "$@" ;;
nightly) # long: the long versions of tests; old: live, README and notebook tests on the platform as it was before 2026
    developers; browser; failed=0
    for which in ${1:-long old}; do
        case $which in
        long) # the laws with all their examples; other runs draw a part (tests/laws.py)
            HYPOTHESIS_PROFILE=whole "$bin/python" -m pytest -m "not nightly" -n 2 --dist loadfile \
                $(grep -rl --include='*.py' 'import hypothesis\|from hypothesis' tests | grep test_) || failed=1
            # Panel and repo2docker are not in .venv, because Panel's extension of JupyterLab breaks Voila's pages
            HYPOTHESIS_PROFILE=whole VIRTUAL_ENV=$PWD/.venv "$bin/uv" run -q --active --no-project --with panel --with jupyter-repo2docker \
                python -m pytest -m nightly || failed=1 ;;
        old) NRT_TEST_PLATFORM=old "$bin/python" -m pytest -m "not nightly" -n 2 --dist loadfile tests/test_*.py || failed=1 ;;
        *) echo "nightly is long, old, or both: not $which" >&2; exit 2 ;;
        esac
    done
    exit $failed ;;
lint) developers; packages; "$bin/ruff" format --check . && "$bin/ruff" check . && "$bin/lint-imports" --no-cache && exec npm run --silent lint ;;
types) developers; packages; "$bin/mypy" && exec npm run --silent types ;;
check) # and compile the tests' imports meanwhile, once for all workers
    developers; packages; browser; failed=0
    "$bin/python" -m pytest --collect-only -qq >/dev/null 2>&1 &
    compiled=$!
    ./do types & types=$!
    ./do lint || failed=1
    wait $types || failed=1
    wait $compiled || true # the tests will report the reason
    exit $failed ;;
js) packages; exec npm run --silent "${1:-build}" ;; # or: ./do js watch
bench) install -e ".[all]" --group dev --group bench; exec "$bin/python" -m tests.benchmarks "$@" ;;
latency) developers; browser; exec "$bin/python" -m tests.browser.latency "$@" ;;
package) # the wheel and the sdist, each installed alone and tried
    developers; rm -rf dist; "$bin/uv" build -q --out-dir dist
    for each in dist/*.whl dist/*.tar.gz; do
        tried=$(mktemp -d)
        "$bin/python" -m venv "$tried"
        VIRTUAL_ENV=$tried "$bin/uv" pip install -q "$each"
        (cd "$tried" && bin/python -c "
import notebook_rt as nrt
for name in nrt.__all__: getattr(nrt, name)
from notebook_rt.widgets import GridWidget, HealthWidget
print(nrt.__version__)" && bin/notebook-rt --help >/dev/null)
        rm -rf "$tried"
        say "$each: installed and tried"
    done ;;
bounds) # lowest, newest or next: the tests that touch the dependencies, with those
    which=${1:?lowest, newest or next}
    developers; browser
    bounds=$PWD/.cache/bounds-$which
    "$bin/python" -m venv "$bounds"
    case $which in
    lowest) how="--resolution lowest-direct" ;;
    newest) how="--upgrade" ;;
    next) how="--upgrade --prerelease allow" ;;
    *) echo "lowest, newest or next, not $which" >&2; exit 2 ;;
    esac
    # shellcheck disable=SC2086
    VIRTUAL_ENV=$bounds "$bin/uv" pip install -q $how -e ".[all]" --group dev
    if [ "$which" = next ]; then # past the upper bounds
        VIRTUAL_ENV=$bounds "$bin/uv" pip install -q --upgrade --prerelease allow realtime supabase websockets
    fi
    exec "$bounds/bin/python" -m pytest -m "not nightly and not browser" -n 2 --dist loadfile \
        tests/net tests/store tests/widgets tests/test_live_table.py tests/test_live_channel.py tests/test_live_logins.py tests/test_live_editing.py ;;
lock) developers; "$bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
        --all-extras --group dev pyproject.toml -o requirements-dev.lock ;;
release) developers; exec "$bin/python" .github/release.py "$@" ;;
docs) developers; exec "$bin/sphinx-build" -W --keep-going -q -b html "$@" docs build/docs ;; # a warning is an error
animation) developers; browser; exec "$bin/python" -m tests.browser.animation "$@" ;;
pictures) developers; browser; exec "$bin/python" -m tests.browser.pictures "$@" ;;
clean) rm -rf .venv node_modules build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .pictures ;;
help)
    cat <<'TXT'
./do demo      install, then open JupyterLab with the notebooks on a real PostgreSQL (--no-browser prints the URL)
./do test      install, then run all tests; arguments go to pytest
./do nightly   the long versions of the tests, and the older platform ([long|old])
./do lint      ruff, eslint, bundles           ./do types     mypy --strict, tsc --checkJs
./do check     lint and types at once
./do js        bundle the widgets ([watch])
./do bench     benchmarks beside their peers   ./do docs      the site into build/docs
./do package   wheel and sdist, installed and tried
./do bounds    the tests with the lowest, newest or next dependencies
./do lock      update the lock file            ./do release VERSION
./do latency   from df to pixel beside other grids, in JupyterLab ([seconds])
./do pictures  widgets, light and dark, as PNG ./do animation the README's moving picture
./do clean     remove what this script made
TXT
    ;;
*) echo "unknown chore: $chore (./do help)" >&2; exit 2 ;;
esac
