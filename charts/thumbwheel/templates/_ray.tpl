{{/* RayJob of a run, completed by the launcher. Each non-default field prevents a failure that was
     observed: docs/decisions/training-on-kubernetes.md. */}}
{{- define "thumbwheel.rayJob" -}}
{{- $ray := .Values.ray -}}
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: {{ include "thumbwheel.name" (list . "run") }}
  labels:
    {{- include "thumbwheel.labels" (list . "training") | nindent 4 }}
    {{- include "thumbwheel.queueLabel" . | nindent 4 }}
spec:
  submissionMode: K8sJobMode
  entrypoint: {{ printf "python3 -m %s" (include "thumbwheel.trainingWords" . | fromJsonArray | join " ") }}
  activeDeadlineSeconds: {{ .Values.training.deadlineSeconds | int64 }}
  backoffLimit: {{ .Values.training.retries }}
  shutdownAfterJobFinishes: true
  ttlSecondsAfterFinished: 30
  submitterConfig: {backoffLimit: 0}
  submitterPodTemplate:
    metadata:
      labels: {{- include "thumbwheel.labels" (list . "ray-submitter") | nindent 8 }}
    spec:
      serviceAccountName: {{ include "thumbwheel.serviceAccount" . }}
      {{- include "thumbwheel.podSecurity" . | nindent 6 }}
      {{- include "thumbwheel.rayPlacement" (list . "ray-submitter" $ray.head) | nindent 6 }}
      restartPolicy: Never
      containers:
        - name: ray-submitter
          {{- include "thumbwheel.rayContainer" (list . "submitter") | nindent 10 }}
          resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 512Mi}}
      volumes: {{- include "thumbwheel.trainingVolumes" (list . "submitter") | nindent 8 }}
  rayClusterSpec:
    rayVersion: {{ $ray.version | quote }}
    {{- if eq $ray.authentication "token" }}
    # KubeRay creates a token for each cluster and gives it to all containers of Ray.
    authOptions: {mode: token}
    {{- end }}
    {{- if $ray.autoscaling.enabled }}
    enableInTreeAutoscaling: true
    autoscalerOptions:
      version: v2
      idleTimeoutSeconds: {{ $ray.autoscaling.idleTimeoutSeconds }}
      {{- include "thumbwheel.containerSecurity" . | nindent 6 }}
      resources: {requests: {cpu: 50m, memory: 256Mi}, limits: {memory: 512Mi}}
    {{- end }}
    headGroupSpec:
      # No CPUs for Ray: the loop itself runs here, and Ray must not schedule workers on this pod.
      rayStartParams: {num-cpus: "0", object-store-memory: {{ $ray.objectStoreBytes | int64 | quote }}, dashboard-host: 0.0.0.0}
      template:
        metadata:
          labels: {{- include "thumbwheel.labels" (list . "training") | nindent 12 }}
        spec:
          {{- include "thumbwheel.rayHeadAccount" . | nindent 10 }}
          {{- include "thumbwheel.rayPlacement" (list . "training" $ray.head) | nindent 10 }}
          containers:
            - name: ray-head
              {{- include "thumbwheel.rayContainer" (list . "loop") | nindent 14 }}
                {{- include "thumbwheel.trainingEnvironment" . | nindent 16 }}
                {{- include "thumbwheel.identityEnvironment" . | nindent 16 }}
              ports:
                - {name: gcs-server, containerPort: 6379}
                - {name: dashboard, containerPort: 8265}
                - {name: client, containerPort: 10001}
              # Custom probe: KubeRay's default uses wget, which the image does not contain.
              readinessProbe: {httpGet: {path: /api/gcs_healthz, port: 8265}, periodSeconds: 2, timeoutSeconds: 2}
              livenessProbe: {httpGet: {path: /api/local_raylet_healthz, port: 52365}, initialDelaySeconds: 60, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 12}
              resources: {{- toYaml $ray.head.resources | nindent 16 }}
          volumes: {{- include "thumbwheel.trainingVolumes" (list . "loop") | nindent 12 }}
    workerGroupSpecs:
      - groupName: workers
        replicas: {{ $ray.autoscaling.enabled | ternary $ray.autoscaling.minReplicas (include "thumbwheel.rayPods" . | int) }}
        minReplicas: {{ $ray.autoscaling.enabled | ternary $ray.autoscaling.minReplicas (include "thumbwheel.rayPods" . | int) }}
        maxReplicas: {{ include "thumbwheel.rayPods" . }}
        # One logical CPU for Ray regardless of the resources of the pod, so that each pod gets one
        # training worker or one rollout actor.
        rayStartParams: {num-cpus: "1", object-store-memory: {{ $ray.objectStoreBytes | int64 | quote }}}
        template:
          metadata:
            labels: {{- include "thumbwheel.labels" (list . "ray-worker") | nindent 14 }}
          spec:
            serviceAccountName: {{ include (.Values.training.checkpointsInBucket | ternary "thumbwheel.bucketAccount" "thumbwheel.serviceAccount") . }}
            {{- include "thumbwheel.podSecurity" . | nindent 12 }}
            {{- include "thumbwheel.rayPlacement" (list . "ray-worker" $ray.workers) | nindent 12 }}
            # Ray forwards SIGTERM to the training, waits for this time, and needs some seconds for
            # its own shutdown.
            terminationGracePeriodSeconds: {{ add .Values.training.terminationGracePeriodSeconds 15 }}
            containers:
              - name: ray-worker
                {{- include "thumbwheel.rayContainer" (list . "worker") | nindent 16 }}
                  - {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: {{ .Values.training.terminationGracePeriodSeconds | quote }}}
                {{- if .Values.training.checkpointsInBucket }}
                {{- include "thumbwheel.trainingEnvironment" . | nindent 18 }}
                {{- end }}
                readinessProbe: {httpGet: {path: /api/local_raylet_healthz, port: 52365}, periodSeconds: 2, timeoutSeconds: 2}
                livenessProbe: {httpGet: {path: /api/local_raylet_healthz, port: 52365}, initialDelaySeconds: 60, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 12}
                {{- $gpus := ternary (dict "limits" (dict $ray.workers.gpuResource $ray.workers.gpus)) dict (gt (int $ray.workers.gpus) 0) }}
                resources: {{- mustMergeOverwrite (deepCopy $ray.workers.resources) $gpus | toYaml | nindent 18 }}
            volumes: {{- include "thumbwheel.trainingVolumes" (list . "worker") | nindent 14 }}
{{- end -}}

