import pytest

EVERYONE = {"name": "everyone", "weights": {"stable": 100}}
DELETE = None
OUTSIDE = {"networkPolicy": {"egress": [{"cidr": "10.0.0.0/8", "ports": [443]}]}}


def routes(*entries):
    """
    Values with these routes.
    """
    return {"routing": {"routes": list(entries)}}


def some(**overrides):
    """
    A route with a match.
    """
    matched = {"name": "some", "match": {"headers": {"who": {"exact": "me"}}}, "weights": {"canary": 100}}
    return {key: value for key, value in (matched | overrides).items() if value is not DELETE}


def headers(**by_name):
    """
    Values with one route that matches these headers.
    """
    return routes(some(match={"headers": by_name}), EVERYONE)


# Rules across keys: each message names the key, what was expected and what was got.
RULES = [
    pytest.param(
        routes(some(), {"name": "everyone", "weights": {"stable": 80, "canary": 10}}),
        "routing.routes[1] (everyone): weights must sum to 100, got 90 (canary=10, stable=80)",
        id="sum-90",
    ),
    pytest.param(
        routes({"name": "everyone", "weights": {"stable": 100, "canary": 1}}),
        "routing.routes[0] (everyone): weights must sum to 100, got 101 (canary=1, stable=100)",
        id="sum-101",
    ),
    pytest.param(
        routes({"name": "everyone", "weights": {"stable": 0}}),
        "routing.routes[0] (everyone): weights must sum to 100, got 0 (stable=0)",
        id="sum-0",
    ),
    pytest.param(
        routes(some(weights={"canry": 100}), EVERYONE),
        'routing.routes[0] (some): weights name the unknown track "canry", expected one of canary, stable',
        id="unknown-track",
    ),
    pytest.param(
        routes({"name": "everyone", "weights": {"stable": 100, "green": 0}}),
        'routing.routes[0] (everyone): weights name the unknown track "green", expected one of canary, stable',
        id="unknown-track-of-weight-0",
    ),
    pytest.param(
        routes(some()),
        "routing.routes[0] (some): the last route takes everyone else and must have no match, "
        'got {"headers":{"who":{"exact":"me"}}}',
        id="last-has-match",
    ),
    pytest.param(
        routes(some(match=DELETE), EVERYONE),
        "routing.routes[0] (some): only the last route may have no match, every route after this one is never reached",
        id="first-has-none",
    ),
    pytest.param(
        routes(some(), some(match={"headers": {"a": {"exact": "b"}}}), EVERYONE),
        "routing.routes[1] (some): every route needs a name of its own, routing.routes[0] has it already",
        id="same-name",
    ),
    pytest.param(
        routes(some(), some(name="other"), EVERYONE),
        "routing.routes[1] (other): never reached, routing.routes[0] (some) takes every request that it matches",
        id="same-match",
    ),
    pytest.param(
        headers(**{"User-Group": {"exact": "a"}}),
        "routing.routes[0] (some): match.headers: expected the name of a header in lower case, as HTTP/2 has it, "
        'got "User-Group"',
        id="header-upper-case",
    ),
    pytest.param(
        headers(who={"regex": "(a"}),
        'routing.routes[0] (some): match.headers.who.regex is no RE2 expression: "(a"',
        id="regex",
    ),
    pytest.param(
        headers(who={"regex": "(?=a)"}),
        'routing.routes[0] (some): match.headers.who.regex is no RE2 expression: "(?=a)"',
        id="regex-look-ahead",
    ),
    pytest.param(
        {"tracks": {"canary": {"replicas": 0}}} | routes(some(), EVERYONE),
        "routing.routes[0] (some): weights give 100 to track canary, which has no pods; "
        "set tracks.canary.replicas first",
        id="weight-without-pods",
    ),
    pytest.param(
        {"tracks": {"Wide_1": {"version": 1, "replicas": 1}}},
        "tracks: expected lower-case letters, digits and hyphens in the name of a track, with a letter first, "
        'got "Wide_1"',
        id="track-name",
    ),
    pytest.param(
        {"tracks": {"t" * 57: {"version": 1, "replicas": 1}}},
        f"tracks.{'t' * 57}: expected a release and track name of at most 63 characters together, "
        f"got 64 (resnet-{'t' * 57})",
        id="track-name-long",
    ),
    pytest.param(
        {"tracks": {"test": {"version": 1, "replicas": 1}}},
        "tracks.test: expected another name, since `helm test` makes and deletes the ConfigMap resnet-test, which would be the "
        "track's",
        id="track-name-of-the-test",
    ),
    pytest.param(
        {"server": {"timeoutSeconds": 35}},
        "routing.timeoutSeconds: must exceed server.timeoutSeconds (35), so that the server answers before the gateway "
        "gives up, got 35",
        id="timeouts",
    ),
    pytest.param(
        {"image": {"tag": "latest"}},
        "image.tag: must name a release, since two pods of one track could differ under latest",
        id="latest",
    ),
    pytest.param(
        {"modelStore": {"persistentVolumeClaim": {"claimName": ""}}},
        'modelStore.persistentVolumeClaim.claimName: required, since modelStore.basePath "/models" is a folder of the '
        "claim; for a bucket set modelStore.basePath to gs://BUCKET/FOLDER, for an image modelStore.image.reference",
        id="no-claim",
    ),
    pytest.param(
        {"modelStore": {"basePath": "gs://some-bucket/models"}} | OUTSIDE,
        "modelStore.persistentVolumeClaim.claimName: must be empty, since models are read from modelStore.basePath "
        '"gs://some-bucket/models", got "tfcanary-models"',
        id="bucket-and-claim",
    ),
]

