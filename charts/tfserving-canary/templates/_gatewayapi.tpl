{{- /* Renders yes if the routes at the gateway are those of the Gateway API. Passed the root context. */}}
{{- define "tfserving-canary.usesGatewayApi" -}}
{{ if eq .Values.gateway.api "gateway-api" }}yes{{ end }}
{{- end }}

{{- /* Renders the host name of the gateway's Service, by which a Gateway of the Gateway API finds the gateway's pods.
Passed the root context. */}}
{{- define "tfserving-canary.gatewayService" -}}
{{- $service := .Values.gateway.service }}
{{- if contains "." $service }}{{ $service }}
{{- else }}{{ printf "%s.%s.svc.cluster.local" $service .Values.gateway.namespace }}
{{- end }}
{{- end }}

{{- /* Renders, as JSON, the entries of routing.routes that can take requests at the gateway, each with its place in the
list. The gateway does not see the labels of callers inside the mesh. Passed the root context. */}}
{{- define "tfserving-canary.gatewayRoutes" -}}
{{- $found := list }}
{{- range $index, $route := .Values.routing.routes }}
{{- if not (hasKey ($route.match | default dict) "sourceLabels") }}
{{- $found = append $found (dict "index" $index "route" $route) }}
{{- end }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- /* Renders the rules of an HTTPRoute: the same entries and variants as those of a VirtualService (see routes). gRPC
is HTTP: a GRPCRoute may not share its hosts with an HTTPRoute, and knows neither timeouts nor prefixes of a path.
Passed a dict: root, revision (empty while it is being computed). */}}
{{- define "tfserving-canary.httpRules" -}}
{{- $rules := list }}
{{- range $entry := include "tfserving-canary.gatewayRoutes" .root | fromJsonArray }}
{{- $apis := include "tfserving-canary.ruleApis" (dict "root" $.root "route" $entry.route) | fromJsonArray }}
{{- $variants := include "tfserving-canary.variants" (dict "root" $.root "route" $entry.route "place" "gateway") }}
{{- range $variant := fromJsonArray $variants }}
{{- range $api := $apis }}
{{- $args := dict "root" $.root "revision" $.revision "route" $entry.route "variant" $variant "api" $api }}
{{- $rules = append $rules (include "tfserving-canary.httpRule" $args) }}
{{- end }}
{{- end }}
{{- end }}
{{- join "\n" $rules }}
{{- end }}

{{- /* Renders, as JSON, the rules that each variant of a route needs: a list of name, port, the paths of its matches,
and what the matched prefix becomes, if it changes. A prefix of the Gateway API ends where a part of the path does:
/v1 takes /v1/models and not /v1x, and the name of a service its methods. Passed a dict: root, route. */}}
{{- define "tfserving-canary.ruleApis" -}}
{{- $path := dig "match" "path" dict .route }}
{{- $services := list "/tensorflow.serving.PredictionService" "/tensorflow.serving.ModelService" }}
{{- $apis := list }}
{{- if hasKey $path "version" }}
{{- /* An expression would come after every prefix. The verb is no part of its own: each is matched by itself. */}}
{{- $version := printf "/v1/models/%s/versions/" .root.Values.model.name }}
{{- if get .root.Values.tracks $path.version }}
{{- $args := dict "root" .root "track" $path.version }}
{{- $version = printf "%s%s" $version (include "tfserving-canary.version" $args) }}
{{- end }}
{{- $paths := list (dict "type" "PathPrefix" "value" $version) }}
{{- range $verb := list "predict" "classify" "regress" }}
{{- $paths = append $paths (dict "type" "Exact" "value" (printf "%s:%s" $version $verb)) }}
{{- end }}
{{- $apis = append $apis (dict "name" "rest" "port" 8501 "paths" $paths) }}
{{- else if hasKey $path "prefix" }}
{{- $prefix := trimSuffix "/" $path.prefix }}
{{- /* The prefix is rewritten by rule, and the two services have two. */}}
{{- range $service := $services }}
{{- $name := ternary "grpc" "model-grpc" (hasSuffix "PredictionService" $service) }}
{{- $paths := list (dict "type" "PathPrefix" "value" (printf "%s%s" $prefix $service)) }}
{{- $apis = append $apis (dict "name" $name "port" 8500 "paths" $paths "rewrite" $service) }}
{{- end }}
{{- $paths := list (dict "type" "PathPrefix" "value" (printf "%s/v1" $prefix)) }}
{{- $apis = append $apis (dict "name" "rest" "port" 8501 "paths" $paths "rewrite" "/v1") }}
{{- else }}
{{- $paths := list }}
{{- range $service := $services }}{{ $paths = append $paths (dict "type" "PathPrefix" "value" $service) }}{{ end }}
{{- $apis = append $apis (dict "name" "grpc" "port" 8500 "paths" $paths) }}
{{- $paths = list (dict "type" "PathPrefix" "value" "/v1") }}
{{- $apis = append $apis (dict "name" "rest" "port" 8501 "paths" $paths) }}
{{- end }}
{{- $apis | toJson }}
{{- end }}

