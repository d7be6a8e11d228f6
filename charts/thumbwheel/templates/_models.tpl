{{/* How the first version comes into the claim: import (models.import.source), small or nano (both from
     images, with models.seed), or empty: the operator has put it there, or an external model answers. */}}
{{- define "thumbwheel.firstVersion" -}}
{{- if include "thumbwheel.external" . -}}
{{- else if .Values.models.import.source -}}import
{{- else if and .Values.models.seed (eq .Values.models.initial "small-0") -}}small
{{- else if and .Values.models.seed (eq .Values.models.initial "nano-0") -}}nano
{{- end -}}
{{- end -}}

{{/* Init containers before the first start of a service that reads the first version. Concurrent pods
     are safe. */}}
{{- define "thumbwheel.modelInit" -}}
{{- $way := include "thumbwheel.firstVersion" . -}}
- name: model
  image: {{ include "thumbwheel.image" (list . "services") }}
  imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list . "services") }}
  command: [python3, -c]
  args:
    - |
      {{- if eq $way "nano" }}
      import os, shutil, tempfile
      if not os.path.exists("/models/nano-0"):
          folder = tempfile.mkdtemp(dir="/models", prefix=".seed-")
          shutil.copytree("/app/models/nano", folder + "/nano")
          try:
              os.rename(folder + "/nano", "/models/nano-0")
          except OSError:
              assert os.path.exists("/models/nano-0")
          shutil.rmtree(folder)
      {{- else }}
      import os, signal, sys, time
      # Process 1 ignores signals without a handler.
      signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
      while not os.path.exists("/models/{{ .Values.models.initial }}/manifest.json"):
          print("{{ .Values.models.initial }} is not in the models claim yet; see kubectl logs job/{{ include "thumbwheel.modelJob" . }}", flush=True)
          time.sleep(5)
      {{- end }}
  {{- include "thumbwheel.containerSecurity" . | nindent 2 }}
  resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 128Mi}}
  volumeMounts:
    - {name: models, mountPath: /models{{ if ne $way "nano" }}, readOnly: true{{ end }}}
{{- end -}}

{{/* Name of the Job. A Job is immutable, so its name contains the hash of its specification. Helm
     deletes a Job of other settings; the new one finds a version that is there. */}}
{{- define "thumbwheel.modelJob" -}}
{{- printf "%s-%s" (include "thumbwheel.name" (list . "model")) (include "thumbwheel.modelJobSpec" . | sha256sum | trunc 8) -}}
{{- end -}}

{{/* Name of the ConfigMap with the chat template. It contains the hash of the text, so that another
     template is another Job. */}}
{{- define "thumbwheel.chatTemplate" -}}
{{- printf "%s-%s" (include "thumbwheel.name" (list . "chat-template")) (.Values.models.import.chatTemplate | sha256sum | trunc 8) -}}
{{- end -}}

{{- define "thumbwheel.isHubId" -}}
{{- if regexMatch "^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(@.+)?$" .Values.models.import.source }}yes{{ end -}}
{{- end -}}

{{/* Non-empty if a Job brings the first version, or copies it to the object store. */}}
{{- define "thumbwheel.hasModelJob" -}}
{{- if or .Values.models.store (has (include "thumbwheel.firstVersion" .) (list "import" "small")) }}yes{{ end -}}
{{- end -}}

{{/* JSON list of the components that read versions from the object store of an evaluation, beside the
     loop. */}}
{{- define "thumbwheel.modelStoreCallers" -}}
{{- $callers := list -}}
{{- if or .Values.models.store (hasPrefix "s3://" .Values.models.import.source) -}}{{- $callers = append $callers "model" -}}{{- end -}}
{{- if and .Values.models.store (include "thumbwheel.kserve" .) -}}{{- $callers = append $callers "predictor" -}}{{- end -}}
{{- $callers | toJson -}}
{{- end -}}

