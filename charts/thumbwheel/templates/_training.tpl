{{/* Arguments, environment and pod of a run, for all ways to start one. All pods mount the two
     claims at the paths that the services use, so that `--state /` finds models and loop, and
     paths mean the same to the generator. */}}
{{- define "thumbwheel.loopClaim" -}}
{{- .Values.training.loop.existingClaim | default (include "thumbwheel.name" (list . "loop")) -}}
{{- end -}}

{{/* How a run is started: `ray.mode`, with auto by the operator of the cluster. */}}
{{- define "thumbwheel.rayMode" -}}
{{- if ne .Values.ray.mode "auto" -}}{{ .Values.ray.mode }}
{{- else -}}{{ ternary "kuberay" "job" (.Capabilities.APIVersions.Has "ray.io/v1/RayJob") }}
{{- end -}}
{{- end -}}

{{/* Recipe of a run: `training.recipe`, or that of the model `models.initial`. */}}
{{- define "thumbwheel.recipe" -}}
{{- $named := regexFind "^(nano|small)-[0-9]+$" .Values.models.initial | splitList "-" | first -}}
{{- .Values.training.recipe | default $named | default "auto" -}}
{{- end -}}

{{/* Arguments of `python3 -m`. extraArgs come last because the last occurrence of an argument
     applies. */}}
{{- define "thumbwheel.trainingWords" -}}
{{- $v := .Values.training -}}{{- $known := include "thumbwheel.known" . | fromYaml -}}
{{- $recipe := include "thumbwheel.recipe" . -}}
{{- $words := list "training" "loop" "--recipe" $recipe "--state" "/" "--scheduled" "--patience" "2m" -}}
{{- range list "feedback" "generator" "review" -}}
  {{- $words = concat $words (list (printf "--%s" .) (printf "dns:///%s:%v" (include "thumbwheel.name" (list $ .)) (index $known .).port)) -}}
{{- end -}}
{{- range $name, $value := $v.canary -}}
  {{- if ne (toString $value) "" -}}{{- $words = concat $words (list (printf "--canary-%s" $name) (toString $value)) -}}{{- end -}}
{{- end -}}
{{- if eq (include "thumbwheel.rayMode" .) "local" -}}
  {{- $words = concat $words (list "--workers" "0") -}}
{{- else -}}
  {{- $workers := .Values.ray.workers -}}
  {{- $range := ternary (printf "%d..%d" (int $workers.minReplicas) (int $workers.replicas)) (toString $workers.replicas) (gt (int $workers.minReplicas) 0) -}}
  {{- $words = concat $words (list "--workers" $range "--gpus-per-worker" (toString $workers.gpus) "--rollout-actors" (toString .Values.ray.rolloutActors)) -}}
{{- end -}}
{{- if eq $recipe "auto" -}}
  {{- range $option, $value := dict "accelerator" $v.hardware.accelerator "cores" $v.hardware.cores "memory-gib" $v.hardware.memoryGib -}}
    {{- if $value -}}{{- $words = concat $words (list (printf "--%s" $option) (toString $value)) -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- $words = concat $words (include "thumbwheel.rolloutWords" . | fromJsonArray) -}}
{{- $words = concat $words (include "thumbwheel.externalWords" . | fromJsonArray) -}}
{{- with $v.benchmarks.tasks -}}{{- $words = concat $words (list "--gate-tasks" (join "," .)) -}}{{- end -}}
{{- if $v.checkpointsInBucket -}}{{- $words = append $words "--checkpoints-in-bucket" -}}{{- end -}}
{{- with .Values.models.store -}}{{- $words = concat $words (list "--model-store" .) -}}{{- end -}}
{{- if gt (int .Values.models.keep) 0 -}}{{- $words = concat $words (list "--keep-versions" (toString .Values.models.keep)) -}}{{- end -}}
{{- with include "thumbwheel.tlsSettings" . | fromYaml -}}{{- $words = concat $words (list "--tls" .tls_certificate .tls_key .tls_authority) -}}{{- end -}}
{{- concat $words $v.extraArgs | toJson -}}
{{- end -}}