{{- /* Renders, as JSON, the conditions on headers as the Gateway API writes them, in the order of their names. Passed
a dict: root, route, variant. */}}
{{- define "tfserving-canary.ruleHeaders" -}}
{{- $match := .route.match | default dict }}
{{- $matched := include "tfserving-canary.matchHeaders" (dict "root" .root "match" $match) | fromJson }}
{{- $headers := list }}
{{- range $name, $matcher := merge $matched .variant.headers }}
{{- $type := ternary "Exact" "RegularExpression" (hasKey $matcher "exact") }}
{{- $value := get $matcher "exact" | default (get $matcher "regex") }}
{{- with get $matcher "prefix" }}{{ $value = printf "%s.*" (regexQuoteMeta .) }}{{ end }}
{{- $headers = append $headers (dict "name" $name "type" $type "value" $value) }}
{{- end }}
{{- $headers | toJson }}
{{- end }}

{{- /* Renders one rule of an HTTPRoute. What the API server would add is written, so that nobody sees a difference.
Passed a dict: root, revision, route, variant, api (see ruleApis). */}}
{{- define "tfserving-canary.httpRule" -}}
{{- $headers := include "tfserving-canary.ruleHeaders" . | fromJsonArray -}}
- name: {{ printf "%s-%s" .variant.name .api.name | quote }}
  matches:
    {{- range $path := .api.paths }}
    - path:
        type: {{ $path.type }}
        value: {{ $path.value | quote }}
      {{- if $headers }}
      headers:
        {{- range $headers }}
        - name: {{ .name | quote }}
          type: {{ .type }}
          value: {{ .value | quote }}
        {{- end }}
      {{- end }}
    {{- end }}
  filters:
    {{- include "tfserving-canary.ruleFilters" . | nindent 4 }}
  backendRefs:
    {{- include "tfserving-canary.ruleBackends" . | trim | nindent 4 }}
  timeouts:
    request: {{ printf "%ds" (int64 .root.Values.routing.timeoutSeconds) | quote }}
{{- end }}

{{- /* Renders the filters of a rule. No standard field says that nothing is tried again, and Istio's default is to try
twice: Envoy takes the word of a header, and does not pass it on. Passed a dict as that of httpRule. */}}
{{- define "tfserving-canary.ruleFilters" -}}
{{- $routing := .root.Values.routing -}}
- type: RequestHeaderModifier
  requestHeaderModifier:
    set:
      - name: x-envoy-max-retries
        value: "0"
{{- if and $routing.attribution .revision }}
- type: ResponseHeaderModifier
  responseHeaderModifier:
    set:
      - name: x-route-revision
        value: {{ .revision | quote }}
{{- end }}
{{- with .api.rewrite }}
- type: URLRewrite
  urlRewrite:
    path:
      type: ReplacePrefixMatch
      replacePrefixMatch: {{ . | quote }}
{{- end }}
{{- if gt (int (dig "mirror" "percent" 0 .route)) 0 }}
- type: RequestMirror
  requestMirror:
    backendRef:
      group: ""
      kind: Service
      name: {{ include "tfserving-canary.trackName" (dict "root" .root "track" .route.mirror.track) | quote }}
      port: {{ .api.port }}
    percent: {{ int .route.mirror.percent }}
{{- end }}
{{- $cors := .root.Values.gateway.cors }}
{{- if and $cors.allowOrigins (eq .api.name "rest") }}
- type: CORS
  cors:
    allowOrigins:
      {{- range $cors.allowOrigins }}
      - {{ . | quote }}
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
    maxAge: {{ int64 $cors.maxAgeSeconds }}
    allowCredentials: {{ $cors.allowCredentials }}
{{- end }}
{{- end }}