RULES += [
    pytest.param(
        routes(
            some(match={"headers": {"who": {"prefix": "b"}}}),
            some(name="other", match={"headers": {"who": {"exact": "beta"}}}),
            EVERYONE,
        ),
        "routing.routes[1] (other): never reached, routing.routes[0] (some) takes every request that it matches",
        id="prefix-takes-all",
    ),
    pytest.param(
        routes(
            some(match={"headers": {"who": {"regex": "a|b"}}}),
            some(name="other", match={"headers": {"who": {"exact": "b"}}}),
            EVERYONE,
        ),
        "routing.routes[1] (other): never reached, routing.routes[0] (some) takes every request that it matches",
        id="regex-takes-all",
    ),
    pytest.param(
        routes(
            some(match={"userGroups": ["a", "b"]}),
            some(name="other", match={"userGroups": ["b"], "regions": ["x"]}),
            EVERYONE,
        ),
        "routing.routes[1] (other): never reached, routing.routes[0] (some) takes every request that it matches",
        id="group-takes-all",
    ),
    pytest.param(
        routes(
            some(match={"userGroups": ["a"]}),
            some(name="other", match={"headers": {"user-group": {"exact": "a"}}}),
            EVERYONE,
        ),
        "routing.routes[1] (other): never reached, routing.routes[0] (some) takes every request that it matches",
        id="same-header-by-another-name",
    ),
    pytest.param(
        routes(some(match={"users": ["a"], "headers": {"user-id": {"prefix": "a"}}}), EVERYONE),
        "routing.routes[0] (some): match.headers.user-id and match.users ask for the same header, use one",
        id="one-header-twice",
    ),
    pytest.param(
        routes(some(match={"claims": {"group": ["a"]}, "sourceLabels": {"app": "web"}}), EVERYONE),
        "routing.routes[0] (some): never reached, the gateway verifies match.claims and only callers inside the mesh have "
        "match.sourceLabels",
        id="claim-and-label",
    ),
    pytest.param(
        routes(some(match={"claims": {"a.b": ["c"]}}), EVERYONE),
        'routing.routes[0] (some): match.claims: expected letters, digits, _ and - in the name of a claim, got "a.b"',
        id="claim-name",
    ),
    pytest.param(
        routes(some(match={"sourceLabels": {"a b": "c"}}), EVERYONE),
        'routing.routes[0] (some): match.sourceLabels: expected the name of a label, got "a b"',
        id="label-name",
    ),
    pytest.param(
        routes(some(match={"path": {"version": "canry"}}), EVERYONE),
        'routing.routes[0] (some): match.path.version names the unknown track "canry", expected one of canary, stable',
        id="path-version",
    ),
    pytest.param(
        routes(some(match={"path": {"prefix": "/v1/models"}}), EVERYONE),
        "routing.routes[0] (some): match.path.prefix goes before the path of the API and is taken away again, so it cannot "
        'start with /v1; for a version use match.path.version, got "/v1/models"',
        id="path-prefix",
    ),
    pytest.param(
        routes(some(match={"cookie": {"name": "a", "value": "b"}}, sticky={"by": "cookie"}), EVERYONE),
        "routing.routes[0] (some): match.cookie and sticky.by cookie ask for the same header; match by something else, or use "
        "sticky.by user",
        id="two-cookies",
    ),
    pytest.param(
        routes({**EVERYONE, "mirror": {"track": "canry", "percent": 1}}),
        'routing.routes[0] (everyone): mirror names the unknown track "canry", expected one of canary, stable',
        id="mirror-track",
    ),
    pytest.param(
        routes({**EVERYONE, "mirror": {"track": "stable", "percent": 1}}),
        "routing.routes[0] (everyone): mirror sends track stable what it answers already; mirror to another track",
        id="mirror-itself",
    ),
    pytest.param(
        {"tracks": {"canary": {"replicas": 0}}}
        | routes({**EVERYONE, "mirror": {"track": "canary", "percent": 9}}),
        "routing.routes[0] (everyone): mirror gives 9 to track canary, which has no pods; set tracks.canary.replicas first",
        id="mirror-without-pods",
    ),
    pytest.param(
        {"routing": {"headers": {"user": "user-group"}}},
        "routing.headers: expected three different headers, got user=user-group, userGroup=user-group, "
        "region=x-client-region",
        id="one-header-for-two",
    ),
    pytest.param(
        {"tracks": {"canary": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2, "cpuPercent": 50}}}},
        "tracks.canary.autoscaling: minReplicas must not exceed maxReplicas (2), got 3",
        id="autoscaling",
    ),
    pytest.param(
        {"gateway": {"tls": {"enabled": True}}},
        "gateway.tls.credentialName: required with gateway.tls.enabled, the name of a Secret of type kubernetes.io/tls in "
        "the gateway's namespace",
        id="tls-without-secret",
    ),
    pytest.param(
        {"gateway": {"tls": {"enabled": True, "credentialName": "a", "port": 80}}},
        "gateway.tls.port: must differ from gateway.port, which redirects to it, got 80",
        id="tls-port",
    ),
    pytest.param(
        {"security": {"jwt": {"issuer": "a"}}},
        "security.jwt: with an issuer set jwks, the public keys, or jwksUri, where they are",
        id="jwt-without-keys",
    ),
    pytest.param(
        {"security": {"jwt": {"issuer": "a", "jwks": '{"keys":[]}', "jwksUri": "https://a/b"}}},
        "security.jwt: set jwks or jwksUri, not both",
        id="jwt-keys-twice",
    ),
    pytest.param(
        {"security": {"jwt": {"jwksUri": "https://a/b"}}},
        "security.jwt.issuer: required with jwks, jwksUri or audiences",
        id="jwt-without-issuer",
    ),
    pytest.param(
        {"security": {"jwt": {"issuer": "a", "jwks": "nonsense"}}},
        "security.jwt.jwks: expected a JSON text with a list of keys",
        id="jwks",
    ),
    pytest.param(
        {
            "security": {"jwt": {"issuer": "a", "jwks": '{"keys":[]}'}},
            "gateway": {"filters": {"enabled": False}},
        },
        "gateway.filters.enabled: required with security.jwt.issuer, since the gateway must take away what clients say of "
        "themselves",
        id="jwt-without-filters",
    ),
    pytest.param(
        {"modelStore": {"image": {"reference": "a/b@sha256:" + "0" * 64}}},
        "modelStore.image.reference: must be empty with modelStore.persistentVolumeClaim.claimName (tfcanary-models), got "
        '"a/b@sha256:' + "0" * 64 + '"',
        id="image-and-claim",
    ),
    pytest.param(
        {"modelStore": {"basePath": "s3://bucket/a", "persistentVolumeClaim": {"claimName": ""}}} | OUTSIDE,
        'modelStore.s3Region: required, since modelStore.basePath is "s3://bucket/a"',
        id="s3-without-region",
    ),
    pytest.param(
        {"modelStore": {"basePath": "gs://bucket/a", "persistentVolumeClaim": {"claimName": ""}}},
        'networkPolicy.egress: required, since modelStore.basePath "gs://bucket/a" is outside and pods may only connect to DNS '
        "and istiod",
        id="bucket-without-egress",
    ),
]

