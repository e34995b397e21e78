{{- /* Renders, as JSON, what would lose requests, as a list of problems: traffic for a track whose pods are not there, and
pods taken from a track that has traffic. Helm applies all of one upgrade at once, and an upgrade that did both would
answer 503 until the pods are Ready. Empty where the cluster cannot be asked. Passed the root context. */}}
{{- define "tfserving-canary.liveProblems" -}}
{{- $problems := list }}
{{- $namespace := .Release.Namespace }}
{{- /* Every namespace has this one: without it there is no cluster to ask. */}}
{{- if and .Values.routing.requireReady (lookup "v1" "ServiceAccount" $namespace "default") }}
{{- $now := include "tfserving-canary.tracksWithTraffic" (lookup "networking.istio.io/v1" "VirtualService" $namespace (include "tfserving-canary.name" .)) | fromJsonArray }}
{{- $next := list }}
{{- range $route := .Values.routing.routes }}
{{- range $track, $weight := $route.weights }}
{{- if and (gt (int64 $weight) 0) (hasKey $.Values.tracks $track) }}{{ $next = append $next $track }}{{ end }}
{{- end }}
{{- end }}
{{- range $track := uniq $next | sortAlpha }}
{{- $first := and $.Release.IsInstall (eq $track "stable") }}
{{- if not (or $first (has $track $now)) }}
{{- $reason := include "tfserving-canary.notReady" (dict "root" $ "track" $track "live" (lookup "apps/v1" "Deployment" $namespace (include "tfserving-canary.trackName" (dict "root" $ "track" $track)))) }}
{{- if $reason }}
{{- $problems = append $problems (printf "routing.routes: track %s has no traffic yet and cannot take it: %s; first upgrade without weight for it (-f values/stable.yaml) and --wait, then move the traffic; routing.requireReady=false overrides" $track $reason) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $track := $now }}
{{- $settings := get $.Values.tracks $track }}
{{- if not $settings }}
{{- $problems = append $problems (printf "tracks: track %s has traffic now and would be deleted under it; first upgrade without weight for it, then without the track" $track) }}
{{- else if eq (include "tfserving-canary.leastPods" $settings) "0" }}
{{- $problems = append $problems (printf "tracks.%s.replicas: the track has traffic now and would lose its pods under it; first upgrade without weight for it, then set 0" $track) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | toJson }}
{{- end }}

{{- /* Renders, as JSON, the tracks that a live VirtualService sends something to. Passed the object, or nothing. */}}
{{- define "tfserving-canary.tracksWithTraffic" -}}
{{- $tracks := list }}
{{- range $entry := dig "spec" "http" list . }}
{{- range $part := $entry.route }}
{{- if ne (int64 (dig "weight" 100 $part)) 0 }}{{ $tracks = append $tracks (dig "destination" "subset" "" $part) }}{{ end }}
{{- end }}
{{- end }}
{{- without (uniq $tracks) "" | sortAlpha | toJson }}
{{- end }}

{{- /* Renders why the pods of a track cannot take traffic, or nothing. Passed a dict: root, track, live (its Deployment, or
nothing). */}}
{{- define "tfserving-canary.notReady" -}}
{{- if not .live }}
{{- print "it has no pods yet" }}
{{- else }}
{{- $status := .live.status | default dict }}
{{- $ready := dig "readyReplicas" 0 $status | int64 }}
{{- $version := dig "metadata" "labels" "app.kubernetes.io/version" "" .live }}
{{- $image := (first .live.spec.template.spec.containers).image }}
{{- if ne $version (include "tfserving-canary.version" .) }}
{{- printf "it serves version %s and this upgrade would change it to %s" $version (include "tfserving-canary.version" .) }}
{{- else if ne $image (include "tfserving-canary.image" .root) }}
{{- printf "it runs image %s and this upgrade would change it to %s" $image (include "tfserving-canary.image" .root) }}
{{- else if eq $ready 0 }}
{{- printf "0 of its %d pods are Ready" (dig "replicas" 0 $status | int64) }}
{{- else if or (ne (dig "updatedReplicas" 0 $status | int64) (dig "replicas" 0 $status | int64)) (ne (dig "observedGeneration" 0 $status | int64) (int64 .live.metadata.generation)) }}
{{- print "its pods are being replaced" }}
{{- end }}
{{- end }}
{{- end }}
