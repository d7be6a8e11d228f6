{{/* Reject invalid combinations of values by name, all at once. values.schema.json checks single values. */}}
{{- define "thumbwheel.validate" -}}
{{- $errors := include "thumbwheel.errors" . | splitList "\n" | compact | uniq -}}
{{- if gt (len $errors) 1 -}}{{ fail (printf "%d errors:\n%s" (len $errors) (join "\n" $errors)) }}{{- end -}}
{{- range $errors -}}{{ fail . }}{{- end -}}
{{- end -}}

{{/* Errors of all values, one a line. Each template below prints its errors by `println` and goes on. An
     error that only follows from another is left out. */}}
{{- define "thumbwheel.errors" -}}
{{- $v := .Values -}}
{{- include "thumbwheel.validateTraining" . -}}
{{- include "thumbwheel.validateModels" . -}}
{{- include "thumbwheel.validateCorpus" . -}}
{{- include "thumbwheel.validateReviewDraw" . -}}
{{- include "thumbwheel.validateStores" . -}}
{{- if and $v.gitops (not $v.secrets.existing) -}}{{ println "secrets.existing: gitops generates no secrets; a secret with principal-key, master-key and valkey-secret is required" }}{{- end -}}
{{- if and $v.gitops (not $v.serving.existingSecret) (not (include "thumbwheel.external" .)) -}}{{ println "serving.existingSecret: gitops generates no secrets; a secret with model-server-key is required" }}{{- end -}}
{{- include "thumbwheel.validateSecrets" . -}}
{{- include "thumbwheel.validateTls" . -}}
{{- include "thumbwheel.validateKserve" . -}}
{{- include "thumbwheel.validateNodes" . -}}
{{- include "thumbwheel.validateServices" . -}}
{{- include "thumbwheel.validatePublic" . -}}
{{- include "thumbwheel.validateEgress" . -}}
{{- include "thumbwheel.validateBackup" . -}}
{{- if $v.monitoring.podMonitors.enabled -}}{{ include "thumbwheel.needs" (list . "monitoring.coreos.com/v1/PodMonitor" "monitoring.podMonitors.enabled: the cluster has no PodMonitor (Prometheus Operator)") }}{{- end -}}
{{- if $v.monitoring.rules.enabled -}}{{ include "thumbwheel.needs" (list . "monitoring.coreos.com/v1/PrometheusRule" "monitoring.rules.enabled: the cluster has no PrometheusRule (Prometheus Operator)") }}{{- end -}}
{{- include "thumbwheel.validateIdentity" . -}}
{{- include "thumbwheel.validateExternal" . -}}
{{- include "thumbwheel.validateGuardModel" . -}}
{{- end -}}

{{/* Reject stores that services cannot use. */}}
{{- define "thumbwheel.validateStores" -}}
{{- $v := .Values -}}{{- $kafka := $v.kafka -}}{{- $objects := $v.objectStore -}}
{{- $account := or $v.serviceAccount.bucket.name $v.serviceAccount.bucket.annotations -}}
{{- if $v.evaluation.enabled -}}{{ include "thumbwheel.validateEvaluation" . }}
{{- else -}}
{{- include "thumbwheel.validateDatabase" . -}}
{{- if $kafka.strimzi.enabled -}}{{ include "thumbwheel.validateStrimzi" . }}
{{- else -}}
  {{- if not $kafka.bootstrap -}}{{ println "kafka.bootstrap: host:port of the Kafka brokers is required" }}{{- end -}}
  {{- if and (hasPrefix "SASL" $kafka.securityProtocol) (not $kafka.existingSecret) -}}{{ println "kafka.existingSecret: kafka.securityProtocol needs a secret with username and password" }}
  {{- else if and $kafka.caKey (not (or $kafka.caSecret $kafka.existingSecret)) -}}{{ println "kafka.caSecret: kafka.caKey names a key of that secret, or of kafka.existingSecret" }}{{- end -}}
  {{- if and $kafka.existingSecret (eq $kafka.securityProtocol "PLAINTEXT") -}}{{ println "kafka.securityProtocol: PLAINTEXT does not use kafka.existingSecret; set SASL_SSL or remove the secret" }}{{- end -}}
{{- end -}}
{{- if not $objects.endpoint -}}{{ println "objectStore.endpoint: the endpoint of an S3 store is required" }}{{- end -}}
{{- if eq $objects.credentials "chain" -}}
  {{- if $objects.existingSecret -}}{{ println "objectStore.existingSecret: objectStore.credentials chain does not use it; remove one of the two" }}{{- end -}}
{{- else if not (or $objects.existingSecret $account) -}}{{ println "objectStore.existingSecret: a secret with an access key and its secret key is required; or set objectStore.credentials to chain" }}{{- end -}}
{{- end -}}
{{- if and $account (ne $objects.credentials "chain") -}}{{ println "serviceAccount.bucket: only objectStore.credentials chain uses it; set that, or remove the value" }}{{- end -}}
{{- if gt (int $kafka.topics.minInsyncReplicas) (int $kafka.topics.replicationFactor) -}}{{ println "kafka.topics.minInsyncReplicas: is above kafka.topics.replicationFactor" }}{{- end -}}
{{- end -}}