{{/* Pod of one worker or one rollout actor. */}}
{{- define "thumbwheel.rayPods" -}}
{{- add .Values.ray.workers.replicas .Values.ray.rolloutActors -}}
{{- end -}}

{{/* Container fields of every Ray pod. Arguments: list of root and loop, worker or submitter. The
     environment comes last so that callers can append to it. */}}
{{- define "thumbwheel.rayContainer" -}}
{{- $root := index . 0 -}}
image: {{ include "thumbwheel.image" (list $root "training") }}
imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list $root "training") }}
{{ include "thumbwheel.containerSecurity" $root }}
volumeMounts: {{- include "thumbwheel.trainingMounts" . | nindent 2 }}
env:
  # Also set by KubeRay. An operator that ignores authOptions starts no cluster without a token.
  - {name: RAY_AUTH_MODE, value: {{ $root.Values.ray.authentication }}}
  - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
  {{- with $root.Values.training.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* With the autoscaler, KubeRay creates a service account for the head that may list and create
     pods. */}}
{{- define "thumbwheel.rayHeadAccount" -}}
{{- if .Values.ray.autoscaling.enabled -}}
{{- include "thumbwheel.loopSecurity" . | replace "automountServiceAccountToken: false" "automountServiceAccountToken: true" }}
{{- else -}}
serviceAccountName: {{ include "thumbwheel.bucketAccount" . }}
{{ include "thumbwheel.loopSecurity" . }}
{{- end -}}
{{- end -}}

{{/* Placement of Ray pods. Arguments: list of root, component and the values of head or workers. */}}
{{- define "thumbwheel.rayPlacement" -}}
{{- with (index . 2).nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 2).tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "thumbwheel.affinity" (list (index . 0) (index . 1) (index . 2).affinity) | fromYaml }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 0).Values.training.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
