"""For any arguments and environment, ``connect`` opens the intended project, or explains why not."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

from hypothesis import assume, example, given
from hypothesis import strategies as st

import notebook_rt as nrt
from notebook_rt import errors, session
from notebook_rt.net.address import project_key, project_url

REF = "abcdefghijklmnopqrst"
OTHER = "zyxwvutsrqponmlkjihg"
PROJECT, ANOTHER = f"https://{REF}.supabase.co", f"https://{OTHER}.supabase.co"
PASSWORD = "hunter2-hunter2"


def jwt(role: str, ref: str = REF) -> str:
    """A key of the older kind; its signature is nobody's."""
    claims = {"iss": "supabase", "ref": ref, "role": role, "iat": 1700000000, "exp": 2100000000}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    coded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    return ".".join((*coded, "c2lnbmF0dXJlLW9mLW5vYm9keS1hdC1hbGwtMTIzNDU"))


PUBLISHABLE = "sb_publishable_0a1b2c3d4e5f6a7b8c9d0e_1f2a3b4c"
SECRET = "sb_secret_Zz9Yy8Xx7Ww6Vv5Uu4Tt3_Ss2Rr1Qq"
KEYS = [PUBLISHABLE, SECRET, jwt("anon"), jwt("service_role")]

# What is given --------------------------------------------------------------------------------------

ADDRESSES = [
    PROJECT,
    f"{PROJECT}/",
    f"{PROJECT}//",
    PROJECT.upper().replace("HTTPS", "https"),
    f"{REF}.supabase.co",
    REF,
    *(f"{PROJECT}/{name}/v1" for name in ("rest", "auth", "realtime", "storage", "functions", "graphql")),
    f"{PROJECT}/rest/v1/",
    f"{PROJECT}/storage/v1/s3",
    f"wss://{REF}.supabase.co/realtime/v1/websocket",
    f"wss://{REF}.supabase.co/realtime/v1",
]  # fmt: skip
"""The project, as the dashboard and the libraries have it."""
ASIDE = [
    f"https://supabase.com/dashboard/project/{REF}",
    f"https://supabase.com/dashboard/project/{REF}/settings/api-keys?showAll=1#x",
    f"https://www.supabase.com/dashboard/project/{REF}",
    f"supabase.com/dashboard/project/{REF}/editor",
    f"https://app.supabase.com/project/{REF}/settings/api",
    "https://supabase.com/dashboard/projects",
    "https://supabase.com",
    f"postgresql://postgres:{PASSWORD}@db.{REF}.supabase.co:5432/postgres",
    f"postgres://postgres.{REF}:{PASSWORD}@aws-0-eu-central-1.pooler.supabase.com:6543/postgres",
    f"db.{REF}.supabase.co",
    f"https://db.{REF}.supabase.co",
    f"https://user:{PASSWORD}@{REF}.supabase.co",
    f"{PROJECT}?apikey={PUBLISHABLE}",
    f"{PROJECT}/rest/v1/prices?apikey={SECRET}",
    *KEYS,
    f"Bearer {jwt('anon')}",
    f"{PROJECT} {PUBLISHABLE}",
    "",
    "   ",
    "https://<project-ref>.supabase.co",
    "https://${REF}.supabase.co",
    f"SUPABASE_URL={PROJECT}",
    "ftp://example.com",
    "https://",
    "http://",
    "https://[",
    "a b",
]  # fmt: skip
"""What is no address of a project: whoever gives it is told what it is."""
WRAPS = [
    "{}",
    " {} ",
    "{}\n",
    "\t{}\r\n",
    '"{}"',
    "'{}'",
    '"{}"\n',
    "“{}”",
    "<{}>",
    "{},",
    "{};",
    "`{}`",
]
"""How it is copied: with what stood around it."""


@dataclass(frozen=True)
class Given:
    """A text, and what is meant: a project's URL, a key; None: nothing that can be used."""

    text: Any
    meant: str | None


def wrapped(good: st.SearchStrategy[str], bad: st.SearchStrategy[str]) -> st.SearchStrategy[Given]:
    either = st.one_of(st.tuples(good, st.just(True)), st.tuples(bad, st.just(False)))
    return st.builds(
        lambda one, wrap: Given(wrap.format(one[0]), one[0] if one[1] else None),
        either,
        st.sampled_from(WRAPS),
    )


