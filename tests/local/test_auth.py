"""`/auth/v1`: sign-up and sign-in, tokens and their expiry, users, and GoTrue's errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from notebook_rt.local import LocalStack
from notebook_rt.local.stack import Mail

PASSWORD = "correct horse"


class Auth:
    """An HTTP client of `/auth/v1`, with the anon key."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.http = httpx.Client(
            base_url=f"{stack.url}/auth/v1", headers={"apikey": stack.anon_key}
        )

    def __call__(
        self, path: str, body: Any = None, *, method: str = "POST", token: str | None = None
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.stack.anon_key}"}
        return self.http.request(method, path, json=body, headers=headers)

    def sign_up(self) -> dict[str, Any]:
        answer = self("/signup", {"email": f"{uuid4()}@example.org", "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        session: dict[str, Any] = answer.json()
        return session

    def admin(self, path: str, body: Any = None, method: str = "POST") -> httpx.Response:
        return self(f"/admin/users{path}", body, method=method, token=self.stack.service_key)


@pytest.fixture
def auth(stack: LocalStack) -> Iterator[Auth]:
    client = Auth(stack)
    yield client
    client.http.close()


def refusal(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert body["code"] == answer.status_code
    assert body["msg"]
    return answer.status_code, body["error_code"]


def test_signing_up_is_signing_in(stack: LocalStack, auth: Auth) -> None:
    session = auth.sign_up()
    claims = jwt.decode(session["access_token"], options={"verify_signature": False})
    user = session["user"]
    assert claims["sub"] == user["id"]
    assert (claims["role"], claims["aud"]) == ("authenticated", "authenticated")
    assert claims["email"] == user["email"] == user["user_metadata"]["email"]
    assert claims["is_anonymous"] is False
    assert user["app_metadata"] == {"provider": "email", "providers": ["email"]}
    assert session["token_type"] == "bearer"
    assert claims["exp"] == session["expires_at"] == pytest.approx(time.time() + 3600, abs=5)
    seen = auth("/user", method="GET", token=session["access_token"])
    assert seen.json()["id"] == user["id"]
    [(kept,)] = stack.sql("select encrypted_password from auth.users where id = %s", user["id"])
    assert kept.startswith("scrypt$")
    assert PASSWORD not in kept


def test_signing_in_with_the_password_alone(auth: Auth) -> None:
    email = auth.sign_up()["user"]["email"]
    right = {"email": email.upper(), "password": PASSWORD}
    assert auth("/token?grant_type=password", right).json()["user"]["email"] == email
    for wrong in (
        {"email": email, "password": "wrong"},
        {"email": "nobody@example.org", "password": PASSWORD},
        {"email": email},
    ):
        answer = auth("/token?grant_type=password", wrong)
        assert refusal(answer) == (400, "invalid_credentials")
        assert answer.json()["msg"] == "Invalid login credentials"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"email": "x@example.org", "password": "short"}, (422, "weak_password")),
        ({"email": "no address", "password": PASSWORD}, (400, "validation_failed")),
        ({"email": "x@example.org"}, (400, "validation_failed")),
        ({"password": PASSWORD}, (400, "validation_failed")),
        ({"phone": "123", "password": PASSWORD}, (501, "not_implemented")),
        ([], (400, "bad_json")),
    ],
)
def test_sign_ups_that_are_refused(auth: Auth, body: Any, expected: tuple[int, str]) -> None:
    assert refusal(auth("/signup", body)) == expected


def test_an_address_is_taken_once(auth: Auth) -> None:
    email = auth.sign_up()["user"]["email"]
    again = auth("/signup", {"email": email, "password": PASSWORD})
    assert refusal(again) == (422, "user_already_exists")
    assert refusal(auth.admin("", {"email": email})) == (422, "email_exists")


def test_newer_clients_get_the_newer_error(auth: Auth) -> None:
    auth.http.headers["X-Supabase-Api-Version"] = "2024-01-01"
    answer = auth("/token?grant_type=password", {"email": "a@b.c", "password": "x"})
    assert answer.json() == {"code": "invalid_credentials", "message": "Invalid login credentials"}
    assert answer.headers["X-Supabase-Api-Version"] == "2024-01-01"


