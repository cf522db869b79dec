"""Make a release: see docs/releasing.md."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSION = ROOT / "notebook_rt" / "__init__.py"
CHANGELOG = ROOT / "CHANGELOG.md"


def run(*command: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE
    ).stdout.strip()


def number(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit(f"a version is three numbers, such as 0.2.0, not {version!r}")
    return tuple(map(int, version.split(".")))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("./do release VERSION")
    version = sys.argv[1]
    source = VERSION.read_text()
    found = re.search(r'^__version__ = "(.*)"$', source, re.M)
    assert found is not None
    if number(version) <= number(found[1]):
        sys.exit(f"{version} is not newer than {found[1]}")
    if run("git", "status", "--porcelain"):
        sys.exit("the tree is not clean: commit first")
    if run("git", "branch", "--show-current") != "main":
        sys.exit("releases are made on main")
    log = CHANGELOG.read_text()
    if "## Unreleased" not in log:
        sys.exit('CHANGELOG.md has no "## Unreleased"')
    VERSION.write_text(source.replace(found[0], f'__version__ = "{version}"'))
    today = dt.date.today().isoformat()
    CHANGELOG.write_text(
        log.replace("## Unreleased", f"## Unreleased\n\n## {version} - {today}", 1)
    )
    try:
        for chore in ("lint", "types", "test", "package"):
            subprocess.run(["./do", chore], cwd=ROOT, check=True)
    except (subprocess.CalledProcessError, KeyboardInterrupt):
        run("git", "checkout", "--", str(VERSION), str(CHANGELOG))
        sys.exit("nothing was released")
    run("git", "commit", "-qam", f"Version {version}")
    run("git", "tag", f"v{version}")
    print(f"tagged v{version}; to publish it: git push origin main v{version}")


if __name__ == "__main__":
    main()
