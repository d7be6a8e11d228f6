{{/* Non-empty if versions are served as InferenceServices. */}}
{{- define "thumbwheel.kserve" -}}{{ if eq .Values.serving.mode "kserve" }}yes{{ end }}{{- end -}}

{{/* Non-empty if vLLM serves the versions. */}}
{{- define "thumbwheel.vllm" -}}{{ if and (include "thumbwheel.kserve" .) (eq .Values.serving.kserve.runtime "vllm") }}yes{{ end }}{{- end -}}

{{/* Non-empty if versions that are adapters of one base share its server. */}}
{{- define "thumbwheel.sharedBase" -}}{{ if and (include "thumbwheel.vllm" .) .Values.serving.vllm.sharedBase.enabled }}yes{{ end }}{{- end -}}

{{- define "thumbwheel.inferenceServiceName" -}}{{ include "thumbwheel.name" (list . "inference-service") }}{{- end -}}

{{- define "thumbwheel.runtimeName" -}}{{ include "thumbwheel.name" (list . .Values.serving.kserve.runtime) }}{{- end -}}

{{/* Service account of the pods of InferenceServices. KServe gives its storage initializer the
     credentials of the secret that the account names. */}}
{{- define "thumbwheel.servingAccount" -}}
{{- if .Values.models.store }}{{ include "thumbwheel.name" (list . "model-store") }}{{ else }}{{ include "thumbwheel.serviceAccount" . }}{{ end -}}
{{- end -}}

{{/* Settings of the generator in place of the address of a model server. */}}
{{- define "thumbwheel.kserveSettings" -}}
serving: kserve
inference_service: {{ include "thumbwheel.inferenceServiceName" . }}
models_root: /models
model_port: {{ .Values.serving.kserve.port }}
{{- with .Values.serving.kserve.candidate.maxShare }}
small_candidate_share: {{ . }}
{{- end }}
{{- if eq .Values.serving.kserve.runtime "vllm" }}
load_seconds: {{ .Values.serving.vllm.startupSeconds }}
{{- end }}
{{- if include "thumbwheel.sharedBase" . }}
max_adapter_rank: {{ .Values.serving.vllm.sharedBase.maxRank }}
{{- end }}
{{- end -}}

{{/* Template of each InferenceService of this release; the generator fills in $(version), $(folder)
     and $(name), the name of the object. The pods have the component label predictor, which network policies and monitors
     select. */}}
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
    # No external access that bypasses the gateway.
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
              query: {{ printf "sum(%s=\"$(version)\",%s})" (eq $kserve.runtime "vllm" | ternary "vllm:num_requests_waiting{model_name" "thumbwheel_predictor_waiting_requests{version") (include "thumbwheel.scope" .) | quote }}
            target: {type: Value, value: {{ $kserve.waitingRequests | quote }}}
    {{- end }}
    serviceAccountName: {{ include "thumbwheel.servingAccount" . }}
    {{- include "thumbwheel.podSecurity" . | nindent 4 }}
    {{- $one := dict "serving.kserve.io/inferenceservice" "$(name)" }}
    {{- include "thumbwheel.placement" (list . "predictor" $values $one) | nindent 4 }}
    terminationGracePeriodSeconds: {{ add .Values.shutdown.preStopSeconds $kserve.drainSeconds 15 }}
    model:
      name: kserve-container
      modelFormat: {name: safetensors}
      runtime: {{ include "thumbwheel.runtimeName" . }}
      {{- if .Values.models.store }}
      storageUri: {{ trimSuffix "/" .Values.models.store }}/$(version)
      {{- else if include "thumbwheel.sharedBase" . }}
      # The whole claim, because adapters are in the folders of other versions. vLLM accepts an
      # adapter only if its base has the name that this command gives to the model.
      storageUri: pvc://{{ include "thumbwheel.modelsClaim" . }}
      command: [vllm, serve, $(folder)]
      {{- else }}
      storageUri: pvc://{{ include "thumbwheel.modelsClaim" . }}/$(folder)
      {{- end }}
      {{- if eq $kserve.runtime "vllm" }}
      args: ["--served-model-name=$(version)"]
      {{- end }}
      # Set here because KServe overrides the values of the runtime with its defaults.
      resources: {{- toYaml $values.resources | nindent 8 }}
{{- end -}}