RULES += [
    pytest.param(
        {
            "modelStore": {
                "basePath": "s3://bucket/a",
                "s3Region": "eu-west-1",
                "persistentVolumeClaim": {"claimName": ""},
            },
            "image": {"repository": "registry.example.com/tensorflow/serving"},
        }
        | OUTSIDE,
        "modelStore.basePath: expected gs://, or a folder below /models, with the image "
        'registry.example.com/tensorflow/serving, which cannot read S3 since its release 2.7, got "s3://bucket/a"; mount the '
        "bucket as a claim by a CSI driver, or set image.repository to a server built with S3",
        id="s3-with-the-published-image",
    ),
    pytest.param(
        {"gateway": {"hosts": ["a.example", "*.a.example", "b.a.example"]}},
        "gateway.hosts: expected names that no other one takes as well, as Istio does, got *.a.example and b.a.example; leave one "
        "out",
        id="host-and-wildcard",
    ),
    pytest.param(
        {"gateway": {"hosts": ["a.example", "*"]}},
        "gateway.hosts: expected names that no other one takes as well, as Istio does, got * and a.example; leave one out",
        id="host-and-any",
    ),
    pytest.param(
        headers(**{"x-envoy-peer": {"exact": "a"}}),
        "routing.routes[0] (some): match.headers: expected a header of the clients, since this one is the gateway's own, got "
        '"x-envoy-peer"',
        id="header-of-envoy",
    ),
    pytest.param(
        headers(**{"x-bucket-resnet": {"exact": "05"}}),
        "routing.routes[0] (some): match.headers: expected a header of the clients, since this one is the gateway's own, got "
        '"x-bucket-resnet"',
        id="header-of-the-gateway",
    ),
    pytest.param(
        {"routing": {"headers": {"user": "x-envoy-user"}}},
        "routing.headers.user: expected a header of the clients, since this one is the gateway's own, got "
        '"x-envoy-user"',
        id="user-header-of-envoy",
    ),
    pytest.param(
        {"resources": {"requests": {"memory": "8Gi"}}},
        "resources.requests.memory: must not exceed resources.limits.memory (3Gi), got 8Gi",
        id="requests-and-limits",
    ),
    pytest.param(
        {"resources": {"requests": {"cpu": 1.5}, "limits": {"cpu": "1400m"}}},
        "resources.requests.cpu: must not exceed resources.limits.cpu (1400m), got 1.5",
        id="requests-and-limits-in-thousandths",
    ),
    pytest.param(
        {"helmTest": {"image": {"tag": "latest"}}},
        "helmTest.image.tag: must name a release, got latest",
        id="latest-test",
    ),
]

