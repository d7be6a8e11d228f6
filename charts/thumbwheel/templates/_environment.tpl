{{/* Environment variables of one service: facts of the chart, then values. Arguments: list of
     root, name and facts. */}}
{{- define "thumbwheel.environment" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}{{- $facts := index . 2 -}}{{- $values := index . 3 -}}
{{- $prefix := printf "TW_%s_" (upper $name) -}}
{{- $settings := dict
      "host" "0.0.0.0" "port" $facts.port "metrics_port" (include "thumbwheel.metricsPort" $facts.port)
      "log_format" "json" "lame_duck_seconds" 1 "drain_seconds" $root.Values.shutdown.drainSeconds
      "otlp_endpoint" $root.Values.monitoring.otlpEndpoint -}}
{{- $_ := mustMergeOverwrite $settings (include "thumbwheel.tlsSettings" $root | fromYaml) -}}
{{- $_ := mustMergeOverwrite $settings (include "thumbwheel.identitySettings" (list $root $name $facts) | fromYaml) -}}
{{- $known := include "thumbwheel.known" $root | fromYaml -}}
{{- $stores := include "thumbwheel.stores" $root | fromYaml -}}
{{- range $facts.calls -}}
  {{- if and (eq . "predictor") (include "thumbwheel.kserve" $root) -}}
    {{- $_ := mustMergeOverwrite $settings (include "thumbwheel.kserveSettings" $root | fromYaml) -}}
  {{- else if eq . "predictor" -}}
    {{- /* One address, or that of each replica. */}}
    {{- $server := ternary "predictor-pods" "predictor" (gt (int $root.Values.serving.predictor.replicas) 1) -}}
    {{- $_ := set $settings "predictor_url" (printf "http://%s:8000" (include "thumbwheel.name" (list $root $server))) -}}
  {{- else -}}
    {{- $_ := set $settings (printf "%s_target" .) (printf "dns:///%s:%v" (include "thumbwheel.name" (list $root .)) (index $known .).port) -}}
  {{- end -}}
{{- end -}}
{{- if $facts.http -}}
  {{- /* External clients notice the end of a gateway only by their connection, and a call that
         starts at that moment fails. While a gateway waits for its end, connections reach their
         maximum age, clients leave them, and no new ones are accepted. */}}
  {{- $_ := mustMergeOverwrite $settings (dict "connection_age_seconds" 30 "lame_duck_seconds" (include "thumbwheel.gatewayLameDuckSeconds" $root)
        "http_port" 8080 "page_directory" "/app/services/web/dist" "loop_directory" "/loop"
        "http_drain_seconds" $root.Values.shutdown.drainSeconds) -}}
{{- end -}}
{{- if and $facts.http $root.Values.ingress.enabled (eq $root.Values.ingress.tls "none") -}}
  {{- /* Browsers do not return a cookie for TLS over plain HTTP. */}}
  {{- $_ := set $settings "page_session_secure" false -}}
{{- end -}}
{{- if include "thumbwheel.external" $root -}}
  {{- $external := $root.Values.serving.external -}}
  {{- if eq $name "session" -}}
    {{- $_ := mustMergeOverwrite $settings (dict "context_tokens" $external.contextTokens "reply_tokens" $external.replyTokens) -}}
    {{- /* A tokenizer.json of the values counts exactly. */}}
    {{- if not (hasKey (default dict $values.settings) "tokenizer_file") -}}{{- $_ := set $settings "count_bytes" true -}}{{- end -}}
  {{- else if eq $name "generator" -}}
    {{- $_ := mustMergeOverwrite $settings (dict "serving" "external" "external_stable" (include "thumbwheel.externalModel" $root)
          "reply_tokens" $external.replyTokens) -}}
  {{- else if eq $name "gateway" -}}
    {{- $_ := set $settings "quota_reply_tokens" $external.replyTokens -}}
  {{- end -}}
{{- else if eq $name "session" -}}
  {{- $_ := mustMergeOverwrite $settings (dict "tokenizer_file" (printf "/models/%s/tokenizer.json" $root.Values.models.initial)
        "context_tokens" $root.Values.models.contextTokens "reply_tokens" $root.Values.models.replyTokens) -}}
{{- else if eq $name "generator" -}}
  {{- $_ := mustMergeOverwrite $settings (dict "stable_directory" (printf "/models/%s" $root.Values.models.initial)
        "reply_tokens" $root.Values.models.replyTokens) -}}
{{- else if eq $name "gateway" -}}
  {{- $_ := set $settings "quota_reply_tokens" $root.Values.models.replyTokens -}}
{{- end -}}
{{- if eq $name "generator" -}}
  {{- with include "thumbwheel.externalModels" $root | fromYaml -}}{{- $_ := set $settings "external_models" . -}}{{- end -}}
{{- end -}}
{{- if eq $name "guardrail" -}}{{- $_ := mustMergeOverwrite $settings (include "thumbwheel.guardModelSettings" $root | fromYaml) -}}{{- end -}}
{{- if and (eq $name "gateway") $root.Values.guardrail.operator.endpoint -}}
  {{- $_ := set $settings "guard_seconds" (addf $root.Values.guardrail.operator.timeoutSeconds 1) -}}
{{- end -}}
{{- if $facts.spool -}}{{- $_ := set $settings "spool_directory" "/spool" -}}{{- end -}}
{{- if $facts.kafka -}}{{- $_ := mustMergeOverwrite $settings (include "thumbwheel.kafkaSettings" $stores.kafka | fromYaml) -}}{{- end -}}
{{- if $facts.objects -}}
  {{- $store := $stores.objectStore -}}
  {{- $_ := mustMergeOverwrite $settings (dict "s3_endpoint" $store.endpoint "s3_bucket" $store.bucket "s3_secure" $store.secure "s3_region" $store.region) -}}
  {{- if eq $store.credentials "chain" -}}{{- $_ := set $settings "s3_credentials" "chain" -}}{{- end -}}
{{- end -}}
{{- range $key, $value := mustMergeOverwrite $settings (default dict $values.settings) }}
{{- if not (kindIs "invalid" $value) }}{{ if ne (toString $value) "" }}
- name: {{ $prefix }}{{ upper $key }}
  value: {{ if or (kindIs "map" $value) (kindIs "slice" $value) }}{{ toJson $value | quote }}{{ else if kindIs "float64" $value }}{{ $value | toJson | quote }}{{ else }}{{ toString $value | quote }}{{ end }}
{{- end }}{{ end }}
{{- end }}
{{- include "thumbwheel.secretEnvironment" (list $root $prefix $facts $stores) }}
{{- include "thumbwheel.trustEnvironment" $root }}
{{- if $facts.database }}{{ include "thumbwheel.databaseTrust" $root }}{{ end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Environment variables of a Kafka client. Argument: the values of Kafka. */}}
{{- define "thumbwheel.kafkaSettings" -}}
kafka_bootstrap: {{ .bootstrap | quote }}
kafka_security_protocol: {{ .securityProtocol }}
{{- with .caKey }}
kafka_ca_file: /kafka/{{ . }}
{{- end }}
{{- if hasPrefix "SASL" .securityProtocol }}
kafka_sasl_mechanism: {{ .saslMechanism }}
{{- end }}
feedback_topic: {{ .topics.feedback }}
turns_topic: {{ .topics.turns }}
consumer_group: {{ .consumerGroup }}
partitions: {{ .topics.partitions }}
replication_factor: {{ .topics.replicationFactor }}
min_insync_replicas: {{ .topics.minInsyncReplicas }}
{{- end -}}

{{/* Environment variables with secrets, which belong neither into a ConfigMap nor into the pod's
     specification. */}}
{{- define "thumbwheel.secretEnvironment" -}}
{{- $root := index . 0 -}}{{- $prefix := index . 1 -}}{{- $facts := index . 2 -}}{{- $stores := index . 3 -}}
{{- range $facts.keys }}
{{ include "thumbwheel.fromSecret" (list (printf "%s%s" $prefix (. | replace "-" "_" | upper)) (include "thumbwheel.secretOf" (list $root .)) (include "thumbwheel.keyOf" (list $root .))) }}
{{- if eq . "master-key" }}
- name: {{ $prefix }}ACCEPTED_MASTER_KEYS
  valueFrom: {secretKeyRef: {name: {{ include "thumbwheel.secret" $root }}, key: {{ $root.Values.secrets.keys.acceptedMasterKeys }}, optional: true}}
{{- end }}
{{- end }}
{{- if $root.Values.evaluation.enabled }}
{{- include "thumbwheel.evaluationUrls" (list $root $prefix $facts) }}
{{- else }}
{{- with $facts.database }}
{{- include "thumbwheel.databaseEnvironment" (list $root $prefix .) }}
{{- end }}
{{- if and $facts.valkey $stores.valkey.existingSecret }}
{{ include "thumbwheel.fromSecret" (list (printf "%sVALKEY_URL" $prefix) $stores.valkey.existingSecret $stores.valkey.keys.url) }}
{{- end }}
{{- end }}
{{- if and $facts.valkey $stores.valkey.existingSecret }}
{{ include "thumbwheel.fromSecret" (list (printf "%sVALKEY_SECRET" $prefix) (include "thumbwheel.secret" $root) (include "thumbwheel.keyOf" (list $root "valkey-secret"))) }}
{{- end }}
{{- if and $facts.kafka (hasPrefix "SASL" $stores.kafka.securityProtocol) }}
{{ with $stores.kafka.username }}{{ dict "name" (printf "%sKAFKA_USERNAME" $prefix) "value" . | list | toYaml }}{{ else }}{{ include "thumbwheel.fromSecret" (list (printf "%sKAFKA_USERNAME" $prefix) $stores.kafka.existingSecret $stores.kafka.keys.username) }}{{ end }}
{{ include "thumbwheel.fromSecret" (list (printf "%sKAFKA_PASSWORD" $prefix) $stores.kafka.existingSecret $stores.kafka.keys.password) }}
{{- end }}
{{- if $facts.objects }}
{{- include "thumbwheel.bucketKeys" (list $prefix $stores.objectStore) }}
{{- end }}
{{- end -}}
