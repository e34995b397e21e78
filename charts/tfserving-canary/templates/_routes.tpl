{{- /* Renders the http list of a VirtualService. Every entry of routing.routes becomes one for gRPC and one for REST,
which differ only in path and port. With `sticky`, a pair for each track goes before them and takes the clients that
have a track already. All entries have a destination: what others merge into the gateway's routes fits each of them.
Passed a dict: root, revision (empty while it is being computed), place (gateway, or mesh for callers inside it). */}}
{{- define "tfserving-canary.routes" -}}
{{- $grpc := dict "name" "grpc" "prefix" "/tensorflow.serving." "port" 8500 }}
{{- $rest := dict "name" "rest" "prefix" "/v1/" "port" 8501 }}
{{- $entries := list }}
{{- range $route := .root.Values.routing.routes }}
{{- $match := $route.match | default dict }}
{{- /* The gateway does not see the labels of callers inside the mesh, and sidecars verify no tokens. */}}
{{- $unseen := ternary "sourceLabels" "claims" (eq $.place "gateway") }}
{{- if not (hasKey $match $unseen) }}
{{- $variants := include "tfserving-canary.variants" (dict "root" $.root "route" $route "place" $.place) }}
{{- range $variant := fromJsonArray $variants }}
{{- range $api := list $grpc $rest }}
{{- $path := dig "path" dict $match }}
{{- if not (and (eq $api.name "grpc") (hasKey $path "version")) }}
{{- $args := dict "root" $.root "revision" $.revision "route" $route "variant" $variant "api" $api
  "place" $.place }}
{{- $entries = append $entries (include "tfserving-canary.route" $args) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- join "\n" $entries }}
{{- end }}

{{- /* Renders, as JSON, what one entry of routing.routes becomes: a list of name, headers, weights, and whether the
answer sets a cookie. Passed a dict: root, route, place. */}}
{{- define "tfserving-canary.variants" -}}
{{- $routing := .root.Values.routing }}
{{- $variants := list }}
{{- $by := dig "sticky" "by" "" .route }}
{{- $low := 0 }}
{{- range $track := include "tfserving-canary.sharing" .route | fromJsonArray }}
{{- $high := add $low (int64 (get $.route.weights $track)) }}
{{- $own := dict $track 100 }}
{{- if eq $by "cookie" }}
{{- $cookie := dict "name" $routing.stickyCookie.name "value" $track }}
{{- $headers := dict "cookie" (dict "regex" (include "tfserving-canary.cookieExpression" $cookie)) }}
{{- $name := printf "%s-kept-%s" $.route.name $track }}
{{- $variants = append $variants (dict "name" $name "headers" $headers "weights" $own) }}
{{- else if and (eq $by "user") (eq $.place "gateway") }}
{{- $buckets := include "tfserving-canary.buckets" (dict "low" $low "high" $high) }}
{{- $headers := dict (include "tfserving-canary.bucketHeader" $.root) (dict "regex" $buckets) }}
{{- $name := printf "%s-bucket-%s" $.route.name $track }}
{{- $variants = append $variants (dict "name" $name "headers" $headers "weights" $own) }}
{{- end }}
{{- $low = $high }}
{{- end }}
{{- $plain := dict "name" .route.name "headers" dict "weights" .route.weights "cookie" (eq $by "cookie") }}
{{- append $variants $plain | toJson }}
{{- end }}

{{- /* Renders, as JSON, the tracks that a route sends requests to, stable last. In that order a growing canary takes
buckets from stable, and users of the canary keep it. Passed the route. */}}
{{- define "tfserving-canary.sharing" -}}
{{- $tracks := list }}
{{- range $track := without (keys .weights | sortAlpha) "stable" | concat (list) }}
{{- if gt (int (get $.weights $track)) 0 }}{{ $tracks = append $tracks $track }}{{ end }}
{{- end }}
{{- if gt (int (get .weights "stable" | default 0)) 0 }}{{ $tracks = append $tracks "stable" }}{{ end }}
{{- $tracks | toJson }}
{{- end }}

{{- /* Renders an expression for the buckets from low up to, but excluding, high. A bucket is written with two digits.
Passed a dict: low, high. */}}
{{- define "tfserving-canary.buckets" -}}
{{- $parts := list }}
{{- range $ten := until 10 }}
{{- $from := max $.low (mul $ten 10) }}
{{- $to := sub (min $.high (add (mul $ten 10) 10)) 1 }}
{{- if le $from $to }}
{{- $parts = append $parts (printf "%d[%d-%d]" $ten (mod $from 10) (mod $to 10)) }}
{{- end }}
{{- end }}
{{- join "|" $parts }}
{{- end }}

