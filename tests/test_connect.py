"""The arguments of ``connect``: copied addresses, the environment, an existing client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import nbclient
import nbformat
import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st
from supabase import acreate_client, create_client

import notebook_rt as nrt
from notebook_rt import errors, local
from notebook_rt.local import LocalStack, start
from notebook_rt.net.address import environment_url, is_secret, project_url
from tests.waiting import scaled, until

REF = "abcdefghijklmnopqrst"
PROJECT = f"https://{REF}.supabase.co"
SWIFT = nrt.Options(backoff_base=0.1, backoff_max=0.5, poll_interval=0.3, audit_interval=0)


# Addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        REF,
        f" {REF}\n",
        f"{REF}.supabase.co",
        f"{PROJECT}/",
        f"{PROJECT}/rest/v1",
        f"{PROJECT}/auth/v1/",
        f"{PROJECT}/graphql/v1",
        f"wss://{REF}.supabase.co/realtime/v1",
        f"wss://{REF}.supabase.co/realtime/v1/websocket",
        yarl.URL(f"{PROJECT}/"),
        httpx.URL(PROJECT),
    ],
    ids=str,
)
def test_an_address_is_taken_as_any_library_has_it(given: object) -> None:
    assert project_url(given) == PROJECT


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (f"https://supabase.com/dashboard/project/{REF}/settings/api", f"project is at {PROJECT}"),
        (f"supabase.com/dashboard/project/{REF}", f"project is at {PROJECT}"),
        (f"https://app.supabase.com/project/{REF}", f"project is at {PROJECT}"),
        ("https://supabase.com/dashboard/projects", "this is the dashboard"),
        (f"postgresql://postgres:hunter2@db.{REF}.supabase.co:5432/postgres", PROJECT),
        (f"postgres://postgres.{REF}:hunter2@aws-0-eu.pooler.supabase.com:6543/postgres", PROJECT),
        ("postgresql://postgres:hunter2@localhost/postgres", "its https:// address"),
    ],
)
def test_what_is_another_address_of_the_project_is_distinguished(given: str, says: str) -> None:
    with pytest.raises(errors.UnreachableError) as caught:
        project_url(given)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


# The environment -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "NEXT_PUBLIC_SUPABASE_URL",
        "VITE_SUPABASE_ANON_KEY",
        "SUPABASE_ANON_KEY",
        "SUPABASE_SERVICE_ROLE_KEY",
        "SUPABASE_KEY",
        "EXPO_PUBLIC_SUPABASE_PUBLISHABLE_KEY",
        "SUPABASE_PROJECT_REF",
    ],
)
def test_a_variable_that_looks_like_a_projects_is_never_passed_over(name: str) -> None:
    with pytest.raises(errors.NoProjectError, match=name) as caught:
        environment_url({name: "what it holds", "PATH": "/bin"})
    assert caught.value.seen == [name]
    assert "what it holds" not in str(caught.value)
    assert environment_url({name: "x", "SUPABASE_URL": PROJECT}) == PROJECT
    assert environment_url({name: " "}) is None, "an empty variable is not set"


@pytest.mark.parametrize(
    ("names", "call"),
    [
        (["SUPABASE_KEY"], 'SUPABASE_KEY is: pass nrt.connect(url, os.environ["SUPABASE_KEY"])'),
        (["VITE_SUPABASE_URL"], 'nrt.connect(os.environ["VITE_SUPABASE_URL"])'),
        (["SUPABASE_PROJECT_REF"], 'nrt.connect(os.environ["SUPABASE_PROJECT_REF"])'),
        (
            ["SUPABASE_REF", "SUPABASE_ANON_KEY"],
            'are: pass nrt.connect(os.environ["SUPABASE_REF"], os.environ["SUPABASE_ANON_KEY"])',
        ),
    ],
)
def test_what_variables_name_is_passed_in_its_place(names: list[str], call: str) -> None:
    with pytest.raises(errors.NoProjectError) as caught:
        environment_url(dict.fromkeys(names, "what it holds"))
    assert call in str(caught.value)


@given(st.dictionaries(st.sampled_from(["API", "DB", "HOME"]), st.sampled_from(["/x", PROJECT])))
def test_a_variable_whose_value_is_a_project_counts_whatever_its_name(env: dict[str, str]) -> None:
    named = sorted(name for name, value in env.items() if value == PROJECT)
    if named:
        with pytest.raises(errors.NoProjectError) as caught:
            environment_url(env)
        assert caught.value.seen == named
    else:
        assert environment_url(env) is None


def no_project(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if "SUPABASE" not in name}


@pytest.mark.parametrize("variable", [None, "NEXT_PUBLIC_SUPABASE_URL"])
def test_a_script_without_a_project_starts_nothing(variable: str | None) -> None:
    env = no_project(dict(os.environ)) | ({variable: PROJECT} if variable else {})
    code = "import notebook_rt as nrt\nnrt.connect()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("notebook_rt.errors.NoProjectError: no project is named")
    assert 'nrt.connect("local")' in last
    assert variable is None or f'nrt.connect(os.environ["{variable}"])' in last


def test_a_prompt_without_a_project_gets_the_embedded_stack_and_says_so(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if "SUPABASE" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(local, "start", lambda: start(stack.directory))
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with nrt.connect() as rt:
        assert rt.url == stack.url
        assert rt.stack is not None
        rt.stack.stop()
    assert f"using the embedded stack at {stack.url}" in capsys.readouterr().out
    monkeypatch.setenv("VITE_SUPABASE_URL", PROJECT)
    with pytest.raises(errors.NoProjectError, match="VITE_SUPABASE_URL"):
        nrt.connect()


# A secret key --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_secret_key_in_a_notebook_is_warned_about_once() -> None:
    """In a real kernel. The project cannot be reached, which ``connect`` does not wait for."""
    key = "sb_secret_" + uuid.uuid4().hex
    connect = f"rt = nrt.connect('{PROJECT}', '{key}'); rt.close()"
    cells = [
        "import notebook_rt as nrt",
        connect,
        connect.replace(key, "sb_publishable_x"),
        connect,
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=scaled(60)).execute()
    said = ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells]
    assert ["It passes every policy" in text for text in said] == [False, True, False, False]
    assert "sign_in" in said[1]


def test_which_keys_are_secret() -> None:
    assert is_secret("sb_secret_x", "")
    assert is_secret("a.b.c", "service_role")
    assert not is_secret("sb_publishable_x", "")
    assert not is_secret("a.b.c", "anon")


# A client of the supabase package ------------------------------------------------------------------

User = dict[str, str]


@pytest.fixture
def users(stack: LocalStack) -> list[User]:
    """Two of the project."""
    made = []
    for _ in range(2):
        made.append({"email": f"u{uuid.uuid4().hex}@example.com", "password": "correct horse"})
        url, headers = f"{stack.url}/auth/v1/signup", {"apikey": stack.anon_key}
        httpx.post(url, json=made[-1], headers=headers).raise_for_status()
    return made


@pytest.fixture
def owned(stack: LocalStack, make_table: Callable[..., str], users: list[User]) -> str:
    """One row of each user, which nobody else sees."""
    table = make_table("id int primary key, email text")
    for number, user in enumerate(users):
        stack.sql(f"insert into {table} values (%s, %s)", number, user["email"])
    stack.sql(f"alter table {table} enable row level security")
    stack.sql(f"create policy own on {table} using (email = auth.jwt() ->> 'email')")
    return table


def sees(frame: nrt.LiveFrame, *keys: int) -> None:
    until(lambda: list(frame.df.index) == list(keys), what=lambda: frame.df)


def test_the_login_of_a_sync_client_is_taken_over_and_followed(
    stack: LocalStack, users: list[User], owned: str
) -> None:
    client = create_client(stack.url, stack.anon_key)
    client.auth.sign_in_with_password(users[0])
    with nrt.connect(client, options=SWIFT) as rt:
        frame = rt.table(owned).wait(scaled(10))
        sees(frame, 0)
        assert rt.url == stack.url
        before = rt._project.credentials.access_token
        second = int(time.time())
        until(lambda: time.time() >= second + 1)  # tokens of one second are the same
        client.auth.refresh_session()
        until(lambda: rt._project.credentials.access_token != before)
        client.auth.sign_in_with_password(users[1])
        sees(frame, 1)
        client.auth.sign_out()
        sees(frame)
        rt.sign_in(**users[0])
        sees(frame, 0)
        client.auth.sign_in_with_password(users[1])
        assert rt.table(owned, columns=["id"]).wait(scaled(10)).df.index.tolist() == [0], (
            "its own login"
        )
    client.auth.sign_out()  # a listener of a closed session says nothing


async def test_the_login_of_an_async_client_is_taken_over_and_followed(
    stack: LocalStack, users: list[User], owned: str
) -> None:
    client = await acreate_client(stack.url, stack.anon_key)
    with nrt.connect(client, options=SWIFT) as rt:
        frame = await rt.table(owned).ready()
        await asyncio.to_thread(sees, frame)
        for number, user in enumerate(users):
            await client.auth.sign_in_with_password(user)
            await asyncio.to_thread(sees, frame, number)
        # When ours is refused or ends, the client is asked for a fresh one on its own loop.
        fresh = await asyncio.to_thread(rt._project.login._followed.fresh)  # type: ignore[union-attr]
        assert fresh == rt._project.credentials.access_token
        await client.auth.sign_out()
        await asyncio.to_thread(sees, frame)


def test_a_client_with_a_header_of_its_own_keeps_it(stack: LocalStack, make_table: Any) -> None:
    from supabase import ClientOptions

    token = stack.token("authenticated", str(uuid.uuid4()), 600)
    options = ClientOptions(headers={"Authorization": f"Bearer {token}"}, schema="public")
    client = create_client(stack.url, stack.anon_key, options)
    with nrt.connect(client) as rt:
        assert rt._project.credentials.access_token == token
        assert len(rt.table(make_table()).wait(scaled(10))) == 0


@pytest.mark.parametrize(("given", "found"), [(None, "auth"), ("public", "public")])
def test_the_schema_is_the_clients_unless_one_is_named(
    stack: LocalStack, given: str | None, found: str
) -> None:
    from supabase import ClientOptions

    client = create_client(stack.url, stack.anon_key, ClientOptions(schema="auth"))
    with nrt.connect(client, schema=given) as rt:
        assert rt.schema == found