# Rules for one key: helm says where, and what the schema has there.
SCHEMA = [
    pytest.param({"rooting": {}}, "at '': additional properties 'rooting' not allowed", id="unknown-root"),
    pytest.param(
        {"model": {"nmae": 1}}, "at '/model': additional properties 'nmae' not allowed", id="unknown-model"
    ),
    pytest.param({"model": {"name": DELETE}}, "at '/model/name': got null, want string", id="no-model-name"),
    pytest.param(
        {"model": {"name": "a/b"}}, "at '/model/name': 'a/b' does not match pattern", id="model-name"
    ),
    pytest.param(
        {"model": {"name": ""}}, "at '/model/name': '' does not match pattern", id="model-name-empty"
    ),
    pytest.param({"tracks": {"canary": DELETE}}, "at '/tracks': missing property 'canary'", id="no-canary"),
    pytest.param({"tracks": {"stable": DELETE}}, "at '/tracks': missing property 'stable'", id="no-stable"),
    pytest.param(
        {"tracks": {"canary": {"version": DELETE}}},
        "at '/tracks/canary/version': got null, want integer",
        id="no-version",
    ),
    pytest.param(
        {"tracks": {"canary": {"version": "2"}}},
        "at '/tracks/canary/version': got string, want integer",
        id="version",
    ),
    pytest.param(
        {"tracks": {"canary": {"version": 0}}},
        "at '/tracks/canary/version': minimum: got 0, want 1",
        id="version-0",
    ),
    pytest.param(
        {"tracks": {"canary": {"weight": 10}}},
        "at '/tracks/canary': additional properties 'weight' not allowed",
        id="unknown-track-key",
    ),
    pytest.param(
        {"tracks": {"canary": {"replicas": -1}}},
        "at '/tracks/canary/replicas': minimum: got -1, want 0",
        id="replicas",
    ),
    pytest.param(
        {"tracks": {"canary": {"replicas": 1.5}}},
        "at '/tracks/canary/replicas': got number, want integer",
        id="replicas-fraction",
    ),
    pytest.param(
        {"routing": {"routs": []}},
        "at '/routing': additional properties 'routs' not allowed",
        id="unknown-routing",
    ),
    pytest.param(routes(), "at '/routing/routes': minItems: got 0, want 1", id="no-routes"),
    pytest.param(
        {"routing": {"routes": {}}}, "at '/routing/routes': got object, want array", id="routes-map"
    ),
    pytest.param(
        routes(some(name=DELETE), EVERYONE),
        "at '/routing/routes/0': missing property 'name'",
        id="no-route-name",
    ),
    pytest.param(
        routes(some(name="Some One"), EVERYONE),
        "at '/routing/routes/0/name': 'Some One' does not match pattern",
        id="route-name",
    ),
    pytest.param(
        routes(some(weights=DELETE), EVERYONE),
        "at '/routing/routes/0': missing property 'weights'",
        id="no-weights",
    ),
    pytest.param(
        routes(some(weights={}), EVERYONE),
        "at '/routing/routes/0/weights': minProperties: got 0, want 1",
        id="weights",
    ),
    pytest.param(
        routes(some(weights={"stable": 101}), EVERYONE),
        "at '/routing/routes/0/weights/stable': maximum: got 101, want 100",
        id="weight-101",
    ),
    pytest.param(
        routes(some(weights={"stable": 110, "canary": -10}), EVERYONE),
        "at '/routing/routes/0/weights/canary': minimum: got -10, want 0",
        id="weight-negative",
    ),
    pytest.param(
        routes(some(weights={"stable": 99.5, "canary": 0.5}), EVERYONE),
        "at '/routing/routes/0/weights/canary': got number, want integer",
        id="weight-fraction",
    ),
    pytest.param(
        routes(some(weights={"stable": "100"}), EVERYONE),
        "at '/routing/routes/0/weights/stable': got string, want integer",
        id="weight-string",
    ),
    pytest.param(
        routes(some(match={}), EVERYONE),
        "at '/routing/routes/0/match': minProperties: got 0, want 1",
        id="empty-match",
    ),
    pytest.param(
        routes(some() | {"match": None}, EVERYONE),
        "at '/routing/routes/0/match': got null, want object",
        id="null-match",
    ),
    pytest.param(
        routes(some(match={"header": {}}), EVERYONE),
        "at '/routing/routes/0/match': additional properties 'header' not allowed",
        id="unknown-match",
    ),
    pytest.param(
        headers(), "at '/routing/routes/0/match/headers': minProperties: got 0, want 1", id="no-headers"
    ),
    pytest.param(
        headers(who="me"),
        "at '/routing/routes/0/match/headers/who': got string, want object",
        id="header-string",
    ),
    pytest.param(
        headers(who={}),
        "at '/routing/routes/0/match/headers/who': minProperties: got 0, want 1",
        id="no-matcher",
    ),
    pytest.param(
        headers(who={"exact": "a", "prefix": "b"}),
        "at '/routing/routes/0/match/headers/who': maxProperties: got 2, want 1",
        id="two-matchers",
    ),
    pytest.param(
        headers(who={"suffix": "a"}),
        "at '/routing/routes/0/match/headers/who': additional properties 'suffix' not allowed",
        id="unknown-matcher",
    ),
    pytest.param(
        headers(who={"exact": True}),
        "at '/routing/routes/0/match/headers/who/exact': got boolean, want string",
        id="exact-boolean",
    ),
    pytest.param(
        headers(who={"prefix": ""}),
        "at '/routing/routes/0/match/headers/who/prefix': minLength: got 0, want 1",
        id="empty-prefix",
    ),
    pytest.param(
        {"routing": {"attribution": "yes"}},
        "at '/routing/attribution': got string, want boolean",
        id="attribution",
    ),
    pytest.param(
        {"routing": {"retryAttempts": 6}}, "at '/routing/retryAttempts': maximum: got 6, want 5", id="retries"
    ),
    pytest.param(
        {"routing": {"timeoutSeconds": "40s"}},
        "at '/routing/timeoutSeconds': got string, want integer",
        id="timeout",
    ),
    pytest.param(
        {"server": {"drainSeconds": 0}}, "at '/server/drainSeconds': minimum: got 0, want 1", id="drain"
    ),
    pytest.param(
        {"server": {"idleTimeoutSeconds": 60}},
        "at '/server/idleTimeoutSeconds': maximum: got 60, want 45",
        id="idle",
    ),
    pytest.param(
        {"server": {"batching": {"maxEnqueuedBatches": 2000}}},
        "at '/server/batching/maxEnqueuedBatches': maximum: got 2,000, want 1,000",
        id="endless-queue",
    ),
    pytest.param({"image": {"tag": 2.2}}, "at '/image/tag': got number, want string", id="tag-number"),
    pytest.param(
        {"image": {"repository": "tensorflow/serving:2.20.0@x"}},
        "at '/image/repository': 'tensorflow/serving:2.20.0@x' does not match pattern",
        id="repository",
    ),
    pytest.param(
        {"image": {"digest": "sha256:12"}},
        "at '/image/digest': 'sha256:12' does not match pattern",
        id="digest",
    ),
    pytest.param(
        {"image": {"pullPolicy": "Sometimes"}},
        "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        id="pull-policy",
    ),
    pytest.param({"image": DELETE}, "at '': missing property 'image'", id="no-image"),
    pytest.param(
        {"modelStore": {"basePath": "/data"}},
        "at '/modelStore/basePath': '/data' does not match pattern",
        id="base-path",
    ),
    pytest.param({"gateway": {"hosts": []}}, "at '/gateway/hosts': minItems: got 0, want 1", id="no-hosts"),
    pytest.param(
        {"gateway": {"hosts": ["http://a"]}},
        "at '/gateway/hosts/0': 'http://a' does not match pattern",
        id="host",
    ),
    pytest.param(
        {"gateway": {"hosts": ["models"]}},
        "at '/gateway/hosts/0': 'models' does not match pattern",
        id="host-without-a-dot",
    ),
    pytest.param({"gateway": {"port": 0}}, "at '/gateway/port': minimum: got 0, want 1", id="port"),
    pytest.param(
        {"gateway": {"selector": {"istio": DELETE}}},
        "at '/gateway/selector': minProperties: got 0, want 1",
        id="selector",
    ),
    pytest.param(
        {"resources": {"limits": {"memory": DELETE}}},
        "at '/resources/limits': missing property 'memory'",
        id="no-memory-limit",
    ),
    pytest.param(
        {"resources": {"limits": {"memory": "lots"}}},
        "at '/resources/limits/memory': 'lots' does not match pattern",
        id="quantity",
    ),
    pytest.param(
        {"serviceAccount": {"annotations": {"a": 1}}},
        "at '/serviceAccount/annotations/a': got number, want string",
        id="annotation",
    ),
    pytest.param(
        {"serviceAccount": {"name": "a"}},
        "at '/serviceAccount': additional properties 'name' not allowed",
        id="unknown-service-account",
    ),
]