urls = wrapped(st.sampled_from(ADDRESSES), st.sampled_from(ASIDE)).map(
    lambda one: Given(one.text, one.meant and PROJECT)
)


@st.composite
def broken_keys(draw: st.DrawFn) -> str:
    """A key that was not copied whole, or is none."""
    key = draw(st.sampled_from(KEYS))
    how = draw(st.sampled_from(["cut", "dots", "inside", "bearer", "not one", "named", "twice"]))
    if how == "cut":
        # What shows that a key was cut off: its beginning alone, or a token that lacks a part.
        return key.rsplit(".", 1)[0] if "." in key else "_".join(key.split("_")[:2]) + "_"
    if how == "dots":
        return key[:20] + draw(st.sampled_from(["…", "...", "••••••••", "********"]))
    if how == "inside":
        at = draw(st.integers(16, len(key) - 8))
        return key[:at] + draw(st.sampled_from([" ", "\n", "\r\n  ", "\u200b", '"'])) + key[at:]
    if how == "bearer":
        return f"Bearer {key}"
    if how == "named":
        return f"SUPABASE_KEY={key}"
    if how == "twice":
        return f"{key} {key}"
    return draw(st.sampled_from(["", " ", PROJECT, f"{PROJECT}/rest/v1"]))


keys = wrapped(st.sampled_from(KEYS), broken_keys())

FRAMEWORKS = [
    "",
    "NEXT_PUBLIC_",
    "VITE_",
    "REACT_APP_",
    "EXPO_PUBLIC_",
    "NUXT_PUBLIC_",
    "PUBLIC_",
    "GATSBY_",
    "VUE_APP_",
    "NG_APP_",
    "STORAGE_",
    "MY_",
]
NAMES = [
    "SUPABASE_URL",
    "SUPABASE_ANON_KEY",
    "SUPABASE_PUBLISHABLE_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_PUBLISHABLE_DEFAULT_KEY",
    "SUPABASE_KEY",
    "SUPABASE_PROJECT_REF",
    "SUPABASE_PROJECT_ID",
    "SUPABASE_API_URL",
    "SUPABASE_PROJECT_URL",
    "SUPABASE_DB_URL",
    "SUPABASE_PUBLISHABLE_KEYS",
    "SUPABASE_SERVICE_KEY",
]
VALUES = [PROJECT, REF, *KEYS]
looking_like_a_projects = st.one_of(
    st.tuples(
        st.builds(
            lambda before, name, lower: (before + name).lower() if lower else before + name,
            st.sampled_from(FRAMEWORKS),
            st.sampled_from(NAMES),
            st.booleans(),
        ),
        st.sampled_from(VALUES),
    ),
    st.tuples(
        st.sampled_from(["DATABASE_URL", "POSTGRES_URL", "POSTGRES_HOST", "PGHOST", "API_URL", "BACKEND"]),
        st.sampled_from([
            PROJECT,
            f"{PROJECT}/rest/v1",
            f"wss://{REF}.supabase.co/realtime/v1",
            f"{REF}.supabase.co",
            f"db.{REF}.supabase.co",
            f"postgresql://postgres:{PASSWORD}@db.{REF}.supabase.co:5432/postgres",
            f"postgres://postgres.{REF}:{PASSWORD}@aws-0-eu-central-1.pooler.supabase.com:6543/postgres",
            PUBLISHABLE,
            SECRET,
        ]),
    ),
)  # fmt: skip
harmless = st.sampled_from([
    ("HOME", "/home/me"), ("PATH", "/usr/bin:/supabase/bin"), ("DATABASE_URL", "postgres://localhost/db"),
    ("SUPABASE_URL", ""), ("SUPABASE_URL", "  "), ("NEXT_PUBLIC_SUPABASE_URL", ""), ("DEBUG", "1"),
    ("SUPABASE_TELEMETRY_DISABLED", "1"), ("JWT", "x.y.z"),
])  # fmt: skip
environments = st.one_of(
    st.just(dict[str, str]()),
    st.lists(harmless, max_size=3).map(dict),
    st.lists(st.one_of(looking_like_a_projects, harmless), max_size=4).map(dict),
)
Place = Literal["script", "prompt", "notebook"]
places: st.SearchStrategy[Place] = st.sampled_from(["script", "prompt", "notebook"])


