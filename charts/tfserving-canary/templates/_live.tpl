{{- /* Renders, as a JSON list of problems, what would lose requests: traffic for a track whose pods do not exist, and
pods taken from a track that has traffic. Helm applies all objects of an upgrade at once, and an upgrade that did both
would answer 503 until the pods are Ready. The list is empty where no cluster can be asked. Passed the root context.
*/}}
{{- define "tfserving-canary.liveProblems" -}}
{{- $problems := list }}
{{- $namespace := .Release.Namespace }}
{{- /* Every namespace has this ServiceAccount. Without it there is no cluster to ask. */}}
{{- if and .Values.routing.requireReady (include "tfserving-canary.hasCluster" .) }}
{{- $now := dict }}
{{- $everyoneNow := dict }}
{{- range $name := list (include "tfserving-canary.name" .) (include "tfserving-canary.meshName" .) }}
{{- $entries := lookup "networking.istio.io/v1" "VirtualService" $namespace $name | dig "spec" "http" list }}
{{- if not $entries }}
{{- $entries = include "tfserving-canary.rulesNow" (dict "root" $ "name" $name) | fromJsonArray }}
{{- end }}
{{- range $track, $weight := include "tfserving-canary.weightsNow" $entries | fromJson }}
{{- $_ := set $now $track (max (get $now $track | default 0 | int64) (int64 $weight)) }}
{{- end }}
{{- /* The last entry takes all other requests. Only its weights tell how much of the whole traffic a track gets. */}}
{{- range $track, $weight := include "tfserving-canary.weightsNow" (last $entries | list | compact) | fromJson }}
{{- $_ := set $everyoneNow $track (max (get $everyoneNow $track | default 0 | int64) (int64 $weight)) }}
{{- end }}
{{- end }}
{{- $next := dict }}
{{- range $route := .Values.routing.routes }}
{{- range $track, $weight := $route.weights }}
{{- if and (gt (int64 $weight) 0) (get $.Values.tracks $track) }}
{{- $_ := set $next $track (max (get $next $track | default 0 | int64) (int64 $weight)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $track := keys $next | sortAlpha }}
{{- $args := dict "root" $ "track" $track }}
{{- $_ := set $args "live" (lookup "apps/v1" "Deployment" $namespace (include "tfserving-canary.trackName" $args)) }}
{{- $had := get $now $track | default 0 | int64 }}
{{- $first := and $.Release.IsInstall (eq $track "stable") }}
{{- if and (eq $had 0) (not $first) }}
{{- $reason := include "tfserving-canary.notReady" $args }}
{{- if $reason }}
{{- $problems = append $problems (printf (print
  "routing.routes: track %s has no traffic yet and cannot take it: %s; first upgrade without weight for it "
  "(-f values/stable.yaml) and --wait, then move the traffic; routing.requireReady=false overrides this")
  $track $reason) }}
{{- end }}
{{- else if and (gt $had 0) (eq (dig "status" "readyReplicas" 0 $args.live | int64) 0) }}
{{- $gets := get $next $track | int64 }}
{{- if le $gets $had }}
{{- $gets = get (last $.Values.routing.routes).weights $track | default 0 | int64 }}
{{- $had = get $everyoneNow $track | default 0 | int64 }}
{{- end }}
{{- if gt $gets $had }}
{{- $problems = append $problems (printf (print
  "routing.routes: track %s has no Ready pod and would get more traffic, %d %% instead of %d %%; find out why "
  "(kubectl get pods -l track=%s), or go back to a track that answers; routing.requireReady=false overrides this")
  $track $gets $had $track) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $track := keys $now | sortAlpha }}
{{- $settings := get $.Values.tracks $track }}
{{- if not $settings }}
{{- $problems = append $problems (printf (print
  "tracks: track %s has traffic now and would be deleted under it; first upgrade without weight for it, then without "
  "the track") $track) }}
{{- else if eq (include "tfserving-canary.leastPods" $settings) "0" }}
{{- $problems = append $problems (printf (print
  "tracks.%s.replicas: the track has traffic now and would lose its pods under it; first upgrade without weight for "
  "it, then set 0") $track) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | toJson }}
{{- end }}

{{- /* Renders, as JSON, the tracks that entries of a live VirtualService send requests to, each with the largest
weight that one entry gives it. Clients that are kept on a track (kept, bucket) are on it already and count as no
additional traffic. Passed the entries. */}}
{{- define "tfserving-canary.weightsNow" -}}
{{- $tracks := dict }}
{{- range $entry := . }}
{{- range $part := $entry.route }}
{{- $track := dig "destination" "subset" "" $part }}
{{- $weight := dig "weight" 100 $part | int64 }}
{{- if regexMatch (printf "-(kept|bucket)-%s-(model-)?(grpc|rest)$" $track) ($entry.name | default "") }}
{{- $weight = min 1 $weight }}
{{- end }}
{{- if and $track (gt $weight 0) }}
{{- $_ := set $tracks $track (max (get $tracks $track | default 0 | int64) $weight) }}
{{- end }}
{{- end }}
{{- end }}
{{- $tracks | toJson }}
{{- end }}

{{- /* Renders, as JSON, the rules of a live HTTPRoute as the entries of a VirtualService. Passed a dict: root, name.
*/}}
{{- define "tfserving-canary.rulesNow" -}}
{{- $entries := list }}
{{- if include "tfserving-canary.hasGatewayApi" .root }}
{{- $namespace := .root.Release.Namespace }}
{{- $prefix := include "tfserving-canary.trackName" (dict "root" .root "track" "") }}
{{- range $rule := lookup "gateway.networking.k8s.io/v1" "HTTPRoute" $namespace .name | dig "spec" "rules" list }}
{{- $route := list }}
{{- range $rule.backendRefs }}
{{- $destination := dict "subset" (trimPrefix $prefix .name) }}
{{- $route = append $route (dict "destination" $destination "weight" (.weight | int64)) }}
{{- end }}
{{- $entries = append $entries (dict "name" $rule.name "route" $route) }}
{{- end }}
{{- end }}
{{- $entries | toJson }}
{{- end }}

{{- /* Renders the reason why the pods of a track cannot take traffic, or nothing. Passed a dict: root, track, live (its
Deployment, or nothing). */}}
{{- define "tfserving-canary.notReady" -}}
{{- if not .live }}
{{- print "it has no pods yet" }}
{{- else }}
{{- $status := .live.status | default dict }}
{{- $ready := dig "readyReplicas" 0 $status | int64 }}
{{- $version := dig "metadata" "labels" "app.kubernetes.io/version" "" .live }}
{{- $image := (first .live.spec.template.spec.containers).image }}
{{- $config := dig "metadata" "annotations" "checksum/config" "" .live.spec.template }}
{{- $store := .root.Values.modelStore }}
{{- $from := "" }}
{{- range .live.spec.template.spec.volumes }}
{{- if has .name (list "models" "store") }}
{{- $from = dig "persistentVolumeClaim" "claimName" (dig "image" "reference" $from .) . }}
{{- end }}
{{- end }}
{{- $otherConfig := ne $config (include "tfserving-canary.config" . | sha256sum) }}
{{- $claim := $store.persistentVolumeClaim.claimName }}
{{- $otherStore := ne $from (include "tfserving-canary.modelImage" .root | default $claim) }}
{{- $pods := dig "replicas" 0 $status | int64 }}
{{- $unseen := ne (dig "observedGeneration" 0 $status | int64) (int64 .live.metadata.generation) }}
{{- $wanted := include "tfserving-canary.version" . }}
{{- if ne $version $wanted }}
{{- printf "it serves version %s and this upgrade would change it to %s" $version $wanted }}
{{- else if ne $image (include "tfserving-canary.image" .) }}
{{- printf "it runs image %s and this upgrade would change it to %s" $image (include "tfserving-canary.image" .) }}
{{- else if or $otherConfig $otherStore }}
{{- print "this upgrade would change the name of its model or the place that it is read from" }}
{{- else if eq $ready 0 }}
{{- printf "0 of its %d pods are Ready" $pods }}
{{- else if or $unseen (ne (dig "updatedReplicas" 0 $status | int64) $pods) }}
{{- print "its pods are being replaced" }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Renders what the gateway lacks for `gateway.filters.shared`, or nothing: nothing as well where no cluster can be
asked. Passed the root context. */}}
{{- define "tfserving-canary.filtersMissing" -}}
{{- $gateway := .Values.gateway }}
{{- $wanted := and $gateway.filters.enabled $gateway.filters.shared }}
{{- if and $wanted (include "tfserving-canary.hasCluster" .) }}
{{- $found := false }}
{{- range (lookup "networking.istio.io/v1alpha3" "EnvoyFilter" $gateway.namespace "").items }}
{{- if eq (dig "labels" "app.kubernetes.io/name" "" .metadata) "tfserving-gateway" }}
{{- $fits := true }}
{{- range $label, $value := dig "workloadSelector" "labels" dict .spec }}
{{- $fits = and $fits (eq $value (get $gateway.selector $label | default "")) }}
{{- end }}
{{- $found = or $found $fits }}
{{- end }}
{{- end }}
{{- if not $found }}
{{- printf (print
  "gateway.filters.shared: namespace %s has no filters for the gateway's pods; first `helm install tfserving-gateway "
  "charts/tfserving-gateway --namespace %s` with their labels as selector, or set gateway.filters.shared=false")
  $gateway.namespace $gateway.namespace }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Renders, as JSON, the Gateways of a VirtualService as namespace/name, without the mesh. Passed a dict: namespace,
gateways (as the VirtualService names them, or nothing). */}}
{{- define "tfserving-canary.gatewaysOf" -}}
{{- $found := list }}
{{- range without (.gateways | default list) "mesh" }}
{{- $found = append $found (ternary . (printf "%s/%s" $.namespace .) (contains "/" .)) }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- /* Renders, as JSON, a live Gateway, or nothing where it may not be read: only `gateway.freeHosts: cluster` says
that other namespaces may be, and Helm gives up where they may not. Passed a dict: root, gateway (namespace/name). */}}
{{- define "tfserving-canary.liveGateway" -}}
{{- $namespace := dir .gateway }}
{{- if or (eq $namespace .root.Release.Namespace) (eq .root.Values.gateway.freeHosts "cluster") }}
{{- lookup "networking.istio.io/v1" "Gateway" $namespace (base .gateway) | toJson }}
{{- end }}
{{- end }}