SCHEMA += [
    pytest.param(
        routes({**EVERYONE, "sticky": {"by": "ip"}}),
        "at '/routing/routes/0/sticky/by': value must be one of 'cookie', 'user'",
        id="sticky",
    ),
    pytest.param(
        routes({**EVERYONE, "mirror": {"track": "canary"}}),
        "at '/routing/routes/0/mirror': missing property 'percent'",
        id="mirror-percent",
    ),
    pytest.param(
        routes({**EVERYONE, "mirror": {"track": "canary", "percent": 101}}),
        "at '/routing/routes/0/mirror/percent': maximum: got 101, want 100",
        id="mirror-101",
    ),
    pytest.param(
        routes(some(match={"userGroups": []}), EVERYONE),
        "at '/routing/routes/0/match/userGroups': minItems: got 0, want 1",
        id="no-groups",
    ),
    pytest.param(
        routes(some(match={"users": ["a", "a"]}), EVERYONE),
        "at '/routing/routes/0/match/users': items at 0 and 1 are equal",
        id="user-twice",
    ),
    pytest.param(
        routes(some(match={"cookie": {"name": "a"}}), EVERYONE),
        "at '/routing/routes/0/match/cookie': missing property 'value'",
        id="cookie-value",
    ),
    pytest.param(
        routes(some(match={"path": {"prefix": "/a", "version": "canary"}}), EVERYONE),
        "at '/routing/routes/0/match/path': maxProperties: got 2, want 1",
        id="two-paths",
    ),
    pytest.param(
        routes(some(match={"path": {"prefix": "canary"}}), EVERYONE),
        "at '/routing/routes/0/match/path/prefix': 'canary' does not match pattern",
        id="relative-path",
    ),
    pytest.param(
        {"gateway": {"tls": {"minProtocolVersion": "TLSV1_1"}}},
        "at '/gateway/tls/minProtocolVersion': value must be one of 'TLSV1_2', 'TLSV1_3'",
        id="old-tls",
    ),
    pytest.param(
        {"gateway": {"filters": {"maxBodyBytes": 1}}},
        "at '/gateway/filters/maxBodyBytes': minimum: got 1, want 65,536",
        id="body-size",
    ),
    pytest.param(
        {"security": {"callers": [{"namespace": "a"}]}},
        "at '/security/callers/0': missing property 'serviceAccount'",
        id="caller",
    ),
    pytest.param(
        {"networkPolicy": {"egress": [{"cidr": "everywhere", "ports": [1]}]}},
        "at '/networkPolicy/egress/0/cidr': 'everywhere' does not match pattern",
        id="cidr",
    ),
    pytest.param(
        {"networkPolicy": {"dnsAddresses": ["169.254.20.10"]}},
        "at '/networkPolicy/dnsAddresses/0': '169.254.20.10' does not match pattern",
        id="dns-address",
    ),
    pytest.param(
        {"modelStore": {"image": {"reference": "a/b:latest"}}},
        "at '/modelStore/image/reference': 'a/b:latest' does not match pattern",
        id="models-by-tag",
    ),
    pytest.param(
        {"tracks": {"canary": {"autoscaling": {"minReplicas": 0, "maxReplicas": 2, "cpuPercent": 50}}}},
        "at '/tracks/canary/autoscaling/minReplicas': minimum: got 0, want 1",
        id="autoscaling-0",
    ),
]


