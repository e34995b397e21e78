{{- /* Renders the name that all objects share, which is also the prefix of the tracks' objects: the release's. An
alias, by which an umbrella chart has several copies, is put after it, so that no two copies share a name. Passed the
root context. */}}
{{- define "tfserving-canary.name" -}}
{{- $own := .Values.nameOverride | default (include "tfserving-canary.alias" .) }}
{{- .Values.fullnameOverride | default (ternary (printf "%s-%s" .Release.Name $own) .Release.Name (ne $own "")) }}
{{- end }}

{{- /* Renders the alias that an umbrella chart gives to this copy of the chart, or nothing. Helm renames the chart to
it. Passed the root context. */}}
{{- define "tfserving-canary.alias" -}}
{{- if and (not .Chart.IsRoot) (ne .Chart.Name "tfserving-canary") }}{{ .Chart.Name }}{{ end }}
{{- end }}

{{- /* Renders the name of a track's objects. Passed a dict: root, track (its name). */}}
{{- define "tfserving-canary.trackName" -}}
{{ include "tfserving-canary.name" .root }}-{{ .track }}
{{- end }}

{{- /* Renders the name of the routes for callers inside the mesh. Passed the root context. */}}
{{- define "tfserving-canary.meshName" -}}
{{ include "tfserving-canary.name" . }}-mesh
{{- end }}

{{- /* Renders the name of the objects in the gateway's namespace, which other releases share. Neither a namespace nor
the name of a release's objects has a dot: no two releases have one name, as ml-prod with resnet and ml with
prod-resnet had. Together they have 127 characters at most, of 253. Passed the root context. */}}
{{- define "tfserving-canary.gatewayName" -}}
{{ .Release.Namespace }}.{{ include "tfserving-canary.name" . }}
{{- end }}

{{- /* Renders the identity of the gateway's pods. Passed the root context. */}}
{{- define "tfserving-canary.gatewayPrincipal" -}}
{{ .Values.security.trustDomain }}/ns/{{ .Values.gateway.namespace }}/sa/{{ .Values.gateway.serviceAccount }}
{{- end }}

{{- /* Renders, as JSON, the servers with TLS: one for each certificate, and one for the hosts without a certificate of
their own. A list of name, hosts and credentialName. Passed the root context. */}}
{{- define "tfserving-canary.tlsServers" -}}
{{- $tls := .Values.gateway.tls }}
{{- $left := .Values.gateway.hosts }}
{{- $servers := list }}
{{- range $index, $one := $tls.certificates }}
{{- $servers = append $servers (set (deepCopy $one) "name" (printf "https-%d" $index)) }}
{{- range $one.hosts }}{{ $left = without $left . }}{{ end }}
{{- end }}
{{- if $left }}
{{- $rest := dict "name" "https" "hosts" $left "credentialName" $tls.credentialName }}
{{- $servers = prepend $servers $rest }}
{{- end }}
{{- $servers | toJson }}
{{- end }}

{{- /* Renders the labels that select the pods of all tracks. Passed the root context. */}}
{{- define "tfserving-canary.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Renders the labels that select the pods of one track. A version is not among them, because the selector of a
Deployment cannot be changed. Passed a dict: root, track. */}}
{{- define "tfserving-canary.trackSelectorLabels" -}}
{{ include "tfserving-canary.selectorLabels" .root }}
track: {{ .track | quote }}
{{- end }}