{{- /* Renders yes if a VirtualService gives its routes to the gateway pods that this release's routes go to: by a
Gateway of the release, or by one for the same pods. Passed a dict: root, gateways (as JSON; see gatewaysOf). */}}
{{- define "tfserving-canary.sameGateway" -}}
{{- $root := .root }}
{{- $own := list (printf "%s/%s" $root.Release.Namespace (include "tfserving-canary.name" $root)) }}
{{- $own = $root.Values.gateway.existing | default $own }}
{{- $same := false }}
{{- range $gateway := fromJsonArray .gateways }}
{{- $live := include "tfserving-canary.liveGateway" (dict "root" $root "gateway" $gateway) | default "{}" }}
{{- $selector := fromJson $live | dig "spec" "selector" dict }}
{{- if or (has $gateway $own) (eq (toJson $selector) (toJson $root.Values.gateway.selector)) }}
{{- $same = true }}
{{- end }}
{{- end }}
{{- if $same }}yes{{ end }}
{{- end }}

{{- /* Renders, as a JSON list of problems, the hosts that another VirtualService has at the same gateway. Of two with
one host Istio takes the older one's routes first, and the newer one's requests are lost. The release's own routes may
be the older ones: then it is the other one that gets none. Passed the root context. */}}
{{- define "tfserving-canary.hostsTaken" -}}
{{- $problems := list }}
{{- $gateway := .Values.gateway }}
{{- $namespace := .Release.Namespace }}
{{- if and (ne $gateway.freeHosts "unchecked") (include "tfserving-canary.hasCluster" .) }}
{{- $name := include "tfserving-canary.name" . }}
{{- $mine := lookup "networking.istio.io/v1" "VirtualService" $namespace $name }}
{{- $since := dig "metadata" "creationTimestamp" "" $mine }}
{{- $held := ternary (dig "spec" "hosts" list $mine) list (ne $since "") }}
{{- $where := ternary "" $namespace (eq $gateway.freeHosts "cluster") }}
{{- range $other := (lookup "networking.istio.io/v1" "VirtualService" $where "").items }}
{{- $metadata := $other.metadata }}
{{- $of := dig "annotations" "meta.helm.sh/release-name" "" $metadata }}
{{- $copy := dig "labels" "app.kubernetes.io/name" "" $metadata }}
{{- /* After a change of fullnameOverride, the release still has the one of before. */}}
{{- $own := and (eq $metadata.namespace $namespace) (or (eq $metadata.name $name)
  (and (eq $of $.Release.Name) (eq $copy $.Chart.Name))) }}
{{- $theirs := dict "namespace" $metadata.namespace "gateways" $other.spec.gateways }}
{{- $theirs = include "tfserving-canary.gatewaysOf" $theirs }}
{{- $model := dig "annotations" "tfserving-canary/model" "" $metadata }}
{{- $apart := and $gateway.byModel.enabled $model (ne $model $.Values.model.name) }}
{{- $late := lt $since (dig "creationTimestamp" "" $metadata) }}
{{- range $host := $gateway.hosts }}
{{- if and (not $own) (not $apart) (has $host ($other.spec.hosts | default list)) (not (and $late (has $host $held)))
  (include "tfserving-canary.sameGateway" (dict "root" $ "gateways" $theirs)) }}
{{- $problems = append $problems (printf (print
  "gateway.hosts: %s is taken at the same gateway by VirtualService %s/%s%s, whose routes come first; choose another "
  "host, or gateway.byModel.enabled for every model of the host; gateway.freeHosts=unchecked overrides this")
  $host $metadata.namespace $metadata.name (ternary (printf " of release %s" $of) "" (ne $of ""))) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | toJson }}
{{- end }}