@pytest.mark.parametrize(("values", "expected"), RULES)
def test_rules_across_keys(refused, values, expected):
    """
    Each broken rule is refused by a message that is exactly this line.
    """
    message = refused(values=values)

    first, *rest = message.removeprefix("Error: execution error at (").splitlines()
    assert expected in [first.partition("): ")[2], *rest]


@pytest.mark.parametrize(("values", "expected"), SCHEMA)
def test_rules_for_one_key(refused, values, expected):
    """
    Each value that cannot be is refused by a message that says where it is.
    """
    message = refused(values=values)

    assert expected in message
    assert "values don't meet the specifications of the schema" in message


def test_the_table_is_long():
    """
    Sixty mistakes at the least, each with its message.
    """
    assert len(RULES) + len(SCHEMA) >= 60


def test_choices_that_nobody_else_can_make(helm, chart):
    """
    The model's name and the versions have no default, and the message names all that are missing.
    """
    with pytest.raises(Exception, match="missing property") as caught:
        helm("template", "resnet", str(chart), "--kube-version", "1.34.4")

    for line in (
        "at '/model': missing property 'name'",
        "at '/tracks/stable': missing property 'version'",
        "at '/tracks/canary': missing property 'version'",
    ):
        assert line in str(caught.value)


def test_all_problems_at_once(refused):
    """
    One message has all problems, so that nobody mends values one at a time.
    """
    wrong = {
        **routes(some(weights={"canry": 50}), some(), EVERYONE | {"weights": {"stable": 90}}),
        "image": {"tag": "latest"},
        "server": {"timeoutSeconds": 40},
    }

    message = refused(values=wrong).partition("): ")[2].strip().splitlines()

    expected = [
        'routing.routes[0] (some): weights name the unknown track "canry"',
        "routing.routes[0] (some): weights must sum to 100, got 50",
        "routing.routes[1] (some): every route needs a name of its own",
        "routing.routes[1] (some): never reached",
        "routing.routes[2] (everyone): weights must sum to 100, got 90",
        "routing.timeoutSeconds: must exceed server.timeoutSeconds",
        "image.tag: must name a release",
    ]
    assert [True] * len(expected) == [
        line.startswith(start) for start, line in zip(expected, message, strict=False)
    ]


