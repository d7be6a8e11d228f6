{{/* Combinations that cannot work, each named by its value. What one value may be says values.schema.json. */}}
{{- define "thumbwheel.validate" -}}
{{- $v := .Values -}}
{{- include "thumbwheel.validateEvaluation" . -}}
{{- $stores := include "thumbwheel.stores" . | fromYaml -}}
{{- if not $stores.database.existingSecret -}}{{ fail "database.existingSecret: a secret with the services' Postgres URLs is needed" }}{{- end -}}
{{- if not $stores.kafka.bootstrap -}}{{ fail "kafka.bootstrap: host:port of Kafka's brokers is needed" }}{{- end -}}
{{- if and (hasPrefix "SASL" $v.kafka.securityProtocol) (not $v.kafka.existingSecret) -}}{{ fail "kafka.existingSecret: kafka.securityProtocol needs a secret with username and password" }}{{- end -}}
{{- if and $v.kafka.caKey (not $v.kafka.existingSecret) -}}{{ fail "kafka.existingSecret: kafka.caKey names a key of that secret" }}{{- end -}}
{{- if not $stores.objectStore.endpoint -}}{{ fail "objectStore.endpoint: an S3 store is needed" }}{{- end -}}
{{- if not $stores.objectStore.existingSecret -}}{{ fail "objectStore.existingSecret: a secret with access-key and secret-key is needed" }}{{- end -}}
{{- if and $v.gitops (not $v.secrets.existing) -}}{{ fail "secrets.existing: with gitops nothing is generated, so a secret with principal-key, master-key and valkey-secret is needed" }}{{- end -}}
{{- include "thumbwheel.validateKserve" . -}}
{{- $gateway := include "thumbwheel.values" (list . "gateway") | fromYaml -}}
{{- $most := $gateway.autoscaling.enabled | ternary $gateway.autoscaling.maxReplicas $gateway.replicas -}}
{{- if and (gt (int $most) 1) (not $stores.valkey.existingSecret) -}}{{ fail "valkey.existingSecret: more than one gateway needs Valkey for quotas and resuming; or set services.gateway.replicas to 1" }}{{- end -}}
{{- range $name, $given := $v.services -}}
  {{- $values := include "thumbwheel.values" (list $ $name) | fromYaml -}}
  {{- if and $values.autoscaling.enabled (gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}{{ fail (printf "services.%s.autoscaling: minReplicas is above maxReplicas" $name) }}{{- end -}}
  {{- if and $values.autoscaling.enabled (eq $name "feedback") -}}{{ fail "services.feedback.autoscaling: each replica has a spool of its own; set replicas" }}{{- end -}}
{{- end -}}
{{- if and $v.door.ingress.enabled (not $v.door.ingress.host) -}}{{ fail "door.ingress.host: an ingress needs a host" }}{{- end -}}
{{- if and $v.door.gatewayApi.enabled (not $v.door.gatewayApi.gateway) -}}{{ fail "door.gatewayApi.gateway: the routes need a Gateway" }}{{- end -}}
{{- if and $v.monitoring.podMonitors.enabled (not (or $v.gitops (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PodMonitor"))) -}}{{ fail "monitoring.podMonitors.enabled: the cluster has no PodMonitor (Prometheus Operator)" }}{{- end -}}
{{- if and $v.monitoring.rules.enabled (not (or $v.gitops (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PrometheusRule"))) -}}{{ fail "monitoring.rules.enabled: the cluster has no PrometheusRule (Prometheus Operator)" }}{{- end -}}
{{- end -}}

{{/* Two answers to where a store is: neither is silently dropped. */}}
{{- define "thumbwheel.validateEvaluation" -}}
{{- if .Values.evaluation.enabled -}}
{{- $v := .Values -}}
{{- range $name, $given := dict "database.existingSecret" $v.database.existingSecret "kafka.bootstrap" $v.kafka.bootstrap "kafka.existingSecret" $v.kafka.existingSecret "kafka.caKey" $v.kafka.caKey "objectStore.endpoint" $v.objectStore.endpoint "objectStore.existingSecret" $v.objectStore.existingSecret "valkey.existingSecret" $v.valkey.existingSecret -}}
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
