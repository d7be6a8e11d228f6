{{- define "labels" -}}
app.kubernetes.io/name: checked
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "selector" -}}
app.kubernetes.io/name: checked
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pod" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.pod.securityContext }}
{{ toYaml . | indent 2 }}
{{- end }}
nodeSelector: {{ toJson .Values.pod.nodeSelector }}
tolerations: {{ toJson .Values.pod.tolerations }}
affinity: {{ toJson .Values.pod.affinity }}
priorityClassName: {{ .Values.pod.priorityClassName | quote }}
imagePullSecrets: {{ toJson .Values.imagePullSecrets }}
{{- end -}}

{{- define "container" -}}
image: {{ .Values.image.registry }}/{{ .Values.image.repository }}:{{ .Values.image.tag }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 64Mi}}
{{- end -}}