{{- /* Renders the tracks that a rule sends requests to. Passed a dict as that of httpRule. */}}
{{- define "tfserving-canary.ruleBackends" -}}
{{- $routing := .root.Values.routing }}
{{- range $track, $weight := .variant.weights }}
{{- if gt (int $weight) 0 }}
- group: ""
  kind: Service
  name: {{ include "tfserving-canary.trackName" (dict "root" $.root "track" $track) | quote }}
  port: {{ $.api.port }}
  weight: {{ int $weight }}
  {{- if or $routing.attribution $.variant.cookie }}
  filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        {{- if $.variant.cookie }}
        add:
          - name: set-cookie
            value: {{ include "tfserving-canary.cookie" (dict "root" $.root "place" "gateway" "track" $track) | quote }}
        {{- end }}
        {{- if $routing.attribution }}
        set:
          - name: x-model-track
            value: {{ $track | quote }}
        {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Renders, as JSON, how exact the Gateway API finds the rules of a route: first the path, then the number of
headers. Of a sticky route some rules have one header more. Passed a dict: root, route. */}}
{{- define "tfserving-canary.exactness" -}}
{{- $match := .route.match | default dict }}
{{- $path := dig "path" dict $match }}
{{- $long := ternary 1 (dig "prefix" "" $path | trimSuffix "/" | len) (hasKey $path "version") }}
{{- $headers := include "tfserving-canary.matchHeaders" (dict "root" .root "match" $match) | fromJson | len }}
{{- $kept := ternary 1 0 (eq (dig "sticky" "by" "" .route) "cookie") }}
{{- dict "least" (add (mul 1000 $long) $headers) "most" (add (mul 1000 $long) $headers $kept) | toJson }}
{{- end }}

{{- /* Renders yes if no request meets both of two sets of conditions (see conditions), as far as can be told: one
asks for other values than the other, or for other paths. Passed a dict: one, other. */}}
{{- define "tfserving-canary.disjoint" -}}
{{- $disjoint := false }}
{{- range $name, $one := .one }}
{{- $other := get $.other $name }}
{{- if and (hasKey $one "oneOf") $other (hasKey ($other | default dict) "oneOf") }}
{{- $shared := false }}
{{- range $value := $one.oneOf }}{{ if has $value $other.oneOf }}{{ $shared = true }}{{ end }}{{ end }}
{{- if not $shared }}{{ $disjoint = true }}{{ end }}
{{- end }}
{{- end }}
{{- if $disjoint }}yes{{ end }}
{{- end }}