def test_a_single_problem_is_a_single_line(refused):
    """
    The harness shows one line, and so does helm.
    """
    message = refused(values=routes({"name": "everyone", "weights": {"stable": 90}}))

    lines = [line for line in message.splitlines() if line and "Use --debug" not in line]
    assert 1 == len(lines)


def test_old_kubernetes(refused):
    """
    Models from an image are refused where Kubernetes cannot mount one.
    """
    image = {"reference": "a/b@sha256:" + "0" * 64}
    values = {"modelStore": {"persistentVolumeClaim": {"claimName": ""}, "image": image}}

    assert (
        "modelStore.image.reference: expected Kubernetes 1.35, or 1.33 with the feature gate ImageVolume, got v1.32.1; use "
        "modelStore.persistentVolumeClaim.claimName"
    ) in refused("stable", values=values, options=("--kube-version", "1.32.1"))


@pytest.mark.parametrize(
    ("asked", "limit"),
    [("3Gi", "3Gi"), ("3072Mi", "3Gi"), ("1.5Gi", 2e9), (3221225472, "3Gi"), ("999m", 1), ("4G", "4Gi")],
)
def test_requests_within_limits_are_taken(render, asked, limit):
    """
    Quantities are compared as Kubernetes reads them, however they are written.
    """
    values = {"resources": {"requests": {"memory": asked}, "limits": {"memory": limit}}}

    assert render(values=values).all("Deployment")


