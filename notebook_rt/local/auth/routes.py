"""`/auth/v1`: users with a password or a mailed code, and their tokens.

In: requests of an unmodified Supabase client. Out: sessions (a short-lived access token, a refresh token that
works once), users, and errors in the form of GoTrue, a project's server. No mail is sent: `LocalStack.mails`
shows the codes and links. Unsupported features (phones, providers, second factors) answer 501 with their
name.

Passwords are stored as scrypt hashes in `auth.users`, with sessions and refresh tokens, in the tables of
`sql/2_auth.sql`.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode, urlsplit

import psycopg
from aiohttp import web

from notebook_rt.local.auth.attributes import (
    Attributes,
    AuthError,
    Json,
    address,
    attributes,
    is_uuid,
    merged,
    not_supported,
    positive,
    read_json,
)
from notebook_rt.local.auth.codes import Codes, token_hash
from notebook_rt.local.auth.limits import Attempts
from notebook_rt.local.auth.passwords import hashed, matches
from notebook_rt.local.context import Context, TokenError
from notebook_rt.local.rest.request import GatewayError, gateway
from notebook_rt.local.signing import SigningKey

Handler = Callable[[web.Request], Awaitable[web.Response]]

ATTEMPTS_WINDOW = 300.0
"""Seconds of `StackOptions.password_attempts`."""
OWN_HOSTS = ("localhost", "127.0.0.1", "::1")
SITE_URL = "http://localhost:3000"
"""The target of a link without another page of this machine; the default of a project."""
_API_VERSION = "X-Supabase-Api-Version"
# A user in GoTrue's form.
_USER = """json_build_object(
    'id', id, 'aud', aud, 'role', role, 'email', coalesce(email, ''), 'phone', coalesce(phone, ''),
    'email_confirmed_at', email_confirmed_at, 'confirmed_at', email_confirmed_at,
    'last_sign_in_at', last_sign_in_at, 'app_metadata', raw_app_meta_data,
    'user_metadata', raw_user_meta_data, 'created_at', created_at, 'updated_at', updated_at,
    'is_anonymous', is_anonymous,
    'identities', case when email is null then '[]'::json else json_build_array(json_build_object(
        'identity_id', id, 'id', id, 'user_id', id, 'provider', 'email', 'email', email,
        'identity_data', json_build_object('sub', id, 'email', email, 'email_verified', true),
        'last_sign_in_at', last_sign_in_at, 'created_at', created_at, 'updated_at', updated_at))
    end)"""


def add_routes(app: web.Application, context: Context) -> None:
    """Add the routes of `/auth/v1` to an application."""
    auth = _Auth(context)
    routes: list[tuple[str, str, Handler]] = [
        ("GET", "health", auth.health),
        ("GET", "settings", auth.settings),
        ("GET", ".well-known/jwks.json", auth.jwks),
        ("POST", "signup", auth.sign_up),
        ("POST", "token", auth.token),
        ("POST", "otp", auth.send_code),
        ("POST", "magiclink", auth.send_code),
        ("POST", "verify", auth.by_code),
        ("GET", "verify", auth.by_link),
        ("POST", "logout", auth.sign_out),
        ("GET", "user", auth.get_user),
        ("PUT", "user", auth.update_user),
        ("GET", "admin/users", auth.admin_list),
        ("POST", "admin/users", auth.admin_create),
        ("GET", "admin/users/{id}", auth.admin_get),
        ("PUT", "admin/users/{id}", auth.admin_update),
        ("DELETE", "admin/users/{id}", auth.admin_delete),
        ("*", "{rest:.*}", auth.elsewhere),
    ]
    for method, path, handler in routes:
        app.router.add_route(method, f"/auth/v1/{path}", _answering(handler))


def _answering(handler: Handler) -> Handler:
    """Convert refusals to the form of the client's API version."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except GatewayError as refused:
            return web.json_response(refused.body, status=401)
        except psycopg.OperationalError:  # PostgreSQL is down, or starting again
            error = AuthError(503, "unexpected_failure", "Database connection error")
        except AuthError as refused:
            error = refused
        if request.headers.get(_API_VERSION, "") >= "2024-01-01":
            body: Json = {"code": error.code, "message": error.message, **error.more}
            headers = {_API_VERSION: "2024-01-01", **error.headers}
        else:
            body = {"code": error.status, "error_code": error.code, "msg": error.message}
            body |= error.more
            headers = error.headers
        return web.json_response(body, status=error.status, headers=headers)

    return answer