{{/* Reject replicas, autoscalers and settings of services. An error in serviceDefaults is one error. */}}
{{- define "thumbwheel.validateServices" -}}
{{- $common := include "thumbwheel.serviceErrors" .Values.serviceDefaults | splitList "\n" | compact -}}
{{- $valkey := (include "thumbwheel.stores" . | fromYaml).valkey.existingSecret -}}{{- $scaled := list -}}
{{- range $name, $_ := .Values.services -}}
  {{- $values := include "thumbwheel.values" (list $ $name) | fromYaml -}}{{- $scaler := include "thumbwheel.scaler" $values -}}
  {{- range include "thumbwheel.serviceErrors" $values | splitList "\n" | compact -}}
    {{- has . $common | ternary "serviceDefaults" (printf "services.%s" $name) -}}.{{- println . -}}
  {{- end -}}
  {{- if and (eq $name "feedback") $scaler -}}{{ println (printf "services.feedback.%s: each replica has its own spool volume; set replicas instead" $scaler) }}
  {{- else if eq $scaler "keda" -}}{{- $scaled = append $scaled $name -}}{{- end -}}
  {{- if and (eq $name "gateway") (gt (int (include "thumbwheel.most" $values)) 1) (not $valkey) -}}{{ println "valkey.existingSecret: several gateway replicas need Valkey for quotas and resuming; otherwise set services.gateway.replicas to 1" }}{{- end -}}
{{- end -}}
{{- with first $scaled -}}{{ include "thumbwheel.needs" (list $ "keda.sh/v1alpha1/ScaledObject" (printf "services.%s.keda.enabled: the cluster has no ScaledObject (KEDA)" .)) }}{{- end -}}
{{- end -}}

{{/* Errors of one service, each below the path of its values. Argument: values of a service. */}}
{{- define "thumbwheel.serviceErrors" -}}
{{- range list "lame_duck_seconds" "drain_seconds" "http_drain_seconds" "connection_age_seconds" -}}
  {{- if hasKey (default dict $.settings) . -}}{{ println (printf "settings.%s: the grace period of a pod is derived from `shutdown`; set that instead" .) }}{{- end -}}
{{- end -}}
{{- with include "thumbwheel.scaler" . -}}
  {{- if gt (int (include "thumbwheel.least" $)) (int (include "thumbwheel.most" $)) -}}{{ println (printf "%s: minReplicas is above maxReplicas" .) }}{{- end -}}
{{- end -}}
{{- if and .autoscaling.enabled .keda.enabled -}}{{ println "keda.enabled: autoscaling.enabled is set as well; enable only one of them" }}
{{- else if and .keda.enabled (not .keda.triggers) -}}{{ println "keda.triggers: KEDA needs at least one trigger" }}{{- end -}}
{{- end -}}