{{/* Arguments for the model server that samples, as JSON. */}}
{{- define "thumbwheel.rolloutWords" -}}
{{- $words := list -}}{{- $v := .Values.training.rollouts -}}
{{- if $v.engine -}}
  {{- $fields := dict "engine" $v.engine "dtype" ($v.dtype | default (ternary "bfloat16" "float32" (eq $v.engine "vllm"))) -}}
  {{- if eq $v.engine "vllm" -}}
    {{- $fields = merge $fields (dict "python" $v.python "kv_gigabytes" $v.kvGigabytes) -}}
    {{- with $v.arguments -}}{{- $_ := set $fields "arguments" (join "," .) -}}{{- end -}}
  {{- end -}}
  {{- range $name, $value := $fields -}}{{- $words = concat $words (list "--set" (printf "ppo.rollout_server.%s=%s" $name (toString $value))) -}}{{- end -}}
  {{- if ne (toString $v.importanceCap) "" -}}{{- $words = concat $words (list "--set" (printf "ppo.importance_cap=%s" (toString $v.importanceCap))) -}}{{- end -}}
{{- end -}}
{{- $words | toJson -}}
{{- end -}}

{{/* Endpoint and credentials of the bucket. Given to the pod of the loop, and to Ray workers only
     if checkpoints are in the bucket; otherwise workers connect only to each other. */}}
{{- define "thumbwheel.trainingEnvironment" -}}
{{- include "thumbwheel.bucketEnvironment" . }}
{{- include "thumbwheel.trustEnvironment" . }}
{{- if .Values.training.benchmarks.items.existingClaim }}
- {name: THUMBWHEEL_CACHE, value: /items}
{{- end }}
{{- end -}}

{{/* Address and credentials of the bucket, for the code of training. */}}
{{- define "thumbwheel.bucketEnvironment" -}}
{{- $store := (include "thumbwheel.stores" . | fromYaml).objectStore -}}
{{- range $name, $value := dict "endpoint" $store.endpoint "bucket" $store.bucket "secure" $store.secure "region" $store.region "credentials" (ternary "chain" "" (eq $store.credentials "chain")) }}
{{- if ne (toString $value) "" }}
- {name: TW_TRAINING_S3_{{ upper $name }}, value: {{ toString $value | quote }}}
{{- end }}
{{- end }}
{{- include "thumbwheel.bucketKeys" (list "TW_TRAINING_" $store) }}
{{- end -}}

{{/* Security of the pod of the loop, with the fields of `training.securityContext`. */}}
{{- define "thumbwheel.loopSecurity" -}}
{{- $changed := dict "securityContext" .Values.training.securityContext -}}
{{- mustMergeOverwrite (include "thumbwheel.podSecurity" . | fromYaml) $changed | toYaml -}}
{{- end -}}

{{/* Egress rule to the bucket. */}}
{{- define "thumbwheel.toBucket" -}}
{{- if .Values.evaluation.enabled -}}
- ports: [{port: {{ (include "thumbwheel.evaluationStores" . | fromYaml).s3.port }}, protocol: TCP}]
  to:
    - podSelector:
        matchLabels: {{- include "thumbwheel.selector" (list . "s3") | nindent 10 }}
{{- else -}}
{{- include "thumbwheel.outside" (list . (include "thumbwheel.bucketPorts" .)) }}
{{- end -}}
{{- end -}}

{{/* Volumes and mounts. Arguments: list of root and loop, worker or submitter. The submitter mounts
     no claim, and only the loop calls services. */}}
{{- define "thumbwheel.trainingMounts" -}}
{{- $root := index . 0 -}}
- {name: tmp, mountPath: /tmp}
{{- if ne (index . 1) "submitter" }}
- {name: models, mountPath: /models}
- {name: loop, mountPath: /loop}
{{- with $root.Values.training.rollouts }}
{{- if .environment.existingClaim }}
- {name: rollout-environment, mountPath: /opt/vllm, readOnly: true{{ with .environment.subPath }}, subPath: {{ . | quote }}{{ end }}}
{{- end }}
{{- end }}
{{- end }}
{{- if eq (index . 1) "loop" }}
{{- if $root.Values.training.benchmarks.items.existingClaim }}
- {name: benchmark-items, mountPath: /items/data, readOnly: true}
{{- end }}
{{- include "thumbwheel.tlsMount" $root }}
{{- include "thumbwheel.identityMounts" (list $root "training" false) }}
{{- if include "thumbwheel.sharesMemory" $root }}
- {name: shared-memory, mountPath: /dev/shm}
{{- end }}
{{- end }}
{{- include "thumbwheel.extraMounts" (list $root $root.Values.training) }}
{{- end -}}

