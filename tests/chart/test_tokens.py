"""
Who verifies tokens, and where their claims go, on the rendered objects.
"""

import pytest


def own_filter(rendered):
    """
    Of a filter that is off but for the release's host: the issuer, and the header of each claim.
    """
    assert "RequestAuthentication" not in rendered.text
    (added,) = (
        one["patch"]["value"]
        for one in rendered.one("EnvoyFilter")["spec"]["configPatches"]
        if one["patch"]["operation"] == "INSERT_AFTER"
    )
    (provider,) = added["typed_config"]["providers"].values()
    assert added["disabled"]
    assert "rules" not in added["typed_config"]
    return provider["issuer"], {one["claim_name"]: one["header_name"] for one in provider["claim_to_headers"]}


def istios_filter(rendered):
    """
    Of a RequestAuthentication, the same.
    """
    (rule,) = rendered.one("RequestAuthentication")["spec"]["jwtRules"]
    assert ".jwt_authn." not in rendered.text
    return rule["issuer"], {one["claim"]: one["header"] for one in rule["outputClaimToHeaders"]}


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        pytest.param({"jwks": '{"keys":[]}'}, own_filter, id="jwks"),
        pytest.param({"jwksUri": "https://issuer.example/keys"}, istios_filter, id="jwks-uri"),
    ],
)
def test_tokens(render, keys, found):
    """
    The gateway verifies tokens, with the keys at the hosts of the release alone, and writes their claims into the headers
    that the routes read.
    """
    jwt = {"issuer": "https://issuer.example", **keys}
    rendered = render("canary-jwt", values={"security": {"jwt": jwt}})

    issuer, written = found(rendered)

    assert "https://issuer.example" == issuer
    assert {"group", "sub"} == set(written)
    code = rendered.one("EnvoyFilter")["spec"]["configPatches"][-1]["patch"]["value"][
        "typed_per_filter_config"
    ]["tfserving-canary.bucket"]["source_code"]["inline_string"]
    assert f'["{written["group"]}"] = "user-group"' in code
    assert f'["{written["sub"]}"] = "user-id"' in code