def test_a_refresh_token_works_once_and_reuse_ends_the_session(auth: Auth) -> None:
    first = auth.sign_up()
    path = "/token?grant_type=refresh_token"
    second = auth(path, {"refresh_token": first["refresh_token"]}).json()
    assert second["user"]["id"] == first["user"]["id"]
    assert second["refresh_token"] != first["refresh_token"]
    reused = auth(path, {"refresh_token": first["refresh_token"]})
    assert refusal(reused) == (400, "refresh_token_already_used")
    ended = auth(path, {"refresh_token": second["refresh_token"]})
    assert refusal(ended) == (400, "refresh_token_not_found")
    seen = auth("/user", method="GET", token=second["access_token"])
    assert refusal(seen) == (403, "session_not_found")
    assert refusal(auth(path, {"refresh_token": "never"})) == (400, "refresh_token_not_found")
    assert refusal(auth(path, {})) == (400, "validation_failed")


def test_signing_out_here_elsewhere_everywhere(auth: Auth) -> None:
    first = auth.sign_up()
    login = {"email": first["user"]["email"], "password": PASSWORD}

    def sign_in() -> str:
        token: str = auth("/token?grant_type=password", login).json()["access_token"]
        return token

    def signed_in(token: str) -> bool:
        return auth("/user", method="GET", token=token).status_code == 200

    here, there = sign_in(), sign_in()
    assert auth("/logout?scope=others", token=here).status_code == 204
    assert (signed_in(here), signed_in(there)) == (True, False)
    there = sign_in()
    assert auth("/logout?scope=local", token=there).status_code == 204
    assert (signed_in(here), signed_in(there)) == (True, False)
    there = sign_in()
    assert auth("/logout", token=there).status_code == 204
    assert (signed_in(here), signed_in(there)) == (False, False)


def test_a_user_changes_itself(auth: Auth) -> None:
    session = auth.sign_up()
    token = session["access_token"]
    body = {"password": "another one", "data": {"nick": "zed", "email_verified": None}}
    user = auth("/user", body, method="PUT", token=token).json()
    assert user["user_metadata"]["nick"] == "zed"
    assert "email_verified" not in user["user_metadata"]
    login = {"email": session["user"]["email"], "password": "another one"}
    assert auth("/token?grant_type=password", login).status_code == 200
    email = auth("/user", {"email": f"new-{login['email']}"}, method="PUT", token=token).json()
    assert email["email"] == f"new-{login['email']}"
    sly = {"role": "service_role", "app_metadata": {"admin": True}}
    user = auth("/user", sly, method="PUT", token=token).json()
    assert user["role"] == "authenticated"
    assert "admin" not in user["app_metadata"]


def test_an_anonymous_user_becomes_a_known_one(auth: Auth) -> None:
    session = auth("/signup", {"data": {"nick": "guest"}}).json()
    claims = jwt.decode(session["access_token"], options={"verify_signature": False})
    assert (claims["is_anonymous"], claims["role"]) == (True, "authenticated")
    body = {"email": f"{uuid4()}@example.org", "password": PASSWORD}
    user = auth("/user", body, method="PUT", token=session["access_token"]).json()
    assert (user["is_anonymous"], user["email"]) == (False, body["email"])
    assert user["user_metadata"]["nick"] == "guest"


def test_who_has_no_token_is_nobody(stack: LocalStack, auth: Auth) -> None:
    expired = stack.token("authenticated", str(uuid4()), -10)
    for token in (stack.anon_key, expired, "a.b.c"):
        assert refusal(auth("/user", method="GET", token=token)) == (403, "bad_jwt")
    unknown = stack.token("authenticated", str(uuid4()), 60)
    assert refusal(auth("/user", method="GET", token=unknown)) == (403, "user_not_found")
    answer = httpx.post(f"{stack.url}/auth/v1/signup", json={})
    assert (answer.status_code, answer.json()["message"]) == (401, "No API key found in request")


