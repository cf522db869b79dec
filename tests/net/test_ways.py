"""Any arguments for signing in select one way, or raise an error that lists the ways."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.net import ways


class Client:
    """Notes what is asked of Supabase's client."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        async def ask(*given: Any) -> None:
            self.asked.append((name, *given))

        return ask


def asked(way: ways.Way) -> tuple[Any, ...]:
    client = Client()

    async def ask() -> None:
        await way(client)

    asyncio.run(ask())
    (one,) = client.asked
    return one


MAIL = "https://abc.supabase.co/auth/v1/verify?token=0f0f&type=magiclink&redirect_to=http://x"


PASSWORD, CODE = "sign_in_with_password", "verify_otp"


@pytest.mark.parametrize(
    ("given", "call", "with_what"),
    [
        ({"email": "a@b.c", "password": "x"}, PASSWORD, {"email": "a@b.c", "password": "x"}),
        ({"phone": "+1 2", "password": "x"}, PASSWORD, {"phone": "+1 2", "password": "x"}),
        (
            {"email": "a@b.c ", "code": "1 2"},
            CODE,
            {"email": "a@b.c", "token": "12", "type": "email"},
        ),
        ({"phone": "12", "code": "1"}, CODE, {"phone": "12", "token": "1", "type": "sms"}),
        ({"link": MAIL}, CODE, {"token_hash": "0f0f", "type": "magiclink"}),
        (
            {"link": "http://x/?token_hash=a&type=signup"},
            CODE,
            {"token_hash": "a", "type": "signup"},
        ),
        ({"link": "http://x/#access_token=a&refresh_token=r"}, "set_session", "a"),
        ({"anonymous": True}, "sign_in_anonymously", None),
    ],
)
def test_what_is_given_is_the_way_that_is_meant(given: Any, call: str, with_what: Any) -> None:
    name, *first = asked(ways.sign_in(**given))
    assert name == call
    assert first[:1] == ([] if with_what is None else [with_what])


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("http://x/", "no token in the link"),
        ("", "sign_in needs who"),
        ("http://[", "cannot be read"),
        ("http://x/#error=access_denied&error_description=Email+link+has+expired", "has expired"),
    ],
)
def test_a_link_that_does_not_sign_in_says_why(link: str, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        ways.sign_in(link=link)


texts = st.none() | st.text(max_size=12)


@given(texts, texts, texts, texts, texts, st.booleans())
def test_anything_is_one_way_or_a_clear_error_without_a_secret_in_it(
    email: str | None,
    password: str | None,
    phone: str | None,
    code: str | None,
    link: str | None,
    anonymous: bool,
) -> None:
    secret = f"<{password}>" if password else None
    given = email, secret, phone, code, link, anonymous
    refusal = ""
    try:
        assert len(asked(ways.sign_in(*given))) in (1, 2, 3)
    except (TypeError, ValueError) as error:
        refusal = str(error)
    else:
        assert bool(link) + anonymous + bool(email) + bool(phone) == 1
    assert secret is None or secret not in refusal
    assert not refusal or "sign_in" in refusal or "link" in refusal
