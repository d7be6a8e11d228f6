{{/* Reject invalid combinations of values by name. values.schema.json checks single values. */}}
{{- define "thumbwheel.validate" -}}
{{- $v := .Values -}}
{{- include "thumbwheel.validateEvaluation" . -}}
{{- include "thumbwheel.validateTraining" . -}}
{{- include "thumbwheel.validateModels" . -}}
{{- include "thumbwheel.validateCorpus" . -}}
{{- include "thumbwheel.validateReviewDraw" . -}}
{{- $stores := include "thumbwheel.stores" . | fromYaml -}}
{{- if not $v.evaluation.enabled -}}{{- include "thumbwheel.validateDatabase" . -}}{{- end -}}
{{- if not $stores.kafka.bootstrap -}}{{ fail "kafka.bootstrap: host:port of the Kafka brokers is required" }}{{- end -}}
{{- include "thumbwheel.validateStrimzi" . -}}
{{- if and (hasPrefix "SASL" $v.kafka.securityProtocol) (not $stores.kafka.existingSecret) -}}{{ fail "kafka.existingSecret: kafka.securityProtocol needs a secret with username and password" }}{{- end -}}
{{- if and $v.kafka.existingSecret (eq $v.kafka.securityProtocol "PLAINTEXT") (not $v.kafka.strimzi.enabled) -}}{{ fail "kafka.securityProtocol: PLAINTEXT does not use kafka.existingSecret; set SASL_SSL or remove the secret" }}{{- end -}}
{{- if and $v.kafka.caKey (not (or $v.kafka.caSecret $v.kafka.existingSecret)) -}}{{ fail "kafka.caSecret: kafka.caKey names a key of that secret, or of kafka.existingSecret" }}{{- end -}}
{{- if not $stores.objectStore.endpoint -}}{{ fail "objectStore.endpoint: the endpoint of an S3 store is required" }}{{- end -}}
{{- if eq $stores.objectStore.credentials "chain" -}}
  {{- if $v.objectStore.existingSecret -}}{{ fail "objectStore.existingSecret: objectStore.credentials chain does not use it; remove one of the two" }}{{- end -}}
{{- else if or $v.serviceAccount.bucket.name $v.serviceAccount.bucket.annotations -}}{{ fail "serviceAccount.bucket: only objectStore.credentials chain uses it; set that, or remove the value" }}
{{- else if not $stores.objectStore.existingSecret -}}{{ fail "objectStore.existingSecret: a secret with an access key and its secret key is required; or set objectStore.credentials to chain" }}{{- end -}}
{{- if and $v.gitops (not $v.secrets.existing) -}}{{ fail "secrets.existing: gitops generates no secrets; a secret with principal-key, master-key and valkey-secret is required" }}{{- end -}}
{{- if and $v.gitops (not $v.serving.existingSecret) (not (include "thumbwheel.external" .)) -}}{{ fail "serving.existingSecret: gitops generates no secrets; a secret with model-server-key is required" }}{{- end -}}
{{- include "thumbwheel.validateSecrets" . -}}
{{- include "thumbwheel.validateTls" . -}}
{{- include "thumbwheel.validateKserve" . -}}
{{- include "thumbwheel.validateNodes" . -}}
{{- $gateway := include "thumbwheel.values" (list . "gateway") | fromYaml -}}
{{- if and (gt (int (include "thumbwheel.most" $gateway)) 1) (not $stores.valkey.existingSecret) -}}{{ fail "valkey.existingSecret: several gateway replicas need Valkey for quotas and resuming; otherwise set services.gateway.replicas to 1" }}{{- end -}}
{{- range $name, $given := $v.services -}}
  {{- $values := include "thumbwheel.values" (list $ $name) | fromYaml -}}
  {{- range list "lame_duck_seconds" "drain_seconds" "http_drain_seconds" "connection_age_seconds" -}}
    {{- if hasKey $values.settings . -}}{{ fail (printf "services.%s.settings.%s: the grace period of a pod is derived from `shutdown`; set that instead" $name .) }}{{- end -}}
  {{- end -}}
  {{- with include "thumbwheel.scaler" $values -}}
    {{- if gt (int (include "thumbwheel.least" $values)) (int (include "thumbwheel.most" $values)) -}}{{ fail (printf "services.%s.%s: minReplicas is above maxReplicas" $name .) }}{{- end -}}
    {{- if eq $name "feedback" -}}{{ fail (printf "services.feedback.%s: each replica has its own spool volume; set replicas instead" .) }}{{- end -}}
  {{- end -}}
  {{- if and $values.autoscaling.enabled $values.keda.enabled -}}{{ fail (printf "services.%s.keda.enabled: autoscaling.enabled is set as well; enable only one of them" $name) }}{{- end -}}
  {{- if and $values.keda.enabled (not $values.keda.triggers) -}}{{ fail (printf "services.%s.keda.triggers: KEDA needs at least one trigger" $name) }}{{- end -}}
  {{- if $values.keda.enabled -}}{{ include "thumbwheel.needs" (list $ "keda.sh/v1alpha1/ScaledObject" (printf "services.%s.keda.enabled: the cluster has no ScaledObject (KEDA)" $name)) }}{{- end -}}
{{- end -}}
{{- include "thumbwheel.validatePublic" . -}}
{{- include "thumbwheel.validateEgress" . -}}
{{- include "thumbwheel.validateBackup" . -}}
{{- if $v.monitoring.podMonitors.enabled -}}{{ include "thumbwheel.needs" (list . "monitoring.coreos.com/v1/PodMonitor" "monitoring.podMonitors.enabled: the cluster has no PodMonitor (Prometheus Operator)") }}{{- end -}}
{{- if $v.monitoring.rules.enabled -}}{{ include "thumbwheel.needs" (list . "monitoring.coreos.com/v1/PrometheusRule" "monitoring.rules.enabled: the cluster has no PrometheusRule (Prometheus Operator)") }}{{- end -}}
{{- include "thumbwheel.validateIdentity" . -}}
{{- include "thumbwheel.validateExternal" . -}}
{{- end -}}

