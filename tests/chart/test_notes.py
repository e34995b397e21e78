import json
import shutil

import pytest


@pytest.fixture(scope="module")
def notes(chart, helm, values_folder, tmp_path_factory):
    """
    Render the notes, which `helm template` leaves out: a copy of the chart has them as an object.
    """
    copy = tmp_path_factory.mktemp("notes") / "chart"
    shutil.copytree(chart, copy)
    text = (copy / "templates" / "NOTES.txt").read_text()
    wrapped = f'{{{{ define "notes" }}}}{text}{{{{ end }}}}{{{{ include "notes" . | toJson }}}}'
    (copy / "templates" / "notes.yaml").write_text(f"notes: {wrapped}\n")

    def rendered(strategy, **values):
        files = [f"{values_folder}/{name}.yaml" for name in ("env/local", "models/resnet", strategy)]
        given = [argument for path in files for argument in ("-f", path)]
        out = helm(
            *("template", "resnet", str(copy), "--kube-version", "1.34.4", "--namespace", "models"),
            *(*given, "-f", "-", "--show-only", "templates/notes.yaml"),
            stdin=json.dumps(values),
        )
        return json.loads(out.partition("notes: ")[2])

    return rendered


def test_notes_say_what_runs(notes, render):
    """
    The notes name the model, the tracks with their versions, the routes in order and their revision.
    """
    text = notes("canary-user-group")

    assert "Model resnet, release resnet, namespace models" in text
    assert "  track canary: version 2, 1 pod(s)\n  track stable: version 1, 1 pod(s)\n" in text
    shown = render("canary-user-group", options=("--namespace", "models")).revision
    assert f"revision {shown};" in text
    assert (
        '  canary-users: user-group exact "canary" -> canary 100 %\n'
        "  everyone: every other request -> stable 100 %\n"
    ) in text


def test_notes_say_how_to_reach_the_gateway(notes):
    """
    The notes find the gateway's address by its own labels and port.
    """
    text = notes("stable", gateway={"selector": {"istio": None, "app": "edge"}, "port": 8080})

    assert "kubectl get service --all-namespaces -l app=edge \\\n" in text
    assert "status.loadBalancer.ingress[0].ip}'):8080\n" in text


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        pytest.param(["*"], "curl -i http://$GATEWAY/v1/models/resnet\n", id="any"),
        pytest.param(
            ["a.example.com"], "curl -i -H 'Host: a.example.com' http://$GATEWAY/v1/models/resnet\n", id="one"
        ),
    ],
)
def test_notes_have_the_next_lines(notes, hosts, expected):
    """
    The notes end with lines to type, which name the release and its namespace.
    """
    text = notes("stable", gateway={"hosts": hosts})

    assert expected in text
    assert (
        "helm upgrade resnet charts/tfserving-canary -n models --reset-then-reuse-values -f values/canary-10.yaml\n"
        in text
    )


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        pytest.param(["*"], "curl -ik https://$GATEWAY/v1/models/resnet\n", id="any"),
        pytest.param(
            ["a.example.com"],
            "curl -i --connect-to ::$GATEWAY https://a.example.com/v1/models/resnet\n",
            id="one",
        ),
    ],
)
def test_notes_speak_tls_where_the_gateway_does(notes, hosts, expected):
    """
    With TLS the plain port only redirects: the lines to type go to the other one, under the name of the certificate.
    """
    text = notes(
        "stable", gateway={"hosts": hosts, "tls": {"enabled": True, "credentialName": "a", "port": 8443}}
    )

    assert "status.loadBalancer.ingress[0].ip}'):8443\n" in text
    assert expected in text
    assert "check_gateway.py --release resnet --namespace models --gateway $GATEWAY --tls" in text


def test_notes_have_no_empty_lines_in_a_row(notes):
    """
    The notes are read in a terminal.
    """
    text = notes("canary-10")

    assert "\n\n\n" not in text
    assert text == "\n".join(line.rstrip() for line in text.splitlines()) + "\n" * text.endswith("\n")


@pytest.mark.parametrize(
    ("applied", "expected"),
    [
        pytest.param("canary-users", 'testers: users ["alice","bob@example.com"] -> canary 100 %', id="list"),
        pytest.param("canary-sticky-users", "canary 10 % stable 90 %, sticky by user", id="sticky"),
        pytest.param("shadow", "stable 100 %, 25 % mirrored to canary", id="mirror"),
        pytest.param(
            "canary-jwt", "No request reaches the routes with claims: set security.jwt", id="no-tokens"
        ),
        pytest.param(
            "canary-caller",
            "No request reaches the routes with sourceLabels: name the callers",
            id="no-callers",
        ),
    ],
)
def test_notes_say_all_of_a_route(notes, applied, expected):
    """
    The notes say what every route asks for and does, and what is missing for it.
    """
    assert expected in notes(applied)


def test_notes_say_when_no_user_is_kept(notes):
    """
    Without its filters the gateway computes no buckets, and the notes say so.
    """
    missing = "No user is kept on a track: set gateway.filters.enabled"

    assert missing in notes("canary-sticky-users", gateway={"filters": {"enabled": False}})
    assert missing not in notes("canary-sticky-users")


def test_notes_have_the_range_of_an_autoscaler(notes):
    """
    A track under an autoscaler has no fixed number of pods.
    """
    scaled = {"minReplicas": 2, "maxReplicas": 5, "cpuPercent": 70}

    assert "track canary: version 2, 2 to 5 pod(s)" in notes(
        "stable", tracks={"canary": {"autoscaling": scaled}}
    )


def test_notes_say_how_to_follow_a_rollout(notes, render):
    """
    By its own log, and from outside. The name is that of the Job.
    """
    on = {"enabled": True, "plan": {"to": 2}}
    text = notes("stable", rollout=on)
    objects = render("stable", values={"rollout": on}, options=("--namespace", "models")).objects.values()
    (job,) = [item["metadata"]["name"] for item in objects if item["kind"] == "Job"]

    assert f"The rollout to version 2:\n\n  kubectl -n models logs -f job/{job}\n" in text
    assert "python scripts/rollout.py watch --release resnet --namespace models" in text
    assert "rollout" not in notes("stable").replace("rollout status", "")
