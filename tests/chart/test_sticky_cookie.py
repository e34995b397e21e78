"""
The cookie of `sticky.by: cookie`: who sends it, and where.
"""

import pytest

TLS = {"tls": {"enabled": True, "credentialName": "c"}}
PLAIN = "Path=/; Max-Age=86400; HttpOnly; SameSite=Lax"


def cookies(entries):
    """
    What each cookie says after its name and value; all are alike.
    """
    said = {
        part["headers"]["response"]["add"]["set-cookie"].partition("; ")[2]
        for entry in entries
        for part in entry["route"]
        if "add" in part["headers"]["response"]
    }
    assert len(said) == 1
    return said.pop()


@pytest.mark.parametrize(
    ("gateway", "cookie", "expected"),
    [
        pytest.param({}, {}, PLAIN, id="plain"),
        pytest.param(TLS, {}, f"{PLAIN}; Secure", id="tls"),
        pytest.param(TLS, {"secure": "never"}, PLAIN, id="never"),
        pytest.param({}, {"secure": "always"}, f"{PLAIN}; Secure", id="always"),
        pytest.param(TLS, {"sameSite": "None"}, PLAIN.replace("Lax", "None") + "; Secure", id="other-sites"),
        pytest.param({}, {"domain": "a.example"}, f"{PLAIN}; Domain=a.example", id="domain"),
    ],
)
def test_the_cookie_is_as_the_values_say(render, gateway, cookie, expected):
    """
    F13. With TLS at the gateway it is sent over TLS alone, unless the values say otherwise.
    """
    values = {"gateway": gateway, "routing": {"stickyCookie": cookie}}

    assert expected == cookies(render("canary-cookie", values=values).routes)


def test_callers_inside_the_mesh_send_it_in_plain(render):
    """
    They speak HTTP with their own sidecar, which speaks TLS with the model's: TLS at the gateway is none of theirs.
    """
    assert PLAIN == cookies(render("canary-cookie", values={"gateway": TLS}).mesh_routes)