{{- /* Renders the header into which the gateway writes the bucket of a request's user. Passed the root context. */}}
{{- define "tfserving-canary.bucketHeader" -}}
x-bucket-{{ .Values.model.name | lower }}
{{- end }}

{{- /* Renders an expression for a cookie among others. Passed a dict: name, value. */}}
{{- define "tfserving-canary.cookieExpression" -}}
(.*[;,] *)?{{ regexQuoteMeta .name }}={{ regexQuoteMeta .value }}([;,].*)?
{{- end }}

{{- /* Renders, as JSON, the matcher for one of several values. Passed the list. */}}
{{- define "tfserving-canary.oneOf" -}}
{{- if eq (len .) 1 }}
{{- dict "exact" (first .) | toJson }}
{{- else }}
{{- $quoted := list }}
{{- range . }}{{ $quoted = append $quoted (regexQuoteMeta .) }}{{ end }}
{{- dict "regex" (join "|" $quoted) | toJson }}
{{- end }}
{{- end }}

{{- /* Renders, as JSON, the headers that a match asks for. Passed a dict: root, match. */}}
{{- define "tfserving-canary.matchHeaders" -}}
{{- $names := .root.Values.routing.headers }}
{{- $headers := deepCopy (.match.headers | default dict) }}
{{- range $key, $header := dict "userGroups" $names.userGroup "users" $names.user "regions" $names.region }}
{{- if hasKey $.match $key }}
{{- $_ := set $headers $header (include "tfserving-canary.oneOf" (get $.match $key) | fromJson) }}
{{- end }}
{{- end }}
{{- if hasKey .match "cookie" }}
{{- $_ := set $headers "cookie" (dict "regex" (include "tfserving-canary.cookieExpression" .match.cookie)) }}
{{- end }}
{{- range $claim, $values := .match.claims }}
{{- $matcher := include "tfserving-canary.oneOf" $values | fromJson }}
{{- $_ := set $headers (printf "@request.auth.claims[%s]" $claim) $matcher }}
{{- end }}
{{- $headers | toJson }}
{{- end }}