{{/* Reject a corpus without settings or volumes. */}}
{{- define "thumbwheel.validateCorpus" -}}
{{- $corpus := .Values.corpus -}}
{{- if $corpus.enabled -}}
{{- if not $corpus.config -}}{{ println "corpus.config: the settings of the build are required, as the text of a TOML file" }}{{- end -}}
{{- range list "input" "output" -}}
  {{- if not (index $corpus .).existingClaim -}}{{ println (printf "corpus.%s.existingClaim: the name of a PersistentVolumeClaim is required" .) }}{{- end -}}
{{- end -}}
{{- if and $corpus.input.existingClaim (eq $corpus.input.existingClaim $corpus.output.existingClaim) (eq $corpus.input.subPath $corpus.output.subPath) -}}{{ println "corpus.output.subPath: equals corpus.input.subPath on the same claim; a build accepts no folder with other files" }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Reject external brokers together with Strimzi. */}}
{{- define "thumbwheel.validateStrimzi" -}}
{{- $kafka := .Values.kafka -}}
{{- range $name := list "bootstrap" "existingSecret" "username" "caKey" "caSecret" -}}
  {{- if index $kafka $name -}}{{ println (printf "kafka.%s: kafka.strimzi.enabled creates its own brokers; set only one of the two" $name) }}{{- end -}}
{{- end -}}
{{- if ne $kafka.securityProtocol "PLAINTEXT" -}}{{ println "kafka.securityProtocol: kafka.strimzi.enabled sets the protocol; remove the value" }}{{- end -}}
{{- if gt (int $kafka.topics.replicationFactor) (int $kafka.strimzi.brokers) -}}{{ println "kafka.topics.replicationFactor: is above kafka.strimzi.brokers" }}{{- end -}}
{{- include "thumbwheel.needs" (list . "kafka.strimzi.io/v1/Kafka" "kafka.strimzi.enabled: the cluster has no kafka.strimzi.io/v1 (Strimzi 1.0 or newer)") -}}
{{- end -}}

{{/* Reject values for which the cluster lacks the API of an operator. Arguments: list of root, API and message. */}}
{{- define "thumbwheel.needs" -}}
{{- $root := index . 0 -}}
{{- if not (or $root.Values.gitops ($root.Capabilities.APIVersions.Has (index . 1))) -}}{{ println (printf "%s; helm template has no cluster: pass --api-versions %s or set gitops: true" (index . 2) (index . 1)) }}{{- end -}}
{{- end -}}

{{/* Reject external stores together with evaluation stores, instead of ignoring one of them. */}}
{{- define "thumbwheel.validateEvaluation" -}}
{{- $v := .Values -}}
{{- range $name, $given := dict "database.existingSecret" $v.database.existingSecret "database.host" $v.database.host "database.services" $v.database.services "database.caSecret" $v.database.caSecret "kafka.bootstrap" $v.kafka.bootstrap "kafka.existingSecret" $v.kafka.existingSecret "kafka.caKey" $v.kafka.caKey "kafka.caSecret" $v.kafka.caSecret "objectStore.endpoint" $v.objectStore.endpoint "objectStore.existingSecret" $v.objectStore.existingSecret "valkey.existingSecret" $v.valkey.existingSecret -}}
  {{- if $given -}}{{ println (printf "%s: evaluation.enabled installs its own stores; set only one of the two" $name) }}{{- end -}}
{{- end -}}
{{- if ne $v.kafka.securityProtocol "PLAINTEXT" -}}{{ println "kafka.securityProtocol: the Kafka of evaluation.enabled uses PLAINTEXT" }}{{- end -}}
{{- if ne $v.objectStore.credentials "keys" -}}{{ println "objectStore.credentials: the S3 store of evaluation.enabled uses keys" }}{{- end -}}
{{- if $v.kafka.strimzi.enabled -}}{{ println "kafka.strimzi.enabled: evaluation.enabled installs its own Kafka; set only one of the two" }}{{- end -}}
{{- if $v.gitops -}}{{ println "evaluation.enabled: passwords are generated, which gitops does not allow" }}{{- end -}}
{{- end -}}