def test_the_service_role_keeps_users(auth: Auth) -> None:
    id = str(uuid4())
    body = {
        "id": id,
        "email": f"{id}@example.org",
        "password": PASSWORD,
        "user_metadata": {"nick": "a"},
        "app_metadata": {"team": 7},
        "email_confirm": True,
    }
    created = auth.admin("", body).json()
    assert (created["id"], created["app_metadata"]["team"]) == (id, 7)
    login = {"email": body["email"], "password": PASSWORD}
    session = auth("/token?grant_type=password", login).json()
    changed = auth.admin(f"/{id}", {"user_metadata": {"nick": "b"}}, "PUT").json()
    assert changed["user_metadata"]["nick"] == "b"
    assert auth.admin(f"/{id}", method="GET").json()["id"] == id
    listed = auth.admin("?per_page=1000", method="GET")
    assert id in [user["id"] for user in listed.json()["users"]]
    assert int(listed.headers["X-Total-Count"]) >= 1
    assert len(auth.admin("?page=1&per_page=1", method="GET").json()["users"]) == 1
    assert auth.admin(f"/{id}", method="DELETE").status_code == 200
    assert refusal(auth.admin(f"/{id}", method="GET")) == (404, "user_not_found")
    assert refusal(auth("/user", method="GET", token=session["access_token"]))[0] == 403


def test_nobody_else_does(auth: Auth) -> None:
    token = auth.sign_up()["access_token"]
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", f"/{uuid4()}")):
        answer = auth(f"/admin/users{path}", method=method, token=token)
        assert refusal(answer) == (403, "not_admin")


def test_a_code_works_once_for_an_hour_and_a_new_one_ends_it(stack: LocalStack, auth: Auth) -> None:
    email = f"{uuid4()}@example.org"

    def sent() -> Mail:
        assert auth("/otp", {"email": email}).json() == {}
        mail = stack.mails[-1]
        assert mail.recipient == email
        return mail

    def tried(code: str) -> httpx.Response:
        return auth("/verify", {"type": "email", "email": email, "token": code})

    first, second = sent(), sent()
    if first.code != second.code:
        assert refusal(tried(first.code)) == (403, "otp_expired")
    assert tried(second.code).json()["user"]["email_confirmed_at"] is not None
    assert refusal(tried(second.code)) == (403, "otp_expired")
    late = sent()
    stack.sql("update auth.one_time_tokens set created_at = now() - interval '61 minutes'")
    assert refusal(tried(late.code)) == (403, "otp_expired")
    link = auth.http.get(late.link.split("/auth/v1")[1]).headers["Location"]
    assert link.startswith("http://localhost:3000#error=access_denied&error_code=otp_expired")


@pytest.mark.parametrize(
    "body", [{}, {"token": 5, "email": "a@b.c"}, {"token_hash": ["x"]}, {"token_hash": "\0"}]
)
def test_a_hostile_code_is_refused(auth: Auth, body: Any) -> None:
    status, code = refusal(auth("/verify", {"type": "email", **body}))
    assert (status, code) in ((400, "validation_failed"), (403, "otp_expired"))


def test_a_link_leads_to_no_other_machine(stack: LocalStack, auth: Auth) -> None:
    for page, wanted in (
        ("http://evil.example/", "http://localhost:3000#"),
        ("http://localhost:9/a", ""),
    ):
        auth(f"/otp?redirect_to={page}", {"email": f"{uuid4()}@example.org"})
        answer = auth.http.get(stack.mails[-1].link.split("/auth/v1")[1])
        assert answer.status_code == 303
        assert answer.headers["Location"].startswith(wanted or f"{page}#access_token=")


def test_what_is_there_and_what_is_not(auth: Auth) -> None:
    assert auth("/health", method="GET").json()["name"] == "GoTrue"
    assert auth("/settings", method="GET").json()["mailer_autoconfirm"] is True
    (key,) = auth("/.well-known/jwks.json", method="GET").json()["keys"]
    assert (key["alg"], key["use"]) == ("ES256", "sig")
    answer = auth("/recover", {"email": "a@b.c"})
    assert refusal(answer) == (501, "not_implemented")
    assert "/recover" in answer.json()["msg"]
    assert refusal(auth("/otp", {"phone": "12345"})) == (501, "not_implemented")
    assert refusal(auth("/verify", {"type": "recovery"})) == (501, "not_implemented")
    assert refusal(auth("/token?grant_type=pkce", {})) == (501, "not_implemented")
    assert refusal(auth("/token?grant_type=magic", {})) == (400, "validation_failed")


@pytest.mark.parametrize("hostile", ["'; drop table auth.users --@x", "a@b\0c", '{"$ne": null}@b'])
def test_hostile_addresses_are_addresses_or_refused(auth: Auth, hostile: str) -> None:
    answer = auth("/signup", {"email": hostile, "password": PASSWORD, "data": {"x": hostile}})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert answer.json()["user"]["user_metadata"]["x"] == hostile
