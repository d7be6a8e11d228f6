{{/* Security context of every pod, as the restricted Pod Security Standard requires. */}}
{{- define "thumbwheel.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "thumbwheel.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* preStop hook: accept calls until all clients and proxies have noticed the termination. */}}
{{- define "thumbwheel.preStop" -}}
{{- with .Values.shutdown.preStopSeconds -}}
lifecycle:
  preStop: {sleep: {seconds: {{ . }}}}
{{- end -}}
{{- end -}}

{{/* Environment variable from a secret. Arguments: list of variable, secret and key. */}}
{{- define "thumbwheel.fromSecret" -}}
- name: {{ index . 0 }}
  valueFrom: {secretKeyRef: {name: {{ index . 1 }}, key: {{ index . 2 }}}}
{{- end -}}

{{/* Additional volumes: the trust bundle and those of the values. Arguments: list of root and
     those values. */}}
{{- define "thumbwheel.extraMounts" -}}
{{- if (index . 0).Values.trustBundle.configMap }}
- {name: trust, mountPath: /trust, readOnly: true}
{{- end }}
{{- with (index . 1).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "thumbwheel.extraVolumes" -}}
{{- with (index . 0).Values.trustBundle }}{{ if .configMap }}
- name: trust
  configMap: {name: {{ .configMap }}, items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]}
{{- end }}{{ end }}
{{- with (index . 1).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Environment variables for the trust bundle. */}}
{{- define "thumbwheel.trustEnvironment" -}}
{{- if .Values.trustBundle.configMap }}
{{- /* Read by libpq and asyncpg, by OpenSSL, and by gRPC for traces. */}}
{{- range list "PGSSLROOTCERT" "SSL_CERT_FILE" "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" }}
- {name: {{ . }}, value: {{ printf "/trust/%s" $.Values.trustBundle.key | quote }}}
{{- end }}
{{- end }}
{{- end -}}