{{- /* Renders the labels of the objects that belong to no track. Passed the root context. */}}
{{- define "tfserving-canary.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") | quote }}
{{ include "tfserving-canary.selectorLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- with include "tfserving-canary.mapLines" .Values.commonLabels | trim }}{{ nindent 0 . }}{{ end }}
{{- end }}

{{- /* Renders the lines of a map of texts, which may be empty: trim it. Passed the map. */}}
{{- define "tfserving-canary.mapLines" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key | quote }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Renders the labels of a track's objects. The version is that of the model. Passed a dict: root, track. */}}
{{- define "tfserving-canary.trackLabels" -}}
{{ include "tfserving-canary.labels" .root }}
app.kubernetes.io/version: {{ include "tfserving-canary.version" . | quote }}
track: {{ .track | quote }}
{{- end }}

{{- /* Renders, as JSON, the tracks by name. One that is null was taken away: Helm keeps the null in the release where
an upgrade takes the track away a second time. Passed the root context. */}}
{{- define "tfserving-canary.tracks" -}}
{{- $tracks := dict }}
{{- range $track, $settings := .Values.tracks }}
{{- if $settings }}{{ $_ := set $tracks $track $settings }}{{ end }}
{{- end }}
{{- $tracks | toJson }}
{{- end }}

{{- /* Renders the version of the model that a track serves. Helm reads numbers as floats: without int64 a time stamp
as a version would be rendered as 1.7e+09. Passed a dict: root, track. */}}
{{- define "tfserving-canary.version" -}}
{{ (index .root.Values.tracks .track).version | int64 }}
{{- end }}

{{- /* Renders, as JSON, the image of a track's server: that of all tracks, with the keys of the track's own. The digest
of all belongs to their repository and tag, and goes with them. Passed a dict: root, track. */}}
{{- define "tfserving-canary.imageOf" -}}
{{- $own := (index .root.Values.tracks .track).image | default dict }}
{{- $image := deepCopy .root.Values.image }}
{{- if or (hasKey $own "repository") (hasKey $own "tag") }}{{ $_ := set $image "digest" "" }}{{ end }}
{{- range $key, $value := $own }}{{ $_ := set $image $key $value }}{{ end }}
{{- $image | toJson }}
{{- end }}

{{- /* Renders the image reference of a track. Passed a dict: root, track. */}}
{{- define "tfserving-canary.image" -}}
{{- $image := include "tfserving-canary.imageOf" . | fromJson }}
{{- include "tfserving-canary.reference" (dict "root" .root "image" $image) }}
{{- end }}

{{- /* Renders an image reference, by digest if one is set. Passed a dict: root, image (repository, tag, digest). */}}
{{- define "tfserving-canary.reference" -}}
{{- include "tfserving-canary.inRegistry" (dict "root" .root "name" .image.repository) }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag }}{{ end }}
{{- end }}

{{- /* Renders an image's name with `global.imageRegistry`, if that is set, in place of its own registry. The first part
of a name is a registry if it has a dot or a port, or is localhost: so container runtimes read it. Passed a dict: root,
name. */}}
{{- define "tfserving-canary.inRegistry" -}}
{{- with dig "imageRegistry" "" (.root.Values.global | default dict) }}{{ . }}/
{{- regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $.name "" }}
{{- else }}
{{- .name }}
{{- end }}
{{- end }}

{{- /* Renders the image that holds the models, or nothing. Passed the root context. */}}
{{- define "tfserving-canary.modelImage" -}}
{{- with .Values.modelStore.image.reference }}
{{- include "tfserving-canary.inRegistry" (dict "root" $ "name" .) }}
{{- end }}
{{- end }}

{{- /* Renders, as JSON, two maps as one: the second one's keys win, and one that is null is taken away. Passed a list
of both. */}}
{{- define "tfserving-canary.merged" -}}
{{- $merged := dict }}
{{- range . }}
{{- range $key, $value := . }}
{{- if kindIs "invalid" $value }}
{{- $_ := unset $merged $key }}
{{- else }}
{{- $_ := set $merged $key $value }}
{{- end }}
{{- end }}
{{- end }}
{{- $merged | toJson }}
{{- end }}

{{- /* Renders, as JSON, the resources of a track's containers: those of all tracks, with the track's own. Passed a
dict: root, track. */}}
{{- define "tfserving-canary.resources" -}}
{{- $own := (index .root.Values.tracks .track).resources | default dict }}
{{- $resources := dict }}
{{- range $kind := list "requests" "limits" }}
{{- $both := list (get $.root.Values.resources $kind) (get $own $kind | default dict) }}
{{- $_ := set $resources $kind (include "tfserving-canary.merged" $both | fromJson) }}
{{- end }}
{{- $resources | toJson }}
{{- end }}

{{- /* Renders, as JSON, what the values say of a track's pods: `pods`, with the track's own. Maps are merged, and
anything else of the track replaces what all tracks have. Passed a dict: root, track. */}}
{{- define "tfserving-canary.pods" -}}
{{- $own := (index .root.Values.tracks .track).pods | default dict }}
{{- $pods := dict }}
{{- range $key, $value := .root.Values.pods }}
{{- if kindIs "map" $value }}
{{- $both := list $value (get $own $key | default dict) }}
{{- $_ := set $pods $key (include "tfserving-canary.merged" $both | fromJson) }}
{{- else }}
{{- $_ := set $pods $key (ternary (get $own $key) $value (hasKey $own $key)) }}
{{- end }}
{{- end }}
{{- $pods | toJson }}
{{- end }}

{{- /* Renders the Secrets for the registry, or nothing: trim it. Passed the list of names. */}}
{{- define "tfserving-canary.pullSecrets" -}}
{{- if . }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Renders the path that answers 200 only while the track's own version is AVAILABLE. /v1/models/NAME answers 200
in any state. Passed a dict: root, track. */}}
{{- define "tfserving-canary.readyPath" -}}
/v1/models/{{ .root.Values.model.name }}/versions/{{ include "tfserving-canary.version" . }}/metadata
{{- end }}

{{- /* Renders the number of seconds that a stopping pod still has work: it serves while it drains, and then completes
the requests that it has begun. Passed the root context. */}}
{{- define "tfserving-canary.stopSeconds" -}}
{{ add (int64 .Values.server.drainSeconds) (int64 .Values.routing.timeoutSeconds) }}
{{- end }}

{{- /* Renders the number of seconds after which a stopping pod is killed, at the least. Passed the root context. */}}
{{- define "tfserving-canary.graceSeconds" -}}
{{ add (include "tfserving-canary.stopSeconds" . | int64) 5 }}
{{- end }}

{{- /* Renders the smallest number of pods of a track: its replicas, or the minimum of its autoscaler. Passed the
track's values. */}}
{{- define "tfserving-canary.leastPods" -}}
{{ if .autoscaling }}{{ int64 .autoscaling.minReplicas }}{{ else }}{{ int64 .replicas }}{{ end }}
{{- end }}

{{- /* Renders yes if models come from a volume and not from a bucket. Passed the root context. */}}
{{- define "tfserving-canary.fromVolume" -}}
{{ if hasPrefix "/" .Values.modelStore.basePath }}yes{{ end }}
{{- end }}

{{- /* Renders yes if an init container copies the model and verifies it. Passed the root context. */}}
{{- define "tfserving-canary.verifies" -}}
{{ if and (include "tfserving-canary.fromVolume" .) .Values.modelStore.verifyManifest }}yes{{ end }}
{{- end }}

{{- /* Renders a quantity as a plain number, which can be compared. Passed the quantity. */}}
{{- define "tfserving-canary.quantity" -}}
{{- $factors := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 }}
{{- range $power, $suffix := list "" "Ki" "Mi" "Gi" "Ti" "Pi" "Ei" }}
{{- $factor := 1.0 }}
{{- range until $power }}{{ $factor = mulf $factor 1024 }}{{ end }}
{{- $_ := set $factors $suffix $factor }}
{{- end }}
{{- $suffix := regexFind "[A-Za-z]+$" (toString .) }}
{{- mulf (toString . | trimSuffix $suffix) (get $factors $suffix) }}
{{- end }}

{{- /* Renders the security context of every container. */}}
{{- define "tfserving-canary.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end }}

{{- /* Renders the model server's configuration files as the data of a ConfigMap. Passed a dict: root, track. */}}
{{- define "tfserving-canary.config" -}}
models.config: |
  model_config_list {
    config {
      name: {{ .root.Values.model.name | quote }}
      base_path: {{ printf "%s/%s" (trimSuffix "/" .root.Values.modelStore.basePath) .root.Values.model.name | quote }}
      model_platform: "tensorflow"
      model_version_policy {
        specific {
          versions: {{ include "tfserving-canary.version" . }}
        }
      }
      {{- range .root.Values.model.labels }}
      version_labels {
        key: {{ . | quote }}
        value: {{ include "tfserving-canary.version" $ }}
      }
      {{- end }}
    }
  }
monitoring.config: |
  prometheus_config {
    enable: true
    path: "/monitoring/prometheus/metrics"
  }
{{- $batching := .root.Values.server.batching }}
{{- if $batching.enabled }}
batching.config: |
  max_batch_size { value: {{ int64 $batching.maxBatchSize }} }
  batch_timeout_micros { value: {{ int64 $batching.timeoutMicroseconds }} }
  max_enqueued_batches { value: {{ int64 $batching.maxEnqueuedBatches }} }
  num_batch_threads { value: {{ int64 $batching.threads }} }
{{- end }}
{{- end }}

{{- /* Renders the host name of the gateway's Service inside the cluster. Passed a dict: root, host. */}}
{{- define "tfserving-canary.gatewayHost" -}}
{{ .host | default (printf "istio-ingressgateway.%s" .root.Values.gateway.namespace) }}
{{- end }}

{{- /* Renders the name of the Job that drives a rollout. A Job cannot be changed: what differs is another Job, and Helm
removes the one before. Passed the root context. */}}
{{- define "tfserving-canary.rolloutJob" -}}
{{- $short := include "tfserving-canary.name" . | trunc 45 | trimSuffix "-" }}
{{- printf "%s-rollout-%s" $short (include "tfserving-canary.rolloutPod" . | sha256sum | trunc 8) }}
{{- end }}

{{- /* Renders the pod of the Job that drives a rollout. Nothing in it may depend on tracks or routes, which the rollout
changes. Passed the root context. */}}
{{- define "tfserving-canary.rolloutPod" -}}
{{- $rollout := .Values.rollout }}
{{- $tls := .Values.gateway.tls }}
{{- $name := printf "%s-rollout" (include "tfserving-canary.name" .) }}
{{- $gateway := include "tfserving-canary.gatewayHost" (dict "root" . "host" $rollout.gatewayHost) }}
{{- $tag := $rollout.image.tag | default .Chart.Version | replace "+" "_" }}
{{- $image := set (deepCopy $rollout.image) "tag" $tag }}
{{- $run := printf "%s%d" (toJson $rollout.plan) (int $rollout.attempt) | sha256sum | trunc 8 -}}
metadata:
  labels:
    # A name of its own: neither the Service nor the policies of the model's pods may select this pod.
    app.kubernetes.io/name: {{ printf "%s-rollout" .Chart.Name }}
    app.kubernetes.io/instance: {{ .Release.Name | quote }}
    # It asks the model's pods through the Kubernetes API, and the gateway as clients do.
    sidecar.istio.io/inject: "false"
    {{- with include "tfserving-canary.mapLines" .Values.commonLabels | trim }}{{ nindent 4 . }}{{ end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ $name | quote }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 1000
    runAsGroup: 1000
    fsGroup: 1000
    seccompProfile:
      type: RuntimeDefault
  {{- with include "tfserving-canary.pullSecrets" .Values.pods.imagePullSecrets | trim }}{{ nindent 2 . }}{{ end }}
  containers:
    - name: rollout
      image: {{ include "tfserving-canary.reference" (dict "root" . "image" $image) | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - start
        - /etc/rollout/plan.yaml
        - {{ printf "--namespace=%s" .Release.Namespace | quote }}
        - {{ printf "--gateway=%s:%d" $gateway (ternary $tls.port .Values.gateway.port $tls.enabled | int) | quote }}
        - {{ printf "--run=%s-%s" .Release.Name $run | quote }}
        - {{ printf "--by=job of release %s" .Release.Name | quote }}
        {{- if $tls.enabled }}
        - --tls
        {{- end }}
        {{- if $rollout.ca }}
        - --ca=/etc/rollout/ca.pem
        {{- end }}
        {{- if $rollout.requests }}
        - --requests=/etc/rollout/requests.jsonl
        {{- end }}
      env:
        # Helm keeps a cache below it.
        - name: HOME
          value: /tmp
        {{- range $rollout.secretEnv }}
        - name: {{ .name | quote }}
          valueFrom:
            secretKeyRef:
              name: {{ .secretName | quote }}
              key: {{ .key | quote }}
        {{- end }}
      resources:
        {{- toYaml $rollout.resources | nindent 8 }}
      securityContext:
        {{- include "tfserving-canary.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - name: plan
          mountPath: /etc/rollout
          readOnly: true
        - name: tmp
          mountPath: /tmp
  volumes:
    - name: plan
      configMap:
        name: {{ printf "%s-plan" $name | quote }}
    - name: tmp
      emptyDir:
        sizeLimit: 100Mi
{{- end }}

{{- /* Renders the connections that the mesh keeps to the pods. Passed the root context. */}}
{{- define "tfserving-canary.connectionPool" -}}
connectionPool:
  http:
    # Shorter than the server's own timeout: no request arrives on a connection that is being closed.
    idleTimeout: {{ printf "%ds" (int64 .Values.server.idleTimeoutSeconds) | quote }}
{{- end }}

{{- /* Renders when a pod of a track gets no requests for a while, or nothing. A single pod is never ejected. Of two or
more pods at most half are: at least one, and never all. Passed a dict: root, settings (of the track). */}}
{{- define "tfserving-canary.outlierDetection" -}}
{{- $detection := .root.Values.outlierDetection }}
{{- if and $detection.enabled (ge (include "tfserving-canary.leastPods" .settings | int) 2) -}}
outlierDetection:
  # No answer counts, whatever its status: a request can cause any. A connection fails through the pod alone.
  splitExternalLocalOriginErrors: true
  consecutiveLocalOriginFailures: {{ int $detection.consecutiveErrors }}
  consecutive5xxErrors: 0
  interval: "10s"
  baseEjectionTime: {{ printf "%ds" (int64 $detection.ejectionSeconds) | quote }}
  maxEjectionPercent: 50
{{- end }}
{{- end }}

{{- /* Renders the ports of a Service of model servers. Takes nothing. */}}
{{- define "tfserving-canary.servicePorts" -}}
- name: grpc-predict
  port: 8500
  targetPort: grpc-predict
  appProtocol: grpc
- name: http-rest
  port: 8501
  targetPort: http-rest
  appProtocol: http
{{- end }}
