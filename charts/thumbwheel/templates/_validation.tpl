{{/* Combinations that cannot work, each named by its value. What one value may be says values.schema.json. */}}
{{- define "thumbwheel.validate" -}}
{{- $v := .Values -}}
{{- include "thumbwheel.validateEvaluation" . -}}
{{- include "thumbwheel.validateTraining" . -}}
{{- $stores := include "thumbwheel.stores" . | fromYaml -}}
{{- if not $stores.database.existingSecret -}}{{ fail "database.existingSecret: a secret with the services' Postgres URLs is needed (or, for a look, evaluation.enabled: true, which brings all stores)" }}{{- end -}}
{{- if not $stores.kafka.bootstrap -}}{{ fail "kafka.bootstrap: host:port of Kafka's brokers is needed" }}{{- end -}}
{{- include "thumbwheel.validateStrimzi" . -}}
{{- if and (hasPrefix "SASL" $v.kafka.securityProtocol) (not $stores.kafka.existingSecret) -}}{{ fail "kafka.existingSecret: kafka.securityProtocol needs a secret with username and password" }}{{- end -}}
{{- if and $v.kafka.existingSecret (eq $v.kafka.securityProtocol "PLAINTEXT") (not $v.kafka.strimzi.enabled) -}}{{ fail "kafka.securityProtocol: PLAINTEXT uses nothing of kafka.existingSecret; say SASL_SSL, or leave the secret out" }}{{- end -}}
{{- if and $v.kafka.caKey (not (or $v.kafka.caSecret $v.kafka.existingSecret)) -}}{{ fail "kafka.caSecret: kafka.caKey names a key of that secret, or of kafka.existingSecret" }}{{- end -}}
{{- if not $stores.objectStore.endpoint -}}{{ fail "objectStore.endpoint: an S3 store is needed" }}{{- end -}}
{{- if not $stores.objectStore.existingSecret -}}{{ fail "objectStore.existingSecret: a secret with access-key and secret-key is needed" }}{{- end -}}
{{- if and $v.gitops (not $v.secrets.existing) -}}{{ fail "secrets.existing: with gitops nothing is generated, so a secret with principal-key, master-key and valkey-secret is needed" }}{{- end -}}
{{- include "thumbwheel.validateSecrets" . -}}
{{- include "thumbwheel.validateKserve" . -}}
{{- $gateway := include "thumbwheel.values" (list . "gateway") | fromYaml -}}
{{- if and (gt (int (include "thumbwheel.most" $gateway)) 1) (not $stores.valkey.existingSecret) -}}{{ fail "valkey.existingSecret: more than one gateway needs Valkey for quotas and resuming; or set services.gateway.replicas to 1" }}{{- end -}}
{{- range $name, $given := $v.services -}}
  {{- $values := include "thumbwheel.values" (list $ $name) | fromYaml -}}
  {{- range list "lame_duck_seconds" "drain_seconds" "http_drain_seconds" "connection_age_seconds" -}}
    {{- if hasKey $values.settings . -}}{{ fail (printf "services.%s.settings.%s: how long a pod takes to end is counted from `shutdown`; set that" $name .) }}{{- end -}}
  {{- end -}}
  {{- with include "thumbwheel.scaler" $values -}}
    {{- if gt (int (include "thumbwheel.least" $values)) (int (include "thumbwheel.most" $values)) -}}{{ fail (printf "services.%s.%s: minReplicas is above maxReplicas" $name .) }}{{- end -}}
    {{- if eq $name "feedback" -}}{{ fail (printf "services.feedback.%s: each replica has a spool of its own; set replicas" .) }}{{- end -}}
  {{- end -}}
  {{- if and $values.autoscaling.enabled $values.keda.enabled -}}{{ fail (printf "services.%s.keda.enabled: autoscaling.enabled is set too; only one of them may decide" $name) }}{{- end -}}
  {{- if and $values.keda.enabled (not $values.keda.triggers) -}}{{ fail (printf "services.%s.keda.triggers: KEDA scales by at least one" $name) }}{{- end -}}
  {{- if $values.keda.enabled -}}{{ include "thumbwheel.needs" (list $ "keda.sh/v1alpha1/ScaledObject" (printf "services.%s.keda.enabled: the cluster has no ScaledObject (KEDA)" $name)) }}{{- end -}}
{{- end -}}
{{- if and $v.door.ingress.enabled (not $v.door.ingress.host) -}}{{ fail "door.ingress.host: an ingress needs a host" }}{{- end -}}
{{- if and $v.door.gatewayApi.enabled (not $v.door.gatewayApi.gateway) -}}{{ fail "door.gatewayApi.gateway: the routes need a Gateway" }}{{- end -}}
{{- if $v.monitoring.podMonitors.enabled -}}{{ include "thumbwheel.needs" (list . "monitoring.coreos.com/v1/PodMonitor" "monitoring.podMonitors.enabled: the cluster has no PodMonitor (Prometheus Operator)") }}{{- end -}}
{{- if $v.monitoring.rules.enabled -}}{{ include "thumbwheel.needs" (list . "monitoring.coreos.com/v1/PrometheusRule" "monitoring.rules.enabled: the cluster has no PrometheusRule (Prometheus Operator)") }}{{- end -}}
{{- end -}}

