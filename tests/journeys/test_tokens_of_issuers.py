"""Users of an OpenID provider at the running service."""

import json
import time
from collections.abc import Callable
from uuid import uuid4

from issuer import AUDIENCE, Issuer
from pictures import picture
from service import Service


def test_users_of_an_issuer_are_owners(issuer: Issuer, serve: Callable[..., Service]) -> None:
    issuer.publish(issuer.rsa, issuer.ec)
    configured = [
        {"url": issuer.url, "audience": AUDIENCE, "algorithms": ["RS256", "ES256"], "owner_prefix": "users:"}
    ]
    service = serve(TINTYPE_IDENTITY__MODE="keys", TINTYPE_IDENTITY__ISSUERS=json.dumps(configured))
    tokens = {
        "user": issuer.token(),
        "other": issuer.token(issuer.claims(sub="user-2"), key=issuer.ec, alg="ES256"),
        "reader": issuer.token(issuer.claims(scope="read")),
        "expired": issuer.token(issuer.claims(exp=int(time.time()) - 100)),
        "none": issuer.unsigned({"alg": "none"}, b"x"),
    }
    told: dict[str, tuple[int, str]] = {}
    with service.client() as client:

        def headers(name: str) -> dict[str, str]:
            return {"authorization": f"Bearer {tokens[name]}"}

        me = client.get("/v1/me", headers=headers("user")).json()
        image = client.post("/v1/images", content=picture(seed=1), headers=headers("user")).json()
        path = f"/v1/images/{image['id']}"
        assert client.get(path, headers=headers("user")).status_code == 200
        assert client.get(path, headers=headers("other")).status_code == 404
        for name in ("reader", "expired", "none"):
            answer = client.post("/v1/images", content=picture(seed=2), headers=headers(name))
            told[name] = answer.status_code, answer.json()["code"]
            assert "www-authenticate" in answer.headers
        client.get(f"/{tokens['user']}?q={uuid4()}", headers={"referer": tokens["user"]})

    assert (me["owner"], me["kind"], me["scopes"]) == ("users:user-1", "jwt", ["read", "write"])
    assert image["owner"] == "users:user-1"
    assert told == {
        "reader": (403, "forbidden"),
        "expired": (401, "key_expired"),
        "none": (401, "unauthenticated"),
    }
    assert not [token for token in tokens.values() if token in service.output]