{{- /* Renders, as a JSON list, what the Gateway API cannot say of the values. Passed the root context. */}}
{{- define "tfserving-canary.gatewayApiProblems" -}}
{{- $problems := list }}
{{- if include "tfserving-canary.usesGatewayApi" . }}
{{- $seen := list }}
{{- $rules := 0 }}
{{- range $entry := include "tfserving-canary.gatewayRoutes" . | fromJsonArray }}
{{- $route := $entry.route }}
{{- $where := printf "routing.routes[%d] (%s)" (int $entry.index) $route.name }}
{{- $match := $route.match | default dict }}
{{- if hasKey $match "claims" }}
{{- $problems = append $problems (printf (print
  "%s: match.claims cannot be said with gateway.api=gateway-api, whose routes match nothing but paths and headers; "
  "match userGroups or users, which security.jwt takes from the token, or set gateway.api=istio") $where) }}
{{- end }}
{{- if eq (dig "sticky" "by" "" $route) "user" }}
{{- $problems = append $problems (printf (print
  "%s: sticky.by user cannot be said with gateway.api=gateway-api, which knows no buckets of users; "
  "use sticky.by cookie, or set gateway.api=istio") $where) }}
{{- end }}
{{- $apis := include "tfserving-canary.ruleApis" (dict "root" $ "route" $route) | fromJsonArray }}
{{- $args := dict "root" $ "route" $route "place" "gateway" }}
{{- $variants := include "tfserving-canary.variants" $args | fromJsonArray }}
{{- $rules = add $rules (mul (len $apis) (len $variants)) }}
{{- $conditions := include "tfserving-canary.conditions" (dict "root" $ "match" $match) | fromJson }}
{{- $exact := include "tfserving-canary.exactness" (dict "root" $ "route" $route) | fromJson }}
{{- range $earlier := $seen }}
{{- $apart := include "tfserving-canary.disjoint" (dict "one" $earlier.conditions "other" $conditions) }}
{{- /* Without a path a route takes what no prefix is before. */}}
{{- $below := hasKey (dig "match" "path" dict $route) "prefix" }}
{{- $earlierBelow := hasKey (dig "match" "path" dict $earlier.route) "prefix" }}
{{- if and (gt (int $exact.most) (int $earlier.least)) (not $apart) (eq $below $earlierBelow) }}
{{- $problems = append $problems (printf (print
  "%s: with gateway.api=gateway-api the more exact match wins, and this one is more exact than routing.routes[%d] "
  "(%s), which must win; move it before that route, or set gateway.api=istio")
  $where (int $earlier.index) $earlier.route.name) }}
{{- end }}
{{- end }}
{{- $seen = append $seen (dict "index" $entry.index "route" $route "conditions" $conditions "least" $exact.least) }}
{{- end }}
{{- if gt (int $rules) 16 }}
{{- $problems = append $problems (printf (print
  "routing.routes: an HTTPRoute has 16 rules at most, and these routes need %d, one for each API and one more of both "
  "for each track of sticky.by cookie; use fewer routes, or set gateway.api=istio") (int $rules)) }}
{{- end }}
{{- if int .Values.routing.retryAttempts }}
{{- $problems = append $problems (printf (print
  "routing.retryAttempts: must be 0 with gateway.api=gateway-api, whose standard says nothing of retries, got %d; "
  "set gateway.api=istio") (int .Values.routing.retryAttempts)) }}
{{- end }}
{{- if .Values.rollout.enabled }}
{{- $problems = append $problems (print
  "rollout.enabled: must be false with gateway.api=gateway-api, because a rollout counts requests by the subsets of a "
  "VirtualService; set gateway.api=istio") }}
{{- end }}
{{- if and .Values.gateway.tls.enabled (ne .Values.gateway.tls.minProtocolVersion "TLSV1_2") }}
{{- $problems = append $problems (printf (print
  "gateway.tls.minProtocolVersion: cannot be said with gateway.api=gateway-api, where Istio takes TLSV1_2, got %s; "
  "set gateway.api=istio") .Values.gateway.tls.minProtocolVersion) }}
{{- end }}
{{- $gateway := .Values.gateway }}
{{- $unsaid := dict "existing" $gateway.existing "tls.certificates" $gateway.tls.certificates }}
{{- $_ := set $unsaid "byModel" $gateway.byModel.enabled }}
{{- range $key, $value := $unsaid }}
{{- if $value }}
{{- $problems = append $problems (printf (print
  "gateway.%s: cannot be said with gateway.api=gateway-api, which has a Gateway of its own with one certificate and "
  "takes whole hosts; remove it, or set gateway.api=istio") $key) }}
{{- end }}
{{- end }}
{{- if and (include "tfserving-canary.hasCluster" .) (not (include "tfserving-canary.hasGatewayApi" .)) }}
{{- $problems = append $problems (print
  "gateway.api: the cluster does not know HTTPRoute; install the CustomResourceDefinitions of the Gateway API, or set "
  "gateway.api=istio") }}
{{- end }}
{{- end }}
{{- $problems | toJson }}
{{- end }}

{{- /* Renders yes if the cluster knows HTTPRoute. Passed the root context. */}}
{{- define "tfserving-canary.hasGatewayApi" -}}
{{ if .Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/HTTPRoute" }}yes{{ end }}
{{- end }}
