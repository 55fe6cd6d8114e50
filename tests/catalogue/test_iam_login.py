"""An RDS database is logged in to with tokens of the process's role."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tintype.catalogue.iam_login import with_token

HOST = "tintype.abc.eu-central-1.rds.amazonaws.com"


@pytest.fixture(autouse=True)
def role(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as an instance's role has them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")


async def test_a_token_of_the_role_stands_in_the_passwords_place() -> None:
    given = {"host": HOST, "user": "tintype_service", "dbname": "tintype", "sslmode": "verify-full"}

    parameters = await with_token(given, "eu-central-1")

    token = urlsplit(f"https://{parameters.pop('password')}")
    assert parameters == given
    assert token.netloc == f"{HOST}:5432"
    asked = {name: values[0] for name, values in parse_qs(token.query).items()}
    assert asked["Action"] == "connect"
    assert asked["DBUser"] == "tintype_service"
    assert asked["X-Amz-Credential"].endswith("/eu-central-1/rds-db/aws4_request")
    assert asked["X-Amz-Security-Token"] == "session"
    assert int(asked["X-Amz-Expires"]) == 900


async def test_a_url_without_a_user_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="needs a host and a user"):
        await with_token({"host": HOST}, "eu-central-1")
