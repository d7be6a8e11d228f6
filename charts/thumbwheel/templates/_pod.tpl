{{/* Security context of every pod, as the restricted Pod Security Standard requires, with the ids of
     podSecurityContext. Those that are null are left to the cluster. */}}
{{- define "thumbwheel.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
  {{- range $key, $value := .Values.podSecurityContext }}
  {{- if not (kindIs "invalid" $value) }}
  {{ $key }}: {{ toJson $value }}
  {{- end }}
  {{- end }}
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

{{/* Extra containers of the values, restricted unless they say otherwise. Argument: list of
     containers. */}}
{{- define "thumbwheel.extraContainers" -}}
{{- range . }}
- {{ mustMergeOverwrite (include "thumbwheel.containerSecurity" $ | fromYaml) . | toYaml | nindent 2 | trim }}
{{- end }}
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
{{- /* Read by OpenSSL, and by gRPC for traces. */}}
{{- range list "SSL_CERT_FILE" "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" }}
- {name: {{ . }}, value: {{ printf "/trust/%s" $.Values.trustBundle.key | quote }}}
{{- end }}
{{- end }}
{{- end -}}