{{- define "thumbwheel.trainingVolumes" -}}
{{- $root := index . 0 -}}
- {name: tmp, emptyDir: {sizeLimit: {{ $root.Values.tmpSizes.training }}}}
{{- if ne (index . 1) "submitter" }}
- {name: models, persistentVolumeClaim: {claimName: {{ include "thumbwheel.modelsClaim" $root }}}}
- {name: loop, persistentVolumeClaim: {claimName: {{ include "thumbwheel.loopClaim" $root }}}}
{{- with $root.Values.training.rollouts.environment.existingClaim }}
- {name: rollout-environment, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
{{- end }}
{{- end }}
{{- if eq (index . 1) "loop" }}
{{- with $root.Values.training.benchmarks.items.existingClaim }}
- {name: benchmark-items, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
{{- end }}
{{- include "thumbwheel.tlsVolume" (list $root "training") }}
{{- include "thumbwheel.identityVolumes" (list $root "training" false) }}
{{- if include "thumbwheel.sharesMemory" $root }}
- {name: shared-memory, emptyDir: {medium: Memory, sizeLimit: 1Gi}}
{{- end }}
{{- end }}
{{- include "thumbwheel.extraVolumes" (list $root $root.Values.training) }}
{{- end -}}

{{/* Fields common to all CronJobs. Argument: values of training or corpus. */}}
{{- define "thumbwheel.schedule" -}}
schedule: {{ .schedule | quote }}
{{- with .timeZone }}
timeZone: {{ . }}
{{- end }}
suspend: {{ .suspend }}
concurrencyPolicy: Forbid
startingDeadlineSeconds: {{ .startingDeadlineSeconds | int64 }}
successfulJobsHistoryLimit: {{ .history.succeeded }}
failedJobsHistoryLimit: {{ .history.failed }}
{{- end -}}

{{/* Resources and placement of the pod of a run with ray.mode job or local: those of `training`, and
     with job the GPUs and the placement of the workers, which run in this pod. */}}
{{- define "thumbwheel.runValues" -}}
{{- $run := deepCopy .Values.training -}}{{- $workers := .Values.ray.workers -}}
{{- if eq (include "thumbwheel.rayMode" .) "job" -}}
  {{- $_ := set $run "nodeSelector" (merge (deepCopy $run.nodeSelector) $workers.nodeSelector) -}}
  {{- $_ := set $run "tolerations" (concat $run.tolerations $workers.tolerations | uniq) -}}
  {{- if gt (int $workers.gpus) 0 -}}
    {{- $all := mul $workers.gpus $workers.replicas -}}
    {{- $_ := set $run "resources" (mustMergeOverwrite $run.resources (dict "limits" (dict $workers.gpuResource $all))) -}}
  {{- end -}}
{{- end -}}
{{- pick $run "resources" "nodeSelector" "tolerations" "affinity" "priorityClassName" | toYaml -}}
{{- end -}}

{{/* Workers with GPUs in one pod exchange gradients through /dev/shm, and the processes of vLLM their
     messages; it is 64 MiB by default. KubeRay mounts its own into the pods of Ray. */}}
{{- define "thumbwheel.sharesMemory" -}}
{{- $mode := include "thumbwheel.rayMode" . -}}
{{- if and (eq $mode "job") (gt (int .Values.ray.workers.gpus) 0) -}}true
{{- else if and (ne $mode "kuberay") (eq .Values.training.rollouts.engine "vllm") -}}true
{{- end -}}
{{- end -}}

{{- define "thumbwheel.queueLabel" -}}
{{- with .Values.ray.queueName }}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end }}
{{- end -}}