@pytest.mark.parametrize("name", ["1st", "dotted.name"])
def test_release_name(refused, name):
    """
    A release name that no Service may have is refused, where helm itself takes it.
    """
    message = refused("stable", release=name)

    assert (
        f'release name: expected lower-case letters, digits and hyphens, with a letter first, as Services need, got "{name}"'
        in message
    )


@pytest.mark.parametrize("key", ["global", "enabled"])
def test_a_parent_chart_may_say(render, key):
    """
    The keys that a parent chart hands down are admitted, and change nothing.
    """
    values = {"global": {"anything": 1}, "enabled": True}

    assert render("stable").text == render("stable", values={key: values[key]}).text


@pytest.mark.parametrize(
    "expression",
    [
        ".*",
        "a|b",
        "(?i)beta.*",
        "^user-[0-9]{1,3}$",
        r"\d+\.\w*",
        "[^a]",
        "a{2,}?",
        "((a)|(b))",
        r"\p{Lu}",
        "é",
    ],
)
def test_regular_expressions_are_taken(render, expression):
    """
    Whatever RE2 reads is taken.
    """
    rendered = render(values=headers(who={"regex": expression}))

    assert {"who": {"regex": expression}} == rendered.routes[0]["match"][0]["headers"]


@pytest.mark.parametrize(
    "expression", ["(", "[", "*", "a**", "a{1001}", r"\1", "(?P<n", "a)(b", "(?<!a)b", "\\"]
)
def test_other_expressions_are_refused(refused, expression):
    """
    Whatever RE2 cannot read is refused here: Istio would refuse it, or the gateway its whole configuration.
    """
    assert "match.headers.who.regex is no RE2 expression" in refused(
        values=headers(who={"regex": expression})
    )
