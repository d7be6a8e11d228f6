{{/* Backup of the databases, and its restore. */}}

{{/* Pod of a backup or a restore. Arguments: list of root and save or fetch. */}}
{{- define "thumbwheel.backupPod" -}}
{{- $root := index . 0 -}}{{- $what := index . 1 -}}{{- $backup := $root.Values.backup -}}
{{- $own := or $backup.claim.existingClaim $backup.bucket.endpoint -}}
serviceAccountName: {{ include (empty $own | ternary "thumbwheel.bucketAccount" "thumbwheel.serviceAccount") $root }}
{{ include "thumbwheel.podSecurity" $root }}
{{ include "thumbwheel.placement" (list $root "backup" $backup) }}
restartPolicy: Never
initContainers:
  - {{- include (eq $what "save" | ternary "thumbwheel.backupDump" "thumbwheel.backupKeep") . | nindent 4 }}
containers:
  - {{- include (eq $what "save" | ternary "thumbwheel.backupKeep" "thumbwheel.backupDump") . | nindent 4 }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: {{ $root.Values.tmpSizes.services }}}}
  # Dumps of this pod, which are not encrypted yet.
  - {name: dumps, emptyDir: {sizeLimit: {{ $backup.scratch }}}}
  {{- with $backup.claim.existingClaim }}
  - {name: backups, persistentVolumeClaim: {claimName: {{ . }}}}
  {{- end }}
  {{- include "thumbwheel.authorityVolumes" (include "thumbwheel.storeAuthorities" (list $root (dict "database" true)) | fromYamlArray) | nindent 2 }}
  {{- include "thumbwheel.extraVolumes" (list $root $backup) | nindent 2 }}
{{- end -}}

{{/* Name of the Job of a restore. A Job is immutable, so the name contains the hash of its pod. */}}
{{- define "thumbwheel.restoreJob" -}}
{{- include "thumbwheel.name" (list . "restore") }}-{{ include "thumbwheel.backupPod" (list . "fetch") | sha256sum | trunc 8 -}}
{{- end -}}

{{/* Container with pg_dump or pg_restore. It has the URLs of the databases and no other secret. */}}
{{- define "thumbwheel.backupDump" -}}
{{- $root := index . 0 -}}{{- $backup := $root.Values.backup -}}{{- $words := list (eq (index . 1) "save" | ternary "dump" "load") -}}
{{- if and (eq (index . 1) "fetch") $backup.restore.replace }}{{ $words = concat $words (list "--clean" "--if-exists") }}{{ end }}
name: {{ first $words }}
image: {{ $backup.image | default (include "thumbwheel.image" (list $root "stores")) }}
imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list $root "stores") }}
command: [bash, -c]
args: {{ concat (list ($root.Files.Get "files/backup/dump.sh") "dump.sh") $words | toJson }}
{{ include "thumbwheel.containerSecurity" $root }}
env:
  {{- include "thumbwheel.databaseUrls" $root | nindent 2 }}
  {{- include "thumbwheel.databaseTrust" $root | nindent 2 }}
resources: {{- toYaml $backup.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: dumps, mountPath: /dumps}
  {{- include "thumbwheel.authorityMounts" (include "thumbwheel.storeAuthorities" (list $root (dict "database" true)) | fromYamlArray) | nindent 2 }}
  {{- include "thumbwheel.extraMounts" (list $root $backup) | nindent 2 }}
{{- end -}}

{{/* Container that writes dumps to the bucket or the claim, or reads them there. */}}
{{- define "thumbwheel.backupKeep" -}}
{{- $root := index . 0 -}}{{- $what := index . 1 -}}{{- $backup := $root.Values.backup -}}
{{- $words := list ($root.Files.Get "files/backup/keep.py") $what -}}
{{- if eq $what "save" }}{{ $words = concat $words (list "--keep" (toString $backup.keep)) }}{{ else }}{{ $words = append $words $backup.restore.from }}{{ end }}
{{- if $backup.claim.existingClaim }}{{ $words = concat $words (list "--into" "/backups") }}{{ else }}{{ $words = concat $words (list "--prefix" (include "thumbwheel.backupPrefix" $root)) }}{{ end }}
name: {{ $what }}
image: {{ include "thumbwheel.image" (list $root "services") }}
imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list $root "services") }}
command: [python3, -c]
args: {{ $words | toJson }}
{{ include "thumbwheel.containerSecurity" $root }}
env:
  {{- if not $backup.claim.existingClaim }}
  {{- $store := include "thumbwheel.backupStore" $root | fromYaml }}
  {{- range $name, $value := dict "endpoint" $store.endpoint "bucket" $store.bucket "secure" $store.secure "region" $store.region }}
  {{- if ne (toString $value) "" }}
  - {name: TW_BACKUP_S3_{{ upper $name }}, value: {{ toString $value | quote }}}
  {{- end }}
  {{- end }}
  {{- include "thumbwheel.bucketKeys" (list "TW_BACKUP_" $store) | nindent 2 }}
  {{- end }}
  {{- with $backup.encryptionSecret }}
  {{- include "thumbwheel.fromSecret" (list "TW_BACKUP_KEY" . "backup-key") | nindent 2 }}
  {{- end }}
  {{- include "thumbwheel.trustEnvironment" $root | nindent 2 }}