{{/* Reject a corpus without settings or volumes. */}}
{{- define "thumbwheel.validateCorpus" -}}
{{- $corpus := .Values.corpus -}}
{{- if $corpus.enabled -}}
{{- if not $corpus.config -}}{{ fail "corpus.config: the settings of the build are required, as the text of a TOML file" }}{{- end -}}
{{- range list "input" "output" -}}
  {{- if not (index $corpus .).existingClaim -}}{{ fail (printf "corpus.%s.existingClaim: the name of a PersistentVolumeClaim is required" .) }}{{- end -}}
{{- end -}}
{{- if and (eq $corpus.input.existingClaim $corpus.output.existingClaim) (eq $corpus.input.subPath $corpus.output.subPath) -}}{{ fail "corpus.output.subPath: equals corpus.input.subPath on the same claim; a build accepts no folder with other files" }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Reject external brokers together with Strimzi. */}}
{{- define "thumbwheel.validateStrimzi" -}}
{{- $kafka := .Values.kafka -}}
{{- if $kafka.strimzi.enabled -}}
{{- range $name := list "bootstrap" "existingSecret" "username" "caKey" "caSecret" -}}
  {{- if index $kafka $name -}}{{ fail (printf "kafka.%s: kafka.strimzi.enabled creates its own brokers; set only one of the two" $name) }}{{- end -}}
{{- end -}}
{{- if ne $kafka.securityProtocol "PLAINTEXT" -}}{{ fail "kafka.securityProtocol: kafka.strimzi.enabled sets the protocol; remove the value" }}{{- end -}}
{{- if gt (int $kafka.topics.replicationFactor) (int $kafka.strimzi.brokers) -}}{{ fail "kafka.topics.replicationFactor: is above kafka.strimzi.brokers" }}{{- end -}}
{{- if .Values.evaluation.enabled -}}{{ fail "kafka.strimzi.enabled: evaluation.enabled installs its own Kafka; set only one of the two" }}{{- end -}}
{{- include "thumbwheel.needs" (list . "kafka.strimzi.io/v1/Kafka" "kafka.strimzi.enabled: the cluster has no kafka.strimzi.io/v1 (Strimzi 1.0 or newer)") -}}
{{- end -}}
{{- if gt (int $kafka.topics.minInsyncReplicas) (int $kafka.topics.replicationFactor) -}}{{ fail "kafka.topics.minInsyncReplicas: is above kafka.topics.replicationFactor" }}{{- end -}}
{{- end -}}

{{/* Fail if the cluster lacks the API of an operator. Arguments: list of root, API and message. */}}
{{- define "thumbwheel.needs" -}}
{{- $root := index . 0 -}}
{{- if not (or $root.Values.gitops ($root.Capabilities.APIVersions.Has (index . 1))) -}}{{ fail (printf "%s; helm template has no cluster: pass --api-versions %s or set gitops: true" (index . 2) (index . 1)) }}{{- end -}}
{{- end -}}

{{/* Reject external stores together with evaluation stores, instead of ignoring one of them. */}}
{{- define "thumbwheel.validateEvaluation" -}}
{{- if .Values.evaluation.enabled -}}
{{- $v := .Values -}}
{{- range $name, $given := dict "database.existingSecret" $v.database.existingSecret "database.host" $v.database.host "database.services" $v.database.services "database.caSecret" $v.database.caSecret "kafka.bootstrap" $v.kafka.bootstrap "kafka.existingSecret" $v.kafka.existingSecret "kafka.caKey" $v.kafka.caKey "kafka.caSecret" $v.kafka.caSecret "objectStore.endpoint" $v.objectStore.endpoint "objectStore.existingSecret" $v.objectStore.existingSecret "valkey.existingSecret" $v.valkey.existingSecret -}}
  {{- if $given -}}{{ fail (printf "%s: evaluation.enabled installs its own stores; set only one of the two" $name) }}{{- end -}}
{{- end -}}
{{- if ne $v.kafka.securityProtocol "PLAINTEXT" -}}{{ fail "kafka.securityProtocol: the Kafka of evaluation.enabled uses PLAINTEXT" }}{{- end -}}
{{- if ne $v.objectStore.credentials "keys" -}}{{ fail "objectStore.credentials: the S3 store of evaluation.enabled uses keys" }}{{- end -}}
{{- if $v.gitops -}}{{ fail "evaluation.enabled: passwords are generated, which gitops does not allow" }}{{- end -}}
{{- end -}}
{{- end -}}