{{- define "thumbwheel.validateTraining" -}}
{{- /* External serving has no training. */ -}}
{{- if and .Values.training.enabled (not (include "thumbwheel.external" .)) -}}
{{- $v := .Values -}}{{- $workers := .Values.ray.workers -}}{{- $gpus := int $workers.gpus -}}{{- $mode := include "thumbwheel.rayMode" . -}}
{{- $recipe := include "thumbwheel.recipe" . -}}
{{- range list "nano" "small" -}}
  {{- if and (ne . $recipe) (regexMatch (printf "^%s-[0-9]+$" .) $v.models.initial) -}}{{ println (printf "training.recipe: %s cannot train a model of %s, and models.initial is %s; set %s" $recipe . $v.models.initial .) }}{{- end -}}
{{- end -}}
{{- include "thumbwheel.validateRollouts" . -}}
{{- $items := $v.training.benchmarks.items.existingClaim -}}
{{- if and $items (has $items (list (include "thumbwheel.modelsClaim" .) (include "thumbwheel.loopClaim" .))) -}}{{ println (printf "training.benchmarks.items.existingClaim: %s is also the claim of models or of the loop, and kubelet mounts a claim once in a pod" $items) }}{{- end -}}
{{- if ne $mode "kuberay" -}}
{{- range $name, $given := dict "ray.workers.minReplicas" $workers.minReplicas "ray.rolloutActors" $v.ray.rolloutActors "ray.autoscaling.enabled" $v.ray.autoscaling.enabled -}}
  {{- if $given -}}{{ println (printf "%s: needs ray.mode kuberay" $name) }}{{- end -}}
{{- end -}}
{{- else -}}
{{- if gt (int $workers.minReplicas) (int $workers.replicas) -}}{{ println "ray.workers.minReplicas: is above ray.workers.replicas" }}{{- end -}}
{{- if and (gt (int $workers.minReplicas) 0) (gt (int $v.ray.rolloutActors) 0) -}}{{ println "ray.rolloutActors: not allowed with ray.workers.minReplicas, because Ray would wait for the pods of the actors" }}{{- end -}}
{{- if and (gt $gpus 0) (gt (int $v.ray.rolloutActors) 0) -}}{{ println "ray.rolloutActors: not allowed with ray.workers.gpus, because an actor samples on CPUs and would occupy a pod with GPUs" }}{{- end -}}
{{- if and $v.ray.autoscaling.enabled (gt (int $v.ray.autoscaling.minReplicas) (int (include "thumbwheel.rayPods" .))) -}}{{ println "ray.autoscaling.minReplicas: is above ray.workers.replicas and ray.rolloutActors together" }}{{- end -}}
{{- if and $v.ray.autoscaling.enabled $v.ray.queueName -}}{{ println "ray.autoscaling.enabled: Kueue (ray.queueName) admits a complete run; set only one of the two" }}{{- end -}}
{{- end -}}
{{- if eq $v.ray.mode "kuberay" -}}{{ include "thumbwheel.needs" (list . "ray.io/v1/RayJob" "ray.mode: kuberay, but the cluster has no RayJob of ray.io/v1 (KubeRay operator)") }}{{- end -}}
{{- if and (eq $recipe "auto") (eq $mode "kuberay") (gt $gpus 0) (not $v.training.hardware.accelerator) -}}{{ println "training.hardware.accelerator: recipe auto plans by the GPU of the workers, which the pod of the loop does not see; name it, such as h100" }}{{- end -}}
{{- if and (gt $gpus 0) (eq $mode "local") -}}{{ println "ray.workers.gpus: GPUs need ray.mode kuberay or job; local trains without Ray on CPUs" }}
{{- else if and (gt $gpus 0) (not (or $workers.nodeSelector $workers.tolerations)) -}}{{ println "ray.workers.gpus: select GPU nodes with ray.workers.nodeSelector or ray.workers.tolerations" }}{{- end -}}
{{- range $kind, $amounts := omit $workers.resources "claims" -}}
  {{- range $name := keys (default dict $amounts) -}}
    {{- if contains "gpu" (lower $name) -}}{{ println (printf "ray.workers.resources.%s: set %s with ray.workers.gpus and ray.workers.gpuResource" $kind $name) }}{{- end -}}
  {{- end -}}
{{- end -}}
{{- if and (ne (toString $v.training.canary.seconds) "") (ge (float64 $v.training.canary.seconds) (float64 $v.training.deadlineSeconds)) -}}{{ println "training.canary.seconds: must be below training.deadlineSeconds, which ends the run" }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Reject model servers that the trainer cannot use for rollouts. */}}
{{- define "thumbwheel.validateRollouts" -}}
{{- $v := .Values.training.rollouts -}}{{- $ray := .Values.ray -}}
{{- if and $v.environment.existingClaim (ne $v.engine "vllm") -}}{{ println "training.rollouts.environment.existingClaim: only training.rollouts.engine vllm uses it" }}{{- end -}}
{{- if $v.engine -}}
{{- $types := dict "vllm" (list "bfloat16" "float16" "float32") "predictor" (list "float32" "uint8") -}}
{{- if and $v.dtype (not (has $v.dtype (index $types $v.engine))) -}}{{ println (printf "training.rollouts.dtype: %s is not a type of %s; set one of %s" $v.dtype $v.engine (index $types $v.engine | join ", ")) }}{{- end -}}
{{- if and (eq (include "thumbwheel.rayMode" .) "kuberay") (gt (int $ray.workers.replicas) 1) -}}{{ println (printf "training.rollouts.engine: the server of the first worker is on loopback, which the pods of the %d workers of ray.workers.replicas do not share; set replicas to 1, ray.mode to job, or engine to \"\"" (int $ray.workers.replicas)) }}{{- end -}}
{{- if and (eq (include "thumbwheel.rayMode" .) "kuberay") (gt (int $ray.rolloutActors) 0) -}}{{ println "training.rollouts.engine: not allowed with ray.rolloutActors, which sample instead" }}{{- end -}}
{{- end -}}
{{- end -}}
