{{/* Whether versions are InferenceServices. */}}
{{- define "thumbwheel.kserve" -}}{{ if eq .Values.serving.mode "kserve" }}yes{{ end }}{{- end -}}

{{- define "thumbwheel.inferenceServiceName" -}}{{ include "thumbwheel.name" (list . "inference-service") }}{{- end -}}

{{- define "thumbwheel.runtimeName" -}}{{ include "thumbwheel.name" (list . .Values.serving.kserve.runtime) }}{{- end -}}

{{/* What the generator is told instead of a model server's address. */}}
{{- define "thumbwheel.kserveSettings" -}}
serving: kserve
inference_service: {{ include "thumbwheel.inferenceServiceName" . }}
models_root: /models
model_port: {{ .Values.serving.kserve.port }}
{{- if eq .Values.serving.kserve.runtime "vllm" }}
load_seconds: {{ .Values.serving.vllm.startupSeconds }}
{{- end }}
{{- end -}}

{{/* What every InferenceService of this release looks like; the generator puts in $(version) and $(folder). Their pods are the
     component predictor, to which the policies and the monitors already know the way. */}}
{{- define "thumbwheel.inferenceService" -}}
{{- $kserve := .Values.serving.kserve -}}
{{- $values := index .Values.serving $kserve.runtime -}}
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  generateName: {{ include "thumbwheel.fullname" . }}-
  labels:
    {{- include "thumbwheel.selector" (list . "predictor") | nindent 4 }}
    app.kubernetes.io/managed-by: thumbwheel-generator
    # No way in from outside that goes around the gateway.
    networking.kserve.io/visibility: cluster-local
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    serving.kserve.io/deploymentMode: {{ $kserve.deploymentMode }}
    serving.kserve.io/autoscalerClass: {{ $kserve.autoscaler }}
spec:
  predictor:
    minReplicas: {{ $kserve.minReplicas }}
    maxReplicas: {{ $kserve.maxReplicas }}
    {{- if eq $kserve.autoscaler "hpa" }}
    scaleMetric: cpu
    scaleTarget: {{ $kserve.cpuPercent }}
    {{- else if eq $kserve.autoscaler "keda" }}
    autoScaling:
      metrics:
        - type: External
          external:
            metric:
              backend: prometheus
              serverAddress: {{ $kserve.prometheus }}
              query: {{ eq $kserve.runtime "vllm" | ternary "sum(vllm:num_requests_waiting{model_name=\"$(version)\"})" "sum(thumbwheel_predictor_waiting_requests{version=\"$(version)\"})" | quote }}
            target: {type: Value, value: {{ $kserve.waitingRequests | quote }}}
    {{- end }}
    serviceAccountName: {{ include "thumbwheel.fullname" . }}
    {{- include "thumbwheel.podSecurity" . | nindent 4 }}
    {{- include "thumbwheel.placement" (list . "predictor" $values) | nindent 4 }}
    terminationGracePeriodSeconds: {{ add .Values.shutdown.preStopSeconds $kserve.drainSeconds 15 }}
    model:
      name: kserve-container
      modelFormat: {name: safetensors}
      runtime: {{ include "thumbwheel.runtimeName" . }}
      storageUri: pvc://{{ include "thumbwheel.modelsClaim" . }}/$(folder)
      {{- if eq $kserve.runtime "vllm" }}
      args: ["--served-model-name=$(version)"]
      {{- end }}
      # Here and not in the runtime, over which KServe puts its own defaults.
      resources: {{- toYaml $values.resources | nindent 8 }}
{{- end -}}

{{/* Our model server with one version, mounted where KServe puts it. */}}
{{- define "thumbwheel.predictorContainer" -}}
{{- $settings := dict "host" "0.0.0.0" "port" 8000 "cache_directory" "/cache" "models_root" "/mnt/models" "startup_models" "[\"/mnt/models\"]"
      "max_versions" 1 "failure_file" "/dev/termination-log" "log_format" "json" "drain_seconds" .Values.serving.kserve.drainSeconds -}}