{{/* The same for a candidate with a small share of the users; the generator decides by its share. */}}
{{- define "thumbwheel.candidateService" -}}
{{- $candidate := .Values.serving.kserve.candidate -}}
{{- $service := include "thumbwheel.inferenceService" . | fromYaml -}}
{{- $predictor := $service.spec.predictor -}}
{{- $_ := set $predictor "minReplicas" $candidate.minReplicas -}}
{{- $_ := set $predictor "maxReplicas" $candidate.maxReplicas -}}
{{- with $candidate.resources -}}{{- $_ := set $predictor.model "resources" . -}}{{- end -}}
{{- toYaml $service -}}
{{- end -}}

{{/* Container of the project's model server with one version, mounted at KServe's path. */}}
{{- define "thumbwheel.predictorContainer" -}}
{{- /* KServe names its Services in the namespace of the release. */ -}}
{{- $settings := dict "host" "0.0.0.0" "port" 8000 "metrics_port" (include "thumbwheel.metricsPort" 8000)
      "allowed_hosts" (list (printf ".%s.svc" .Release.Namespace) (printf ".%s.svc.cluster.local" .Release.Namespace) | toJson) "cache_directory" "/cache" "models_root" "/mnt/models" "startup_models" "[\"/mnt/models\"]"
      "max_versions" 1 "failure_file" "/dev/termination-log" "log_format" "json" "drain_seconds" .Values.serving.kserve.drainSeconds -}}