{{- /* Renders, as a JSON list of problems, what the Gateways of `gateway.existing` lack, as far as they may be read: a
server on the port that clients use, for each of the hosts. Passed the root context. */}}
{{- define "tfserving-canary.gatewaysMissing" -}}
{{- $problems := list }}
{{- $gateway := .Values.gateway }}
{{- $port := int (ternary $gateway.tls.port $gateway.port $gateway.tls.enabled) }}
{{- range $name := $gateway.existing }}
{{- $text := "" }}
{{- if and (include "tfserving-canary.hasCluster" $) (ne $gateway.freeHosts "unchecked") }}
{{- $text = include "tfserving-canary.liveGateway" (dict "root" $ "gateway" $name) }}
{{- end }}
{{- if eq $text "{}" }}
{{- $problems = append $problems (printf
  "gateway.existing: Gateway %s is not there; apply it first; gateway.freeHosts=unchecked overrides this" $name) }}
{{- else if $text }}
{{- range $host := $gateway.hosts }}
{{- $served := false }}
{{- range $server := (fromJson $text).spec.servers }}
{{- range $wide := $server.hosts }}
{{- $space := ternary (dir $wide) "*" (contains "/" $wide) }}
{{- if eq $space "." }}{{ $space = dir $name }}{{ end }}
{{- $own := has $space (list "*" $.Release.Namespace) }}
{{- $wide = base $wide }}
{{- $fits := or (eq $wide $host) (and (hasPrefix "*" $wide) (hasSuffix (trimPrefix "*" $wide) $host)) }}
{{- if and $own $fits (eq (int $server.port.number) $port) }}{{ $served = true }}{{ end }}
{{- end }}
{{- end }}
{{- if not $served }}
{{- $problems = append $problems (printf (print
  "gateway.existing: Gateway %s has no server for host %s of namespace %s on port %d; add one, or change "
  "gateway.hosts, gateway.port or gateway.tls; gateway.freeHosts=unchecked overrides this")
  $name $host $.Release.Namespace $port) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | toJson }}
{{- end }}

{{- /* Renders something if there is a cluster to ask: every namespace has this ServiceAccount. Passed the root
context. */}}
{{- define "tfserving-canary.hasCluster" -}}
{{- if lookup "v1" "ServiceAccount" .Release.Namespace "default" }}yes{{ end }}
{{- end }}