{{/* Container that brings the first version. */}}
{{- define "thumbwheel.bringModel" -}}
{{- $given := .Values.models.import -}}
{{- $way := include "thumbwheel.firstVersion" . -}}
{{- $image := ternary "training" "small" (eq $way "import") }}
name: model
image: {{ include "thumbwheel.image" (list . $image) }}
imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list . $image) }}
{{- if eq $way "small" }}
args: [infra.install.small_model, --into, /models, --keep]
{{- else }}
{{- $words := list "training" "import" $given.source "--name" .Values.models.initial "--to" "/models" }}
{{- with $given.hub }}{{ $words = concat $words (list "--hub" .) }}{{ end }}
{{- with .Values.models.acceptTerms }}{{ $words = concat $words (list "--accept-terms" .) }}{{ end }}
{{- if $given.thinking }}{{ $words = concat $words (list "--thinking" "on") }}{{ end }}
{{- with $given.tokenSecret }}{{ $words = concat $words (list "--token-file" "/token/token") }}{{ end }}
{{- with $given.chatTemplate }}{{ $words = concat $words (list "--chat-template" "/chat-template/chat_template.jinja") }}{{ end }}
args: {{ $words | toJson }}
{{- end }}
{{ include "thumbwheel.containerSecurity" . }}
env:
  {{- if eq $way "small" }}
  - {name: THUMBWHEEL_CACHE, value: /tmp/cache}
  {{- else }}
  # Nothing is reported, and the client keeps its state in the folder of the import.
  - {name: HF_HUB_DISABLE_TELEMETRY, value: "1"}
  - {name: HF_HOME, value: /tmp/hub}
  {{- if hasPrefix "s3://" $given.source }}
  {{- include "thumbwheel.bucketEnvironment" . | nindent 2 }}
  {{- end }}
  {{- include "thumbwheel.trustEnvironment" . | nindent 2 }}
  {{- with $given.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
resources: {{- toYaml $given.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: models, mountPath: /models}
  {{- if $given.tokenSecret }}
  - {name: token, mountPath: /token, readOnly: true}
  {{- end }}
  {{- if and $given.chatTemplate (eq $way "import") }}
  - {name: chat-template, mountPath: /chat-template, readOnly: true}
  {{- end }}
  {{- include "thumbwheel.extraMounts" (list . $given) | nindent 2 }}
{{- end -}}

{{/* Specification of the Job that brings the first version, and copies it to the object store. */}}
{{- define "thumbwheel.modelJobSpec" -}}
{{- $given := .Values.models.import -}}
{{- $way := include "thumbwheel.firstVersion" . -}}
backoffLimit: {{ $given.retries }}
activeDeadlineSeconds: {{ $given.deadlineSeconds | int64 }}
# Two imports would write the same draft.
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    - {action: Ignore, onPodConditions: [{type: DisruptionTarget, status: "True"}]}
    # Invalid arguments; a retry would fail as well.
    - {action: FailJob, onExitCodes: {operator: In, values: [2]}}
template:
  metadata:
    labels: {{- include "thumbwheel.labels" (list . "model") | nindent 6 }}
  spec:
    serviceAccountName: {{ include (or (not (empty .Values.models.store)) (hasPrefix "s3://" $given.source) | ternary "thumbwheel.bucketAccount" "thumbwheel.serviceAccount") . }}
    {{- include "thumbwheel.podSecurity" . | nindent 4 }}
    {{- include "thumbwheel.placement" (list . "model" $given) | nindent 4 }}
    restartPolicy: Never
    {{- if and $way .Values.models.store }}
    initContainers:
      - {{- include "thumbwheel.bringModel" . | nindent 8 }}
    {{- end }}
    containers:
      {{- if .Values.models.store }}
      # Copies the version to the object store, as the loop does with later ones.
      - name: publish
        image: {{ include "thumbwheel.image" (list . "training") }}
        imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list . "training") }}
        args: [training, publish, {{ .Values.models.initial | quote }}, --state, /, --store, {{ .Values.models.store | quote }}]
        {{- include "thumbwheel.containerSecurity" . | nindent 8 }}
        env:
          {{- include "thumbwheel.bucketEnvironment" . | nindent 10 }}
          {{- include "thumbwheel.trustEnvironment" . | nindent 10 }}
          {{- with $given.extraEnv }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        resources: {{- toYaml $given.resources | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          - {name: models, mountPath: /models, readOnly: true}
          {{- include "thumbwheel.extraMounts" (list . $given) | nindent 10 }}
      {{- else }}
      - {{- include "thumbwheel.bringModel" . | nindent 8 }}
      {{- end }}
    volumes:
      - {name: tmp, emptyDir: {sizeLimit: {{ .Values.tmpSizes.model }}}}
      - {name: models, persistentVolumeClaim: {claimName: {{ include "thumbwheel.modelsClaim" . }}}}
      {{- with $given.tokenSecret }}
      - {name: token, secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: {{ $given.tokenKey }}, path: token}]}}
      {{- end }}
      {{- if and $given.chatTemplate (eq $way "import") }}
      - {name: chat-template, configMap: {name: {{ include "thumbwheel.chatTemplate" . }}}}
      {{- end }}
      {{- include "thumbwheel.extraVolumes" (list . $given) | nindent 6 }}
{{- end -}}

{{/* Reject values of imports that do not belong together. */}}
{{- define "thumbwheel.validateModels" -}}
{{- $models := .Values.models -}}{{- $given := $models.import -}}
{{- if and $models.store (eq (include "thumbwheel.firstVersion" .) "nano") -}}{{ println "models.store: nano-0 is for tests and stays in the claim; set another models.initial" }}{{- end -}}
{{- if and .Values.serviceAccount.modelStore.annotations (not (and $models.store (include "thumbwheel.kserve" .))) -}}{{ println "serviceAccount.modelStore: only models.store with serving.mode kserve uses it" }}{{- end -}}
{{- if and .Values.serving.kserve.storageSecret (not $models.store) -}}{{ println "serving.kserve.storageSecret: only models.store uses it" }}{{- end -}}
{{- if include "thumbwheel.external" . -}}
{{- else if $given.source -}}
{{- if not (regexMatch "^[a-z0-9][a-z0-9._-]{0,127}$" $models.initial) -}}{{ println (printf "models.initial: %s names the imported version and must be 1 to 128 of a-z, 0-9, '.', '_', '-'" $models.initial) }}{{- end -}}
{{- range $name := list "tokenSecret" "hub" -}}
  {{- if and (index $given $name) (not (include "thumbwheel.isHubId" $)) -}}{{ println (printf "models.import.%s: only a source of the hub (owner/model) uses it" $name) }}{{- end -}}
{{- end -}}
{{- else -}}
{{- range $name := list "tokenSecret" "hub" "chatTemplate" -}}
  {{- if index $given $name -}}{{ println (printf "models.import.source: models.import.%s is set, so a source is required" $name) }}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