- name: kserve-container
  image: {{ include "thumbwheel.image" (list . "predictor") }}
  imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list . "predictor") }}
  args: [services.predictor]
  {{- include "thumbwheel.containerSecurity" . | nindent 2 }}
  env:
    {{- range $key, $value := mustMergeOverwrite $settings (default dict .Values.serving.predictor.settings) }}
    - {name: TW_PREDICTOR_{{ upper $key }}, value: {{ toString $value | quote }}}
    {{- end }}
    {{- include "thumbwheel.fromSecret" (list "TW_PREDICTOR_MODEL_SERVER_KEY" (include "thumbwheel.modelServerSecret" .) .Values.secrets.keys.modelServerKey) | nindent 4 }}
  ports:
    # KServe sends calls to the first port.
    - {name: http, containerPort: 8000, protocol: TCP}
    - {name: metrics, containerPort: {{ include "thumbwheel.metricsPort" 8000 }}, protocol: TCP}
  startupProbe: {httpGet: {path: /v2/health/ready, port: 8000}, periodSeconds: 2, failureThreshold: 300}
  readinessProbe: {httpGet: {path: /v2/health/ready, port: 8000}, periodSeconds: 2, failureThreshold: 5, timeoutSeconds: 5}
  livenessProbe: {httpGet: {path: /v2/health/live, port: 8000}, periodSeconds: 10, failureThreshold: 6, timeoutSeconds: 5}
  {{- include "thumbwheel.preStop" . | nindent 2 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: cache, mountPath: /cache}
{{- end -}}

{{/* Container of vLLM. vLLM interrupts answers on SIGTERM, so preStop waits until none is running. */}}
{{- define "thumbwheel.vllmContainer" -}}
{{- $vllm := .Values.serving.vllm -}}
- name: kserve-container
  image: {{ include "thumbwheel.image" (list . "vllm") }}
  imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list . "vllm") }}
  command: [vllm, serve, /mnt/models]
  {{- if include "thumbwheel.sharedBase" . }}
  workingDir: /mnt/models
  {{- end }}
  # Logs must not contain messages of users.
  args:
    - --host=0.0.0.0
    - --port=8000
    - --no-enable-log-requests
    - --disable-uvicorn-access-log
    # Otherwise a request takes missing values, for example top_k, from the model's
    # generation_config.json, and the log-probs in the feedback are those of another distribution.
    - --generation-config=vllm
    {{- if include "thumbwheel.sharedBase" . }}
    - --enable-lora
    - --max-lora-rank={{ $vllm.sharedBase.maxRank }}
    - --max-loras={{ $vllm.sharedBase.maxAdapters }}
    # Further adapters stay in the memory of the pod, for a quick return.
    - --max-cpu-loras={{ mul 2 $vllm.sharedBase.maxAdapters }}
    {{- end }}
    {{- range $vllm.args }}
    - {{ . | quote }}
    {{- end }}
  {{- include "thumbwheel.containerSecurity" . | nindent 2 }}
  env:
    # The user has no name and no home directory, the file system is read-only, and nothing is
    # downloaded or reported.
    - {name: HOME, value: /cache}
    - {name: USER, value: vllm}
    - {name: XDG_CACHE_HOME, value: /cache}
    - {name: TRITON_CACHE_DIR, value: /cache/triton}
    - {name: TORCHINDUCTOR_CACHE_DIR, value: /cache/inductor}
    - {name: HF_HUB_OFFLINE, value: "1"}
    - {name: VLLM_NO_USAGE_STATS, value: "1"}
    {{- if include "thumbwheel.sharedBase" . }}
    # Each pod reads an adapter at the first request with its folder as the name of the model. The
    # paths that load and unload adapters need the key.
    - {name: VLLM_PLUGINS, value: lora_filesystem_resolver}
    - {name: VLLM_LORA_RESOLVER_CACHE_DIR, value: /mnt/models}
    - {name: VLLM_ALLOW_RUNTIME_LORA_UPDATING, value: "1"}
    {{- end }}
    # As --api-key, for the paths under /v1; the health check and the metrics need no key.
    {{- include "thumbwheel.fromSecret" (list "VLLM_API_KEY" (include "thumbwheel.modelServerSecret" .) .Values.secrets.keys.modelServerKey) | nindent 4 }}
    {{- with $vllm.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: http, containerPort: 8000, protocol: TCP}
  startupProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 5, timeoutSeconds: 5, failureThreshold: {{ div (add $vllm.startupSeconds 4) 5 }}}
  readinessProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 5, timeoutSeconds: 5}
  livenessProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 10, failureThreshold: 6, timeoutSeconds: 10}
  # The termination message explains why a version does not load.
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
    {{- with $vllm.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Reject unusable settings of adapters, and pods or training that would take more memory of a GPU than it has. */}}
{{- define "thumbwheel.validateVllm" -}}
{{- $vllm := .Values.serving.vllm -}}{{- $workers := .Values.ray.workers -}}
{{- $fraction := 0.9 -}}
{{- $following := "" -}}
{{- range $argument := $vllm.args -}}
  {{- if regexMatch "^--(enable-lora|lora-modules|max-loras?|max-cpu-loras|max-lora-rank)(=|$)" $argument -}}{{ println (printf "serving.vllm.args: %s: adapters are served with serving.vllm.sharedBase only" $argument) }}{{- end -}}
  {{- if hasPrefix "--gpu-memory-utilization=" $argument -}}{{- $fraction = trimPrefix "--gpu-memory-utilization=" $argument | float64 -}}{{- end -}}
  {{- if eq $following "--gpu-memory-utilization" -}}{{- $fraction = float64 $argument -}}{{- end -}}
  {{- $window := or (and (hasPrefix "--max-model-len=" $argument) (trimPrefix "--max-model-len=" $argument)) (and (eq $following "--max-model-len") $argument) -}}
  {{- if and $window (regexMatch "^[0-9]+$" (toString $window)) (lt (int $window) (int $.Values.models.contextTokens)) -}}{{ println (printf "models.contextTokens: %v is above --max-model-len=%v in serving.vllm.args, so vLLM would refuse long conversations" $.Values.models.contextTokens $window) }}{{- end -}}
  {{- $following = $argument -}}
{{- end -}}
{{- if and $vllm.sharedBase.enabled .Values.models.store -}}{{ println "serving.vllm.sharedBase: the server of a base reads adapters from the models claim; set models.store to \"\"" }}{{- end -}}
{{- if gt (int $vllm.podsPerGpu) 1 -}}
{{- $whole := mulf $fraction (int $vllm.podsPerGpu) -}}
{{- if gt $whole 0.95 -}}{{ println (printf "serving.vllm.podsPerGpu: %d pods with --gpu-memory-utilization=%v need %v of the memory of a GPU, and .95 may be used; set it to at most %v" (int $vllm.podsPerGpu) $fraction $whole (divf 0.95 (int $vllm.podsPerGpu))) }}{{- end -}}
{{- if and .Values.training.enabled (gt (int $workers.gpus) 0) (eq (toYaml $vllm.nodeSelector) (toYaml $workers.nodeSelector)) -}}{{ println "serving.vllm.podsPerGpu: ray.workers.nodeSelector selects the same nodes, where a worker would share a GPU with pods that serve; training has no limit for its memory, so give it other nodes" }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Reject a shared base without vLLM, and adapters of training whose rank its server does not take. */}}
{{- define "thumbwheel.validateSharedBase" -}}
{{- $shared := .Values.serving.vllm.sharedBase -}}
{{- if $shared.enabled -}}
{{- if not (include "thumbwheel.vllm" .) -}}{{ println "serving.vllm.sharedBase: only vLLM serves adapters; set serving.mode to kserve and serving.kserve.runtime to vllm" }}
{{- else if .Values.training.enabled -}}
{{- /* The default of LoraConfig. */ -}}
{{- $rank := 64 -}}
{{- range $argument := .Values.training.extraArgs -}}
  {{- with regexFind "\\.served_rank=[0-9]+$" (toString $argument) -}}{{- $rank = trimPrefix ".served_rank=" . | int -}}{{- end -}}
{{- end -}}
{{- if gt $rank (int $shared.maxRank) -}}{{ println (printf "serving.vllm.sharedBase.maxRank: %d, and training writes adapters up to rank %d; raise it, or set served_rank in training.extraArgs, for example [--set, ppo.lora.served_rank=%d]" (int $shared.maxRank) $rank (int $shared.maxRank)) }}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Reject combinations of values that do not work with InferenceServices. */}}
{{- define "thumbwheel.validateKserve" -}}
{{- include "thumbwheel.validateSharedBase" . -}}
{{- if include "thumbwheel.kserve" . -}}
{{- $kserve := .Values.serving.kserve -}}
{{- range $api := list "v1beta1/InferenceService" "v1alpha1/ServingRuntime" -}}
  {{- include "thumbwheel.needs" (list $ (printf "serving.kserve.io/%s" $api) (printf "serving.mode: the cluster has no %s (KServe); deployment works without" (base $api))) -}}
{{- end -}}
{{- if eq $kserve.runtime "vllm" -}}
  {{- $limits := .Values.serving.vllm.resources.limits | default dict -}}
  {{- if not (regexMatch "(gpu|gaudi|mig-)[^ ]*:" (toYaml $limits)) -}}{{ println "serving.vllm.resources: vLLM needs a GPU in limits, for example nvidia.com/gpu; otherwise set serving.kserve.runtime to predictor" }}{{- end -}}
{{- end -}}
{{- if eq $kserve.runtime "vllm" -}}{{ include "thumbwheel.validateVllm" . }}{{- end -}}
{{- range $name, $size := dict "serving.kserve" $kserve "serving.kserve.candidate" $kserve.candidate -}}
{{- if eq (int $size.minReplicas) 0 -}}{{ println (printf "%s.minReplicas: 0 is not possible in deploymentMode %s: the generator asks a version only while a pod of it answers, so no request would start one; set at least 1" $name $kserve.deploymentMode) }}
{{- else if gt (int $size.minReplicas) (int $size.maxReplicas) -}}{{ println (printf "%s.minReplicas is above maxReplicas" $name) }}
{{- else if and (eq $kserve.autoscaler "none") (ne (int $size.minReplicas) (int $size.maxReplicas)) -}}{{ println (printf "%s.maxReplicas: serving.kserve.autoscaler none does not scale to maxReplicas; set another autoscaler" $name) }}{{- end -}}
{{- end -}}
{{- if and $kserve.candidate.resources (eq $kserve.runtime "vllm") (not (regexMatch "(gpu|gaudi|mig-)[^ ]*:" (toYaml (default dict $kserve.candidate.resources.limits)))) -}}{{ println "serving.kserve.candidate.resources: vLLM needs a GPU in limits, for example nvidia.com/gpu; {} takes those of serving.vllm" }}{{- end -}}
{{- if and (eq $kserve.autoscaler "keda") (not $kserve.prometheus) -}}{{ println "serving.kserve.prometheus: the URL of Prometheus is required with autoscaler keda" }}{{- end -}}
{{- end -}}
{{- end -}}
