{{- /* Renders, as JSON, the claims that a token gives to routes: a list of claim, reads (the header that routes read),
and the headers in which the claim gets there: own from the release's filter, istios from a RequestAuthentication. They
are this release's alone. Istio's filter removes the headers that it writes from requests of every host. With one name
for both, claims would be lost while a release changes from one to the other. Empty without tokens. Passed the root
context. */}}
{{- define "tfserving-canary.claims" -}}
{{- $jwt := .Values.security.jwt }}
{{- $names := .Values.routing.headers }}
{{- $mark := include "tfserving-canary.gatewayName" . | sha256sum | trunc 12 }}
{{- $found := list }}
{{- if $jwt.issuer }}
{{- range $kind, $one := dict "group" (list $jwt.userGroupClaim $names.userGroup)
  "user" (list $jwt.userClaim $names.user) }}
{{- $headers := dict "own" (printf "x-claim-%s-%s" $kind $mark) "istios" (printf "x-token-%s-%s" $kind $mark) }}
{{- $found = append $found (merge $headers (dict "claim" (first $one) "reads" (last $one))) }}
{{- end }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- /* Renders yes if a filter of the release's own verifies tokens, at its hosts alone: it needs the keys themselves.
Passed the root context. */}}
{{- define "tfserving-canary.tokensAtOwnHosts" -}}
{{ with .Values.security.jwt }}{{ if and .issuer .jwks }}yes{{ end }}{{ end }}
{{- end }}

{{- /* Renders yes if Istio verifies tokens, at every host of the gateway: istiod fetches the keys. Passed the root
context. */}}
{{- define "tfserving-canary.tokensAtAllHosts" -}}
{{ with .Values.security.jwt }}{{ if and .issuer .jwksUri }}yes{{ end }}{{ end }}
{{- end }}

{{- /* Renders the filter that verifies tokens as Istio's does for a RequestAuthentication: a token that does not hold
is refused, none at all is no fault, and routes with claims match where Istio's filter would have put them. Passed a
dict: root, name (of the filter). */}}
{{- define "tfserving-canary.tokenFilter" -}}
{{- $jwt := .root.Values.security.jwt -}}
name: {{ .name }}
disabled: true
typed_config:
  "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
  providers:
    release:
      issuer: {{ $jwt.issuer | quote }}
      {{- if $jwt.audiences }}
      audiences:
        {{- range $jwt.audiences }}
        - {{ . | quote }}
        {{- end }}
      {{- end }}
      local_jwks:
        inline_string: {{ $jwt.jwks | quote }}
      payload_in_metadata: payload
      normalize_payload_in_metadata:
        space_delimited_claims: [scope, permission]
      # The guard has stripped what the client sent in the headers that routes read. They get the claims from these.
      claim_to_headers:
        {{- range include "tfserving-canary.claims" .root | fromJsonArray }}
        - header_name: {{ .own | quote }}
          claim_name: {{ .claim | quote }}
        {{- end }}
      clear_route_cache: true
  requirement_map:
    tokens:
      requires_any:
        requirements:
          - provider_name: release
          - allow_missing: {}
  bypass_cors_preflight: true
{{- end }}