resources: {{- toYaml $backup.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: dumps, mountPath: /dumps{{ if eq $what "save" }}, readOnly: true{{ end }}}
  {{- if $backup.claim.existingClaim }}
  - {name: backups, mountPath: /backups{{ with $backup.claim.subPath }}, subPath: {{ . }}{{ end }}{{ if eq $what "fetch" }}, readOnly: true{{ end }}}
  {{- end }}
  {{- include "thumbwheel.extraMounts" (list $root $backup) | nindent 2 }}
{{- end -}}

{{/* Variables TW_SERVICE_DATABASE_* of all services with a database, each variable once. */}}
{{- define "thumbwheel.databaseUrls" -}}
{{- $stores := include "thumbwheel.stores" . | fromYaml -}}{{- $seen := dict -}}{{- $variables := list -}}
{{- range $name, $facts := include "thumbwheel.known" . | fromYaml -}}
  {{- if $facts.database -}}
  {{- range include "thumbwheel.secretEnvironment" (list $ (printf "TW_%s_" (upper $name)) (pick $facts "database" "driver") $stores) | fromYamlArray -}}
    {{- if not (hasKey $seen .name) -}}{{- $_ := set $seen .name true -}}{{- $variables = append $variables . -}}{{- end -}}
  {{- end -}}
  {{- end -}}
{{- end -}}
{{ toYaml $variables }}
{{- end -}}

{{/* Bucket of backups: that of objectStore with the values of backup.bucket. */}}
{{- define "thumbwheel.backupStore" -}}
{{- $store := (include "thumbwheel.stores" . | fromYaml).objectStore -}}{{- $own := .Values.backup.bucket -}}
{{- if $own.endpoint -}}{{- $store = dict "endpoint" $own.endpoint "secure" $own.secure "region" $own.region "existingSecret" $own.existingSecret "bucket" $own.name "credentials" "keys" "keys" (dict "accessKey" "access-key" "secretKey" "secret-key") -}}{{- end -}}
{{- if $own.name -}}{{- $_ := set $store "bucket" $own.name -}}{{- end -}}
{{ toYaml $store }}
{{- end -}}

{{/* Prefix in that bucket. Releases with the same one would remove and restore the backups of each other. */}}
{{- define "thumbwheel.backupPrefix" -}}
{{- .Values.backup.bucket.prefix | default (printf "backups/%s/%s" .Release.Namespace .Release.Name) -}}
{{- end -}}

{{/* Non-empty if pods of backups exist. */}}
{{- define "thumbwheel.backsUp" -}}{{ if or .Values.backup.enabled .Values.backup.restore.from }}yes{{ end }}{{- end -}}

{{/* Reject a restore while a service with a database has pods: with `replace` tables are dropped below
     it, and without, its migrations create the tables that the restore then finds. */}}
{{- define "thumbwheel.validateRestore" -}}
{{- $words := list -}}
{{- range $name, $facts := include "thumbwheel.known" . | fromYaml -}}
  {{- if $facts.database -}}
    {{- $values := include "thumbwheel.values" (list $ $name) | fromYaml -}}
    {{- with include "thumbwheel.scaler" $values -}}{{- $words = append $words (printf "--set services.%s.%s.enabled=false" $name .) -}}{{- end -}}
    {{- if int $values.replicas -}}{{- $words = append $words (printf "--set services.%s.replicas=0" $name) -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- if $words -}}{{ println (printf "backup.restore.from: services with a database run; stop them, wait until their pods have ended, then restore with the same words (docs/kubernetes.md, Restore): %s" (join " " $words)) }}{{- end -}}
{{- end -}}

{{/* JSON list of the ports of backups outside the release: those of all databases and of the bucket. */}}
{{- define "thumbwheel.backupPorts" -}}
{{- $ports := list -}}{{- $bucket := .Values.backup.bucket -}}
{{- if include "thumbwheel.backsUp" . -}}
{{- if not .Values.evaluation.enabled -}}
  {{- range include "thumbwheel.known" . | fromYaml -}}
    {{- with .database -}}
    {{- range include "thumbwheel.outsidePorts" (list $ (dict "database" .)) | fromJsonArray -}}{{- $ports = append $ports (int .) -}}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if .Values.backup.claim.existingClaim -}}
{{- else if $bucket.endpoint -}}
  {{- $ports = append $ports (contains ":" $bucket.endpoint | ternary (splitList ":" $bucket.endpoint | last | int) ($bucket.secure | ternary 443 80)) -}}
{{- else if not .Values.evaluation.enabled -}}
  {{- range include "thumbwheel.bucketPorts" . | fromJsonArray -}}{{- $ports = append $ports (int .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{- define "thumbwheel.validateBackup" -}}
{{- $backup := .Values.backup -}}{{- $bucket := $backup.bucket -}}
{{- if $backup.restore.from -}}{{ include "thumbwheel.validateRestore" . }}{{- end -}}
{{- if include "thumbwheel.backsUp" . -}}
{{- if and $backup.claim.existingClaim (or $bucket.name $bucket.endpoint) -}}{{ println "backup.claim.existingClaim: backup.bucket names a bucket as well; set only one of the two" }}{{- end -}}
{{- if and $bucket.endpoint (not (and $bucket.name $bucket.existingSecret)) -}}{{ println "backup.bucket.name: backup.bucket.endpoint needs the name of a bucket, and existingSecret with access-key and secret-key" }}{{- end -}}
{{- if and $bucket.existingSecret (not $bucket.endpoint) -}}{{ println "backup.bucket.existingSecret: only backup.bucket.endpoint uses it; without, the secret of objectStore is used" }}{{- end -}}
{{- if and $backup.encryptionSecret (has $backup.encryptionSecret (list .Values.secrets.existing (include "thumbwheel.secret" .))) -}}{{ println "backup.encryptionSecret: is the secret of the keys that encrypt user data; use a secret of its own" }}{{- end -}}
{{- range list "modelsClaim" "loopClaim" -}}
  {{- if and $backup.claim.existingClaim (eq $backup.claim.existingClaim (include (printf "thumbwheel.%s" .) $)) -}}{{ println "backup.claim.existingClaim: is the claim of models or of the loop, which is lost together with its backups; use another claim" }}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