# What comes of it -----------------------------------------------------------------------------------


@dataclass
class World:
    """What ``connect`` did: whether it started the embedded stack, and what it opened."""

    started: bool = False
    opened: tuple[str, str] | None = None


@contextmanager
def world(environment: dict[str, str], place: Place) -> Iterator[World]:
    """``connect`` with an environment and somebody, or nobody, in front; nothing is started or opened."""
    seen = World()
    stack = SimpleNamespace(
        url="http://127.0.0.1:5", anon_key=jwt("anon", "local"), stop=lambda: None
    )

    def started() -> object:
        seen.started = True
        return stack

    def opened(url: object, key: str | None, *_: object, **more: Any) -> World:
        if not isinstance(more.get("options"), nrt.Options | None):
            raise TypeError("options are nrt.Options")
        base = project_url(url)
        seen.opened = (base, project_key(key, base))
        return seen

    interactive = place != "script"
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(session, "_embedded", started),
        mock.patch.object(session, "Session", opened),
        mock.patch.object(session, "connected", lambda made: made),
        mock.patch.object(session, "is_interactive", return_value=interactive),
        mock.patch("builtins.print"),
    ):
        yield seen


SECRETS = [*KEYS, jwt("anon", "local"), PASSWORD]


def says_no_secret(error: BaseException) -> None:
    """No key and no password is in an error, nor in what it holds or comes from; nor most of one."""
    told = [str(error), repr(error), repr(error.args), repr(vars(error))]
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if behind is not None:
        told.append(repr(behind))
    for secret in SECRETS:
        for start in range(0, len(secret) - 11, 4):
            part = secret[start : start + 12]
            if secret.startswith("sb_") and start < len("sb_publishable_"):
                continue  # the kind of a key is no secret
            assert not any(part in text for text in told), told


@given(st.none() | urls | st.just(Given("local", "local")), st.none() | keys, environments, places)
@example(None, Given(PUBLISHABLE, PUBLISHABLE), {}, "notebook")
@example(Given(PROJECT, PROJECT), None, {"SUPABASE_ANON_KEY": jwt("anon")}, "script")
def test_connect_opens_what_was_meant_or_says_what_it_saw_and_what_to_do(
    url: Given | None, key: Given | None, environment: dict[str, str], place: Place
) -> None:
    assume(url is None or url.text != "local" or key is None or key.meant is not None)
    project = any(
        value.strip() and ("supabase" in name.lower() or "supabase." in value or "sb_" in value)
        for name, value in environment.items()
        if name not in ("PATH", "SUPABASE_TELEMETRY_DISABLED")
    )
    with world(environment, place) as seen:
        try:
            nrt.connect(url and url.text, key and key.text)
        except errors.NotebookRTError as error:
            says_no_secret(error)
            words = str(error)
            assert any(
                cure in words for cure in ("nrt.connect(", "Check the URL", "set SUPABASE_KEY")
            )
            refused: errors.NotebookRTError | None = error
        else:
            refused = None
    # The embedded stack: only where it is asked for, or where nothing names a project and somebody
    # sits in front.
    if url is not None and url.text == "local":
        assert seen.started
        return
    if seen.started:
        assert url is None
        assert key is None, "a key is of a project"
        assert not project
        assert place != "script"
        return
    named = environment.get("SUPABASE_URL", "").strip()
    if url is None and not named:
        assert isinstance(refused, errors.NoProjectError)
        for name in refused.seen:
            assert name in str(refused)
        assert bool(refused.seen) == project
        return
    base = url.meant if url is not None else (PROJECT if named in (PROJECT, REF) else None)
    given_key = (
        key.meant if key is not None else environment.get("SUPABASE_KEY", "").strip() or None
    )
    if base is None or given_key is None or given_key not in KEYS:
        assert refused is not None, seen.opened
        assert isinstance(refused, errors.UnreachableError | errors.NoKeyError)
        if base is not None and key is None:
            for name, value in environment.items():
                if name.upper().endswith("_KEY") and value in KEYS and name != "SUPABASE_KEY":
                    assert name in str(refused)
    else:
        assert seen.opened is not None, refused
        assert seen.opened == (base, given_key)