class _Auth:
    def __init__(self, context: Context) -> None:
        self.context = context
        limit = context.options.password_attempts
        self.attempts = Attempts(limit, ATTEMPTS_WINDOW, time.monotonic)
        self.codes = Codes(self.fetch)

    async def fetch(self, sql: str, *values: object) -> Json | None:
        """Return the JSON object in the first column of the first row."""
        async with self.context.pool.connection() as connection:
            cursor = await connection.execute(sql.encode(), values)
            row = await cursor.fetchone() if cursor.description else None
        found: Json | None = None if row is None else row[0]
        return found

    # -- signing up and in -------------------------------------------------------------------

    async def sign_up(self, request: web.Request) -> web.Response:
        gateway(request, self.context)
        body = await read_json(request)
        given = attributes(body, metadata="data")
        if given.email is None and given.password is None:
            user = await self.create(given, anonymous=True)
            return web.json_response(await self.session(request, user, "anonymous"))
        if given.email is None or given.password is None:
            raise AuthError(400, "validation_failed", "Signup requires a valid email and password")
        confirmed = not self.context.options.email_confirmation
        try:
            user = await self.create(given, confirmed=confirmed)
        except psycopg.errors.UniqueViolation as error:
            raise AuthError(422, "user_already_exists", "User already registered") from error
        if not confirmed:
            await self.mail(request, user, "signup")
            return web.json_response(user)
        return web.json_response(await self.session(request, user, "password"))

    async def create(
        self,
        given: Attributes,
        *,
        anonymous: bool = False,
        confirmed: bool = True,
        id: str | None = None,
    ) -> Json:
        provider = {} if anonymous else {"provider": "email", "providers": ["email"]}
        metadata = given.user_metadata or {}
        if not anonymous:
            metadata = {"email": given.email, "email_verified": confirmed, **metadata}
        user = await self.fetch(
            "insert into auth.users (id, email, encrypted_password, email_confirmed_at, role,"
            " raw_app_meta_data, raw_user_meta_data, is_anonymous)"
            " values (coalesce(%s::uuid, gen_random_uuid()), %s, %s,"
            " case when %s then null else now() end, coalesce(%s, 'authenticated'), %s, %s, %s)"
            f" returning {_USER}",
            id,
            given.email,
            None if given.password is None else await hashed(given.password),
            anonymous or not confirmed,
            given.role,
            json.dumps(provider | (given.app_metadata or {})),
            json.dumps(metadata),
            anonymous,
        )
        assert user is not None
        return user

    async def token(self, request: web.Request) -> web.Response:
        gateway(request, self.context)
        grant = request.query.get("grant_type", "")
        if grant == "password":
            self.attempt()
            return await self.by_password(request)
        if grant == "refresh_token":
            return await self.by_refresh_token(request)
        if grant in ("pkce", "id_token", "web3"):
            raise not_supported(f"grant_type={grant}")
        raise AuthError(400, "validation_failed", f"unsupported_grant_type: {grant}")

    def attempt(self) -> None:
        """Count one attempt at a secret."""
        if wait := self.attempts.wait():
            raise AuthError(
                429,
                "over_request_rate_limit",
                "Request rate limit reached",
                {"Retry-After": str(math.ceil(wait))},
            )

    async def by_password(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        email, password = address(body.get("email")), body.get("password")
        wrong = AuthError(400, "invalid_credentials", "Invalid login credentials")
        if email is None or not isinstance(password, str):
            raise not_supported("sign-in by phone") if body.get("phone") else wrong
        found = await self.fetch(
            f"select json_build_object('user', {_USER}, 'hash', encrypted_password)"
            " from auth.users where lower(email) = %s and deleted_at is null",
            email,
        )
        if found is None or not await matches(password, found["hash"]):
            raise wrong
        if found["user"]["email_confirmed_at"] is None:
            raise AuthError(400, "email_not_confirmed", "Email not confirmed")
        return web.json_response(await self.session(request, found["user"], "password"))

    async def send_code(self, request: web.Request) -> web.Response:
        gateway(request, self.context)
        body = await read_json(request)
        given = attributes(body, metadata="data")
        if given.email is None:
            raise AuthError(400, "validation_failed", "One of email or phone must be set")
        user = await self.by_email(given.email)
        if user is None:
            if body.get("create_user", True) is not True:
                raise AuthError(422, "otp_disabled", "Signups not allowed for otp")
            user = await self.create(given, confirmed=False)
        await self.mail(request, user, "magiclink")
        return web.json_response({})

    async def mail(self, request: web.Request, user: Json, kind: str) -> None:
        url = f"{request.url.origin()}/auth/v1/verify"
        await self.codes.send(user, kind, url, request.query.get("redirect_to"))

    async def by_email(self, email: str) -> Json | None:
        return await self.fetch(
            f"select {_USER} from auth.users where lower(email) = %s and deleted_at is null", email
        )

    async def by_code(self, request: web.Request) -> web.Response:
        gateway(request, self.context)
        self.attempt()
        body = await read_json(request)
        if body.get("type") not in ("email", "magiclink", "signup"):
            raise not_supported(f"verify of type {body.get('type')}")
        hashed, code, email = body.get("token_hash"), body.get("token"), address(body.get("email"))
        if isinstance(code, str) and email is not None:
            hashed = token_hash(email, code)
        if not isinstance(hashed, str):
            raise AuthError(400, "validation_failed", "Verify requires a token or a token hash")
        return web.json_response(await self.verified(request, hashed))

    async def verified(self, request: web.Request, hashed: str) -> Json:
        """Return a session of the user of a code."""
        id = None if "\0" in hashed else await self.codes.take(hashed)
        user = (
            None
            if id is None
            else await self.fetch(
                f"select {_USER} from auth.users where id = %s and deleted_at is null", id
            )
        )
        if user is None:
            raise AuthError(403, "otp_expired", "Token has expired or is invalid")
        return await self.session(request, user, "otp")

    async def by_link(self, request: web.Request) -> web.Response:
        """Handle a mailed link in a browser: redirect to the requesting page, with the session."""
        page = urlsplit(request.query.get("redirect_to", ""))
        if page.scheme not in ("http", "https") or page.hostname not in OWN_HOSTS:
            page = urlsplit(SITE_URL)
        try:
            self.attempt()
            found = await self.verified(request, request.query.get("token", ""))
        except AuthError as refused:
            message = "Email link is invalid or has expired"
            words = {
                "error": "access_denied",
                "error_code": refused.code,
                "error_description": message,
            }
        else:
            names = ("access_token", "expires_at", "expires_in", "refresh_token", "token_type")
            words = {name: str(found[name]) for name in names} | {"type": "magiclink"}
        there = page._replace(fragment=urlencode(words)).geturl()
        return web.Response(status=303, headers={"Location": there})

    async def session(self, request: web.Request, user: Json, method: str) -> Json:
        """Create a session of a user who has just signed in."""
        opened = await self.fetch(
            "with _s as (insert into auth.sessions (user_id) values (%s) returning id)"
            " update auth.users set last_sign_in_at = now() from _s where auth.users.id = %s"
            " returning json_build_object('id', _s.id, 'last_sign_in_at', last_sign_in_at)",
            user["id"],
            user["id"],
        )
        assert opened is not None
        user["last_sign_in_at"] = opened["last_sign_in_at"]
        return await self.tokens(request, user, opened["id"], method)

    async def tokens(
        self, request: web.Request, user: Json, session: str, method: str, parent: str | None = None
    ) -> Json:
        refresh = secrets.token_urlsafe(16)
        await self.fetch(
            "insert into auth.refresh_tokens (token, user_id, session_id, parent)"
            " values (%s, %s, %s, %s)",
            refresh,
            user["id"],
            session,
            parent,
        )
        now, ttl = int(time.time()), self.context.options.jwt_ttl
        claims = {
            "iss": f"{request.url.origin()}/auth/v1",
            "sub": user["id"],
            "aud": user["aud"],
            "role": user["role"],
            "email": user["email"],
            "phone": user["phone"],
            "app_metadata": user["app_metadata"],
            "user_metadata": user["user_metadata"],
            "aal": "aal1",
            "amr": [{"method": method, "timestamp": now}],
            "session_id": session,
            "is_anonymous": user["is_anonymous"],
        }
        return {
            "access_token": self.context.sign(claims, ttl),
            "token_type": "bearer",
            "expires_in": ttl,
            "expires_at": now + ttl,
            "refresh_token": refresh,
            "user": user,
        }

    async def by_refresh_token(self, request: web.Request) -> web.Response:
        """Use a refresh token, which works once; a second use means theft, and ends its session."""
        old = (await read_json(request)).get("refresh_token")
        if not isinstance(old, str) or "\0" in old:
            raise AuthError(400, "validation_failed", "refresh_token required")
        found = await self.fetch(
            "with _t as (update auth.refresh_tokens set revoked = true, updated_at = now()"
            " where token = %s and not revoked returning user_id, session_id)"
            f" select json_build_object('user', {_USER}, 'session', _t.session_id)"
            " from _t join auth.users on auth.users.id = _t.user_id",
            old,
        )
        if found is not None:
            user, session = found["user"], found["session"]
            return web.json_response(await self.tokens(request, user, session, "password", old))
        ended = await self.fetch(
            "delete from auth.sessions using auth.refresh_tokens t"
            " where t.token = %s and t.session_id = auth.sessions.id"
            " returning to_json(auth.sessions.id)",
            old,
        )
        if ended is None:
            raise AuthError(
                400,
                "refresh_token_not_found",
                "Invalid Refresh Token: Refresh Token Not Found",
            )
        raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")

    # -- the user signed in ------------------------------------------------------------------

    def claims(self, request: web.Request) -> Json:
        try:
            return self.context.verify(gateway(request, self.context))
        except TokenError as error:
            message = f"invalid JWT: unable to parse or verify signature, {error.reason}"
            raise AuthError(403, "bad_jwt", message) from error

    async def me(self, request: web.Request) -> tuple[Json, Json]:
        """Return the claims and the user of the access token."""
        claims = self.claims(request)
        user = None
        if not is_uuid(claims.get("sub")):
            raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
        user = await self.fetch(f"select {_USER} from auth.users where id = %s", claims["sub"])
        if user is None:
            raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
        session = claims.get("session_id")
        if session is not None:
            open_ = is_uuid(session) and await self.fetch(
                "select to_json(id) from auth.sessions where id = %s", session
            )
            if not open_:
                message = "Session from session_id claim in JWT does not exist"
                raise AuthError(403, "session_not_found", message)
        return claims, user

    async def get_user(self, request: web.Request) -> web.Response:
        return web.json_response((await self.me(request))[1])

    async def update_user(self, request: web.Request) -> web.Response:
        _, user = await self.me(request)
        given = attributes(await read_json(request), metadata="data")
        return web.json_response(await self.change(user, given))

    async def sign_out(self, request: web.Request) -> web.Response:
        claims, user = await self.me(request)
        session = claims.get("session_id")
        scope = request.query.get("scope", "global")
        if scope not in ("global", "local", "others"):
            raise AuthError(400, "validation_failed", f"Unsupported logout scope: {scope}")
        which = {"local": " and id = %s", "others": " and id <> %s"}.get(scope, "")
        values = (user["id"], session) if which else (user["id"],)
        await self.fetch(f"delete from auth.sessions where user_id = %s{which}", *values)
        return web.Response(status=204)

    async def change(self, user: Json, given: Attributes) -> Json:
        """Update the user with the given attributes; a metadata key set to null is removed."""
        try:
            changed = await self.fetch(
                "update auth.users set email = coalesce(%s, email),"
                " encrypted_password = coalesce(%s, encrypted_password),"
                " role = coalesce(%s, role), raw_user_meta_data = %s, raw_app_meta_data = %s,"
                " is_anonymous = is_anonymous and %s::text is null,"
                " email_confirmed_at = case when %s::text is null then email_confirmed_at"
                " else coalesce(email_confirmed_at, now()) end, updated_at = now()"
                f" where id = %s returning {_USER}",
                given.email,
                None if given.password is None else await hashed(given.password),
                given.role,
                json.dumps(merged(user["user_metadata"], given.user_metadata)),
                json.dumps(merged(user["app_metadata"], given.app_metadata)),
                given.email,
                given.email,
                user["id"],
            )
        except psycopg.errors.UniqueViolation as error:
            message = "A user with this email address has already been registered"
            raise AuthError(422, "email_exists", message) from error
        if changed is None:
            raise AuthError(404, "user_not_found", "User not found")
        return changed

    # -- all users, for the service role -----------------------------------------------------

    def admin(self, request: web.Request) -> None:
        if self.claims(request).get("role") not in ("service_role", "supabase_admin"):
            raise AuthError(403, "not_admin", "User not allowed")

    async def one(self, request: web.Request) -> Json:
        self.admin(request)
        id = request.match_info["id"]
        if not is_uuid(id):
            raise AuthError(404, "validation_failed", "user_id must be an UUID")
        user = await self.fetch(f"select {_USER} from auth.users where id = %s", id)
        if user is None:
            raise AuthError(404, "user_not_found", "User not found")
        return user

    async def admin_list(self, request: web.Request) -> web.Response:
        self.admin(request)
        page = positive(request.query.get("page"), 1)
        size = positive(request.query.get("per_page"), 50)
        found = await self.fetch(
            "select json_build_object('total', (select count(*) from auth.users), 'users',"
            f" (select coalesce(json_agg({_USER}), '[]') from (select * from auth.users"
            " order by created_at desc, id limit %s offset %s) _u))",
            size,
            size * (page - 1),
        )
        assert found is not None
        return web.json_response(
            {"users": found["users"], "aud": "authenticated"},
            headers={"X-Total-Count": str(found["total"])},
        )

    async def admin_create(self, request: web.Request) -> web.Response:
        self.admin(request)
        body = await read_json(request)
        given = attributes(body, metadata="user_metadata", trusted=True)
        if given.email is None:
            raise AuthError(400, "validation_failed", "Cannot create a user without an email")
        id = body.get("id")
        if id is not None and not is_uuid(id):
            raise AuthError(400, "validation_failed", "ID must conform to the uuid v4 format")
        try:
            return web.json_response(await self.create(given, id=id))
        except psycopg.errors.UniqueViolation as error:
            message = "A user with this email address has already been registered"
            raise AuthError(422, "email_exists", message) from error

    async def admin_get(self, request: web.Request) -> web.Response:
        return web.json_response(await self.one(request))

    async def admin_update(self, request: web.Request) -> web.Response:
        user = await self.one(request)
        given = attributes(await read_json(request), metadata="user_metadata", trusted=True)
        return web.json_response(await self.change(user, given))

    async def admin_delete(self, request: web.Request) -> web.Response:
        user = await self.one(request)
        if request.can_read_body and (await read_json(request)).get("should_soft_delete"):
            raise not_supported("should_soft_delete")
        await self.fetch("delete from auth.users where id = %s", user["id"])
        return web.json_response({})

    # -- what needs no login -----------------------------------------------------------------

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"name": "GoTrue", "version": "local", "description": "notebook_rt local stack"}
        )

    async def settings(self, request: web.Request) -> web.Response:
        gateway(request, self.context)
        return web.json_response(
            {
                "external": {"email": True, "phone": False, "anonymous_users": True},
                "disable_signup": False,
                "mailer_autoconfirm": not self.context.options.email_confirmation,
                "phone_autoconfirm": False,
                "sms_provider": "",
                "saml_enabled": False,
            }
        )

    async def jwks(self, request: web.Request) -> web.Response:
        if self.context.options.jwt_algorithm == "HS256":  # a shared secret must not be published
            return web.json_response({"keys": []})
        return web.json_response({"keys": [SigningKey.of(self.context.secrets.signing_key).jwk]})

    async def elsewhere(self, request: web.Request) -> web.Response:
        gateway(request, self.context)
        raise not_supported(f"{request.method} /auth/v1/{request.match_info['rest']}")