{{/* Brokers that the chart makes, or those that are there: not both. */}}
{{- define "thumbwheel.validateStrimzi" -}}
{{- $kafka := .Values.kafka -}}
{{- if $kafka.strimzi.enabled -}}
{{- range $name := list "bootstrap" "existingSecret" "username" "caKey" "caSecret" -}}
  {{- if index $kafka $name -}}{{ fail (printf "kafka.%s: kafka.strimzi.enabled brings its own brokers; say one of the two" $name) }}{{- end -}}
{{- end -}}
{{- if ne $kafka.securityProtocol "PLAINTEXT" -}}{{ fail "kafka.securityProtocol: kafka.strimzi.enabled decides it; leave it out" }}{{- end -}}
{{- if gt (int $kafka.topics.replicationFactor) (int $kafka.strimzi.brokers) -}}{{ fail "kafka.topics.replicationFactor: is above kafka.strimzi.brokers" }}{{- end -}}
{{- if .Values.evaluation.enabled -}}{{ fail "kafka.strimzi.enabled: evaluation.enabled brings its own Kafka; say one of the two" }}{{- end -}}
{{- include "thumbwheel.needs" (list . "kafka.strimzi.io/v1/Kafka" "kafka.strimzi.enabled: the cluster has no kafka.strimzi.io/v1 (Strimzi 1.0 or newer)") -}}
{{- end -}}
{{- if gt (int $kafka.topics.minInsyncReplicas) (int $kafka.topics.replicationFactor) -}}{{ fail "kafka.topics.minInsyncReplicas: is above kafka.topics.replicationFactor" }}{{- end -}}
{{- end -}}

{{/* Fails where the cluster has not what an operator brings. Takes a list of root, API and what to say. */}}
{{- define "thumbwheel.needs" -}}
{{- $root := index . 0 -}}
{{- if not (or $root.Values.gitops ($root.Capabilities.APIVersions.Has (index . 1))) -}}{{ fail (printf "%s; helm template sees no cluster: say --api-versions, or gitops: true" (index . 2)) }}{{- end -}}
{{- end -}}

{{/* Two answers to where a store is: neither is silently dropped. */}}
{{- define "thumbwheel.validateEvaluation" -}}
{{- if .Values.evaluation.enabled -}}
{{- $v := .Values -}}
{{- range $name, $given := dict "database.existingSecret" $v.database.existingSecret "kafka.bootstrap" $v.kafka.bootstrap "kafka.existingSecret" $v.kafka.existingSecret "kafka.caKey" $v.kafka.caKey "kafka.caSecret" $v.kafka.caSecret "objectStore.endpoint" $v.objectStore.endpoint "objectStore.existingSecret" $v.objectStore.existingSecret "valkey.existingSecret" $v.valkey.existingSecret -}}
  {{- if $given -}}{{ fail (printf "%s: evaluation.enabled brings its own stores; say one of the two" $name) }}{{- end -}}
{{- end -}}
{{- if ne $v.kafka.securityProtocol "PLAINTEXT" -}}{{ fail "kafka.securityProtocol: the Kafka of evaluation.enabled speaks PLAINTEXT" }}{{- end -}}
{{- if $v.gitops -}}{{ fail "evaluation.enabled: its passwords are generated, and with gitops nothing is" }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Pods begin anew when the secret that the chart was given is another one. */}}
{{- define "thumbwheel.keysChecksum" -}}
{{- $stores := include "thumbwheel.stores" . | fromYaml -}}
{{- list .Values.secrets.existing $stores.database.existingSecret $stores.valkey.existingSecret $stores.kafka.existingSecret $stores.objectStore.existingSecret | toJson | sha256sum | trunc 16 -}}
{{- end -}}