- name: kserve-container
  image: {{ include "thumbwheel.image" (list . "predictor") }}
  imagePullPolicy: {{ .Values.images.predictor.pullPolicy }}
  args: [services.predictor]
  {{- include "thumbwheel.containerSecurity" . | nindent 2 }}
  env:
    {{- range $key, $value := mustMergeOverwrite $settings (default dict .Values.serving.predictor.settings) }}
    - {name: TW_PREDICTOR_{{ upper $key }}, value: {{ toString $value | quote }}}
    {{- end }}
  ports:
    - {name: http, containerPort: 8000, protocol: TCP}
  startupProbe: {httpGet: {path: /v2/health/ready, port: 8000}, periodSeconds: 2, failureThreshold: 300}
  readinessProbe: {httpGet: {path: /v2/health/ready, port: 8000}, periodSeconds: 2, failureThreshold: 5, timeoutSeconds: 5}
  livenessProbe: {httpGet: {path: /v2/health/live, port: 8000}, periodSeconds: 10, failureThreshold: 6, timeoutSeconds: 5}
  {{- include "thumbwheel.preStop" . | nindent 2 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: cache, mountPath: /cache}
{{- end -}}

{{/* vLLM as it comes. It cuts answers off when it is told to end, so it is told when none runs any more. */}}
{{- define "thumbwheel.vllmContainer" -}}
{{- $vllm := .Values.serving.vllm -}}
- name: kserve-container
  image: {{ include "thumbwheel.image" (list . "vllm") }}
  imagePullPolicy: {{ .Values.images.vllm.pullPolicy }}
  command: [vllm, serve, /mnt/models]
  # What users say must not stand in logs.
  args:
    - --host=0.0.0.0
    - --port=8000
    - --no-enable-log-requests
    - --disable-uvicorn-access-log
    {{- range $vllm.args }}
    - {{ . | quote }}
    {{- end }}
  {{- include "thumbwheel.containerSecurity" . | nindent 2 }}
  env:
    # A user without a name and a home, on a disk that cannot be written; nothing is fetched or reported.
    - {name: HOME, value: /cache}
    - {name: USER, value: vllm}
    - {name: XDG_CACHE_HOME, value: /cache}
    - {name: TRITON_CACHE_DIR, value: /cache/triton}
    - {name: TORCHINDUCTOR_CACHE_DIR, value: /cache/inductor}
    - {name: HF_HUB_OFFLINE, value: "1"}
    - {name: VLLM_NO_USAGE_STATS, value: "1"}
  ports:
    - {name: http, containerPort: 8000, protocol: TCP}
  startupProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 5, timeoutSeconds: 5, failureThreshold: {{ div (add $vllm.startupSeconds 4) 5 }}}
  readinessProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 5, timeoutSeconds: 5}
  livenessProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 10, failureThreshold: 6, timeoutSeconds: 10}
  # Its last words are the reason when a version does not load.
  terminationMessagePolicy: FallbackToLogsOnError
  lifecycle:
    preStop:
      exec:
        command:
          - python3
          - -c
          - |
            import time, urllib.request
            time.sleep({{ .Values.shutdown.preStopSeconds }})
            end, busy = time.monotonic() + {{ .Values.serving.kserve.drainSeconds }}, ("vllm:num_requests_running", "vllm:num_requests_waiting")
            while time.monotonic() < end:
                said = urllib.request.urlopen("http://127.0.0.1:8000/metrics", timeout=5).read().decode().splitlines()
                if not any(float(line.rsplit(" ", 1)[1]) for line in said if line.startswith(busy)):
                    break
                time.sleep(0.5)
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: cache, mountPath: /cache}
    - {name: shared-memory, mountPath: /dev/shm}
{{- end -}}

{{/* What cannot work with InferenceServices. */}}
{{- define "thumbwheel.validateKserve" -}}
{{- if include "thumbwheel.kserve" . -}}
{{- $kserve := .Values.serving.kserve -}}
{{- range $api := list "v1beta1/InferenceService" "v1alpha1/ServingRuntime" -}}
  {{- include "thumbwheel.needs" (list $ (printf "serving.kserve.io/%s" $api) (printf "serving.mode: the cluster has no %s (KServe); deployment works without" (base $api))) -}}
{{- end -}}
{{- if eq $kserve.runtime "vllm" -}}
  {{- $limits := .Values.serving.vllm.resources.limits | default dict -}}
  {{- if not (regexMatch "(gpu|gaudi|mig-)[^ ]*:" (toYaml $limits)) -}}{{ fail "serving.vllm.resources: vLLM needs a GPU in limits, as nvidia.com/gpu; or set serving.kserve.runtime to predictor" }}{{- end -}}
{{- end -}}
{{- if gt (int $kserve.minReplicas) (int $kserve.maxReplicas) -}}{{ fail "serving.kserve.minReplicas is above maxReplicas" }}{{- end -}}
{{- if and (eq $kserve.autoscaler "none") (ne (int $kserve.minReplicas) (int $kserve.maxReplicas)) -}}{{ fail "serving.kserve.autoscaler: none keeps minReplicas; say which one goes up to maxReplicas" }}{{- end -}}
{{- if and (eq $kserve.autoscaler "keda") (not $kserve.prometheus) -}}{{ fail "serving.kserve.prometheus: keda asks it how many requests wait" }}{{- end -}}
{{- end -}}
{{- end -}}