{{- /* Renders one entry of the http list. Passed a dict: root, revision, route (an entry of routing.routes), variant
(see variants), api (a dict: name, prefix, port), place (see routes). */}}
{{- define "tfserving-canary.route" -}}
{{- $host := include "tfserving-canary.name" .root }}
{{- $routing := .root.Values.routing }}
{{- $match := .route.match | default dict }}
{{- $path := dig "path" dict $match }}
{{- $matched := include "tfserving-canary.matchHeaders" (dict "root" .root "match" $match) | fromJson }}
{{- $headers := merge $matched .variant.headers (include "tfserving-canary.modelHeader" . | fromJson) }}
{{- $byModel := and .root.Values.gateway.byModel.enabled (eq .place "gateway") (eq .api.name "rest") }}
{{- $args := dict "root" .root "place" .place -}}
- name: {{ printf "%s-%s" .variant.name .api.name | quote }}
  match:
    - uri:
        {{- if hasKey $path "version" }}
        regex: {{ include "tfserving-canary.versionExpression" (dict "root" .root "track" $path.version) | quote }}
        {{- else if $byModel }}
        regex: {{ printf "/v1/models/%s([:/].*)?" (regexQuoteMeta .root.Values.model.name) | quote }}
        {{- else }}
        prefix: {{ printf "%s%s" (trimSuffix "/" ($path.prefix | default "")) .api.prefix | quote }}
        {{- end }}
      {{- if $headers }}
      headers:
        {{- range $header, $matcher := $headers }}
        {{ $header | quote }}:
          {{- range $kind, $value := $matcher }}
          {{ $kind }}: {{ $value | quote }}
          {{- end }}
        {{- end }}
      {{- end }}
      {{- if hasKey $match "sourceLabels" }}
      sourceLabels:
        {{- range $label, $value := $match.sourceLabels }}
        {{ $label | quote }}: {{ $value | quote }}
        {{- end }}
      {{- end }}
  {{- if hasKey $path "prefix" }}
  rewrite:
    uri: {{ .api.prefix | quote }}
  {{- end }}
  route:
    {{- range $track, $weight := .variant.weights }}
    {{- /* A weight of 0 is left out: a single destination of weight 0 would take all requests. */}}
    {{- if gt (int $weight) 0 }}
    - destination:
        host: {{ $host | quote }}
        subset: {{ $track | quote }}
        port:
          number: {{ $.api.port }}
      weight: {{ int $weight }}
      {{- if or $routing.attribution $.variant.cookie }}
      headers:
        response:
          {{- if $.variant.cookie }}
          add:
            set-cookie: {{ include "tfserving-canary.cookie" (set $args "track" $track) | quote }}
          {{- end }}
          {{- if $routing.attribution }}
          set:
            x-model-track: {{ $track | quote }}
          {{- end }}
      {{- end }}
    {{- end }}
    {{- end }}
  {{- if gt (int (dig "mirror" "percent" 0 .route)) 0 }}
  mirror:
    host: {{ $host | quote }}
    subset: {{ .route.mirror.track | quote }}
    port:
      number: {{ .api.port }}
  mirrorPercentage:
    value: {{ int .route.mirror.percent }}
  {{- end }}
  {{- $cors := .root.Values.gateway.cors }}
  {{- if and $cors.allowOrigins (eq .place "gateway") (eq .api.name "rest") }}
  corsPolicy:
    allowOrigins:
      {{- range $cors.allowOrigins }}
      - exact: {{ . | quote }}
      {{- end }}
    allowMethods:
      - GET
      - POST
    {{- if $cors.allowHeaders }}
    allowHeaders:
      {{- range $cors.allowHeaders }}
      - {{ . | quote }}
      {{- end }}
    {{- end }}
    {{- if $routing.attribution }}
    exposeHeaders:
      - x-model-track
      - x-route-revision
    {{- end }}
    maxAge: {{ printf "%ds" (int64 $cors.maxAgeSeconds) | quote }}
    allowCredentials: {{ $cors.allowCredentials }}
  {{- end }}
  timeout: {{ printf "%ds" (int64 $routing.timeoutSeconds) | quote }}
  retries:
    attempts: {{ int $routing.retryAttempts }}
    {{- if $routing.retryAttempts }}
    # A prediction changes nothing, so it may be asked twice. `unavailable` is a status of gRPC, and 503 is one of REST.
    retryOn: "connect-failure,refused-stream,reset,unavailable,503"
    {{- end }}
  {{- if and $routing.attribution .revision }}
  headers:
    response:
      set:
        x-route-revision: {{ .revision | quote }}
  {{- end }}
{{- end }}

{{- /* Renders, as JSON, the header by which gRPC clients of the gateway name the model, if models of other releases
have the same hosts: gRPC has no model in its path. Passed a dict: root, api (see route), place (see routes). */}}
{{- define "tfserving-canary.modelHeader" -}}
{{- $byModel := .root.Values.gateway.byModel }}
{{- $header := dict }}
{{- if and $byModel.enabled (eq .place "gateway") (eq .api.name "grpc") }}
{{- $_ := set $header $byModel.grpcHeader (dict "exact" .root.Values.model.name) }}
{{- end }}
{{- $header | toJson }}
{{- end }}

{{- /* Renders the cookie that keeps a client on a track. Passed a dict: root, place (see routes), track. */}}
{{- define "tfserving-canary.cookie" -}}
{{- $cookie := .root.Values.routing.stickyCookie }}
{{- $secure := include "tfserving-canary.cookieSecure" . -}}
{{ printf "%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=%s%s%s"
  $cookie.name .track (int64 $cookie.maxAgeSeconds) $cookie.sameSite
  (ternary "; Secure" "" (ne $secure ""))
  (ternary (printf "; Domain=%s" $cookie.domain) "" (ne $cookie.domain "")) }}
{{- end }}

{{- /* Renders something if the cookie of sticky clients is Secure. Callers inside the mesh speak plain HTTP with their
sidecar. Passed a dict: root, place (see routes). */}}
{{- define "tfserving-canary.cookieSecure" -}}
{{- $asked := .root.Values.routing.stickyCookie.secure }}
{{- $tls := and .root.Values.gateway.tls.enabled (eq .place "gateway") }}
{{- if or (eq $asked "always") (and (eq $asked "auto") $tls) }}yes{{ end }}
{{- end }}

{{- /* Renders an expression for the REST paths of the version that a track serves. Passed a dict: root, track. */}}
{{- define "tfserving-canary.versionExpression" -}}
/v1/models/{{ regexQuoteMeta .root.Values.model.name }}/versions/
{{- if get .root.Values.tracks .track }}{{ include "tfserving-canary.version" . }}{{ end }}([:/].*)?
{{- end }}

{{- /* Renders the revision of the routes: a hash of what is rendered and of the namespace. `helm upgrade`,
`helm template` and GitOps agree on it, and it tells which routes a gateway has, and whose: releases of one name in two
namespaces have two. Passed the root context. */}}
{{- define "tfserving-canary.routeRevision" -}}
{{- $rendering := ternary "httpRules" "routes" (eq .Values.gateway.api "gateway-api") }}
{{- $args := dict "root" . "revision" "" "place" "gateway" }}
{{- $gateway := include (printf "tfserving-canary.%s" $rendering) $args }}
{{- $mesh := include "tfserving-canary.routes" (dict "root" . "revision" "" "place" "mesh") }}
{{- printf "%s\n%s\n%s" .Release.Namespace $gateway $mesh | sha256sum | trunc 10 }}
{{- end }}

{{- /* Renders, as JSON, the conditions of a match by name, each as a list of values, a prefix or an expression. The
rule about routes that no request reaches compares them. Passed a dict: root, match. */}}
{{- define "tfserving-canary.conditions" -}}
{{- $conditions := dict }}
{{- $names := .root.Values.routing.headers }}
{{- range $header, $matcher := .match.headers }}
{{- if hasKey $matcher "exact" }}
{{- $_ := set $conditions (printf "header %s" $header) (dict "oneOf" (list $matcher.exact)) }}
{{- else }}
{{- $_ := set $conditions (printf "header %s" $header) $matcher }}
{{- end }}
{{- end }}
{{- range $key, $header := dict "userGroups" $names.userGroup "users" $names.user "regions" $names.region }}
{{- if hasKey $.match $key }}
{{- $_ := set $conditions (printf "header %s" $header) (dict "oneOf" (get $.match $key)) }}
{{- end }}
{{- end }}
{{- if hasKey .match "cookie" }}
{{- $_ := set $conditions (printf "cookie %s" .match.cookie.name) (dict "oneOf" (list .match.cookie.value)) }}
{{- end }}
{{- range $claim, $values := .match.claims }}
{{- $_ := set $conditions (printf "claim %s" $claim) (dict "oneOf" $values) }}
{{- end }}
{{- range $label, $value := .match.sourceLabels }}
{{- $_ := set $conditions (printf "label %s" $label) (dict "oneOf" (list $value)) }}
{{- end }}
{{- if hasKey .match "path" }}
{{- if hasKey .match.path "version" }}
{{- $expression := include "tfserving-canary.versionExpression" (dict "root" .root "track" .match.path.version) }}
{{- $_ := set $conditions "path" (dict "oneOf" (list $expression)) }}
{{- else }}
{{- $_ := set $conditions "path" (dict "oneOf" (list (trimSuffix "/" .match.path.prefix))) }}
{{- end }}
{{- end }}
{{- $conditions | toJson }}
{{- end }}

{{- /* Renders yes if every request that meets the narrow conditions meets the wide ones too. Passed a dict: wide,
narrow. */}}
{{- define "tfserving-canary.covers" -}}
{{- $covered := true }}
{{- range $name, $wide := .wide }}
{{- $narrow := get $.narrow $name }}
{{- if not $narrow }}
{{- $covered = false }}
{{- else if ne (toJson $wide) (toJson $narrow) }}
{{- if eq ($wide.regex | default "") ".*" }}
{{- else if and (hasKey $wide "prefix") (hasKey $narrow "prefix") }}
{{- if not (hasPrefix $wide.prefix $narrow.prefix) }}{{ $covered = false }}{{ end }}
{{- else if hasKey $narrow "oneOf" }}
{{- range $value := $narrow.oneOf }}
{{- if hasKey $wide "oneOf" }}
{{- if not (has $value $wide.oneOf) }}{{ $covered = false }}{{ end }}
{{- else if hasKey $wide "prefix" }}
{{- if not (hasPrefix $wide.prefix $value) }}{{ $covered = false }}{{ end }}
{{- else if not (regexMatch (printf "^(?:%s)$" $wide.regex) $value) }}
{{- $covered = false }}
{{- end }}
{{- end }}
{{- else }}
{{- $covered = false }}
{{- end }}
{{- end }}
{{- end }}
{{- if $covered }}yes{{ end }}
{{- end }}
